"""Delta xDS, seen by a client: which resources it holds, what it must say on a new stream, and how it answers each response.

Wildcard subscriptions only: the server decides what a node needs. The conversation, per stream and type:

    client                                              server
      type, node, versions of all that is held  ---->        first, also after a reconnect
                              <----  nonce, resources, removed names
      type, nonce                               ---->        all was good (ACK)
      type, nonce, error naming each bad one    ---->        the good ones are applied none the less (NACK)

A rejected resource's version is forgotten but its name is not: on a reconnect the empty version brings it again if the server still
has it, and its removal if it has not (we may still enforce what came before it). A type is *synced* from its first response
on, even one without resources. Nothing here knows what a resource means: bodies are opaque bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mesh.model.errors import BugError, PeerError
from mesh.model.reasons import Reason

ADDRESS_TYPE = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION_TYPE = "type.googleapis.com/istio.security.Authorization"
INVALID_ARGUMENT = 3  # google.rpc.Code, what a NACK carries
MAX_ERROR_TEXT = 4096


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of a response. `body` is the packed message, `body_type` the type URL that it says of itself."""

    name: str
    version: str
    body_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class DeltaResponse:
    type_url: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeltaRequest:
    """`error` non-empty is a NACK. `first` asks the sender to add the node to the message."""

    type_url: str
    nonce: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    first: bool = False


class DeltaClient:
    """The state of one client across streams. `types` in the order in which they are asked for."""

    def __init__(self, types: Sequence[str]) -> None:
        self._held: dict[str, dict[str, str]] = {type_url: {} for type_url in types}
        self._synced: set[str] = set()
        self._pending: DeltaResponse | None = None

    def __repr__(self) -> str:
        held = ", ".join(f"{type_url.rpartition('.')[2]}: {len(names)}" for type_url, names in self._held.items())
        waits = ", ".join(type_url.rpartition(".")[2] for type_url in self.unsynced)
        return f"<DeltaClient {held}{'; waits for ' + waits if waits else ''}{'; unanswered' if self._pending else ''}>"

    @property
    def unsynced(self) -> list[str]:
        """The types without a first response, over all streams."""
        return [type_url for type_url in self._held if type_url not in self._synced]

    def held(self, type_url: str) -> Mapping[str, str]:
        """Names and versions of what is held of a type."""
        return self._held[type_url]

    def connect(self) -> list[DeltaRequest]:
        """What to say first on a new stream. Forgets a response that the old stream left unanswered."""
        self._pending = None
        return [DeltaRequest(type_url, versions=dict(held), first=True) for type_url, held in self._held.items()]

    def receive(self, response: DeltaResponse) -> DeltaResponse:
        """Take one response, to be applied and then answered with `answer`. Raises PeerError for a type that nobody asked for."""
        if self._pending is not None:
            raise BugError("a response before the last one was answered")
        if response.type_url not in self._held:
            raise PeerError(Reason.XDS_PROTOCOL, f"a response of type {response.type_url!r}, which was not asked for")
        if not response.nonce:
            raise PeerError(Reason.XDS_PROTOCOL, "a response without a nonce")
        self._pending = response
        return response

    def answer(self, rejected: Mapping[str, str]) -> DeltaRequest:
        """ACK, or NACK where `rejected` (name → why) is not empty. To be sent once the good resources are applied."""
        response = self._pending
        if response is None:
            raise BugError("an answer to no response")
        self._pending = None
        held = self._held[response.type_url]
        for resource in response.resources:
            held[resource.name] = "" if resource.name in rejected else resource.version
        for name in response.removed:
            held.pop(name, None)
        self._synced.add(response.type_url)
        return DeltaRequest(response.type_url, response.nonce, error=_error_text(rejected))


def _error_text(rejected: Mapping[str, str]) -> str:
    text = "; ".join(f"{name}: {why}" for name, why in rejected.items())
    return text if len(text) <= MAX_ERROR_TEXT else f"{text[:MAX_ERROR_TEXT]}… ({len(rejected)} rejected)"


class Backoff:
    """Delays that double from `first` to `limit` seconds, and begin anew after a success."""

    def __init__(self, first: float = 0.01, limit: float = 15.0) -> None:
        self.first = first
        self.limit = limit
        self._next = first

    def fail(self) -> float:
        """The delay before the next try."""
        delay, self._next = self._next, min(self._next * 2, self.limit)
        return delay

    def succeed(self) -> None:
        self._next = self.first
