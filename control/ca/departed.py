"""Whose pod is known to be gone: a change of root does not wait for it, though a certificate of it is still alive.

Forgetting somebody who still runs breaks its connections; waiting for somebody who is gone costs a day at most. So whatever is in doubt
makes a step wait:

- Only who was seen by this process to be there, and then seen to be gone, in every look for GRACE, is forgotten. After a restart nobody is
  who was gone before.
- No look counts, and all begins anew, while any source is not synced or not current, or after a gap between two looks.
- Who follows the CA, or is given a certificate, is there, whatever the sources say; it has to be seen anew before it can be gone. So has
  who follows while the sources say that it is not there: they are wrong about it, and its stream may break for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

GRACE = 600.0
"""Seconds. An API server deletes a pod when its containers have ended, which takes 30 s unless it says otherwise. But a watch may be dead
for a minute or two before that shows, somebody may delete by force what still ends, or delete manifests by mistake and put them back.
"""
GAP = 60.0
"""Seconds between two looks after which what was between them is not known."""

There = Callable[[str], bool | None]
"""Whether a holder is there; None where it is not known that it is, nor that it is not."""


@dataclass(slots=True)
class Departed:
    """`sources`: what can be said of holders now, None while the sources do not know for sure. Times are monotonic seconds."""

    sources: Callable[[], There | None] = lambda: None
    _seen: set[str] = field(default_factory=set)
    _since: dict[str, float] = field(default_factory=dict)
    _looked: float = float("-inf")

    def look(self, holders: Iterable[str], now: float, following: Collection[str] = ()) -> None:
        """Of all of them. Those that are not named are not remembered."""
        there = self.sources()
        if there is None or now - self._looked > GAP:
            self._since.clear()
        self._looked = now
        if there is None:
            return
        names = set(holders)
        self._seen &= names
        self._since = {name: since for name, since in self._since.items() if name in names}
        for name in names:
            found = there(name)
            if found is False and name in following:
                self.shows(name)
            elif found is False and name in self._seen:
                self._since.setdefault(name, now)
            else:
                self._since.pop(name, None)
            if found:
                self._seen.add(name)

    def shows(self, name: str) -> None:
        """It is there: it says so itself."""
        self._seen.discard(name)
        self._since.pop(name, None)

    def gone(self) -> dict[str, float]:
        """Those who are known to be gone, as of the last look, each with the seconds since when it was not seen."""
        return {name: self._looked - since for name, since in self._since.items() if self._looked - since >= GRACE}
