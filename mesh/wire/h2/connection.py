"""`H2Connection`: one HTTP/2 connection of CONNECT streams, without I/O and without a clock. Here: its beginning, its timers, its end.

    connection = H2Connection(client=False, settings=SERVER_SETTINGS, limits=Limits())
    connection.start(now)
    for event in connection.receive(view, now): ...     # raises PeerError: send take_output(), then close
    send(connection.take_output())

**Windows.** Stream windows are credited when the app has taken the bytes (`consumed`): they bound our memory. The connection
window is credited as soon as DATA arrives, so that one slow stream never stops the others.

**Time.** `next_deadline` says when `on_timer` wants to be called; calling it early does no harm. Ask again after `start`, `ping`
and `on_timer`, and on PingAcked; what else is received only moves the deadline further away.
"""

from __future__ import annotations

from mesh.model.reasons import Reason
from mesh.wire.h2 import frames
from mesh.wire.h2.control import DRAIN, KEEPALIVE
from mesh.wire.h2.frames import MAX_STREAM_ID, PREFACE, Code
from mesh.wire.h2.limits import Limits
from mesh.wire.h2.reading import Reading
from mesh.wire.h2.settings import LocalSettings


class H2Connection(Reading):
    """See the module. The calls of our side are in `Sending`, `receive` is in `Reading`."""

    __slots__ = ("_settings_due",)

    def __init__(self, client: bool, settings: LocalSettings, limits: Limits) -> None:
        super().__init__(client, settings, limits)
        self._settings_due: float | None = None

    def start(self, now: float) -> None:
        """Queues our preface: the client's magic, SETTINGS, and the connection window."""
        if self._client:
            self._out += PREFACE
        self._out += frames.settings(self._local.announced(self._client))
        if extra := self._local.connection_window - frames.DEFAULT_WINDOW:
            self._out += frames.window_update(0, extra)
        self._heard = now
        self._settings_due = now + self._limits.settings_timeout

    def next_deadline(self) -> float | None:
        """When `on_timer` has something to do, or None."""
        if self._failure is not None:
            return None
        due: list[float] = []
        if self._settings_due is not None:
            due.append(self._settings_due)
        if self._ping_sent is not None:
            due.append(max(self._ping_sent, self._heard) + self._limits.ping_timeout)
        elif self._limits.ping_interval:
            due.append(self._heard + self._limits.ping_interval)
        return min(due, default=None)

    def on_timer(self, now: float) -> None:
        """Sends a keepalive PING after a silence. Raises PeerError(H2_TIMEOUT), with GOAWAY queued, if the peer owes us an answer."""
        if self._failure is not None:
            raise self._failure
        if self._settings_due is not None:
            if self._greeted and self._settings_acked:
                self._settings_due = None
            elif now >= self._settings_due:
                raise self._fault(Code.SETTINGS_TIMEOUT, "SETTINGS were not sent or not acknowledged", Reason.H2_TIMEOUT)
        if self._ping_sent is not None:
            if now >= max(self._ping_sent, self._heard) + self._limits.ping_timeout:
                raise self._fault(Code.NO_ERROR, "PING was not answered", Reason.H2_TIMEOUT)
        elif self._limits.ping_interval and now >= self._heard + self._limits.ping_interval:
            self.ping(now)

    def ping(self, now: float) -> None:
        """Queues a PING unless one is on its way; PingAcked follows."""
        if self._ping_sent is None and self._failure is None:
            self._ping_sent = now
            self._out += frames.frame(frames.PING, 0, 0, KEEPALIVE)

    def drain(self) -> None:
        """Graceful end: no new streams, open ones may finish (see `finished`).

        A server says GOAWAY(2^31-1) first and the true last stream one round trip later, so that requests which are on their way
        are served and not lost (RFC 9113 §6.8). A client that takes no pushes has nothing to wait for.
        """
        if self.draining or self._failure is not None:
            return
        self.draining = True
        if self._client:
            self.goaway()
        else:
            self._out += frames.goaway(MAX_STREAM_ID, Code.NO_ERROR)
            self._out += frames.frame(frames.PING, 0, 0, DRAIN)
