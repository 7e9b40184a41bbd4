"""Header changes as proxies can take them: one that they cannot would make them refuse every route of the service."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.model.l7.notes import Notes, Problem
from mesh.model.l7.routes import HeaderOps
from mesh.model.l7.texts import unsafe
from mesh.model.manifest import Key
from mesh.model.manifest.istio.actions import HeaderChanges

HOST_NAMES = ("host", ":authority")
_ADDRESSES = r"(?:DOWNSTREAM|UPSTREAM)_(?:LOCAL|REMOTE)_(?:ADDRESS(?:_WITHOUT_PORT)?|PORT)"
_PEERS = r"DOWNSTREAM_(?:LOCAL_URI_SAN|PEER_URI_SAN|PEER_SUBJECT|TLS_VERSION)"
_PLAIN = (
    r"BYTES_RECEIVED|BYTES_SENT|CONNECTION_ID|DURATION|HOSTNAME|PROTOCOL|REQUESTED_SERVER_NAME|RESPONSE_CODE|RESPONSE_CODE_DETAILS|"
    r"RESPONSE_FLAGS|ROUTE_NAME|START_TIME|STREAM_ID|UPSTREAM_CLUSTER|UPSTREAM_HOST|VIRTUAL_CLUSTER_NAME"
)
_NAME = r"[A-Za-z0-9_.:-]+"
# What Envoy puts in the place of %…% when it sets a header; anything else between two of these makes it refuse the route.
_OPERATOR = re.compile(rf"%%|%(?:{_PLAIN}|{_ADDRESSES}|{_PEERS}|(?:REQ|RESP)\({_NAME}(?:\?{_NAME})?\)(?::[0-9]+)?|START_TIME\([^()%]*\))%")


@dataclass(frozen=True, slots=True)
class Author:
    """Whose words these are, for notes."""

    subject: Key
    field: str
    notes: Notes

    def at(self, name: str) -> Author:
        return Author(self.subject, f"{self.field}.{name}", self.notes)

    def note(self, problem: Problem, message: str) -> None:
        self.notes.add(problem, self.subject, self.field, message)


def literal(value: str) -> str:
    """A text that stands for itself."""
    return value.replace("%", "%%")


def formatted(value: str, author: Author) -> str:
    """A text with operators in it. What only looks like one stands for itself."""
    found: list[str] = []
    index = 0
    while index < len(value):
        match = _OPERATOR.match(value, index)
        if match is not None:
            found.append(match.group())
            index = match.end()
            continue
        if value[index] == "%":
            author.note(Problem.IGNORED, f"what is between % and % is no operator that can be used here: {value!r} is taken as it stands")
            return literal(value)
        found.append(value[index])
        index += 1
    return "".join(found)


def changes(found: HeaderChanges, author: Author) -> tuple[HeaderOps, str]:
    """The changes, and the authority that they set instead, if they do."""
    authority = next((found.set[name] for name in HOST_NAMES if name in found.set), "")
    if unsafe(authority):
        author.at("set").note(Problem.UNSUPPORTED, f"{authority!r} can be no host: left as it is")
        authority = ""
    return HeaderOps(
        set=tuple(_usable(sorted(found.set.items()), author.at("set"), formats=True)),
        add=tuple(_usable(sorted(found.add.items()), author.at("add"), formats=True)),
        remove=tuple(name for name in found.remove if not _of_host(name, author.at("remove"))),
    ), authority


def modified(set_: Mapping[str, str], add: Mapping[str, str], remove: Iterable[str], author: Author) -> tuple[HeaderOps, str]:
    """The same for Gateway API's, whose values are always literal."""
    authority = set_.get("host", "")
    return HeaderOps(
        set=tuple(_usable(set_.items(), author.at("set"), formats=False)),
        add=tuple(_usable(add.items(), author.at("add"), formats=False)),
        remove=tuple(name for name in remove if not _of_host(name, author.at("remove"))),
    ), "" if unsafe(authority) else authority


def _usable(pairs: Iterable[tuple[str, str]], author: Author, *, formats: bool) -> Iterable[tuple[str, str]]:
    for name, value in pairs:
        if name in HOST_NAMES:
            if author.field.endswith(".add"):
                _of_host(name, author)
        elif unsafe(value):
            author.note(Problem.UNSUPPORTED, f"the value of {name} holds a line break or NUL: the header is left as it is")
        else:
            yield name, formatted(value, author) if formats else literal(value)


def _of_host(name: str, author: Author) -> bool:
    if name not in HOST_NAMES:
        return False
    author.note(Problem.UNSUPPORTED, "a request names exactly one host: it can be set, neither added nor removed")
    return True
