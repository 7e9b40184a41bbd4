"""Bounds against a peer that keeps the letter of HTTP/2 and still wants to keep us busy.

Every frame that makes us work without carrying a byte of anybody's data spends from a `Budget`: a bucket of `burst` tokens that
refills at `rate` tokens a second. An empty bucket ends the connection with GOAWAY(ENHANCE_YOUR_CALM) and Reason.H2_FLOOD.
What each budget is against:

- `resets`: streams that the peer reset before we answered (rapid reset, CVE-2023-44487), streams over the announced maximum,
  and streams that the peer made *us* reset by breaking their rules (CVE-2025-8671). A reset after our answer costs no more
  than an ordinary close and is free.
- `settings`, `pings`: each must be answered (CVE-2019-9512, CVE-2019-9515).
- `empties`: DATA that carries nothing and ends nothing (CVE-2019-9518).
- `ignored`: PRIORITY, unknown frames, and acknowledgements of nothing.

CONTINUATION (CVE-2024-27316) is bounded per header block, by frames and bytes. WINDOW_UPDATE is bounded against what we have
sent, since an honest receiver has nothing else to report (`window_updates_allowed`). Small DATA frames are *not* limited: a
terminal session or a chatty database protocol is thousands of one-byte frames, and resetting such a tunnel is a fault of ours.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, then `rate` a second."""

    burst: int
    rate: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds. `ping_interval` 0 turns keepalive off."""

    resets: Rate = Rate(500, 100.0)
    settings: Rate = Rate(32, 2.0)
    pings: Rate = Rate(200, 50.0)
    empties: Rate = Rate(200, 50.0)
    ignored: Rate = Rate(1000, 100.0)
    max_continuations: int = 16
    max_setting_frame: int = 6 * 64
    max_control_frame: int = 4096
    max_queued_output: int = 1 << 20
    remembered_resets: int = 1024
    settings_timeout: float = 10.0
    ping_interval: float = 10.0
    ping_timeout: float = 20.0


class Budget:
    """A token bucket on the caller's clock."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: Rate) -> None:
        self._burst = float(rate.burst)
        self._rate = rate.rate
        self._level = float(rate.burst)
        self._at = 0.0

    def spend(self, now: float) -> bool:
        """Takes one token. False if there was none."""
        level = self._level
        if level < self._burst:
            level = min(self._burst, level + max(0.0, now - self._at) * self._rate)
        self._at = now
        if level < 1.0:
            self._level = level
            return False
        self._level = level - 1.0
        return True


def window_updates_allowed(streams: int, frames: int, octets: int) -> int:
    """How many WINDOW_UPDATE frames an honest peer may have sent, given the streams opened and the DATA we have sent in all.

    One for the stream and one for the connection per DATA frame is usual, one per kilobyte is the worst that was seen;
    five times that is generous and still leaves nothing to gain.
    """
    return 1000 + 10 * streams + 10 * frames + (octets >> 8)
