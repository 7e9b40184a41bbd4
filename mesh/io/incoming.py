"""Server: a CONNECT request, between its arrival and its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mesh.io.stream import Stream
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress
from mesh.wire.h2 import Headers

if TYPE_CHECKING:
    from mesh.io.mux import Tunnel


class Incoming:
    """Server: a request that waits for an answer. Call `accept` or `reject` once, now or later; until then its DATA is held.

    `on_gone` may be set: it is called with the reason if the stream ends before it was answered.
    """

    __slots__ = ("end_stream", "headers", "stream", "tunnel")

    def __init__(self, tunnel: Tunnel, stream: Stream, headers: Headers, end_stream: bool) -> None:
        self.tunnel = tunnel
        self.stream = stream
        self.headers = headers
        self.end_stream = end_stream

    @property
    def on_gone(self) -> Callable[[Reason], None] | None:
        return self.stream.on_gone

    @on_gone.setter
    def on_gone(self, callback: Callable[[Reason], None] | None) -> None:
        self.stream.on_gone = callback

    @property
    def peer_identity(self) -> Identity:
        return self.tunnel.peer_identity

    @property
    def peer_address(self) -> SocketAddress | None:
        return self.tunnel.peer_address

    @property
    def gone(self) -> Reason | None:
        """Why the stream has ended already, or None."""
        return self.stream.reason

    def accept(self, headers: Sequence[tuple[bytes, bytes]] = ()) -> Stream:
        """Answer 200. If the peer has gone meanwhile the stream has ended, and `splice` closes the socket at once and reports why."""
        self.stream.answer(200, headers)
        return self.stream

    def reject(self, status: int, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Answer with `status` and end the stream."""
        self.stream.answer(status, headers)
