"""How manifests are described: one frozen dataclass per object, whose fields say their shape, default and bounds.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ServicePort:
        port: int = item(Integer(1, 65535), required=True)
        target_port: int | str | None = item(PORT_OR_NAME)

The description *is* the parser and the type, so that they cannot drift; a CRD's schema can be made from it by walking the same
fields (`fields_of`). A field is called in YAML what it is called here, in camelCase, unless `name` says otherwise. `null` is as good as
absent. Every shape's `read` reports what it refuses and goes on, so that one look at an object shows all that is wrong with it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import Any, Protocol

from mesh.model.errors import Refusal
from mesh.model.manifest.tree import Node, plain

MAX_REFUSALS = 20
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Report:
    """The refusals of one object. Keeps the first MAX_REFUSALS. `source`: where a person wrote it, if the file was made from that."""

    def __init__(self, file: str, subject: str = "", source: str = "") -> None:
        self.file = file
        self.subject = subject
        self.source = source
        self.refusals: list[Refusal] = []

    def refuse(self, node: Node, path: str, accepted: str, value: str | None = None) -> None:
        if len(self.refusals) < MAX_REFUSALS:
            where = f"{self.source} ({self.file}:{node.line})" if self.source else f"{self.file}:{node.line}"
            self.refusals.append(Refusal(where, self.subject, path, shown(node) if value is None else value, accepted))


def shown(node: Node) -> str:
    """A value as a refusal shows it: short, and strings in quotes only where they are empty or hold blanks."""
    value = node.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if isinstance(value, str) and (not text or not text.isprintable() or " " in text or re.fullmatch(r"[-+.0-9]+|true|false", text)):
        text = repr(text)
    return text if len(text) <= 80 else text[:77] + "..."


class Shape(Protocol):
    """What a field may hold. `read` returns the frozen value; where it refused, what it returns is thrown away."""

    @property
    def accepted(self) -> str: ...

    def read(self, node: Node, path: str, report: Report) -> Any: ...


@dataclass(frozen=True)
class Text:
    """A string that matches a pattern as a whole. `accepted` says so in words."""

    pattern: str = r"(?s).*"
    accepted: str = "a string"
    longest: int = 262144

    def read(self, node: Node, path: str, report: Report) -> Any:
        value = node.value
        if not isinstance(value, str):
            report.refuse(node, path, f"{self.accepted}, in quotes" if isinstance(value, (int, float)) else self.accepted)
        elif len(value) > self.longest or not re.fullmatch(self.pattern, value):
            report.refuse(node, path, self.accepted)
        return value


@dataclass(frozen=True)
class Integer:
    lowest: int = -(2**63)
    highest: int = 2**63 - 1

    @property
    def accepted(self) -> str:
        return f"a number from {self.lowest} to {self.highest}"

    def read(self, node: Node, path: str, report: Report) -> Any:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int) or not self.lowest <= value <= self.highest:
            report.refuse(node, path, self.accepted)
        return value


@dataclass(frozen=True)
class Flag:
    accepted: str = "true or false"

    def read(self, node: Node, path: str, report: Report) -> Any:
        if not isinstance(node.value, bool):
            report.refuse(node, path, self.accepted)
        return node.value


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def accepted(self) -> str:
        return "one of " + ", ".join(self.words)

    def read(self, node: Node, path: str, report: Report) -> Any:
        if node.value not in self.words or not isinstance(node.value, str):
            report.refuse(node, path, self.accepted)
        return node.value


@dataclass(frozen=True)
class Either:
    """The first shape that takes the value."""

    shapes: tuple[Shape, ...]

    @property
    def accepted(self) -> str:
        return ", or ".join(shape.accepted for shape in self.shapes)

    def read(self, node: Node, path: str, report: Report) -> Any:
        for shape in self.shapes:
            trial = Report(report.file)
            value = shape.read(node, path, trial)
            if not trial.refusals:
                return value
        report.refuse(node, path, self.accepted)
        return None


@dataclass(frozen=True)
class Parsed:
    """A string that a function turns into a value; ValueError refuses it."""

    parse: Callable[[str], Any]
    accepted: str

    def read(self, node: Node, path: str, report: Report) -> Any:
        if isinstance(node.value, str):
            try:
                return self.parse(node.value)
            except ValueError:
                pass
        quoted = isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
        report.refuse(node, path, f"{self.accepted}, in quotes" if quoted else self.accepted)
        return None


@dataclass(frozen=True)
class ListOf:
    """Becomes a tuple. `unique` names the attribute in which no two items may be equal."""

    shape: Shape
    fewest: int = 0
    most: int = 10_000
    unique: str = ""

    @property
    def accepted(self) -> str:
        return f"a list of {self.fewest} to {self.most}, each {self.shape.accepted}"

    def read(self, node: Node, path: str, report: Report) -> Any:
        if not isinstance(node.value, list):
            report.refuse(node, path, f"a list, each item {self.shape.accepted}")
            return ()
        if not self.fewest <= len(node.value) <= self.most:
            value = "an empty list" if not node.value else f"{len(node.value)} items"
            report.refuse(node, path, f"{self.fewest} to {self.most} items" + ("; or leave the field out" if not node.value else ""), value)
        before = len(report.refusals)
        values = tuple(self.shape.read(item, f"{path}[{index}]", report) for index, item in enumerate(node.value))
        if self.unique and len(report.refusals) == before:
            seen: set[object] = set()
            for index, value in enumerate(values):
                key = getattr(value, self.unique)
                if key in seen:
                    wire = wire_name(self.unique)
                    report.refuse(node.value[index], f"{path}[{index}].{wire}", f"a {wire} that no other item has", repr(key))
                seen.add(key)
        return values


@dataclass(frozen=True)
class MapOf:
    """Becomes a read-only mapping. Keys are strings in YAML, whatever they look like, and are read by a shape of their own."""

    key: Shape
    shape: Shape
    most: int = 10_000

    @property
    def accepted(self) -> str:
        return f"a mapping from {self.key.accepted} to {self.shape.accepted}"

    def read(self, node: Node, path: str, report: Report) -> Any:
        if not isinstance(node.value, dict):
            report.refuse(node, path, self.accepted)
            return NOTHING
        if len(node.value) > self.most:
            report.refuse(node, path, f"at most {self.most} entries", f"{len(node.value)} entries")
        found: dict[Any, Any] = {}
        for name, value in node.value.items():
            inner = f"{path}[{name}]"
            found[self.key.read(Node(name, value.line), inner, report)] = self.shape.read(value, inner, report)
        return MappingProxyType(found)


@dataclass(frozen=True)
class Opaque:
    """Part of Kubernetes' schema that is taken as it is: as plain values, or, where nothing will ever look at it, not `kept` at all."""

    kept: bool = True
    accepted: str = "anything"

    def read(self, node: Node, path: str, report: Report) -> Any:
        return plain(node) if self.kept else None


