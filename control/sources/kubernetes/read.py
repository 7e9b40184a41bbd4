"""One object's JSON to what is handed over: an object, or a refusal; never half of one, and never an exception.

What is read of an object is also what is kept of it on disk, in the same form (`kept`), without what changes all the time and says nothing:
status, managed fields, resource version. Two versions whose `digest` is the same are the same to us, and the object is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

from control.kube.errors import Garbled
from control.sources.kubernetes import core, wire
from control.sources.kubernetes.kinds import CORE_KINDS, POLICY_GROUP, Kind, kind_of, split
from mesh.io.log import Log
from mesh.model.errors import Refusal
from mesh.model.manifest import Parsed, Refused

ParseObject = Callable[[Mapping[str, Any], str], Parsed]

DIGEST = 16
UNKEPT = ("managedFields", "resourceVersion", "selfLink")
REFUSED = b"!"
"""Begins what is kept of an object that could not be read at all."""
NO_STATUS: Mapping[str, Any] = {}

log = Log("kubernetes")

_mapping = msgspec.json.Decoder(dict[str, Any])
_core: dict[str, msgspec.json.Decoder[Any]] = {
    "Namespace": msgspec.json.Decoder(wire.Plain),
    "Node": msgspec.json.Decoder(wire.Plain),
    "ServiceAccount": msgspec.json.Decoder(wire.Plain),
    "Pod": msgspec.json.Decoder(wire.Pod),
    "Service": msgspec.json.Decoder(wire.Service),
    "EndpointSlice": msgspec.json.Decoder(wire.EndpointSlice),
}


@dataclass(frozen=True, slots=True)
class Live:
    """What the API server holds of an object of ours beside what was parsed: for who writes its status."""

    resource_version: str
    generation: int
    uid: str
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """`version` is the resource version as a number, 0 where it is none. `parsed` is None where the digest was known already."""

    origin: str
    version: int
    uid: str
    digest: bytes
    kept: bytes
    parsed: Parsed | None
    live: Live | None


class Reader:
    """`parse` is the strict parser, for the kinds of ours; `most`: bytes of one object. Pure, and used from several threads."""

    def __init__(self, parse: ParseObject, most: int) -> None:
        self._parse = parse
        self._most = most

    def read(self, kind: Kind, head: wire.HeadMeta, raw: bytes | memoryview, known: bytes = b"") -> Reading:
        """`known` is the digest of the version that is held. `head` was read from `raw` already."""
        if len(raw) > self._most:
            return _refused(kind, head, "", f"{len(raw)} bytes of JSON", f"at most {self._most}")
        try:
            if kind.core:
                return self._read_core(kind, head, raw, known)
            return self._read_ours(kind, head, raw, known)
        except core.Unfit as error:
            return _refused(kind, head, error.field, error.value, error.accepted)
        except wire.UNREADABLE as error:
            return _refused(kind, head, "", f"what cannot be read ({error})", f"a {kind.kind} of {kind.api_version}")

    def restore(self, origin: str, kept: bytes) -> tuple[Kind, Reading]:
        """An object as it was kept. Garbled where no version of ours can have kept it."""
        resource, namespace, name = split(origin)
        try:
            if kept.startswith(REFUSED):
                note = _note.decode(kept[len(REFUSED) :])
                kind = CORE_KINDS.get(resource) or kind_of(resource, note.apiVersion, note.kind)
                return kind, _refused(kind, wire.HeadMeta(name, namespace, note.uid), note.field, note.value, note.accepted)
            kind = CORE_KINDS.get(resource) or kind_of(resource, *_type.decode(kept))
            head = wire.head.decode(kept).metadata
        except wire.UNREADABLE as error:
            raise Garbled(f"{origin}: what was kept of it cannot be read ({error})") from error
        return kind, self.read(kind, head, kept)

    def _read_core(self, kind: Kind, head: wire.HeadMeta, raw: bytes | memoryview, known: bytes) -> Reading:
        found = _core[kind.kind].decode(raw)
        core.reduce(found)
        kept = wire.encode(found)
        digest = _digest(kept)
        origin = kind.origin(head.namespace, head.name)
        parsed = None if digest == known else Parsed((core.make(found, kind.kind, origin),))
        return Reading(origin, number(head.version), head.uid, digest, kept, parsed, None)

    def _read_ours(self, kind: Kind, head: wire.HeadMeta, raw: bytes | memoryview, known: bytes) -> Reading:
        value = _mapping.decode(raw)
        value.setdefault("apiVersion", kind.api_version)
        value.setdefault("kind", kind.kind)
        status = value.pop("status", None)
        metadata = value.get("metadata")
        if isinstance(metadata, dict):
            for field in UNKEPT:
                metadata.pop(field, None)
        kept = wire.encode(value)
        digest = _digest(kept)
        origin = kind.origin(head.namespace, head.name)
        live = Live(head.version, head.generation, head.uid, status if isinstance(status, dict) else NO_STATUS)
        parsed = None if digest == known else self._parse_whole(value, origin, kind, head)
        return Reading(origin, number(head.version), head.uid, digest, kept, parsed, live)

    def _parse_whole(self, value: Mapping[str, Any], origin: str, kind: Kind, head: wire.HeadMeta) -> Parsed:
        try:
            return self._parse(value, origin)
        except RecursionError:
            raise
        except Exception as error:
            # Anybody who may write one object could otherwise end the control plane for all. Refused, it is as closed as can be, and loud.
            log.exception("a bug: the parser failed on an object, which is refused", object=origin)
            found = _refused(kind, head, "", f"what our parser fails on ({type(error).__name__}, a bug of ours)", "nothing like it for now")
            assert found.parsed is not None
            return found.parsed


class _Type(msgspec.Struct):
    apiVersion: str  # noqa: N815
    kind: str

    def __iter__(self) -> Iterator[str]:
        return iter((self.apiVersion, self.kind))


class _Note(msgspec.Struct):
    """What is kept of an object of which nothing could be read."""

    apiVersion: str  # noqa: N815
    kind: str
    uid: str
    field: str
    value: str
    accepted: str


_type = msgspec.json.Decoder(_Type)
_note = msgspec.json.Decoder(_Note)


def _refused(kind: Kind, head: wire.HeadMeta, field: str, value: str, accepted: str) -> Reading:
    origin = kind.origin(head.namespace, head.name)
    subject = f"{kind.kind} {head.namespace}/{head.name}" if head.namespace else f"{kind.kind} {head.name}"
    refusal = Refusal(origin, subject, field, value, accepted)
    refused = Refused((refusal,), origin, kind.type, head.namespace, head.name, policy=kind.group == POLICY_GROUP)
    kept = REFUSED + wire.encode(_Note(kind.api_version, kind.kind, head.uid, field, value, accepted))
    live = None if kind.core else Live(head.version, head.generation, head.uid, NO_STATUS)
    return Reading(origin, number(head.version), head.uid, _digest(kept), kept, Parsed((), (refused,)), live)


def number(version: str) -> int:
    """A resource version as a number; 0 where it is none, and versions cannot be compared."""
    return int(version) if version.isascii() and version.isdigit() and len(version) < 20 else 0


def _digest(kept: bytes) -> bytes:
    return blake2b(kept, digest_size=DIGEST).digest()
