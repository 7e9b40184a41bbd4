"""The ZDS socket: tunnels connect here and are handed the namespaces of this node's pods. Sockets and timers for `tunnels.py`.

Whoever can connect gets every pod's namespace, so the socket is made with mode 0600 in a directory that only root may enter. Bounded: so
many accepts a second, so many connections, hello and every ack in time; one message in flight each.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections import deque
from dataclasses import dataclass

from agent.tunnels import Tunnel, Tunnels
from mesh.io.log import Log
from mesh.model.errors import CulvertError, PeerError
from mesh.model.reasons import Reason
from mesh.wire.zds import ACK_TIMEOUT, HELLO_TIMEOUT, MAX_MESSAGE, Acked, AgentSession, Connected, Request, encode_request

log = Log("zds")


@dataclass(frozen=True, slots=True)
class ZdsLimits:
    """Times in seconds."""

    hello_timeout: float = HELLO_TIMEOUT
    ack_timeout: float = ACK_TIMEOUT
    accepts_per_second: int = 5
    connections: int = 8


class ZdsServer:
    """Listens from `start` to `close`. Nothing may be started before the list of pods was read: a snapshot without a pod ends its proxy."""

    def __init__(self, path: str, tunnels: Tunnels, limits: ZdsLimits | None = None) -> None:
        self.path = path
        self.tunnels = tunnels
        self.limits = limits or ZdsLimits()
        self.links: set[_Link] = set()
        self._accepts: deque[float] = deque()
        self._listener: socket.socket | None = None
        self._paused: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Raises OSError. A socket file that is there already is of an agent before us: the instance's lock says that we are alone."""
        self._loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            before = os.umask(0o177)
            try:
                listener.bind(self.path)
            finally:
                os.umask(before)
            listener.listen(16)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop listening and let go of the tunnels. They keep their pods and try to connect again."""
        if self._paused is not None:
            self._paused.cancel()
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        for link in list(self.links):
            link.close()

    def _accept(self) -> None:
        assert self._listener is not None  # the reader is removed when it goes
        now = self._loop.time()
        while self._accepts and self._accepts[0] <= now - 1.0:
            self._accepts.popleft()
        if len(self._accepts) >= self.limits.accepts_per_second:
            # Those who wait stay in the backlog; a tunnel that crashes in a loop does not take the node with it.
            self._loop.remove_reader(self._listener.fileno())
            self._paused = self._loop.call_at(self._accepts[0] + 1.0, self._resume)
            return
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            log.warning("accept failed", error=error)
            self._accepts.append(now)  # out of descriptors: slow down instead of spinning
            return
        self._accepts.append(now)
        if len(self.links) >= self.limits.connections:
            log.warning("a tunnel was turned away: too many are connected", connected=len(self.links))
            sock.close()
            return
        sock.setblocking(False)
        self.links.add(_Link(self, sock))

    def _resume(self) -> None:
        self._paused = None
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._accept)


class _Link:
    """One connection, from accept to close."""

    def __init__(self, server: ZdsServer, sock: socket.socket) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        limits = server.limits
        self._session = AgentSession(self._loop.time(), limits.hello_timeout, limits.ack_timeout)
        self._tunnel: Tunnel | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pump_soon: asyncio.Handle | None = None
        self._loop.add_reader(sock.fileno(), self._readable)
        self._arm()

    def close(self) -> None:
        """Ends the connection; safe to call twice."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for handle in (self._timer, self._pump_soon):
            if handle is not None:
                handle.cancel()
        self._server.links.discard(self)
        if self._tunnel is not None:
            self._server.tunnels.lost(self._tunnel)

    def _wake(self) -> None:
        # Later in this turn of the loop: whoever wakes us is in the middle of its own bookkeeping.
        if self._pump_soon is None:
            self._pump_soon = self._loop.call_soon(self._pump)

    def _readable(self) -> None:
        try:
            data, _, flags, _ = self._sock.recvmsg(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(PeerError(Reason.ZDS_PROTOCOL, str(error)))
            return
        if not data:
            log.info("a tunnel disconnected", tunnel=self._tunnel)
            self.close()
            return
        try:
            if flags & socket.MSG_TRUNC:
                raise PeerError(Reason.ZDS_PROTOCOL, f"a message of more than {MAX_MESSAGE} bytes")
            match self._session.receive(data):
                case Connected():
                    self._tunnel = self._server.tunnels.hello(self._session, self._wake)
                    log.info("a tunnel connected", tunnel=self._tunnel, pods=self._session.queued - 1)
                case Acked() as event if self._tunnel is not None:
                    if event.error:
                        log.warning("the tunnel refused a request", request=event.request, error=event.error)
                    self._server.tunnels.acked(self._tunnel, event)
        except CulvertError as error:
            self._end(error)
            return
        self._pump()

    def _pump(self) -> None:
        """Send what may be sent: at most one request, since one is in flight then. The peer has read all that came before it, so that
        a socket which takes nothing is a broken one."""
        self._pump_soon = None
        request = self._session.next_request(self._loop.time())
        if request is not None:
            try:
                self._send(request)
            except (OSError, CulvertError) as error:
                self._end(error)
                return
        self._arm()

    def _send(self, request: Request) -> None:
        descriptor = self._server.tunnels.descriptor(request)
        rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        self._sock.sendmsg([encode_request(request)], rights)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._session.next_deadline()
        self._timer = self._loop.call_at(deadline, self._on_timer) if deadline is not None else None

    def _on_timer(self) -> None:
        try:
            self._session.on_timer(self._loop.time())
        except PeerError as error:
            self._end(error)
            return
        self._arm()

    def _end(self, error: Exception) -> None:
        log.warning("a tunnel's connection is closed", tunnel=self._tunnel, error=error)
        self.close()
