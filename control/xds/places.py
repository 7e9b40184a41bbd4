"""The streams that may be open: so many of one caller, and so many in all, some of which are kept for the tunnels of nodes.

A pod that opens as many as it can takes no other's, and all pods together leave a node's tunnel its own: without that its pods would live
by yesterday's policies.
"""

from __future__ import annotations

from collections import Counter

from control.auth import Caller
from control.xds.messages import Exhausted

MAX_STREAMS = 1024
KEPT = 512
"""Of these, for who speaks for the pods of a node."""
MAX_OF_CALLER = 64
"""A node's token may stand for its tunnel, and for waypoints and proxies that run there; each has two streams while it comes again."""


class Places:
    def __init__(self) -> None:
        self.taken: Counter[Caller] = Counter()
        self.total = 0
        self._others = 0

    def take(self, caller: Caller) -> None:
        """Exhausted where there is none for this caller."""
        if self.taken[caller] >= MAX_OF_CALLER:
            raise Exhausted("caller_streams", f"more than {MAX_OF_CALLER} streams of {caller}")
        if self.total >= MAX_STREAMS:
            raise Exhausted("too_many", f"more than {MAX_STREAMS} streams")
        if not caller.impersonates and self._others >= MAX_STREAMS - KEPT:
            raise Exhausted("too_many", f"more than {MAX_STREAMS - KEPT} streams of others than tunnels of nodes")
        self.taken[caller] += 1
        self.total += 1
        self._others += not caller.impersonates

    def give_back(self, caller: Caller) -> None:
        self.taken[caller] -= 1
        if not self.taken[caller]:
            del self.taken[caller]
        self.total -= 1
        self._others -= not caller.impersonates
