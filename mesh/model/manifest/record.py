"""How shapes make objects: one frozen dataclass per object, whose fields say their shape, default and bounds.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ServicePort:
        port: int = item(Integer(1, 65535), required=True, about="Under which clients address it.")
        target_port: int | str | None = item(PORT_OR_NAME)

The description *is* the parser and the type, and the schema of a CRD is made by walking the same fields (`schema`), so that none of
them can drift. A field is called in YAML what it is called here, in camelCase, unless `name` says otherwise. `null` is as good as absent.

What users may write but nothing here can do is `unsupported`, with the reason: it is accepted, and whoever resolves objects says so.
Where such a field is a `guard`, going on without it would let in what it is there to keep out: what it guards must be closed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mesh.model.manifest.shapes import Either, ListOf, MapOf, Parsed, Report, Shape, UnfitError, join, wire_name
from mesh.model.manifest.tree import Node


@dataclass(frozen=True)
class Rule:
    """A condition over several fields of a record. `field` is where it is reported; `holds` gets the record.

    `cel` says the same in the API server's language, over the mapping as it is written (defaults filled in). Only where it is
    simple, and cheap for lists as long as they may be: the server counts what it might cost at worst.
    """

    holds: Callable[[Any], bool]
    field: str
    accepted: str
    cel: str = ""


@dataclass(frozen=True)
class Record:
    """A mapping that becomes an instance of a dataclass. Its `RULES`, if it has some, are judged when every field is good."""

    cls: type[Any]

    @property
    def accepted(self) -> str:
        return "a mapping with " + ", ".join(entry.wire for entry in fields_of(self.cls))

    def take(self, value: Any, **given: Any) -> Any:
        """`given` are attributes that do not come from the mapping."""
        if not isinstance(value, dict):
            raise UnfitError
        plan = _plan_of(self.cls)
        known, values = plan.takers, given
        for name, inner in value.items():
            taker = known.get(name)
            if taker is None:
                raise UnfitError
            if inner is not None:
                values[taker[0]] = taker[1](inner)
        if not plan.required <= values.keys():
            raise UnfitError
        made = self.cls(**values)
        for rule in plan.rules:
            if not rule.holds(made):
                raise UnfitError
        return made

    def read(self, node: Node, path: str, report: Report, **given: Any) -> Any:
        if node.value is None and not path:
            node = Node({}, node.line)
        if not isinstance(node.value, dict):
            report.refuse(node, path, self.accepted)
            return None
        before = len(report.refusals)
        known = fields_of(self.cls)
        names = {entry.wire for entry in known}
        for name, value in node.value.items():
            if name not in names and (path or name not in ("apiVersion", "kind")):
                report.refuse(value, join(path, name), "one of the fields " + ", ".join(sorted(names)), "an unknown field")
        values: dict[str, Any] = dict(given)
        for entry in known:
            inner = node.value.get(entry.wire)
            if inner is not None and inner.value is not None:
                values[entry.attribute] = entry.shape.read(inner, join(path, entry.wire), report)
            elif entry.required:
                report.refuse(node, join(path, entry.wire), entry.shape.accepted, "nothing")
        if len(report.refusals) > before:
            return None
        made = self.cls(**values)
        for rule in rules_of(self.cls):
            if not rule.holds(made):
                at = node.value.get(rule.field, node)
                report.refuse(at, join(path, rule.field), rule.accepted)
        return made


@dataclass(frozen=True)
class Field:
    """One field of a record, as `item` described it. `written` is the default as one would write it: `5s` where `default` is 5.0."""

    attribute: str
    wire: str
    shape: Shape
    required: bool
    default: Any
    written: Any
    about: str
    unsupported: str | Callable[[Any], str]
    guard: bool


def item(
    shape: Shape,
    default: Any = None,
    *,
    required: bool = False,
    name: str = "",
    about: str = "",
    unsupported: str | Callable[[Any], str] = "",
    guard: bool = False,
) -> Any:
    """A dataclass field with its shape. `default` is what an absent field means, in text where the shape parses text; `name` its name in
    YAML, where camelCase is not it; `about` a sentence for `kubectl explain`; `unsupported` why it has no effect here, as a text, or as
    a function of the value that gives one, or ""; `guard` that it must not be left out of account for that.
    """
    written = default
    if isinstance(shape, Parsed) and isinstance(default, str) and default:
        default = shape.take(default)
    described = Field("", name, shape, required, default, written, about, unsupported, guard)
    if isinstance(default, MappingProxyType):  # read-only, but a dataclass takes what has no hash for mutable
        return dataclasses.field(default_factory=lambda: default, metadata={"item": described})
    return dataclasses.field(default=default, metadata={"item": described})


_FIELDS: dict[type[Any], tuple[Field, ...]] = {}


def fields_of(cls: type[Any]) -> tuple[Field, ...]:
    """The described fields of a record, in order."""
    known = _FIELDS.get(cls)
    if known is None:
        known = _FIELDS[cls] = tuple(
            dataclasses.replace(field.metadata["item"], attribute=field.name, wire=field.metadata["item"].wire or wire_name(field.name))
            for field in dataclasses.fields(cls)
            if "item" in field.metadata
        )
    return known


def rules_of(cls: type[Any]) -> tuple[Rule, ...]:
    return getattr(cls, "RULES", ())


@dataclass(frozen=True, slots=True)
class _Plan:
    """What `take` needs to know of a class, looked up once."""

    takers: Mapping[str, tuple[str, Callable[[Any], Any]]]
    required: frozenset[str]
    rules: tuple[Rule, ...]


_PLANS: dict[type[Any], _Plan] = {}


def _plan_of(cls: type[Any]) -> _Plan:
    known = _PLANS.get(cls)
    if known is None:
        fields = fields_of(cls)
        known = _PLANS[cls] = _Plan(
            {entry.wire: (entry.attribute, entry.shape.take) for entry in fields},
            frozenset(entry.attribute for entry in fields if entry.required),
            rules_of(cls),
        )
    return known


def unsupported(made: Any) -> list[tuple[str, str]]:
    """What an object says that has no effect here: (path, why), in the order of its description. Empty for most."""
    return [(path, why) for path, why, _ in _unsupported(made, "")]


def unguarded(made: Any) -> list[tuple[str, str]]:
    """Those of them without which the object would be less strict than it says: what they guard must not be served."""
    return [(path, why) for path, why, entry in _unsupported(made, "") if entry.guard]


def _unsupported(made: Any, path: str) -> Iterator[tuple[str, str, Field]]:
    for entry in _marked(type(made)):
        value = getattr(made, entry.attribute)
        if value is None or value is entry.default or value == ():
            continue
        at = join(path, entry.wire)
        why = entry.unsupported if isinstance(entry.unsupported, str) else entry.unsupported(value)
        if why and value != entry.default:
            yield at, why, entry
        elif isinstance(value, tuple):
            for index, inner in enumerate(value):
                yield from _unsupported(inner, f"{at}[{index}]")
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                yield from _unsupported(inner, f"{at}[{name}]")
        elif dataclasses.is_dataclass(value):
            yield from _unsupported(value, at)


_MARKED: dict[type[Any], tuple[Field, ...]] = {}


def _marked(cls: type[Any]) -> tuple[Field, ...]:
    """The fields of a class that are marked, or below which one is. No description contains itself."""
    known = _MARKED.get(cls)
    if known is None:
        known = _MARKED[cls] = tuple(
            entry for entry in fields_of(cls) if entry.unsupported or any(_marked(inner) for inner in records_in(entry.shape))
        )
    return known


def records_in(shape: Shape) -> Iterator[type[Any]]:
    """The records that a shape is made of, not looking into those."""
    match shape:
        case Record():
            yield shape.cls
        case ListOf() | MapOf():
            yield from records_in(shape.shape)
        case Either():
            for inner in shape.shapes:
                yield from records_in(inner)
        case _:
            described = getattr(shape, "described", None)
            if described is not None:
                yield from records_in(described)
