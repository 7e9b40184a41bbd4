"""Documents made of the descriptions themselves, and mistakes put into them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import re2
from hypothesis import strategies as st

from mesh.model.manifest.core import Object
from mesh.model.manifest.record import Record, fields_of
from mesh.model.manifest.requestauth import JWKS
from mesh.model.manifest.schema import INT64
from mesh.model.manifest.security import ConditionShape
from mesh.model.manifest.shapes import (
    Choice,
    Either,
    Flag,
    Integer,
    ListOf,
    MapOf,
    Number,
    Numbers,
    Opaque,
    Parsed,
    Shape,
    Text,
    UnfitError,
)
from mesh.model.manifest.words import ANY_HOST

CONDITIONS = (
    {"key": "source.ip", "values": ["10.0.0.0/8"]},
    {"key": "source.namespace", "notValues": ["a*"]},
    {"key": "destination.port", "values": ["80"], "notValues": ["81"]},
    {"key": "request.headers[x-team]", "values": ["*"]},
    {"key": "request.auth.claims[a][b]", "values": ["c"]},
)
# What stands in JSON as it stands in YAML.
LETTERS = st.characters(min_codepoint=32, max_codepoint=0x24F, exclude_categories=["Cc", "Cs"]) | st.just("\n")
TRIES = 4
WIRE_TYPES: tuple[Any, ...] = (True, 7, 7.5, "x y", ["x"], {"x": 1})


def takes(shape: Shape, value: Any) -> bool:
    try:
        shape.take(value)
    except UnfitError:
        return False
    return True


@cache
def written(shape: Shape) -> st.SearchStrategy[Any]:
    """What one may write for a shape, without regard to rules over several fields."""
    if shape is JWKS:
        return st.just('{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}')
    if shape is ANY_HOST:  # '*' alone and names within each other would be nearly all of what its pattern gives
        return st.from_regex(r"[a-z]{3}(\.[a-z]{2})?|\*\.[a-z]{4}", fullmatch=True)
    if isinstance(shape, ConditionShape):
        return st.sampled_from(CONDITIONS).map(copy.deepcopy)
    match shape:
        case Text() | Parsed():
            pattern = shape.pattern or r"(?s).*"
            free = pattern in (r"(?s).*", r"(?s).+")
            plain = st.text(LETTERS, max_size=6) if free else st.from_regex(re.compile(pattern), fullmatch=True, alphabet=LETTERS)
            return plain.filter(lambda text: takes(shape, text))
        case Integer():
            return st.integers(shape.lowest, shape.highest)
        case Number():
            return st.floats(shape.lowest, shape.highest) | st.just(int(shape.lowest) + 1)
        case Numbers():
            return st.sampled_from(shape.values)
        case Flag():
            return st.booleans()
        case Choice():
            return st.sampled_from(shape.words)
        case Either():
            return st.one_of([written(each) for each in shape.shapes])
        case ListOf():
            return st.lists(written(shape.shape), min_size=shape.fewest, max_size=max(shape.fewest, min(shape.most, 2)))
        case MapOf():
            return st.dictionaries(written(shape.key), written(shape.shape), max_size=min(shape.most, 2))
        case Record():
            return _record(shape.cls)
        case Opaque():
            return st.just({})
    raise AssertionError(shape)


def _record(cls: type[Any]) -> st.SearchStrategy[dict[str, Any]]:
    known = fields_of(cls)
    required = {entry.wire: written(entry.shape) for entry in known if entry.required}
    optional = {entry.wire: written(entry.shape) for entry in known if not entry.required}

    @st.composite
    def made(draw: st.DrawFn) -> dict[str, Any]:
        """Few choices keep its rules, so there are some tries; what breaks them is good to have as well."""
        for _ in range(TRIES):
            chosen = draw(st.sets(st.sampled_from(sorted(optional)), max_size=3)) if optional else set()
            value = {name: draw(strategy) for name, strategy in required.items()} | {name: draw(optional[name]) for name in sorted(chosen)}
            if takes(Record(cls), value):
                break
        return value

    return made()


TEXTS = (
    *("a", "a.b", "/a", "1.2.3.4", "1s", "80", "GET", "*", "a/b", "http://a", "HTTP", "5xx", "Accepted", "e30=", "", "source.namespace"),
    *("2026-01-31T12:00:00Z", '{"keys": [{"kty": "RSA"}]}', "a.b/c"),
)


def sample(shape: Shape) -> Any:
    """One plain value that the shape takes, with something in every list and mapping; of records what must be there."""
    described = getattr(shape, "described", shape)
    match described:
        case Text() | Parsed():
            return next(text for text in TEXTS if takes(described, text))
        case Integer() | Number():
            return max(described.lowest, min(described.highest, 1))
        case Numbers():
            return described.values[0]
        case Flag():
            return True
        case Choice():
            return described.words[0]
        case Either():
            return sample(described.shapes[0])
        case ListOf():
            return [sample(described.shape) for _ in range(max(1, described.fewest))]
        case MapOf():
            return {sample(described.key): sample(described.shape)}
        case Record():
            return {entry.wire: sample(entry.shape) for entry in fields_of(described.cls) if entry.required}
    return {}


def documents_of(cls: type[Object]) -> st.SearchStrategy[dict[str, Any]]:
    (spec,) = (entry.shape for entry in fields_of(cls) if entry.wire == "spec")
    head = {"kind": cls.KIND, "metadata": {"name": "a"}}
    return st.builds(
        lambda version, body: {"apiVersion": version, **copy.deepcopy(head), "spec": body}, st.sampled_from(cls.API_VERSIONS), written(spec)
    )


@dataclass(frozen=True)
class Place:
    """A value in a document, with its shape; `put` replaces it, `remove` takes it away."""

    shape: Shape
    value: Any
    put: Callable[[Any], None]
    remove: Callable[[], None]
    required: bool


def places(shape: Shape, holder: Any, key: Any, *, required: bool) -> Iterator[Place]:
    """The value of a field and, where it is a list or a mapping, what is in it; not what is in records."""
    value = holder[key]

    def put(new: Any) -> None:
        holder[key] = new

    def remove() -> None:
        del holder[key]

    yield Place(shape, value, put, remove, required)
    described = getattr(shape, "described", shape)
    match described:
        case ListOf():
            for index in range(len(value)):
                yield from places(described.shape, value, index, required=False)
        case MapOf():
            for name in value:
                yield from places(described.shape, value, name, required=False)


def mistakes(place: Place) -> list[Callable[[], None]]:
    """Ways to spoil one value so that its own field is at fault: a type, a bound, a word, a pattern, an unknown or a missing field."""
    shape, value = getattr(place.shape, "described", place.shape), place.value
    found: list[Callable[[], None]] = []
    if isinstance(place.shape, Opaque):  # a status: whatever is in it, the parser does not look
        return found

    def replace(new: Any) -> None:
        found.append(lambda: place.put(new))

    for other in WIRE_TYPES:
        if not isinstance(shape, Either) and not takes(_any_text(shape), other) and not _same_type(shape, other):
            replace(other)
    if place.required:
        found.append(place.remove)
    match shape:
        case Text() | Parsed():
            pattern = re2.compile(f"(?:{shape.pattern or '(?s).*'})")
            for text in ("", " ", "*", "a b", "a\n", "ä", "A", "-", "/", "0", "*.", "x" * 400, "spiffe://a"):
                barred = isinstance(shape, Text) and shape.never and re2.search(shape.never, text)
                if not pattern.fullmatch(text) or len(text) > shape.longest or barred:
                    replace(text)
        case Integer():
            for number in (shape.lowest - 1, shape.highest + 1):
                if INT64[0] <= number <= INT64[1]:
                    replace(number)
        case Number():
            replace(shape.lowest - 0.5)
            replace(shape.highest + 0.5)
        case Numbers():
            replace(max(shape.values) + 1)
        case Choice():
            replace(shape.words[0].swapcase() + "x")
        case ListOf() if value:
            if shape.fewest:
                replace(value[: shape.fewest - 1])
            if shape.most <= 64:
                replace([copy.deepcopy(value[0]) for _ in range(shape.most + 1)])
        case Record():
            found.append(lambda: value.__setitem__("unheardOf", 1))
    return found


def _any_text(shape: Shape) -> Shape:
    """For texts a number is the wrong type, whatever their pattern."""
    return Text() if isinstance(shape, (Text, Parsed)) else shape


def _same_type(shape: Shape, value: Any) -> bool:
    """Whether the value may be refused for more than its type, which other mistakes are for."""
    match shape:
        case ListOf():
            return isinstance(value, list)
        case MapOf() | Record():
            return isinstance(value, dict)
        case Choice() | Text() | Parsed():
            return isinstance(value, str)
        case Integer() | Numbers():
            return isinstance(value, int) and not isinstance(value, bool)
        case Number():
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case _:
            return isinstance(value, bool)
