"""Streams: the little that is remembered of each, and of those that we have reset.

A CONNECT stream has two halves that close on their own (RFC 9113 §5.1, §8.5); it leaves the table when both are closed or
either side resets it. The two booleans are the state machine:

    | receiving | sending | RFC 9113's name      |
    |-----------|---------|----------------------|
    | yes       | yes     | open                 |
    | no        | yes     | half-closed (remote) |
    | yes       | no      | half-closed (local)  |
    | (not in the table, id ≤ the highest seen) | closed |
    | (not in the table, id above it)           | idle   |

The peer may not know yet that we reset a stream, and go on sending to it; those frames are ignored, but no more of them than
the stream's window allowed. `ResetStreams` remembers that for a bounded number of streams, the oldest are forgotten.
"""

from __future__ import annotations

from mesh.wire.h2.frames import MAX_WINDOW


class Stream:
    """One open stream. Windows in bytes; `receive_window` is what the peer may still send, `uncredited` what the app has
    taken and no WINDOW_UPDATE has told the peer yet. `answered`: final response headers have been received or sent."""

    __slots__ = ("answered", "receive_window", "receiving", "send_window", "sending", "uncredited")

    def __init__(self, receive_window: int, send_window: int) -> None:
        self.receive_window = receive_window
        self.send_window = send_window
        self.uncredited = 0
        self.receiving = True
        self.sending = True
        self.answered = False


def widened(window: int, increment: int) -> int | None:
    """A send window after `increment`, or None if it passes 2^31-1 (RFC 9113 §6.9.1). Windows may be negative (§6.9.2)."""
    window += increment
    return None if window > MAX_WINDOW else window


class ResetStreams:
    """Streams that we reset, and how many bytes the peer may still have on its way to each. `forgot`: some were dropped for others."""

    __slots__ = ("_bound", "_windows", "forgot")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._windows: dict[int, int] = {}
        self.forgot = False

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._windows

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, stream_id: int, window: int) -> None:
        if len(self._windows) >= self._bound:
            del self._windows[next(iter(self._windows))]
            self.forgot = True
        self._windows[stream_id] = window

    def discard(self, stream_id: int) -> None:
        """The peer has ended the stream too: nothing more of it can be on its way."""
        self._windows.pop(stream_id, None)

    def debit(self, stream_id: int, length: int) -> bool:
        """`length` bytes of DATA arrived for a reset stream. False if its window did not allow them."""
        left = self._windows[stream_id] - length
        self._windows[stream_id] = left
        return left >= 0
