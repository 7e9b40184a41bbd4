"""What a client asks for of one type, what it has of that, and what it has yet to be told: names, or everything.

While it asks for everything, what it has is what there is but for what is noted. While it asks for names only, what it has is remembered
(`held`). So who goes from names to everything has all noted that it does not hold, and of who goes back, what it was sent and still asks
for is held from then on: a client that asks for less or more misses nothing of what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from control.xds.messages import MAX_KEYS, WILDCARD, Noted, Refusal, TypeState
from control.xds.store import Change, Entry, TypeStore

UNKNOWN = Entry("", "", b"")
"""Stands for a form that we do not know, of which the client has told the version only: it may count without being named."""


def ask(state: TypeState, store: TypeStore, number: int, more: Iterable[str], less: Iterable[str]) -> list[str]:
    """Take note of names, WILDCARD among them, that are asked for from now on, and of those that no longer are, which are answered.
    `number` is the store's. Refusal for too many.
    """
    everything, dropped = state.wildcard, []
    for key in more:
        if key == WILDCARD:
            state.wildcard = True
        else:
            state.keys.add(key)
            state.unanswered[key] = number
    for key in less:
        if key == WILDCARD:
            state.wildcard = False
        elif key in state.keys:
            dropped.append(key)
            state.keys.discard(key)
            state.unanswered.pop(key, None)
    if len(state.keys) > MAX_KEYS:
        raise Refusal(f"more than {MAX_KEYS} names subscribed to")
    if state.wildcard and not everything and not state.first:
        note_all(state, store, number, number)
        state.held, state.along = {}, set()
    if everything and not state.wildcard:
        _hold(state, store)
    elif dropped:
        _forget(state, store)
    return dropped


def note_all(state: TypeState, store: TypeStore, number: int, gone: int) -> None:
    """Note everything that the client does not have: what there is as changed at `number`, what is no more at `gone`."""
    # What is on its way may come to the client after it let go of it, and before it hears more.
    coming = {entry.name for entry in state.sending}
    for name, entry in store.entries.items():
        version = state.versions.get(name)
        if name not in state.held and name not in state.noted and version != entry.version:
            state.noted[name] = Noted(number, number, UNKNOWN if version is not None or name in coming else None)
    for name in coming.union(state.versions):
        if name not in store.entries and name not in state.noted:
            state.noted[name] = Noted(gone, gone, UNKNOWN)
    state.versions = {}


def _hold(state: TypeState, store: TypeStore) -> None:
    """Of everything, from now on only what has a name."""
    had: dict[str, Entry | None] = {} if state.first else {entry.name: entry for key in state.keys for entry in store.find(key)}
    had.update((name, noted.had) for name, noted in state.noted.items())
    state.held = {name: entry.version for name, entry in had.items() if entry is not None}
    _forget(state, store)
    state.along = {entry.name for key in state.keys if key not in state.unanswered for entry in store.direct(key)}


def _forget(state: TypeState, store: TypeStore) -> None:
    """What is held and no longer asked for is the client's to forget."""
    if state.wildcard:
        return
    wanted: set[str] = set()
    direct: set[str] = set()
    for key in state.keys:
        direct.update(entry.name for entry in store.direct(key))
        wanted.update(entry.name for entry in store.find(key))
    for name, noted in state.noted.items():
        had = noted.had
        if had is not None and not (state.keys.isdisjoint((name, *had.keys)) and direct.isdisjoint(had.groups)):
            wanted.add(name)  # gone, or to be found by other words now: that is yet to be told
    state.along &= direct
    state.held = {name: version for name, version in state.held.items() if name in wanted}
    state.noted = {name: noted for name, noted in state.noted.items() if name in wanted or name in state.keys}


def note(state: TypeState, change: Change, number: int) -> None:
    """The store has changed like this, at `number`."""
    name, before, now = change
    noted = state.noted.get(name)
    if noted is None:
        if state.wildcard or name in state.held:
            had = before
        elif now is not None and _concerns(state, now):
            had = None
        else:
            return
        state.noted[name] = Noted(number, number, had)
        return
    noted.last = number
    if (now is None and noted.had is None) or (now is not None and noted.had is not None and now.version == noted.had.version):
        del state.noted[name]


def _concerns(state: TypeState, entry: Entry) -> bool:
    return entry.name in state.keys or any(key in state.keys for key in entry.keys) or any(group in state.along for group in entry.groups)


def changed(state: TypeState, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(more, less) of a state-of-the-world request, whose names are those from now on. None are everything, until there were some."""
    state.named = state.named or bool(names)
    asked = dict.fromkeys(names if state.named else (WILDCARD,))
    known = {*state.keys, WILDCARD} if state.wildcard else state.keys
    return [name for name in asked if name not in known], [name for name in known if name not in asked]


def size(state: TypeState, entries: Mapping[str, Entry]) -> int:
    """How many resources the client has been sent, as far as they are still there."""
    if not state.wildcard:
        return len(state.held)
    return 0 if state.first else len(entries) - sum(noted.had is None for noted in state.noted.values())
