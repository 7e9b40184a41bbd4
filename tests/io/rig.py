"""The rig of these tests: a loop, sockets, and two tunnel ends joined by a real connection; every test must leave no descriptor behind."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache
from typing import Any

import uvloop

from mesh.io import tls, tunnel
from mesh.io.counters import Tally
from mesh.io.sockets import listener
from mesh.model.reasons import Reason
from tests.io.certs import mesh_ca, spiffe

CONNECT = [(b":method", b"CONNECT"), (b":authority", b"10.0.0.7:80")]
PATIENCE = 30.0  # seconds until a test that hangs is ended


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on uvloop. Fails on a hang, on an exception in a callback, and on a leaked descriptor."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        _warm_up()
        problems: list[str] = []
        gc.collect()
        before = descriptors()

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(repr(context)))
            async with asyncio.timeout(PATIENCE):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
        gc.collect()
        assert not problems, problems
        left = {fd: what for fd, what in descriptors().items() if before.get(fd) != what}
        assert not left, f"leaked: {left}"

    return run


@lru_cache(maxsize=1)
def _warm_up() -> None:
    """What is made once for the process, and is no leak: libuv's signal pipe, the certificates."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))
    credentials("a"), credentials("b")


def descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the directory itself
            continue
    return found


@lru_cache(maxsize=32)
def credentials(account: str) -> tls.Credentials:
    key, leaf = mesh_ca().issue(spiffe(account))
    return tls.make_credentials(key, [leaf, mesh_ca().root_pem])


def tcp_pair(receive_buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    """Two connected non-blocking TCP sockets on loopback."""
    with socket.socket() as server:
        if receive_buffer:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        near = socket.socket()
        if receive_buffer:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        near.connect(server.getsockname())
        far, _ = server.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def free_port() -> int:
    with listener(0, host="127.0.0.1") as sock:
        return int(sock.getsockname()[1])


class Ending:
    """A `done` callback that can be awaited."""

    def __init__(self) -> None:
        self._reason: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()
        self.calls = 0

    def __call__(self, reason: Reason) -> None:
        self.calls += 1
        if not self._reason.done():
            self._reason.set_result(reason)

    def __await__(self) -> Any:
        return self._reason.__await__()

    @property
    def pending(self) -> bool:
        return not self._reason.done()


class Link:
    """One stream with an app's socket at each end: what `client` writes `server` reads, and the other way round."""

    def __init__(self, stream: tunnel.Stream, far_stream: tunnel.Stream, client: socket.socket, server: socket.socket) -> None:
        self.stream, self.far_stream = stream, far_stream
        self.client, self.server = client, server
        self.sent, self.far = Tally(), Tally()
        self.done, self.far_done = Ending(), Ending()

    def close(self) -> None:
        self.client.close()
        self.server.close()


class Ends:
    """A client's and a server's tunnel on one TCP connection of loopback."""

    def __init__(self, near: tunnel.Tunnel, far: tunnel.Tunnel, requests: asyncio.Queue[tunnel.Incoming]) -> None:
        self.near, self.far = near, far
        self.requests = requests
        self._links: list[Link] = []

    async def link(self, receive_buffer: int = 0) -> Link:
        """Open a stream, accept it, and splice both ends with TCP sockets."""
        opening = asyncio.ensure_future(self.near.connect(CONNECT))
        incoming = await self.requests.get()
        client, inner = tcp_pair(receive_buffer)
        server, outer = tcp_pair(receive_buffer)
        link = Link(await self._answered(incoming, opening), incoming.stream, client, server)
        incoming.stream.splice(outer, link.far, link.far_done)
        link.stream.splice(inner, link.sent, link.done)
        self._links.append(link)
        return link

    async def _answered(self, incoming: tunnel.Incoming, opening: Awaitable[tunnel.Stream]) -> tunnel.Stream:
        incoming.accept()
        stream = await opening
        assert stream.status == 200
        return stream

    async def __aenter__(self) -> Ends:
        return self

    async def __aexit__(self, *_: object) -> None:
        for link in self._links:
            link.close()
        for end in (self.near, self.far):
            end.close(Reason.OK)
        await asyncio.sleep(0)


async def ends() -> Ends:
    near, far = tcp_pair()
    requests: asyncio.Queue[tunnel.Incoming] = asyncio.Queue()
    accepting = asyncio.ensure_future(tunnel.accept(far, credentials("b"), requests.put_nowait))
    dialled = await tunnel.dial(near, credentials("a"), frozenset({credentials("b").identity}), None)
    return Ends(dialled, await accepting, requests)


async def read_exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    got = bytearray()
    while len(got) < size:
        piece = await loop.sock_recv(sock, size - len(got))
        assert piece, f"end of file after {len(got)} of {size} bytes"
        got += piece
    return bytes(got)


async def write(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def read_end(sock: socket.socket) -> bytes:
    """All until the end of file."""
    loop = asyncio.get_running_loop()
    got = bytearray()
    while piece := await loop.sock_recv(sock, 1 << 16):
        got += piece
    return bytes(got)


def send_reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
