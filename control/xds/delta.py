"""Delta xDS, seen by a server: one client's stream, without I/O.

Per type: what the client asks for (everything, or keys), what it holds as far as we know, and at most one response that it has
not answered yet. While one is out, changes wait as the difference between two snapshots, never as a queue: a slow client
gets fewer, larger responses. The first request of a type is always answered, also with nothing, since clients wait for that.

    request: first of its type      → response with what differs from initial_resource_versions, removals for what is gone
    request: nonce of the last one  → ACK or NACK; then the next difference, if there is one
    request: subscribe / unsubscribe at any time; a key that is asked for is answered, found or not

What one type names of another (a workload its policies) is there as long as it is named: types are served in an order, what is named
first. What is new goes out in that order, and no type before those ahead of it have sent theirs; what is gone goes out in the
opposite one, when those that could name it have been sent without it. Responses are applied in the order in which they are sent.

A NACK is remembered and shown; what was rejected is not sent again until it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from control.snapshot import Entry, Snapshot

WILDCARD = "*"
MAX_KEYS = 100_000
MAX_ERROR_TEXT = 4096


class Refusal(Exception):  # noqa: N818 - a word of the protocol, not an accident
    """The client broke the protocol; the stream ends with this text."""


@dataclass(frozen=True, slots=True)
class Request:
    type_url: str
    nonce: str = ""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """`resources` with, for each, the aliases that the client asked by."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[tuple[Entry, tuple[str, ...]], ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(slots=True)
class TypeState:
    """One type on one stream. `held`: name → version that the client has, "" where it has nothing that we know of.

    `leaving`: some of what is held is gone, and the client has not been told yet.
    """

    wildcard: bool = False
    keys: set[str] = field(default_factory=set)
    held: dict[str, str] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    first: bool = True
    leaving: bool = False
    outstanding: str = ""
    since: float = 0.0
    snapshot: int = 0
    acked: int = 0
    nacks: int = 0
    error: str = ""


class DeltaStream:
    """One stream. `types` are those that are served here, each before those whose resources may name its own.
    `number` makes its nonces differ from other streams'.
    """

    def __init__(self, types: Iterable[str], number: int = 0) -> None:
        self.states: dict[str, TypeState] = {}
        self._types = tuple(types)
        self._number = number
        self._count = 0

    def receive(self, request: Request) -> None:
        """Take note of a request. What is to be answered comes from `next_responses`. Refusal where it breaks the protocol."""
        if request.type_url not in self._types:
            raise Refusal(f"unknown type {request.type_url!r}: expected one of {', '.join(self._types)}")
        state = self.states.get(request.type_url)
        if state is None:
            state = self.states[request.type_url] = TypeState()
            # Empty on the first request is the wildcard of old; later ones change nothing by saying nothing.
            state.wildcard = not request.subscribe
            state.held = dict(request.versions)
        if request.nonce and request.nonce == state.outstanding:
            state.outstanding = ""
            state.error = request.error[:MAX_ERROR_TEXT]
            if request.error:
                state.nacks += 1
            else:
                state.acked = state.snapshot
        for key in request.subscribe:
            if key == WILDCARD:
                state.wildcard = True
            else:
                state.keys.add(key)
                state.unanswered.add(key)
        for key in request.unsubscribe:
            if key == WILDCARD:
                state.wildcard = False
            state.keys.discard(key)
            state.unanswered.discard(key)
        if len(state.keys) > MAX_KEYS:
            raise Refusal(f"more than {MAX_KEYS} keys subscribed to")

    def next_responses(self, snapshot: Snapshot, now: float) -> list[Response]:
        """What to send now: for each type that waits for no answer, the difference between what is held and the snapshot."""
        found: list[Response] = []
        for type_url in self._types:
            state = self.states.get(type_url)
            if state is None:
                continue
            behind = state.snapshot != snapshot.number
            if state.outstanding and behind:
                break  # those after it may name what it could not send yet
            if not state.outstanding and (behind or state.first or state.unanswered):
                found += self._send(type_url, state, snapshot, now)
        for type_url in self._types:
            state = self.states.get(type_url)
            if state is not None and state.leaving and not state.outstanding and self._is_unnamed(type_url, snapshot):
                found += self._send(type_url, state, snapshot, now)
        return found

    def _send(self, type_url: str, state: TypeState, snapshot: Snapshot, now: float) -> list[Response]:
        response = self._difference(type_url, state, snapshot)
        state.snapshot = snapshot.number
        state.first = False
        if response is not None:
            state.outstanding, state.since = response.nonce, now
            return [response]
        if not state.error and not state.leaving:
            state.acked = snapshot.number
        return []

    def _is_unnamed(self, type_url: str, snapshot: Snapshot) -> bool:
        """Whether all that could name this type's resources has been sent as it is in the snapshot."""
        after = self._types[self._types.index(type_url) + 1 :]
        return all(self.states[name].snapshot == snapshot.number for name in after if name in self.states)

    def oldest_wait(self) -> float | None:
        """Since when the longest unanswered response is out; None where none is."""
        return min((state.since for state in self.states.values() if state.outstanding), default=None)

    def _difference(self, type_url: str, state: TypeState, snapshot: Snapshot) -> Response | None:
        wanted: dict[str, Entry] = dict(snapshot.entries[type_url]) if state.wildcard else {}
        forced: set[str] = set()
        removed: list[str] = []
        for key in state.keys:
            answers = snapshot.find(type_url, key)
            wanted.update((entry.name, entry) for entry in answers)
            if key in state.unanswered:
                forced.update(entry.name for entry in answers)
                if not answers:
                    removed.append(key)
        state.unanswered.clear()
        resources = [
            (entry, tuple(alias for alias in entry.aliases if alias in state.keys))
            for name, entry in wanted.items()
            if name in forced or state.held.get(name) != entry.version
        ]
        # What is held and no longer asked for is the client's to forget; what is gone from the mesh is ours to say.
        present = snapshot.entries[type_url]
        gone = [name for name in state.held if name not in present and name not in removed]
        # A stream's first answer may come before the client has asked for the type that names these.
        certain = type_url == self._types[-1] or (not state.first and self._is_unnamed(type_url, snapshot))
        kept = {} if certain else {name: state.held[name] for name in gone}
        state.leaving = bool(kept)
        if certain:
            removed += gone
        state.held = kept | {name: entry.version for name, entry in wanted.items()}
        if not (resources or removed or state.first):
            return None
        self._count += 1
        return Response(type_url, f"{self._number}-{self._count}", str(snapshot.number), tuple(resources), tuple(removed))
