"""Who leads, by a Lease object (coordination.k8s.io): the decisions. Pure: time is an argument, `elector` does the rest.

The algorithm is that of Kubernetes' own clients (client-go, tools/leaderelection). The holder renews the record; who is not the holder
may take it when the record has not changed for as long as it says. What makes it safe:
- Clocks of different machines are never compared. A follower counts, by its own clock, from when it saw the record change.
- Every write names the version that it replaces, so of two that take an old record one is refused.
- A leader counts from *before* its last good write, and only `renew` seconds; followers wait `lease` seconds from after it. So the leader
  has stopped before anybody can have begun, as long as clocks do not run more than lease/renew apart in speed, and what it began before
  has `lease - renew` seconds to come to its end.

    unknown ─ read ─→ follower ─ record empty, or unchanged for its duration: write ─→ leader ─ renew every `retry` ─┐
       ↑ a write was refused: somebody was faster                                        │  ↑────────────────────────┘
       └──────────────────────────────────────────────────────────────────────────────←──┘ no good write for `renew` seconds
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from mesh.model.errors import BugError


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: client-go's defaults. `lease`: how long a record counts; `renew`: how long a leader leads without renewing it; `retry`:
    between two tries.
    """

    lease: float = 15.0
    renew: float = 10.0
    retry: float = 2.0

    JITTER = 1.2

    def __post_init__(self) -> None:
        if not self.lease > self.renew > self.retry * self.JITTER > 0:
            raise BugError(f"two could lead at once, or none for long: {self}")


@dataclass(frozen=True, slots=True)
class Record:
    """What the Lease says. `holder` "" is nobody. `duration` in whole seconds. `version`: its resource version, "" where there is none."""

    holder: str = ""
    duration: int = 0
    acquired: datetime | None = None
    renewed: datetime | None = None
    transitions: int = 0
    version: str = ""

    def same_term(self, other: Record) -> bool:
        """Whether nobody wrote between the two, who leads or wants to."""
        return (self.holder, self.renewed, self.transitions) == (other.holder, other.renewed, other.transitions)


@dataclass(frozen=True, slots=True)
class Read:
    """Ask what the Lease says."""


@dataclass(frozen=True, slots=True)
class Write:
    """Put this record in the place of the version that it names."""

    record: Record


Step = Read | Write


class Election:
    """One candidate. `identity` is no other's, not even an earlier life's of the same process."""

    def __init__(self, identity: str, timing: Timing | None = None) -> None:
        self.identity = identity
        self.timing = timing or Timing()
        self.until = float("-inf")
        """Until when we lead, if nothing more is heard."""
        self._seen: Record | None = None
        self._seen_at = 0.0

    @property
    def holder(self) -> str:
        """Who was last seen to lead, "" if nobody."""
        return self._seen.holder if self._seen is not None else ""

    def leading(self, now: float) -> bool:
        return now < self.until

    def step(self, now: float, wall: datetime) -> Step:
        """What to do next. `wall` is what the record will say, for people."""
        seen = self._seen
        if seen is None:
            return Read()
        if seen.holder == self.identity:
            return Write(replace(seen, renewed=wall))
        if seen.holder and now - self._seen_at < seen.duration:
            return Read()
        duration = max(1, -int(-self.timing.lease // 1))
        transitions = seen.transitions + (1 if seen.version else 0)
        return Write(Record(self.identity, duration, wall, wall, transitions, seen.version))

    def read(self, record: Record | None, now: float) -> None:
        """What the Lease says, None where there is none."""
        record = record or Record()
        if self._seen is None or not record.same_term(self._seen):
            self._seen_at = now
        self._seen = record
        if record.holder != self.identity:
            self.until = float("-inf")

    def written(self, record: Record, began: float) -> None:
        """A write was taken; `record` has the version that it made, `began` is from before it was sent."""
        self._seen, self._seen_at = record, began
        self.until = began + self.timing.renew if record.holder == self.identity else float("-inf")

    def refused(self) -> None:
        """A write was not taken: somebody else wrote, so what was seen is old. Whether we still lead, the next look says."""
        self._seen = None

    def resign(self) -> None:
        """We lead no more, whatever the Lease says."""
        self.until = float("-inf")

    def pause(self, now: float, chance: float) -> float:
        """Seconds until the next step: those who want to lead do not all come at once. Never past the end of our own term."""
        if self.leading(now):
            return max(0.0, min(self.timing.retry, self.until - now))
        return self.timing.retry * (1 + chance * (self.timing.JITTER - 1))

    def release(self, now: float, wall: datetime) -> Write | None:
        """What lets others lead at once, if we do."""
        if not self.leading(now) or self._seen is None or self._seen.holder != self.identity:
            return None
        return Write(replace(self._seen, holder="", duration=1, renewed=wall))
