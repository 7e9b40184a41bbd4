"""One CONNECT stream of a tunnel, and its joint with the app's socket.

Straight-line callbacks, no task: the app's socket becomes readable → one `recv_into` behind the place of a DATA header in the buffer
that leaves at the end of the turn; DATA arrives → one `send` to the app's socket.

What is held, and what stops whom:
- app → tunnel: nothing. The app is not read while the tunnel's socket is full (`Tunnel.congested`), nor while the stream's send window is
  exhausted; the kernel then stops the app.
- tunnel → app: what the app's socket does not take is kept in `_backlog`. Only what the app took is credited to the peer, so the
  backlog is bounded by the stream's receive window, and a slow app stops its own peer and no other stream.

Ends: end of file on the socket ⇄ END_STREAM, each direction on its own. A reset of the socket → RST_STREAM(CONNECT_ERROR). RST_STREAM by
the peer → a reset of the socket, except NO_ERROR and CANCEL, which by HBONE's custom are an end of file. When both directions have
ended, or either side broke, the socket is closed and then `done` is called, exactly once.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mesh.io.counters import Counters
from mesh.io.sockets import reset
from mesh.io.stage import CHUNK
from mesh.model.errors import BugError
from mesh.model.reasons import Reason
from mesh.wire.h2.events import Headers
from mesh.wire.h2.frames import HEADER_SIZE, Code

if TYPE_CHECKING:
    from mesh.io.tunnel import Tunnel

log = logging.getLogger(__name__)

_END_OF_FILE = frozenset({Code.NO_ERROR, Code.CANCEL})


class Stream:
    """One stream. `status` and `headers` are the response's, once there is one; `reason` is why it ended, while it runs None."""

    __slots__ = (
        "_backlog",
        "_counters",
        "_done",
        "_fd",
        "_h2",
        "_local_ended",
        "_loop",
        "_on_open",
        "_open",
        "_reading",
        "_remote_ended",
        "_sock",
        "_tunnel",
        "_writing",
        "headers",
        "id",
        "on_gone",
        "reason",
        "status",
    )

    def __init__(self, tunnel: Tunnel, stream_id: int, on_open: Callable[[Stream], None] | None = None) -> None:
        self._tunnel = tunnel
        self._loop = tunnel.loop
        self._h2 = tunnel.h2
        self.id = stream_id
        self._on_open = on_open
        self.on_gone: Callable[[Reason], None] | None = None
        self._open = False  # answered with 200
        self.status = 0
        self.headers: Headers = ()
        self.reason: Reason | None = None
        self._sock: socket.socket | None = None
        self._fd = -1
        self._counters: Counters | None = None
        self._done: Callable[[Reason], None] | None = None
        self._backlog = bytearray()
        self._reading = False  # the app's socket is watched for reading
        self._writing = False  # ... for writing
        self._local_ended = False  # END_STREAM has been sent
        self._remote_ended = False  # END_STREAM has arrived

    @property
    def tunnel(self) -> Tunnel:
        return self._tunnel

    @property
    def held(self) -> int:
        """Bytes from the peer that the app has not taken."""
        return len(self._backlog)

    @property
    def descriptor(self) -> int:
        """The app's socket, or -1 while there is none."""
        return self._fd if self._sock is not None else -1

    @property
    def reading(self) -> bool:
        """Whether the app's socket is being read; false under back-pressure and after its end of file."""
        return self._reading

    def splice(self, sock: socket.socket, counters: Counters, done: Callable[[Reason], None]) -> None:
        """Join with a connected non-blocking socket, which belongs to the stream from now on.

        `counters.sent` counts bytes from the socket into the stream, `received` those from the stream that the socket took. `done` is
        called once, when the socket is closed: with OK after an orderly end, RESET_BY_SOURCE or RESET_BY_DESTINATION, TUNNEL_LOST, or the
        reason given to `abort` or `Tunnel.close`. It is never called from within this function.
        """
        if self._sock is not None:
            raise BugError(f"stream {self.id} was spliced twice")
        if self.reason is not None:
            if self.reason is Reason.OK:
                sock.close()
            else:
                reset(sock)
            self._loop.call_soon(done, self.reason)
            return
        self._sock = sock
        self._fd = sock.fileno()
        self._counters = counters
        self._done = done
        if not self._local_ended:
            self._read()
        if self._backlog or self._remote_ended:
            self._loop.call_soon(self._on_writable)

    def abort(self, reason: Reason) -> None:
        """End it now: the peer's app and ours both see a reset. Nothing happens if it has ended."""
        if self.reason is None:
            self._h2.reset(self.id, Code.INTERNAL_ERROR if reason is Reason.INTERNAL else Code.CONNECT_ERROR)
            self._tunnel.schedule_flush()
            self.finish(reason)

    # App → tunnel

    def resume(self) -> None:
        """Read the app again: the tunnel has room, or the window opened."""
        if self._sock is not None and not self._reading and not self._local_ended:
            self._read()

    def _read(self) -> None:
        self._reading = True
        self._loop.add_reader(self._fd, self._on_readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _on_readable(self) -> None:
        tunnel, sock, counters, h2 = self._tunnel, self._sock, self._counters, self._h2
        if sock is None or counters is None:
            return
        if tunnel.channel.congested:
            self._pause()
            tunnel.paused.append(self)
            return
        stage = tunnel.stage
        budget = CHUNK
        try:
            while budget > 0:
                room = h2.sendable(self.id)
                if not room:
                    self._pause()
                    tunnel.starved.add(self)
                    break
                if room > budget:
                    room = budget
                offset = stage.place_for(tunnel)
                start = offset + HEADER_SIZE
                try:
                    size = sock.recv_into(stage.view[start : start + room])
                except BlockingIOError:
                    break
                except OSError:
                    self.on_app_broke()
                    return
                if not size:
                    self._end_local()
                    break
                h2.write_data_header(stage.view, offset, self.id, size)
                stage.filled = start + size
                counters.sent += size
                if size < room:  # the socket is empty
                    break
                budget -= size
            tunnel.flush_after(self)
        except Exception:
            self._bug()

    def _end_local(self) -> None:
        """The app has ended its side."""
        self._pause()
        self._local_ended = True
        self._h2.end_stream(self.id)
        if self._remote_ended and not self._backlog:
            self.finish(Reason.OK)

    # Tunnel → app

    def on_data(self, data: memoryview, end: bool) -> None:
        if end:
            self._remote_ended = True
        sock, counters = self._sock, self._counters
        if sock is None or counters is None or self._backlog:
            self._backlog += data
            return
        size = len(data)
        if size:
            try:
                taken = sock.send(data)
            except BlockingIOError:
                taken = 0
            except OSError:
                self.on_app_broke()
                return
            if taken:
                counters.received += taken
                self._h2.consumed(self.id, taken)
            if taken < size:
                self._backlog += data[taken:]
                self._write()
                return
        if end:
            self._end_app()

    def _write(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._on_writable)

    def _on_writable(self) -> None:
        try:
            self._drain()
        except Exception:
            self._bug()

    def _drain(self) -> None:
        sock, counters = self._sock, self._counters
        if sock is None or counters is None:
            return
        if self._backlog:
            try:
                taken = sock.send(self._backlog)
            except BlockingIOError:
                taken = 0
            except OSError:
                self.on_app_broke()
                return
            del self._backlog[:taken]
            counters.received += taken
            self._h2.consumed(self.id, taken)
            self._tunnel.schedule_flush()
            if self._backlog:
                self._write()
                return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
        if self._remote_ended:
            self._end_app()

    def _end_app(self) -> None:
        """The peer has ended and the app has taken all: tell it."""
        if self._local_ended:
            self.finish(Reason.OK)
            return
        assert self._sock is not None
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.on_app_broke()

    def on_app_broke(self) -> None:
        """The app's socket was reset, or does not answer any more."""
        self._h2.reset(self.id, Code.CONNECT_ERROR)
        self._tunnel.schedule_flush()
        self.finish(Reason.RESET_BY_SOURCE if self._tunnel.client else Reason.RESET_BY_DESTINATION)

    def _bug(self) -> None:
        log.exception("a bug in stream %d of %r ends it", self.id, self._tunnel)
        self.abort(Reason.INTERNAL)

    # What the tunnel reports

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Server: send the response. Any but 200 is the end of the stream."""
        self.on_gone = None
        if self.reason is not None:
            return
        self.status = status
        self._open = status == 200
        self._h2.respond(self.id, ((b":status", b"%d" % status), *headers), not self._open)
        self._tunnel.schedule_flush()
        if not self._open:
            self.finish(Reason.OK)

    def on_response(self, headers: Headers, end: bool) -> None:
        """Client: the answer, `:status` first. Any but 200 is the end of the stream."""
        self.status = status = int(headers[0][1])
        self.headers = headers
        self._open = status == 200
        self._remote_ended = end
        on_open, self._on_open = self._on_open, None
        if not self._open:
            self._h2.reset(self.id, Code.CANCEL)
            self._tunnel.schedule_flush()
            self.finish(Reason.OK)
        if on_open is not None:
            on_open(self)

    def on_reset(self, code: int, local: bool) -> None:
        """The stream is gone on the wire, by the peer's wish, or because the peer broke its rules (`local`)."""
        if local:
            self.finish(Reason.H2_PROTOCOL)
        elif code == Code.REFUSED_STREAM:
            self.finish(Reason.GOAWAY)
        elif code in _END_OF_FILE and self._open:
            self._remote_ended = self._local_ended = True
            self._pause()
            if self._sock is not None and not self._backlog:
                self.finish(Reason.OK)
        else:
            self.finish(Reason.RESET_BY_DESTINATION if self._tunnel.client else Reason.RESET_BY_SOURCE)

    def finish(self, reason: Reason) -> None:
        """Forget the stream, close the socket (with a reset unless the end is orderly), tell whoever waits. Only once."""
        if self.reason is not None:
            return
        self.reason = reason
        self._tunnel.forget(self)
        self._backlog.clear()
        sock, done = self._sock, self._done
        if sock is not None:
            self._pause()
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._fd)
            self._sock = None
            if reason is Reason.OK:
                sock.close()
            else:
                reset(sock)
        on_open, on_gone = self._on_open, self.on_gone
        self._on_open = self.on_gone = self._done = None
        if on_open is not None:
            self._loop.call_soon(on_open, self)
        if on_gone is not None:
            self._loop.call_soon(on_gone, reason)
        if done is not None:
            self._loop.call_soon(done, reason)
