"""The data path on loopback, without namespaces or the kernel programs: pods of 127.x.y.z, and everything that they share. Each process of
tests has pods of its own, since a tunnel's port is always the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any, cast

import pytest

from mesh.io.acceptor import Spare
from mesh.io.log import Levels, LineSink
from mesh.io.tls import Credentials
from mesh.io.tunnel import Incoming, Tunnel, accept
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from mesh.model.workload import HBONE_PORT, SocketAddress, TunnelProtocol, Workload
from mesh.wire.zds import WorkloadInfo
from tests.io.rig import credentials
from ztunnel.accesslog import AccessLog
from ztunnel.config import from_environment
from ztunnel.connections import Registry
from ztunnel.deps import Deps
from ztunnel.metrics import Metrics
from ztunnel.outbound import Outbound
from ztunnel.pods import Pod
from ztunnel.pool import Pool, PoolLimits
from ztunnel.view import View

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="socket marks and transparent sources need CAP_NET_ADMIN")

SERVER = IPv4Address((127 << 24) + (1 << 22) + (os.getpid() % (1 << 14) << 8) + 1)
OTHER, CALLER = SERVER + 1, SERVER + 8
"""Another pod, and a client of neither."""
PEER = SocketAddress(ip_address("127.0.0.1"), 4444)
SOURCE = Workload("a", "a", "default", (ip_address("10.9.9.9"),), service_account="client")
DESTINATION = Workload("b", "b", "default", (SERVER,), service_account="server", protocol=TunnelProtocol.HBONE)


class Here:
    """A namespace that is the one we are in."""

    inode = 1

    def run(self, fn: Callable[[], Any]) -> Any:
        return fn()

    def close(self) -> None:
        pass


class OneCertificate:
    """In place of the CA: what it holds may be changed by a test."""

    def __init__(self) -> None:
        self.held: Credentials | None = credentials("client")

    def current(self, identity: Identity) -> Credentials | None:
        return self.held

    async def obtain(self, identity: Identity, patience: float) -> Credentials:
        if self.held is None:
            raise PeerError(Reason.NO_CERTIFICATE, "the CA is away")
        return self.held


class Lab:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        Levels("info")
        self.reader, writer = os.pipe()
        self.sink = LineSink(writer)
        os.close(writer)
        self.metrics = Metrics("test")
        self.registry = Registry(self.metrics, AccessLog(self.sink, "json"), loop.time, 0, 0)
        self.certificates = OneCertificate()
        self.view = View()
        self.view.apply_policies([], {}, [])
        self.view.apply_addresses([SOURCE, DESTINATION], [], [])
        self.pool: Pool[Tunnel, Outbound] = Pool(PoolLimits(streams_per_tunnel=2), Tunnel.drain)
        config = replace(from_environment({}), connect_timeout=0.5, handshake_timeout=0.5)
        self.deps = Deps(
            config,
            self.view,
            cast("Any", self.certificates),
            self.pool,
            self.registry,
            Spare(),
            lambda weights: 0,
            lambda: bytes(24),
            set(),
        )
        self.pod = Pod(self.deps, "uid-a", WorkloadInfo("a", "default", "client"), cast("Any", Here()), 0)
        self.lines: list[bytes] = []
        self.seen = 0
        self.requests: list[Incoming] = []
        self.tunnels: list[Tunnel] = []

    def start(self, destination: SocketAddress = SocketAddress(SERVER, 80)) -> tuple[Outbound, socket.socket]:
        """A captured connection, and the app's end of it."""
        listener = socket.create_server(("127.0.0.1", 0))
        with listener:
            app = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        app.setblocking(False)
        ours.setblocking(False)
        connection = Outbound(self.deps, self.pod, ours, SOURCE, PEER, destination)
        connection.start()
        return connection, app

    async def end(self, connection: Outbound) -> dict[str, Any]:
        """Wait for its access log line."""
        async with asyncio.timeout(5):
            while not connection.ended:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.01)
        self._take_lines()
        return cast("dict[str, Any]", json.loads(self.lines[-1]))

    async def line(self) -> dict[str, Any]:
        """The next line of the access log."""
        seen, self.seen = self.seen, self.seen + 1
        async with asyncio.timeout(5):
            while len(self.lines) <= seen:
                self._take_lines()
                await asyncio.sleep(0.005)
        return cast("dict[str, Any]", json.loads(self.lines[seen]))

    def _take_lines(self) -> None:
        self.sink.flush()
        if select.select([self.reader], [], [], 0)[0]:
            self.lines += os.read(self.reader, 65536).splitlines()

    async def refused(self, destination: SocketAddress = SocketAddress(SERVER, 80)) -> dict[str, Any]:
        """The line of a connection that must fail, whose app must see a reset."""
        connection, app = self.start(destination)
        line = await self.end(connection)
        with app, pytest.raises(ConnectionResetError):
            app.recv(1)
        assert self.registry.size == 0
        assert self.metrics.refusals.get(line["reason"], "outbound") == 1
        return line

    @contextlib.asynccontextmanager
    async def serving(self, handle: Callable[[socket.socket], Awaitable[None]]) -> AsyncIterator[None]:
        """`handle` gets each TCP connection to the hop."""
        loop = asyncio.get_running_loop()
        listener = socket.create_server((str(SERVER), HBONE_PORT))
        listener.setblocking(False)

        async def work() -> None:
            while True:
                sock, _ = await loop.sock_accept(listener)
                sock.setblocking(False)
                accepted.append(sock)
                tasks.append(asyncio.ensure_future(handle(sock)))

        accepted: list[socket.socket] = []
        tasks: list[asyncio.Future[None]] = [asyncio.ensure_future(work())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            listener.close()
            for tunnel in self.tunnels:
                tunnel.close(Reason.OK)
            for sock in accepted:
                sock.close()

    def hbone(self, answer: Callable[[Incoming], None], account: str = "server") -> contextlib.AbstractAsyncContextManager[None]:
        """A tunnel of `account`, on which `answer` is given each request."""

        def on_request(incoming: Incoming) -> None:
            self.requests.append(incoming)
            answer(incoming)

        async def handle(sock: socket.socket) -> None:
            with contextlib.suppress(PeerError):
                self.tunnels.append(await accept(sock, credentials(account), on_request))

        return self.serving(handle)

    async def close(self) -> None:
        for task in list(self.deps.tasks):
            task.cancel()
        await asyncio.gather(*self.deps.tasks, return_exceptions=True)
        for tunnel in self.pool.tunnels():
            tunnel.close(Reason.OK)
        self.sink.close()
        os.close(self.reader)
        self.deps.spare.close()
        await asyncio.sleep(0.01)


def run(check: Callable[[Lab], Awaitable[None]]) -> None:
    async def main() -> None:
        lab = Lab()
        try:
            await check(lab)
        finally:
            await lab.close()

    asyncio.run(main())
