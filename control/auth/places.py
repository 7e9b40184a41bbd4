"""Streams that callers keep open: so many of one caller, and so many in all, some of which are kept for the tunnels of nodes.

A pod that opens as many as it can takes no other's, and all pods together leave a node's tunnel its own: without that its pods would live
by yesterday's policies, or hold up a change of root.
"""

from __future__ import annotations

from collections import Counter

from control.auth import Caller

MAX_OF_CALLER = 64
"""A node's token may stand for its tunnel, and for waypoints and proxies that run there; each has two streams while it comes again."""


class NoPlace(Exception):  # noqa: N818 - what it says to the caller
    """There is none for this caller now. `bound` is which bound, as metrics call it."""

    def __init__(self, bound: str, text: str) -> None:
        super().__init__(text)
        self.bound = bound


class Places:
    """`most` streams, of which `kept` are for who speaks for the pods of a node."""

    def __init__(self, most: int, kept: int) -> None:
        self.taken: Counter[Caller] = Counter()
        self.total = 0
        self._most = most
        self._kept = kept
        self._others = 0

    def take(self, caller: Caller) -> None:
        """NoPlace where there is none for this caller."""
        if self.taken[caller] >= MAX_OF_CALLER:
            raise NoPlace("caller_streams", f"more than {MAX_OF_CALLER} streams of {caller}")
        if self.total >= self._most:
            raise NoPlace("too_many", f"more than {self._most} streams")
        if not caller.impersonates and self._others >= self._most - self._kept:
            raise NoPlace("too_many", f"more than {self._most - self._kept} streams of others than tunnels of nodes")
        self.taken[caller] += 1
        self.total += 1
        self._others += not caller.impersonates

    def give_back(self, caller: Caller) -> None:
        self.taken[caller] -= 1
        if not self.taken[caller]:
            del self.taken[caller]
        self.total -= 1
        self._others -= not caller.impersonates
