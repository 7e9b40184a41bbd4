"""How many certificates one caller may ask for: a bucket for each, so that a tunnel gone wild, or a stolen token, does not take the CA from
the others. Pure: time is an argument.
"""

from __future__ import annotations

from collections import OrderedDict

BURST = 1000  # a node that restarts asks for all of its pods' identities at once; Kubernetes allows some hundreds of pods
PER_SECOND = 100.0
MAX_CALLERS = 10_000


class Rates:
    """Seconds of any clock that only goes forward."""

    def __init__(self, per_second: float = PER_SECOND, burst: int = BURST, callers: int = MAX_CALLERS) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._callers = callers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and as of when; the longest unseen first

    def take(self, caller: str, now: float) -> bool:
        """Whether the caller may go on. Who has not been seen for longest is forgotten when there are too many, and begins anew."""
        left, since = self._buckets.pop(caller, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        allowed = left >= 1.0
        self._buckets[caller] = (left - 1.0 if allowed else left, now)
        if len(self._buckets) > self._callers:
            self._buckets.popitem(last=False)
        return allowed
