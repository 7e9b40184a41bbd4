"""How values in manifests are described: what a field may hold, and what becomes of it.

A shape takes a value in two ways that decide alike. `take` gets plain values, as YAML or JSON gives them, and raises UnfitError at the
first that it does not accept: the way of objects that come from an API server, nearly all of which are good. `read` gets a tree of nodes
that know their lines, reports everything that it refuses, with field and line, and goes on. Leaves are written once, as `take`.
`record` puts shapes together to objects; `schema` makes OpenAPI of them, so what an API server is to know of is a pattern in RE2's syntax.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from math import isfinite
from types import MappingProxyType
from typing import Any, Protocol

from mesh.model.errors import Flaw
from mesh.model.manifest.report import Report as Report
from mesh.model.manifest.tree import Node, plain

NOTHING: Mapping[str, Any] = MappingProxyType({})


class UnfitError(Exception):
    """A value that its shape does not accept. Never leaves the parser: who catches it reads the object again to say why."""


class Shape(Protocol):
    """What a field may hold."""

    @property
    def accepted(self) -> str: ...

    def take(self, value: Any) -> Any:
        """The frozen value. UnfitError."""

    def read(self, node: Node, path: str, report: Report) -> Any:
        """The frozen value; where it refused something, what it returns is thrown away."""


class Leaf:
    """A shape of scalars: `read` is `take` with a report."""

    def take(self, value: Any) -> Any:
        raise NotImplementedError

    def wanted(self, value: Any) -> str:
        """What is accepted, said to one who wrote this value."""
        return str(getattr(self, "accepted", ""))

    def read(self, node: Node, path: str, report: Report) -> Any:
        try:
            return self.take(node.value)
        except UnfitError:
            report.refuse(node, path, self.wanted(node.value))
            return None


def _unquoted(value: Any) -> bool:
    return isinstance(value, (int, float))


@dataclass(frozen=True)
class Text(Leaf):
    """A string that matches a pattern as a whole, and in which `never`, if it is given, is found nowhere. `accepted` says so in words."""

    pattern: str = r"(?s).*"
    accepted: str = "a string"
    longest: int = 262144
    never: str = ""
    _matches: Callable[[str], object] | None = field(init=False, repr=False, compare=False)
    _bars: Callable[[str], object] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_matches", re.compile(self.pattern).fullmatch if self.pattern != r"(?s).*" else None)
        object.__setattr__(self, "_bars", re.compile(self.never).search if self.never else None)

    def wanted(self, value: Any) -> str:
        return f"{self.accepted}, in quotes" if _unquoted(value) else self.accepted

    def take(self, value: Any) -> Any:
        if (
            not isinstance(value, str)
            or len(value) > self.longest
            or (self._matches is not None and not self._matches(value))
            or (self._bars is not None and self._bars(value))
        ):
            raise UnfitError
        return value


@dataclass(frozen=True)
class Integer(Leaf):
    lowest: int = -(2**63)
    highest: int = 2**63 - 1

    @property
    def accepted(self) -> str:
        return f"a number from {self.lowest} to {self.highest}"

    def take(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not self.lowest <= value <= self.highest:
            raise UnfitError
        return value


@dataclass(frozen=True)
class Number(Leaf):
    """A number that need not be whole. Becomes a float."""

    lowest: float
    highest: float

    @property
    def accepted(self) -> str:
        return f"a number from {self.lowest:g} to {self.highest:g}"

    def take(self, value: Any) -> Any:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not self.lowest <= value <= self.highest
            or not isfinite(value)  # asked last: it cannot be of a whole number beyond every float
        ):
            raise UnfitError
        return float(value)


@dataclass(frozen=True)
class Flag(Leaf):
    accepted: str = "true or false"

    def take(self, value: Any) -> Any:
        if not isinstance(value, bool):
            raise UnfitError
        return value


@dataclass(frozen=True)
class Choice(Leaf):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def accepted(self) -> str:
        return "one of " + ", ".join(self.words)

    def take(self, value: Any) -> Any:
        if not isinstance(value, str) or value not in self.words:
            raise UnfitError
        return value


@dataclass(frozen=True)
class Numbers(Leaf):
    """One of a few numbers."""

    values: tuple[int, ...]

    @property
    def accepted(self) -> str:
        return "one of " + ", ".join(map(str, self.values))

    def take(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or value not in self.values:
            raise UnfitError
        return value


@dataclass(frozen=True)
class Either(Leaf):
    """The first shape that takes the value."""

    shapes: tuple[Shape, ...]

    @property
    def accepted(self) -> str:
        return ", or ".join(shape.accepted for shape in self.shapes)

    def take(self, value: Any) -> Any:
        for shape in self.shapes:
            try:
                return shape.take(value)
            except UnfitError:
                continue
        raise UnfitError


@dataclass(frozen=True)
class Parsed(Leaf):
    """A string that a function turns into a value; ValueError refuses it. `pattern` and `longest` are judged first; they and `cel`, a
    condition in the API server's language, stand in schemas for what the function demands.
    """

    parse: Callable[[str], Any]
    accepted: str
    pattern: str = ""
    longest: int = 262144
    cel: str = ""
    _matches: Callable[[str], object] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_matches", re.compile(self.pattern).fullmatch if self.pattern else None)

    def wanted(self, value: Any) -> str:
        return f"{self.accepted}, in quotes" if _unquoted(value) and not isinstance(value, bool) else self.accepted

    def take(self, value: Any) -> Any:
        if not isinstance(value, str) or len(value) > self.longest or (self._matches is not None and not self._matches(value)):
            raise UnfitError
        try:
            return self.parse(value)
        except ValueError:
            raise UnfitError from None


@dataclass(frozen=True)
class ListOf:
    """Becomes a tuple. `unique` names the attribute in which no two items may be equal; `distinct` says that of the items themselves."""

    shape: Shape
    fewest: int = 0
    most: int = 10_000
    unique: str = ""
    distinct: bool = False

    @property
    def accepted(self) -> str:
        return f"a list of {self.fewest} to {self.most}, each {self.shape.accepted}"

    def take(self, value: Any) -> Any:
        if not isinstance(value, list) or not self.fewest <= len(value) <= self.most:
            raise UnfitError
        take = self.shape.take
        values = tuple([take(entry) for entry in value])
        if len(values) > 1 and (self.unique or self.distinct) and next(self._repeated(values), None) is not None:
            raise UnfitError
        return values

    def read(self, node: Node, path: str, report: Report) -> Any:
        if not isinstance(node.value, list):
            report.refuse(node, path, f"a list, each item {self.shape.accepted}")
            return ()
        if not self.fewest <= len(node.value) <= self.most:
            value = "an empty list" if not node.value else f"{len(node.value)} items"
            report.refuse(node, path, f"{self.fewest} to {self.most} items" + ("; or leave the field out" if not node.value else ""), value)
        before = len(report.refusals)
        values = tuple(self.shape.read(entry, f"{path}[{index}]", report) for index, entry in enumerate(node.value))
        if len(report.refusals) == before and (self.unique or self.distinct):
            wire = wire_name(self.unique)
            for index, key in self._repeated(values):
                at = f"{path}[{index}].{wire}" if wire else f"{path}[{index}]"
                accepted = f"a {wire} that no other item has" if wire else "each item once"
                report.refuse(node.value[index], at, accepted, repr(key) if isinstance(key, str) else str(key), Flaw.RULE)
        return values

    def _repeated(self, values: tuple[Any, ...]) -> Iterator[tuple[int, object]]:
        """Where something stands for the second time, and what."""
        seen: set[object] = set()
        for index, value in enumerate(values):
            key = getattr(value, self.unique) if self.unique else value
            if key in seen:
                yield index, key
            seen.add(key)


@dataclass(frozen=True)
class MapOf:
    """Becomes a read-only mapping. Keys are strings in YAML, whatever they look like, and are read by a shape of their own."""

    key: Shape
    shape: Shape
    most: int = 10_000

    @property
    def accepted(self) -> str:
        return f"a mapping from {self.key.accepted} to {self.shape.accepted}"

    def take(self, value: Any) -> Any:
        if not isinstance(value, dict) or len(value) > self.most:
            raise UnfitError
        take_key, take = self.key.take, self.shape.take
        found = {take_key(name): take(entry) for name, entry in value.items()}
        if len(found) != len(value):
            raise UnfitError
        return MappingProxyType(found)

    def read(self, node: Node, path: str, report: Report) -> Any:
        if not isinstance(node.value, dict):
            report.refuse(node, path, self.accepted)
            return NOTHING
        if len(node.value) > self.most:
            report.refuse(node, path, f"at most {self.most} entries", f"{len(node.value)} entries")
        found: dict[Any, Any] = {}
        for name, value in node.value.items():
            inner, before = f"{path}[{name}]", len(report.refusals)
            key = self.key.read(Node(name, value.line), inner, report)
            if key in found and len(report.refusals) == before:
                report.refuse(value, inner, "each key once, in whatever way it is written", name)
            found[key] = self.shape.read(value, inner, report)
        return MappingProxyType(found)


@dataclass(frozen=True)
class Opaque:
    """Part of Kubernetes' schema that is taken as it is: as plain values, or, where nothing will ever look at it, not `kept` at all."""

    kept: bool = True
    accepted: str = "anything"

    def take(self, value: Any) -> Any:
        return value if self.kept else None

    def read(self, node: Node, path: str, report: Report) -> Any:
        return plain(node) if self.kept else None


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
    r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?",
    "up to 15 lower-case letters, digits and single '-', with a letter in it",
    15,
    never=r"--|^[^a-z]*$",
)
LABEL_KEY = Text(
    rf"(?:{_NAME}(?:\.{_NAME})*/)?{_QUALIFIED}",
    "a label key: up to 63 letters, digits, '-', '_' and '.', after an optional DNS name and '/'",
    317,
    never=r"^[^/]{254}",
)
LABEL_VALUE = Text(rf"(?:{_QUALIFIED})?", "a string of up to 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends", 63)
LABELS = MapOf(LABEL_KEY, LABEL_VALUE)
ANNOTATIONS = MapOf(LABEL_KEY, STRING)
PORT = Integer(1, 65535)
PORT_OR_NAME = Either((PORT, PORT_NAME))
IP = Parsed(ip_address, "an IPv4 or IPv6 address")


# Exact for IPv4; of IPv6 only the letters that it is made of: the rest is the library's business.
IPV4 = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}"
IPV6 = r"[0-9a-fA-F:]*:[0-9a-fA-F:.]*"


def _network(text: str) -> Any:
    network = ip_network(text, strict=False)
    if network.version == 6 and network.network_address.ipv4_mapped is not None:
        raise ValueError(text)
    return network


NETWORK = Parsed(_network, "an IPv4 or IPv6 address or CIDR block (IPv4 in its own form)", rf"(?:{IPV4}|{IPV6})(?:/[0-9]{{1,3}})?", 64)
