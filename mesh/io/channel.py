"""TLS over one non-blocking socket: plaintext in and out in big pieces, few system calls, no buffers of its own while idle.

How it works: OpenSSL never sees the socket. What the socket gives goes into a memory BIO (`_incoming`), what OpenSSL wants to send comes
out of another (`_outgoing`), and this file moves bytes between those and the socket, up to 256 KB at a time. The buffers for
ciphertext and plaintext are shared by all channels of the process: each is used and left within one callback of the one event loop.

Why not SSLSocket (tried: two processes, loopback, 1 GiB and a 200-byte ping-pong; medians, as ratios to SSLSocket in the same run): OpenSSL
on a socket makes one write per 16 KB record and two reads. Through memory, CPU per GiB is 0.9 for sending and 1.0 for receiving, CPU per
small message 0.9. It is not the copies that decide: with SSLSocket a write that would block must be repeated with the same bytes, so
that plaintext would have to be held back per tunnel; here it is encrypted in the turn in which it came, and all of a turn leaves in
one call. The standard library offers no hybrid (one direction on the socket, one in memory). TCP_CORK around SSLSocket's writes made it
worse. In whole tunnels, pieces of 256 KB cost 0.85 of the CPU of pieces of 64 KB.

Output: `write` encrypts at once, `flush` sends what there is in one system call. What the kernel does not take is kept, and `congested`
is true until it is gone. Who writes must stop meanwhile, so that what is kept stays within FLUSH_AT and one more write.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from mesh.io.sockets import wait_ready
from mesh.io.tls import check_session, describe, reason_of
from mesh.model.errors import PeerError
from mesh.model.reasons import Reason

RECEIVE_SIZE: Final = 256 * 1024  # bytes of ciphertext taken from the socket at a time
FLUSH_AT: Final = 256 * 1024  # bytes of ciphertext that are sent without waiting for the end of the turn
ANSWER_LIMIT: Final = 1024 * 1024  # bytes that may wait behind those that the kernel does not take
_RECORD: Final = 16 * 1024 + 256  # the largest TLS record

_RAW: Final = memoryview(bytearray(RECEIVE_SIZE))
# Everything that one receive can decrypt: what it read, plus the beginning of a record that came before.
_PLAIN: Final = memoryview(bytearray(RECEIVE_SIZE + _RECORD))
_NOTHING: Final = _PLAIN[:0]


class Channel:
    """One TLS session on `sock`, which it owns. `on_drained` is called when congestion ends, `on_broken` when sending fails later."""

    __slots__ = (
        "_fd",
        "_incoming",
        "_loop",
        "_outgoing",
        "_read",
        "_rest",
        "_sock",
        "_write",
        "clean",
        "congested",
        "eof",
        "on_broken",
        "on_drained",
        "tls",
    )

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_side: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._fd = sock.fileno()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._read = cast("Callable[[int, memoryview], int]", self.tls.read)
        self._write = self.tls.write
        self._rest: memoryview = _NOTHING
        self.congested = False
        self.eof = False  # nothing more will come
        self.clean = False  # ... and the peer said so (close_notify)
        self.on_drained: Callable[[], None] = _ignore
        self.on_broken: Callable[[PeerError], None] = _ignore_error

    async def handshake(self, deadline: float | None) -> None:
        """Shake hands and check ALPN and suite. Raises PeerError with the reason; the channel is then to be closed by the caller."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._handshake()
        except TimeoutError as error:
            raise PeerError(Reason.TLS_TIMEOUT) from error
        except ssl.SSLError as error:
            with contextlib.suppress(PeerError):
                self.flush()  # the alert, which tells the peer why
            raise PeerError(reason_of(error), describe(error)) from error
        except OSError as error:
            raise PeerError(Reason.TLS_HANDSHAKE, f"the peer broke the connection: {error.strerror}") from error
        check_session(self.tls)

    async def _handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send_all()
            else:
                await self._send_all()
                return
            while True:
                try:
                    size = self._sock.recv_into(_RAW)
                    break
                except BlockingIOError:
                    await wait_ready(self._sock)
            if size:
                self._incoming.write(_RAW[:size])
            else:
                self._incoming.write_eof()

    async def _send_all(self) -> None:
        rest = memoryview(self._outgoing.read())
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                await wait_ready(self._sock, write=True)

    def receive(self) -> memoryview:
        """The plaintext of what one read of the socket gives, valid until the next receive of any channel; empty if there is none yet.

        Sets `eof` (and `clean`) when the stream ends. Raises PeerError(TUNNEL_LOST) if the connection or the session is broken.
        """
        try:
            size = self._sock.recv_into(_RAW)
        except BlockingIOError:
            return _NOTHING
        except OSError as error:
            raise PeerError(Reason.TUNNEL_LOST, error.strerror or str(error)) from error
        if not size:
            self.eof = True
            return _NOTHING
        self._incoming.write(_RAW[:size])
        return self.decrypt()

    def decrypt(self) -> memoryview:
        """As `receive`, of what has been read already: right after the handshake the peer's first bytes are often there."""
        read, incoming, filled = self._read, self._incoming, 0
        try:
            # A call gives one record. Asking once more than needed costs an exception, so stop when nothing is left.
            while incoming.pending:
                size = read(_RECORD, _PLAIN[filled:])
                if not size:  # close_notify
                    self.eof = self.clean = True
                    break
                filled += size
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # close_notify, and we have sent ours
            self.eof = self.clean = True
        except ssl.SSLError as error:
            raise PeerError(Reason.TUNNEL_LOST, describe(error)) from error
        if self._outgoing.pending:
            self._flush_answers()
        return _PLAIN[:filled]

    def _flush_answers(self) -> None:
        """OpenSSL answers a peer's KeyUpdate by itself. A peer that asks again and again and does not read must not fill our memory."""
        if self._outgoing.pending > ANSWER_LIMIT:
            raise PeerError(Reason.H2_FLOOD, "the peer does not read the answers to its KeyUpdates")
        self.flush()

    def write(self, data: memoryview | bytes) -> None:
        """Encrypt. Nothing is sent before `flush`, except that a lot is flushed at once. Raises PeerError(TUNNEL_LOST)."""
        try:
            self._write(data)
        except ssl.SSLError as error:
            raise PeerError(Reason.TUNNEL_LOST, describe(error)) from error
        if self._outgoing.pending >= FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Send what is encrypted, as far as the kernel takes it. Raises PeerError(TUNNEL_LOST)."""
        if self._rest:
            return
        data = self._outgoing.read()
        if not data:
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise PeerError(Reason.TUNNEL_LOST, error.strerror or str(error)) from error
        if sent < len(data):
            self._rest = memoryview(data)[sent:]
            self.congested = True
            self._loop.add_writer(self._fd, self._on_writable)

    @property
    def queued(self) -> int:
        """Bytes of ciphertext that wait for the kernel."""
        return len(self._rest) + self._outgoing.pending

    def _on_writable(self) -> None:
        try:
            while self._rest:
                sent = self._sock.send(self._rest)
                if sent < len(self._rest):
                    self._rest = self._rest[sent:]
                    return
                self._rest = memoryview(self._outgoing.read())
        except BlockingIOError:
            return
        except OSError as error:
            self.on_broken(PeerError(Reason.TUNNEL_LOST, error.strerror or str(error)))
            return
        self._loop.remove_writer(self._fd)
        self.congested = False
        self.on_drained()

    def close(self, notify: bool = True) -> None:
        """Close the socket, telling the peer that this is the end where that can be done without waiting. Safe to call twice."""
        if self._sock.fileno() < 0:
            return
        if self._rest:
            self._loop.remove_writer(self._fd)
        if notify:
            with contextlib.suppress(ssl.SSLError, OSError, PeerError, ValueError):
                if not self._rest:
                    with contextlib.suppress(ssl.SSLWantReadError):
                        self.tls.unwrap()
                    self.flush()
                    # Closing with unread bytes makes the kernel send a reset, which overtakes what we just said.
                    while self._sock.recv_into(_RAW):
                        pass
        if self.congested:
            self._loop.remove_writer(self._fd)
        self._rest = _NOTHING
        self._sock.close()


def _ignore() -> None:
    pass


def _ignore_error(error: PeerError) -> None:
    pass
