"""Both ends of HBONE, for tests of proxies in between: clients with an identity, and servers that end tunnels before an app."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

from mesh.io import tunnel
from mesh.io.counters import Tally
from mesh.io.tls import Credentials
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress
from mesh.wire.hbone import ConnectRequest, connect_headers, read_request

T = TypeVar("T")
Make = Callable[[], socket.socket]
"""Makes a socket, in whatever namespace."""
SECONDS = 20.0
TRACEPARENT = "00-" + "1" * 32 + "-" + "2" * 16 + "-00"


@dataclass
class Loop:
    """An event loop in a thread of its own, for tests that are not asynchronous."""

    loop: asyncio.AbstractEventLoop

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(main, self.loop).result(SECONDS)


@contextmanager
def event_loop() -> Iterator[Loop]:
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield Loop(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@dataclass
class Server:
    """Ends tunnels at an address, before whatever the authority names. `requests` are who came and what they asked for. `credentials` are
    asked for at each handshake; `make`: a socket where the apps are. `shown`: the certificate of who came last, DER.
    """

    credentials: Callable[[], Credentials]
    make: Make = socket.socket
    requests: list[tuple[Identity, str]] = field(default_factory=list)
    refused: list[Reason] = field(default_factory=list)
    tunnels: list[tunnel.Tunnel] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    shown: bytes | None = None

    async def drain(self) -> None:
        """Whoever has a tunnel to us makes another for what comes next."""
        self.tunnels = [one for one in self.tunnels if not one.closed.done()]
        for one in self.tunnels:
            one.drain()

    async def serve(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            try:
                made = await tunnel.accept(sock, self.credentials(), self.on_request)
                self.shown = made.channel.tls.getpeercert(binary_form=True)
                self.tunnels.append(made)
            except PeerError as error:
                self.refused.append(error.reason)

    def on_request(self, incoming: tunnel.Incoming) -> None:
        request = read_request(incoming.headers)
        assert isinstance(request, ConnectRequest)
        self.requests.append((incoming.peer_identity, str(request.authority)))
        task = asyncio.get_running_loop().create_task(self.answer(incoming, request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def answer(self, incoming: tunnel.Incoming, request: ConnectRequest) -> None:
        app = self.make()
        app.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(app, (str(request.authority.host), request.authority.port))
        except OSError:
            app.close()
            incoming.reject(503)
            return
        incoming.accept().splice(app, Tally(), lambda reason: None)


@contextmanager
def server(loop: Loop, credentials: Callable[[], Credentials], listener: socket.socket, make: Make = socket.socket) -> Iterator[Server]:
    made = Server(credentials, make)
    with listener:
        task = asyncio.run_coroutine_threadsafe(made.serve(listener), loop.loop)
        try:
            yield made
        finally:

            async def stop() -> None:
                for one in made.tunnels:
                    one.close(Reason.OK)

            loop.run(stop())
            task.cancel()


@dataclass
class Client:
    """One tunnel to a proxy. `connect` gives a socket whose other end is a CONNECT stream; None where the proxy refuses it."""

    loop: Loop
    tunnel: tunnel.Tunnel

    def connect(self, authority: str, *more: tuple[bytes, bytes]) -> socket.socket | None:
        """`more` are further headers of the request."""
        return self.loop.run(self._connect(authority, more))

    async def _connect(self, authority: str, more: Sequence[tuple[bytes, bytes]]) -> socket.socket | None:
        source = SocketAddress(self.tunnel.peer_address.ip, 40000) if self.tunnel.peer_address else None
        assert source is not None
        stream = await self.tunnel.connect([*connect_headers(authority, source=source, traceparent=TRACEPARENT), *more])
        if stream.status != 200:
            return None
        near, far = socket.socketpair()
        far.setblocking(False)
        stream.splice(far, Tally(), lambda reason: None)
        return near


@contextmanager
def client(loop: Loop, credentials: Credentials, host: str, port: int, accepted: Identity, make: Make = socket.socket) -> Iterator[Client]:
    async def dial() -> tunnel.Tunnel:
        sock = make()
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        sock.connect_ex((host, port))
        return await tunnel.dial(sock, credentials, frozenset({accepted}), None)

    made = loop.run(dial())

    async def stop() -> None:
        made.close(Reason.OK)

    try:
        yield Client(loop, made)
    finally:
        loop.run(stop())


class OverSocket(http.client.HTTPConnection):
    """HTTP over a socket that is there already."""

    def __init__(self, sock: socket.socket, timeout: float = 15) -> None:
        super().__init__("127.0.0.1", timeout=timeout)
        sock.settimeout(timeout)
        self.sock = sock
