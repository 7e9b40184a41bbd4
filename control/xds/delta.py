"""Delta xDS, seen by a server: one client's stream, without I/O.

Per type: what the client asks for (everything, or keys), what it holds as far as we know, and at most one response that it has
not answered yet. While one is out, changes wait as the difference between two snapshots, never as a queue: a slow client
gets fewer, larger responses. The first request of a type is always answered, also with nothing, since clients wait for that.

    request: first of its type      → response with what differs from initial_resource_versions, removals for what is gone
    request: nonce of the last one  → ACK or NACK; then the next difference, if there is one
    request: subscribe / unsubscribe at any time; a key that is asked for is answered, found or not

What one type names of another (a workload its policies) is there as long as it is named. Types are served in an order, what is named
first, and each step waits for the client's answer to the one before, since nothing promises that types are applied as they were sent:

    1. what is new or different of the policies of a snapshot
    2. then the workloads of that snapshot; they wait up to PATIENCE at the beginning of a stream, when the policies were not asked for yet
    3. then what must not go before nothing relies on it: policies that are gone, and those that applied everywhere and from now on
       only where they are named. Until then they stay as they are.

A NACK is an answer: the client has what it accepted. Who asks for one type only waits for PATIENCE at most.

A NACK is remembered and shown; what was rejected is not sent again until it changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from control.snapshot import Entry, Snapshot

WILDCARD = "*"
MAX_KEYS = 100_000
MAX_ERROR_TEXT = 4096
PATIENCE = 1.0
"""Seconds from the beginning of a stream in which a type that was not asked for may still be. Istio's tunnel asks for workloads first."""


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

    `wide`: those of them that apply, or may, without being named. `leaving`: names of which the client has an earlier form than there
    is, kept until the types that may name them follow: whether there is a later form, and the snapshot since which that is so.
    `answered`: the newest snapshot that the client has and has answered, with ACK or NACK; `acked`: with ACK.
    """

    wildcard: bool = False
    keys: set[str] = field(default_factory=set)
    held: dict[str, str] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    first: bool = True
    wide: set[str] = field(default_factory=set)
    leaving: dict[str, tuple[bool, int]] = field(default_factory=dict)
    outstanding: str = ""
    since: float = 0.0
    snapshot: int = 0
    answered: int = 0
    acked: int = 0
    nacks: int = 0
    error: str = ""


class DeltaStream:
    """One stream. `types` are those that are served here, each before those whose resources may name its own.
    `number` makes its nonces differ from other streams'; `began` is when it was opened.
    """

    def __init__(self, types: Iterable[str], number: int = 0, began: float = 0.0) -> None:
        self.states: dict[str, TypeState] = {}
        self._types = tuple(types)
        self._number = number
        self._count = 0
        self._patient_until = began + PATIENCE
        self._newest = Snapshot()  # of which the first type was sent

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
            state.wide = set(request.versions)  # a version does not say
        if request.nonce and request.nonce == state.outstanding:
            state.outstanding = ""
            state.answered = state.snapshot
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
        """What to send now: for each type whose turn it is, the difference between what is held and the snapshot."""
        found: list[Response] = []
        for type_url, state in self.states.items():
            if state.snapshot < self._newest.number < snapshot.number:
                # Policies that change all the time do not keep workloads from following those that were answered.
                found += self._serve(type_url, self._newest, now)
        for type_url in (*self._types, *reversed(self._types)):
            found += self._serve(type_url, snapshot, now)
        return found

    def waits_until(self, now: float) -> float | None:
        """When to ask for responses again without a request or a snapshot; None where there is no such time."""
        return self._patient_until if now < self._patient_until and 0 < len(self.states) < len(self._types) else None

    def _serve(self, type_url: str, snapshot: Snapshot, now: float) -> list[Response]:
        """The response of one type, if it has something to say and may."""
        state = self.states.get(type_url)
        if state is None or state.outstanding or state.snapshot > snapshot.number or not self._may(type_url, snapshot, now):
            return []
        followed = self._followed(type_url, now)
        due = any(since <= followed for _, since in state.leaving.values())
        if not (due or state.first or state.unanswered or state.snapshot != snapshot.number):
            return []
        response = self._difference(type_url, state, snapshot, followed)
        state.snapshot = snapshot.number
        state.first = False
        if type_url == self._types[0]:
            self._newest = snapshot
        if response is not None:
            state.outstanding, state.since = response.nonce, now
            return [response]
        state.answered = snapshot.number
        if not state.error and not state.leaving:
            state.acked = snapshot.number
        return []

    def _may(self, type_url: str, snapshot: Snapshot, now: float) -> bool:
        """Whether the client has answered all of this snapshot that the type's resources may name."""
        for name in self._types[: self._types.index(type_url)]:
            state = self.states.get(name)
            if state is None:
                if now < self._patient_until:
                    return False
            elif state.outstanding or state.answered != snapshot.number:
                return False
        return True

    def _followed(self, type_url: str, now: float) -> float:
        """The newest snapshot that the client has answered all of that could name this type's resources."""
        found = math.inf
        for name in self._types[self._types.index(type_url) + 1 :]:
            state = self.states.get(name)
            if state is not None:
                found = min(found, state.answered)
            elif now < self._patient_until:
                return 0
        return found

    def oldest_wait(self) -> float | None:
        """Since when the longest unanswered response is out; None where none is."""
        return min((state.since for state in self.states.values() if state.outstanding), default=None)

    def _difference(self, type_url: str, state: TypeState, snapshot: Snapshot, followed: float) -> Response | None:
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
        present = snapshot.entries[type_url]
        # What is held and no longer asked for is the client's to forget; what is gone from the mesh is ours to say.
        leaving = dict.fromkeys((name for name in state.held if name not in present and name not in removed), False)
        for name, entry in wanted.items():
            if entry.named and name in state.wide and state.held.get(name) != entry.version:
                leaving[name] = True
        state.leaving, before = {}, state.leaving
        for name, narrows in leaving.items():
            earlier = before.get(name)
            since = earlier[1] if earlier is not None and earlier[0] == narrows else snapshot.number
            if since > followed:
                state.leaving[name] = (narrows, since)
            elif not narrows:
                removed.append(name)
        resources = [
            (entry, tuple(alias for alias in entry.aliases if alias in state.keys))
            for name, entry in wanted.items()
            if name not in state.leaving and (name in forced or state.held.get(name) != entry.version)
        ]
        kept = {name: state.held[name] for name in state.leaving}
        state.held = {name: entry.version for name, entry in wanted.items()} | kept
        state.wide = {name for name, entry in wanted.items() if not entry.named} | (state.wide & kept.keys())
        if not (resources or removed or state.first):
            return None
        self._count += 1
        return Response(type_url, f"{self._number}-{self._count}", str(snapshot.number), tuple(resources), tuple(removed))
