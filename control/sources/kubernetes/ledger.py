"""What is known of one kind, and what an answer of the API server changes in it. Pure: no I/O, time is an argument.

The rules, each against a way to lose or resurrect an object:
- A list replaces: what it does not hold is gone, deletions during a gap included. It counts when its last page has come, not before.
- Nothing older than what was seen undoes it. Versions of one kind are comparable as numbers (KEP-5504; in fact since etcd 3): a list older
  than `newest` is refused, an event at or before `version` is dropped. Both happen: a lagging replica or cache answers, a proxy repeats
  itself. Where a list breaks off and the watch goes on from before it, what its pages held is newer than the events: `outdated`.
- Unless they all are older, for long: then the server's own history was set back (etcd restored from a backup), and it is right.
- An object that was deleted and made again is another one: it has another uid, and its past is not its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from control.sources.kubernetes.read import Live, Reading
from mesh.model.manifest import Parsed


class Verdict(Enum):
    """On a list, by the version that its first page names."""

    TAKE = "take"
    STALE = "stale"
    SET_BACK = "set back"


@dataclass(slots=True)
class Held:
    """One object as it was handed over. `version` is 0 where it is not known."""

    version: int
    uid: str
    digest: bytes
    parsed: Parsed
    live: Live | None


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one origin. `reading` is None for a deletion. `again`: it is another object than before, by the same name."""

    origin: str
    event: str
    reading: Reading | None = None
    again: bool = False


@dataclass(slots=True)
class History:
    """Whether answers that are older than what was seen mean a lagging server, or one whose history was set back.

    `patience`: seconds for which they all have to be, and they have to be `LEAST` at least.
    """

    LEAST = 5

    patience: float
    _since: float | None = None
    _count: int = 0

    def judge(self, listed: int, known: int, now: float) -> Verdict:
        if not listed or not known or listed >= known:
            self._since, self._count = None, 0
            return Verdict.TAKE
        if self._since is None:
            self._since = now
        self._count += 1
        if now - self._since >= self.patience and self._count >= self.LEAST:
            self._since, self._count = None, 0
            return Verdict.SET_BACK
        return Verdict.STALE


@dataclass(slots=True)
class Ledger:
    """`version`: up to which all was seen, 0 where versions are no numbers. `newest`: of which anything was, as of a list that broke off.
    `complete`: a list was taken whole.
    """

    version: int = 0
    newest: int = 0
    complete: bool = False
    objects: dict[str, Held] = field(default_factory=dict)
    _unseen: set[str] | None = None

    def begin_list(self, version: int, set_back: bool = False) -> None:
        """From now on until `finish_list`, what the list does not name will be gone. `set_back`: the known versions mean nothing now."""
        self._unseen = set(self.objects)
        if set_back:
            self.version = self.newest = 0
            for held in self.objects.values():
                held.version = 0
        self.newest = max(self.newest, version)

    def holds(self, origin: str, version: int) -> bool:
        """Whether this very version is held."""
        held = self.objects.get(origin)
        return held is not None and version > 0 and held.version == version

    def see(self, origins: Iterable[str]) -> None:
        """The list names them, and has nothing new of them."""
        if self._unseen is not None:
            self._unseen.difference_update(origins)

    def digest(self, origin: str) -> bytes:
        held = self.objects.get(origin)
        return held.digest if held is not None else b""

    def take(self, readings: Iterable[Reading]) -> list[Change]:
        """From a page of a list, or of events that are new."""
        changes = []
        for reading in readings:
            if self._unseen is not None:
                self._unseen.discard(reading.origin)
            changes.append(self._take(reading))
        return changes

    def finish_list(self, version: int) -> list[Change]:
        """The deletions that the list amounts to."""
        gone, self._unseen = self._unseen or set(), None
        self.advance(version)
        self.complete = True
        for origin in gone:
            del self.objects[origin]
        return [Change(origin, "delete") for origin in sorted(gone)]

    def drop_list(self) -> None:
        """The list did not come to its end: nothing is gone by it."""
        self._unseen = None

    def is_new(self, version: int) -> bool:
        """Whether an event of this version is news. Without numbers, everything is."""
        return not version or not self.version or version > self.version

    def outdated(self, origin: str, version: int) -> bool:
        """Whether an event that is new is so to other objects alone: of this one, that version or a later one is held."""
        held = self.objects.get(origin)
        return held is not None and 0 < version <= held.version

    def delete(self, origin: str) -> Change | None:
        return Change(origin, "delete") if self.objects.pop(origin, None) is not None else None

    def advance(self, version: int) -> None:
        self.version = max(self.version, version)
        self.newest = max(self.newest, version)

    def _take(self, reading: Reading) -> Change:
        held = self.objects.get(reading.origin)
        if held is not None and reading.parsed is None:
            held.version, held.live = reading.version, reading.live
            return Change(reading.origin, "updatesame", reading)
        assert reading.parsed is not None  # only what is held has a digest that can be the same
        self.objects[reading.origin] = Held(reading.version, reading.uid, reading.digest, reading.parsed, reading.live)
        if held is None:
            return Change(reading.origin, "add", reading)
        return Change(reading.origin, "update", reading, again=bool(held.uid and reading.uid and held.uid != reading.uid))
