"""The index of one blocking query, by the rules of Consul's documentation ("Blocking Queries", Implementation Details). Pure.

- The first question names no index and is answered at once. Each later one names the last answer's, and waits for a greater one.
- An index that goes backwards starts over from none: the servers were restored, or are others, and the old number may never be reached.
- An index of 0 would never wait: it counts as 1, which always does.
- After a failure nobody knows what was missed: it starts over too, but still knows how far it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class News(Enum):
    """What an answer is, by its index alone."""

    FIRST = "first"
    """The first, or the first after starting over: everything may be different."""
    NOTHING = "nothing"
    """The wait was over, and nothing happened. Also where nothing that the query shows did."""
    CHANGE = "change"
    BACKWARDS = "backwards"
    """Consul's history is another one. What it says is true now."""


@dataclass(slots=True)
class Cursor:
    """`index`: to ask with, 0 for none. `seen`: the last index of this history, 0 where none was seen; may be from an earlier process."""

    index: int = 0
    seen: int = 0
    _lost: bool = True  # what happened since the last answer is not known

    def take(self, index: int) -> News:
        index = max(index, 1)
        seen, lost = self.seen, self._lost
        self.seen, self._lost = index, False
        if index < seen:
            self.index = 0
            return News.BACKWARDS
        self.index = index
        if lost:
            return News.FIRST
        return News.CHANGE if index > seen else News.NOTHING

    def restart(self) -> None:
        self.index, self._lost = 0, True
