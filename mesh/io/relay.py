"""Bytes between two plain sockets, for traffic that does not go through a tunnel: passthrough, and plaintext to or from a pod.

Two pumps, one for each direction. A pump reads into a buffer that all of them share and writes on at once. Only when the receiving
socket takes less than was read is the rest kept, and the source is then not read until it is gone: what a relay holds is at most one
chunk for each direction, and a slow reader stops its own sender and nobody else. An end of stream is passed on as one (shutdown) and
the other direction goes on; a reset is passed on as a reset.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from mesh.io.counters import Counters
from mesh.io.sockets import reset
from mesh.model.reasons import Reason

CHUNK: Final = 128 * 1024  # bytes read at a time
_BUFFER: Final = memoryview(bytearray(CHUNK))


def splice(sock_a: socket.socket, sock_b: socket.socket, counters: Counters, done: Callable[[Reason], None]) -> Relay:
    """Join two connected non-blocking sockets, of which `a` is the client's; both belong to the relay from now on.

    `counters.sent` counts bytes from a to b, `received` from b to a. `done` is called once, when both sockets are closed: with OK after an
    orderly end, RESET_BY_SOURCE if a broke, RESET_BY_DESTINATION if b did, or the reason given to `abort`. It is never called from
    within this function.
    """
    return Relay(sock_a, sock_b, counters, done)


class Relay:
    """A running pair of pumps."""

    __slots__ = ("_a_to_b", "_b_to_a", "_done", "_finished")

    def __init__(self, sock_a: socket.socket, sock_b: socket.socket, counters: Counters, done: Callable[[Reason], None]) -> None:
        loop = asyncio.get_running_loop()
        self._done = done
        self._finished = False
        self._a_to_b = _Pump(loop, self, sock_a, sock_b, counters, forward=True)
        self._b_to_a = _Pump(loop, self, sock_b, sock_a, counters, forward=False)
        self._a_to_b.start()
        self._b_to_a.start()

    @property
    def held(self) -> int:
        """Bytes that were read and not yet written on."""
        return len(self._a_to_b.held) + len(self._b_to_a.held)

    def drain(self) -> None:
        """Nothing new can come over a relay: it ends when its two ends do."""

    def abort(self, reason: Reason) -> None:
        """Reset both sides, unless the relay has ended."""
        self._finish(reason, broken=True)

    def direction_ended(self) -> None:
        if self._a_to_b.ended and self._b_to_a.ended:
            self._finish(Reason.OK, broken=False)

    def broke(self, forward_side: bool) -> None:
        self._finish(Reason.RESET_BY_SOURCE if forward_side else Reason.RESET_BY_DESTINATION, broken=True)

    def _finish(self, reason: Reason, broken: bool) -> None:
        if self._finished:
            return
        self._finished = True
        for pump in (self._a_to_b, self._b_to_a):
            pump.stop()
        for pump in (self._a_to_b, self._b_to_a):
            if broken:
                reset(pump.source)
            else:
                pump.source.close()
        self._done(reason)


class _Pump:
    """One direction. At any time it is reading the source, or waiting for the sink to take what is held, or ended."""

    __slots__ = (
        "_counters",
        "_forward",
        "_loop",
        "_reading",
        "_relay",
        "_sink_fd",
        "_source_fd",
        "_writing",
        "ended",
        "held",
        "sink",
        "source",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, relay: Relay, source: socket.socket, sink: socket.socket, counters: Counters, forward: bool
    ) -> None:
        self._loop = loop
        self._relay = relay
        self.source = source
        self.sink = sink
        self._source_fd = source.fileno()
        self._sink_fd = sink.fileno()
        self._counters = counters
        self._forward = forward
        self._reading = False
        self._writing = False
        self.held: memoryview = _BUFFER[:0]
        self.ended = False

    def start(self) -> None:
        self._reading = True
        self._loop.add_reader(self._source_fd, self._on_readable)

    def stop(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._source_fd)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sink_fd)

    def _on_readable(self) -> None:
        try:
            size = self.source.recv_into(_BUFFER)
        except BlockingIOError:
            return
        except OSError:
            self._relay.broke(self._forward)
            return
        if not size:
            self._end()
            return
        try:
            taken = self.sink.send(_BUFFER[:size])
        except BlockingIOError:
            taken = 0
        except OSError:
            self._relay.broke(not self._forward)
            return
        self._count(taken)
        if taken < size:
            self.held = memoryview(bytes(_BUFFER[taken:size]))
            self.stop()
            self._writing = True
            self._loop.add_writer(self._sink_fd, self._on_writable)

    def _on_writable(self) -> None:
        try:
            taken = self.sink.send(self.held)
        except BlockingIOError:
            return
        except OSError:
            self._relay.broke(not self._forward)
            return
        self._count(taken)
        self.held = self.held[taken:]
        if not self.held:
            self.stop()
            self.start()

    def _count(self, size: int) -> None:
        if self._forward:
            self._counters.sent += size
        else:
            self._counters.received += size

    def _end(self) -> None:
        """The source will send no more, and nothing is held: tell the sink."""
        self.stop()
        self.ended = True
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:  # the sink is gone: a reset, or it has closed both ways already
            self._relay.broke(not self._forward)
            return
        self._relay.direction_ended()
