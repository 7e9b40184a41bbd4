"""How long to wait: exponential with full jitter after failures, so that clients that failed together do not come back together; and a
bounded rate where things change without end.
"""

from __future__ import annotations

import random
from collections.abc import Callable

ROUNDING = 1e-6
"""Tokens. Who comes back exactly when it was told to must find one, though sums of seconds are not exact."""


class Backoff:
    """Seconds: the n-th wait is anything from 0 to `first` x 2^n, at most `most`. `chance` gives numbers from 0 to 1."""

    def __init__(self, first: float = 0.5, most: float = 30.0, chance: Callable[[], float] = random.random) -> None:
        self._first = first
        self._most = most
        self._chance = chance
        self.failures = 0

    def wait(self, after: float = 0.0) -> float:
        """Not shorter than `after`, which the other side asked for; then comes jitter on top, at most as long, or 1 s."""
        ceiling = min(self._most, self._first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return after + self._chance() * (min(ceiling, max(1.0, after)) if after else ceiling)

    def succeeded(self) -> None:
        self.failures = 0


class Bucket:
    """`burst` at once, `rate` per second in the long run. Time is an argument."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = 0.0

    def take(self, now: float) -> float:
        """0 if one may go now, which counts; else the seconds until the next may, and nothing was counted."""
        self._fill(now)
        if self._tokens > 1.0 - ROUNDING:
            self._tokens = max(0.0, self._tokens - 1.0)
            return 0.0
        return (1.0 - self._tokens) / self._rate

    def reserve(self, now: float) -> float:
        """The seconds after which one may go, which counts."""
        self._fill(now)
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
