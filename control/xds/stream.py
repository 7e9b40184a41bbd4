"""xDS, seen by a server: one client's aggregated stream, without I/O. The state-of-the-world and the incremental (delta) variant.

Per type: what the client asks for (everything, or names), what of it the client has yet to be sent, and at most one response that it has
not answered yet. While one is out, further changes are only noted by name, and what is sent then is what there is then: a slow client
gets fewer, larger responses, never a queue. The first request of a type is always answered, also with nothing, since clients wait
for that.

    request: first of its type      → response with what is not in initial_resource_versions, removals for what is gone
    request: nonce of the last one  → ACK or NACK; then the next difference, if there is one
    request: names, at any time     → what is asked for is answered, found or not

What one resource names of another type (a workload its policies, a route its clusters) is there as long as it is named: make before break.
Types are served in an order, what is named first, and each step waits for the client's answer to the one before, since nothing promises
that types are applied as they were sent:

    1. what is new or different of the first type
    2. then what changed with it or later of the next type, if it names nothing that the client has yet to be sent; types that are not
       asked for are not waited for, except, where the server is `patient`, for PATIENCE at the beginning of a stream
       Where the client's answer depends on them in turn, they do not wait: Envoy answers to a cluster when that is warm, for which it wants
       the endpoints (`pulled`). Nor does anything wait for long: a cluster may have to look up a name first (`waits`)
    3. then what must not go before nothing relies on it: resources that are gone, and those that applied everywhere and from now on
       only where they are named. Until then they stay as they are.

What a changed cluster makes the client ask for follows it once more, changed or not: Envoy warms it with nothing else.

A NACK is an answer: the client has what it accepted. It is remembered and shown; what was rejected is not sent again until it changes.

Sources: envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, and gRFC A27 for what gRPC's clients do of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from control.xds import wanted
from control.xds.messages import (
    MAX_ERROR_TEXT,
    MAX_NOTED,
    MAX_PASSED,
    PATIENCE,
    WARMING,
    WILDCARD,
    Noted,
    Refusal,
    Request,
    Response,
    Rules,
    TypeState,
)
from control.xds.store import Bundle, Change, Entry, Name, Store

NOT_YET = -1.0
"""Below the number of everything."""


class Stream:
    """One stream over one store. `number` makes its nonces differ from other streams'; `began` is when it was opened."""

    def __init__(self, store: Store, rules: Rules, number: int = 0, began: float = 0.0) -> None:
        self.states: dict[str, TypeState] = {}
        self.rules = rules
        self.store = store
        self._number = number
        self._count = 0
        self._patient_until = began + PATIENCE if rules.patient else began
        self._awaited: dict[Name, float] = {}

    # What comes in

    def receive(self, request: Request, now: float) -> None:
        """Take note of a request. What is to be answered comes from `next_responses`. Refusal where it breaks the protocol."""
        if request.type_url not in self.rules.types:
            raise Refusal(f"unknown type {request.type_url!r}: expected one of {', '.join(self.rules.types)}")
        state = self.states.get(request.type_url)
        fresh = state is None
        if state is None:
            state = self.states[request.type_url] = TypeState(self.store.number, versions=dict(request.versions))
        if request.nonce and request.nonce == state.outstanding:
            self._answer(state, request, now)
        elif request.error and request.nonce in state.passed:
            self._reject(state, request)
        if self.rules.delta:
            # Empty on the first request is the wildcard of old; later ones change nothing by saying nothing.
            more: Iterable[str] = request.subscribe or ((WILDCARD,) if fresh else ())
            less: Iterable[str] = request.unsubscribe
        else:
            # These are the names from now on, also where the request answers to an earlier response than the last: a client may drop one
            # and ask for it again before it reads that, and has forgotten it then. Nothing is sent before it has answered.
            more, less = wanted.changed(state, request.subscribe)
        for key in wanted.ask(state, self.store.types[request.type_url], self.store.number, more, less):
            self._awaited.pop((request.type_url, key), None)

    def _answer(self, state: TypeState, request: Request, now: float) -> None:
        state.outstanding, state.passed = "", ()
        state.answered = max(state.answered, state.covers)
        if request.error:
            self._reject(state, request)
        else:
            state.error = ""
            state.acked = state.answered
            self._warm({(request.type_url, entry.name) for entry in state.sending})
        for entry in state.sending:
            self._awaited.pop((request.type_url, entry.name), None)
            for name in entry.follows:
                self._await(name, now)
        state.sending, state.fresh = (), frozenset()

    def _reject(self, state: TypeState, request: Request) -> None:
        state.error = request.error[:MAX_ERROR_TEXT]
        state.nacks += 1

    def _warm(self, taken: set[Name]) -> None:
        """What made the client ask for these is of use to it, though it may not have answered to all that it came with."""
        for state in self.states.values():
            if state.fresh:
                state.fresh -= {entry.name for entry in state.sending if not taken.isdisjoint(entry.follows)}

    def _await(self, name: Name, now: float) -> None:
        """The client will ask for this because of what it just accepted."""
        state = self.states.get(name[0])
        if state is None or (name[1] not in state.held and not state.wildcard):
            self._awaited[name] = now + PATIENCE

    def note(self, changes: Mapping[str, Sequence[Change]], number: int) -> None:
        """The store has become this, with `number`. To be called for every change, in order, before anything else is asked of the stream,
        whether or not something is to be sent.
        """
        for type_url, changed in changes.items():
            state = self.states.get(type_url)
            if state is None or state.first:
                continue  # all that is wanted is sent anyway
            for change in changed:
                wanted.note(state, change, number)
            if len(state.noted) > MAX_NOTED:
                raise Refusal(f"more than {MAX_NOTED} changes were not answered")

    # What goes out

    def next_responses(self, now: float) -> list[Response]:
        """What to send now: for each type whose turn it is, the difference between what the client has and what there is."""
        found: list[Response] = []
        if not self.store.number:
            return found  # nothing is known yet, and an empty answer would be a lie
        for type_url in (*self.rules.types, *reversed(self.rules.types)):
            state = self.states.get(type_url)
            if state is not None and (not state.outstanding or self._is_slow(type_url, state, now)):
                response = self._serve(type_url, state, now)
                if response is not None:
                    found.append(response)
        return found

    def waits_until(self, now: float) -> float | None:
        """When to ask for responses again without a request or a change; None where there is no such time."""
        times = [when for when in self._awaited.values() if when > now]
        if math.isfinite(self.rules.waits):
            sent = (time for state in self.states.values() if state.outstanding for time in (state.since, state.sent))
            times += [time + self.rules.waits for time in sent if time + self.rules.waits > now]
        if now < self._patient_until and 0 < len(self.states) < len(self.rules.types):
            times.append(self._patient_until)
        return min(times, default=None)

    def oldest_wait(self) -> float | None:
        """Since when the longest unanswered response is overdue or may become so; None where none is out."""
        warms = self.rules.warms
        times = (state.since + WARMING * (name in warms) for name, state in self.states.items() if state.outstanding)
        return min(times, default=None)

    def _is_slow(self, type_url: str, state: TypeState, now: float) -> bool:
        """The client works on what it was sent, and may be sent more."""
        return type_url in self.rules.warms and now >= state.sent + self.rules.waits and len(state.passed) < MAX_PASSED

    def size(self, type_url: str) -> int:
        """How many resources of a type the client has been sent, as far as they are still there."""
        return wanted.size(self.states[type_url], self.store.types[type_url].entries)

    def synced(self, type_url: str) -> bool:
        """Whether the client has all that there is of a type, and accepted it."""
        state = self.states[type_url]
        return not (state.first or state.outstanding or state.noted or state.unanswered) and state.acked == self.store.number

    def _serve(self, type_url: str, state: TypeState, now: float) -> Response | None:
        """The response of one type, if it has something to say and may."""
        begins = state.first and state.wildcard
        turn = self._turn(type_url, now)
        if begins and state.asked > turn:
            return None
        everything = begins and self._begin(type_url, state)
        send, removed = self._due(type_url, state, turn, now)
        answers = self._asked_for(type_url, state, turn)
        for key, entries in answers.items():
            send.update(dict.fromkeys(entry.name for entry in entries))
            if not entries:
                removed.append(key)
        if self.rules.delta:
            speak = (state.first and (state.wildcard or not state.unanswered)) or bool(answers or send or removed)
        elif type_url in self.rules.whole:
            speak = begins or bool(answers or send or removed)
        else:
            speak = begins or bool(send)  # of these types nobody can be told that one is not there: the client waits for it
        if not speak:
            self._take_off(type_url, state, send, removed, answers)
            self._advance(type_url, state)
            return None
        return self._respond(type_url, state, send, removed, answers, everything, now)

    def _due(self, type_url: str, state: TypeState, turn: float, now: float) -> tuple[dict[str, None], list[str]]:
        """Of what is noted, what may be sent now, and what may be said to be gone."""
        send: dict[str, None] = {}
        removed: list[str] = []
        if state.noted:
            entries = self.store.types[type_url].entries
            followed = self._followed(type_url, now)
            for name, note in state.noted.items():
                if self._leaves(type_url, name, note):
                    if note.last > followed:
                        continue
                    if name not in entries:
                        removed.append(name)
                        continue
                elif note.first > turn or not self._has_needs(entries[name]):
                    continue
                send[name] = None
        return send, removed

    def _leaves(self, type_url: str, name: str, note: Noted) -> bool:
        """Whether something may still rely on the form that the client has: it goes, or from now on counts only where it is named."""
        entry = self.store.types[type_url].entries.get(name)
        return entry is None or (entry.named and note.had is not None and not note.had.named)

    def _begin(self, type_url: str, state: TypeState) -> bool:
        """Note what the first response is to hold; or, where that is simply everything, say so."""
        entries = self.store.types[type_url].entries
        if not state.versions and (self._has_all_before(type_url) or all(self._has_needs(entry) for entry in entries.values())):
            return True
        wanted.note_all(state, self.store.types[type_url], state.asked, self.store.number)
        return False

    def _asked_for(self, type_url: str, state: TypeState, turn: float) -> dict[str, list[Entry]]:
        """What answers the names that were asked for, as far as it may be sent now."""
        found = {}
        store = self.store.types[type_url]
        for key, number in state.unanswered.items():
            if number > turn or not self.store.knows(type_url, key):
                continue  # it is being worked out, or not its turn
            entries = store.find(key)
            if all(self._has_needs(entry) for entry in entries):
                found[key] = entries
        return found

    def _turn(self, type_url: str, now: float) -> float:
        """Up to which number what changed of a type may be sent: the client has answered all of the types that it may name."""
        earlier, pulled = self.rules.types[: self.rules.types.index(type_url)], self.rules.pulled
        found = math.inf
        for name in () if type_url in pulled else (name for name in earlier if name not in pulled):
            state = self.states.get(name)
            if state is None:
                if now < self._patient_until:
                    return NOT_YET
            elif not (state.outstanding and now >= state.since + self.rules.waits):
                found = min(found, NOT_YET if state.first else state.answered)
        if any(name[0] in earlier and when > now for name, when in self._awaited.items()):
            return NOT_YET
        return found

    def _has_all_before(self, type_url: str) -> bool:
        """Whether the client has something of every resource of the types that this one may name."""
        states = [self.states.get(name) for name in self.rules.types[: self.rules.types.index(type_url)]]
        return not any(state is not None and (state.fresh or any(note.had is None for note in state.noted.values())) for state in states)

    def _has_needs(self, entry: Entry) -> bool:
        for type_url, name in entry.needs:
            state = self.states.get(type_url)
            if state is None or not state.wildcard:
                continue  # it does not take them from us, or asks for those that it wants
            note = state.noted.get(name)
            if name in state.fresh or (note is not None and note.had is None):
                return False
        return True

    def _followed(self, type_url: str, now: float) -> float:
        """The number up to which the client has answered all that could name this type's resources."""
        found = math.inf
        for name in self.rules.types[self.rules.types.index(type_url) + 1 :]:
            state = self.states.get(name)
            if state is not None:
                found = min(found, 0 if state.first else state.answered)
            elif now < self._patient_until:
                return 0
        return found

    def _take_off(
        self, type_url: str, state: TypeState, send: Iterable[str], removed: Iterable[str], answers: Mapping[str, Sequence[Entry]]
    ) -> frozenset[str]:
        """These go out now. Those of them that the client had nothing of."""
        fresh = []
        for name in send:
            note = state.noted.pop(name, None)
            if note.had is None if note is not None else name not in state.held:
                fresh.append(name)
        for name in removed:
            state.noted.pop(name, None)
            state.held.pop(name, None)
        for key in answers:
            del state.unanswered[key]
            state.along.update(entry.name for entry in self.store.types[type_url].direct(key))
            if not answers[key]:
                self._awaited.pop((type_url, key), None)
        return frozenset(fresh)

    def _respond(
        self,
        type_url: str,
        state: TypeState,
        send: Mapping[str, None],
        removed: list[str],
        answers: Mapping[str, Sequence[Entry]],
        everything: bool,
        now: float,
    ) -> Response:
        store = self.store.types[type_url]
        state.fresh |= self._take_off(type_url, state, send, removed, answers)
        if type_url in self.rules.warms:
            self._say_again(type_url, send)
        if everything:
            bundle = store.everything()
        elif self.rules.delta or type_url not in self.rules.whole:
            bundle = store.bundle(send)
        else:
            bundle = self._whole(type_url, state)
        if not state.wildcard:
            state.held.update((entry.name, entry.version) for entry in bundle.entries)
        aliases = {}
        if state.keys and self.rules.delta:
            for entry in bundle.entries:
                found = tuple(key for key in entry.keys if key in state.keys)
                if found:
                    aliases[entry.name] = found
        self._count += 1
        state.first = False
        if state.outstanding:
            state.passed = (*state.passed, state.outstanding)
        else:
            state.since = now
        state.outstanding, state.sent = f"{self._number}-{self._count}", now
        state.sending = _together(state.sending, bundle.entries) if state.passed else bundle.entries
        state.covers = self._reach(type_url, state)
        told = tuple(removed) if self.rules.delta else ()
        return Response(type_url, state.outstanding, str(self.store.number), bundle, told, aliases)

    def _say_again(self, type_url: str, sent: Iterable[str]) -> None:
        """What these make the client ask for, and what it has already, is sent once more: a cluster that has changed warms with endpoints
        that come afterwards. In the delta variant Envoy does not ask for them, and keeps to the old cluster until they come.
        """
        entries = self.store.types[type_url].entries
        for followed, name in (pair for each in sent if each in entries for pair in entries[each].follows):
            state, entry = self.states.get(followed), self.store.types[followed].entries.get(name)
            if state is not None and entry is not None and name in state.held and name not in state.noted:
                state.noted[name] = Noted(self.store.number, self.store.number, entry)

    def _whole(self, type_url: str, state: TypeState) -> Bundle:
        """All that the client should have of a type now: of what may not be sent yet, the form that it has."""
        store = self.store.types[type_url]
        if state.wildcard and not state.noted:
            return store.everything()
        found = store.entries.values() if state.wildcard else [entry for key in state.keys for entry in store.find(key)]
        forms: dict[str, Entry | None] = {entry.name: entry for entry in found}
        forms.update((name, note.had) for name, note in state.noted.items())
        return Bundle([entry for entry in forms.values() if entry is not None and entry is not wanted.UNKNOWN])

    def _advance(self, type_url: str, state: TypeState) -> None:
        """Nothing was to be said: that counts as answered."""
        if state.first and (state.wildcard or self.rules.delta):
            return
        state.first = False
        state.answered = max(state.answered, self._reach(type_url, state))
        if not state.error and not state.noted:
            state.acked = state.answered

    def _reach(self, type_url: str, state: TypeState) -> int:
        """Up to which number everything was sent, but for what is kept back because something may rely on it."""
        waiting = [note.first for name, note in state.noted.items() if not self._leaves(type_url, name, note)]
        return min(waiting, default=self.store.number + 1) - 1


def _together(before: Iterable[Entry], now: Iterable[Entry]) -> Sequence[Entry]:
    """Each once, in its last form."""
    return tuple({entry.name: entry for entries in (before, now) for entry in entries}.values())