@dataclass(frozen=True)
class Rule:
    """A condition over several fields of a record. `field` is where it is reported; `holds` gets the record."""

    holds: Callable[[Any], bool]
    field: str
    accepted: str


@dataclass(frozen=True)
class Record:
    """A mapping that becomes an instance of a dataclass. Its `RULES`, if it has some, are judged when every field is good."""

    cls: type[Any]

    @property
    def accepted(self) -> str:
        return "a mapping with " + ", ".join(entry.wire for entry in fields_of(self.cls))

    def read(self, node: Node, path: str, report: Report, **given: Any) -> Any:
        """`given` are attributes that do not come from the mapping."""
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
        for rule in getattr(self.cls, "RULES", ()):
            if not rule.holds(made):
                at = node.value.get(rule.field, node)
                report.refuse(at, join(path, rule.field), rule.accepted)
        return made


@dataclass(frozen=True)
class Field:
    """One field of a record, as `item` described it."""

    attribute: str
    wire: str
    shape: Shape
    required: bool
    default: Any


def item(shape: Shape, default: Any = None, *, required: bool = False, name: str = "") -> Any:
    """A dataclass field with its shape. `default` is what an absent field means; `name` its name in YAML, where camelCase is not it."""
    metadata = {"shape": shape, "required": required, "name": name, "default": default}
    if isinstance(default, MappingProxyType):  # read-only, but a dataclass takes what has no hash for mutable
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


_FIELDS: dict[type[Any], tuple[Field, ...]] = {}


def fields_of(cls: type[Any]) -> tuple[Field, ...]:
    """The described fields of a record, in order."""
    known = _FIELDS.get(cls)
    if known is None:
        known = _FIELDS[cls] = _fields_of(cls)
    return known


def _fields_of(cls: type[Any]) -> tuple[Field, ...]:
    return tuple(
        Field(
            field.name,
            field.metadata["name"] or wire_name(field.name),
            field.metadata["shape"],
            field.metadata["required"],
            field.metadata["default"],
        )
        for field in dataclasses.fields(cls)
        if "shape" in field.metadata
    )


def wire_name(attribute: str) -> str:
    first, *rest = attribute.rstrip("_").split("_")
    return first + "".join(word.capitalize() for word in rest)


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


# Shapes that many objects share, with Kubernetes' own limits.

_NAME = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_QUALIFIED = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"

STRING = Text()
DNS_LABEL = Text(_NAME, "up to 63 lower-case letters, digits and '-', with a letter or digit at both ends", 63)
DNS_NAME = Text(rf"{_NAME}(?:\.{_NAME})*", "up to 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends", 253)
SERVICE_NAME = Text(
    r"[a-z](?:[-a-z0-9]*[a-z0-9])?", "up to 63 lower-case letters, digits and '-', first a letter, last a letter or digit", 63
)
PORT_NAME = Text(
    r"(?=.*[a-z])(?!.*--)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?", "up to 15 lower-case letters, digits and single '-', with a letter in it", 15
)
LABEL_KEY = Text(
    rf"(?:(?=[^/]{{1,253}}/){_NAME}(?:\.{_NAME})*/)?{_QUALIFIED}",
    "a label key: up to 63 letters, digits, '-', '_' and '.', after an optional DNS name and '/'",
    317,
)
LABEL_VALUE = Text(rf"(?:{_QUALIFIED})?", "a string of up to 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends", 63)
LABELS = MapOf(LABEL_KEY, LABEL_VALUE)
ANNOTATIONS = MapOf(LABEL_KEY, STRING)
PORT = Integer(1, 65535)
PORT_OR_NAME = Either((PORT, PORT_NAME))
IP = Parsed(ip_address, "an IPv4 or IPv6 address")


def _network(text: str) -> Any:
    network = ip_network(text, strict=False)
    if network.version == 6 and network.network_address.ipv4_mapped is not None:
        raise ValueError(text)
    return network


NETWORK = Parsed(_network, "an IPv4 or IPv6 address or CIDR block (IPv4 in its own form)")
