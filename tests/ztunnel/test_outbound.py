"""Outbound on loopback, without namespaces or the kernel programs: every way in which the next hop can fail has its own reason.

The hop is 127.0.7.x:15008 with a server of ours, or something else, behind it; the app is one end of a socket pair.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address
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
from mesh.wire.h2 import Code
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

SERVER = ip_address("127.0.7.1")
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
        raise PeerError(Reason.NO_CERTIFICATE, "the CA is away")


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
        self.sink.flush()
        self.lines += os.read(self.reader, 65536).splitlines() if select.select([self.reader], [], [], 0)[0] else []
        return cast("dict[str, Any]", json.loads(self.lines[-1]))

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


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "peer_bad_request"), (401, "peer_denied"), (503, "peer_unavailable"), (418, "peer_status"), (204, "peer_status")],
)
def test_every_status_but_200_is_a_refusal_with_its_reason(status: int, reason: str) -> None:
    async def check(lab: Lab) -> None:
        async with lab.hbone(lambda incoming: incoming.reject(status)):
            line = await lab.refused()
        assert (line["reason"], line["dst.hbone_addr"]) == (reason, f"{SERVER}:80")
        assert f"answered {status}" in line["error"]
        assert repr(lab.pool).startswith("<Pool uid-a→127.0.7.1:15008 [0")  # the tunnel is none the worse

    run(check)


def test_the_request_says_what_istios_says() -> None:
    async def check(lab: Lab) -> None:
        async with lab.hbone(lambda incoming: incoming.reject(503)):
            await lab.refused()
        assert dict(lab.requests[0].headers) == {
            b":method": b"CONNECT",
            b":authority": f"{SERVER}:80".encode(),
            b"baggage": b"k8s.cluster.name=Kubernetes,k8s.namespace.name=default",
            b"forwarded": b'for="10.9.9.9:4444"',
            b"traceparent": lab.requests[0].headers[-1][1],
        }

    run(check)


def test_nobody_listens() -> None:
    async def check(lab: Lab) -> None:
        line = await lab.refused()
        assert line["reason"] == "connect_failed"
        assert "127.0.7.1:15008" in line["error"]

    run(check)


def test_a_peer_with_another_identity() -> None:
    async def check(lab: Lab) -> None:
        async with lab.hbone(lambda incoming: incoming.reject(503), account="impostor"):
            line = await lab.refused()
        assert line["reason"] == "identity_mismatch"
        assert "sa/impostor" in line["error"]

    run(check)


def test_a_peer_that_speaks_no_tls() -> None:
    async def handle(sock: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await asyncio.sleep(0.2)
        sock.close()

    async def check(lab: Lab) -> None:
        async with lab.serving(handle):
            assert (await lab.refused())["reason"] == "tls_handshake"

    run(check)


def test_a_peer_that_says_nothing() -> None:
    async def handle(sock: socket.socket) -> None:
        with sock:
            await asyncio.sleep(5)

    async def check(lab: Lab) -> None:
        async with lab.serving(handle):
            assert (await lab.refused())["reason"] == "tls_timeout"

    run(check)


def test_no_certificate() -> None:
    async def check(lab: Lab) -> None:
        lab.certificates.held = None
        line = await lab.refused()
        assert line["reason"] == "no_certificate"
        assert "the CA is away" in line["error"]

    run(check)


@pytest.mark.parametrize("destination", ["127.0.0.1:15001", "127.0.0.1:15006", "[::1]:15008"])
def test_the_tunnels_own_ports(destination: str) -> None:
    host, _, port = destination.rpartition(":")

    async def check(lab: Lab) -> None:
        assert (await lab.refused(SocketAddress(ip_address(host.strip("[]")), int(port))))["reason"] == "self_call"

    run(check)


def test_the_tunnel_breaks_before_it_answers() -> None:
    async def check(lab: Lab) -> None:
        async with lab.hbone(lambda incoming: incoming.tunnel.close(Reason.OK)):
            assert (await lab.refused())["reason"] == "tunnel_lost"

    run(check)


def test_a_tunnel_that_drains_is_followed_by_another() -> None:
    """The peer restarts: it takes no notice of the request, and the next tunnel goes to its successor."""

    async def check(lab: Lab) -> None:
        async with lab.hbone(lambda incoming: incoming.reject(503)):
            await lab.refused()
            lab.tunnels[0].drain()
            await asyncio.sleep(0.05)
            assert repr(lab.pool) == "<Pool empty>"
            connection, app = lab.start()
            assert (await lab.end(connection))["reason"] == "peer_unavailable"
            app.close()
            assert len(lab.tunnels) == 2
            lab.tunnels[1].h2.goaway(Code.NO_ERROR, b"")
            lab.tunnels[1].schedule_flush()  # in flight, when the next request leaves
            connection, app = lab.start()
            assert (await lab.end(connection))["reason"] == "peer_unavailable"
            app.close()
            assert len(lab.tunnels) == 3

    run(check)


def test_streams_share_tunnels_up_to_the_bound() -> None:
    async def check(lab: Lab) -> None:
        accepted: list[Incoming] = []
        async with lab.hbone(accepted.append):
            started = [lab.start() for _ in range(5)]
            async with asyncio.timeout(5):
                while len(accepted) < 5:
                    await asyncio.sleep(0.005)
            assert len(lab.tunnels) == 3
            for incoming in accepted:
                incoming.reject(503)
            for connection, app in started:
                await lab.end(connection)
                app.close()

    run(check)


def test_aborted_at_every_stage() -> None:
    async def check(lab: Lab) -> None:
        # while the dial runs
        connection, app = lab.start()
        connection.abort(Reason.DRAINING)
        assert (await lab.end(connection))["reason"] == "draining"
        app.close()
        # while the answer is awaited
        async with lab.hbone(lambda incoming: None):
            connection, app = lab.start()
            async with asyncio.timeout(5):
                while not lab.requests:
                    await asyncio.sleep(0.005)
            connection.abort(Reason.POD_REMOVED)
            assert (await lab.end(connection))["reason"] == "pod_removed"
            app.close()
            await asyncio.sleep(0.05)
            assert lab.requests[0].gone is not None  # the peer was told
        assert lab.pool.waiting == 0

    run(check)


def test_passthrough_refused_and_reset() -> None:
    async def check(lab: Lab) -> None:
        line = await lab.refused(SocketAddress(ip_address("127.0.7.2"), 9))
        assert (line["reason"], line["dst.addr"]) == ("connect_failed", "127.0.7.2:9")
        with socket.create_server(("127.0.7.2", 0)) as server:
            connection, app = lab.start(SocketAddress(ip_address("127.0.7.2"), server.getsockname()[1]))
            far, _ = server.accept()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await asyncio.sleep(0.01)
            far.close()
            assert (await lab.end(connection))["reason"] == "reset_by_destination"
            app.close()

    run(check)


def test_descriptors_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*arguments: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("ztunnel.dial.stream_socket", no_more)

    async def check(lab: Lab) -> None:
        assert (await lab.refused())["reason"] == "fds_exhausted"

    run(check)
    run(lambda lab: _passthrough_without_descriptors(lab))


async def _passthrough_without_descriptors(lab: Lab) -> None:
    assert (await lab.refused(SocketAddress(ip_address("127.0.7.2"), 9)))["reason"] == "fds_exhausted"


def test_a_late_answer_is_in_time() -> None:
    """The connection waits for its tunnel and its answer; the app's first bytes wait in the kernel meanwhile."""

    async def check(lab: Lab) -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)

        class Count:
            sent = received = 0

        def answer(incoming: Incoming) -> None:
            loop.call_later(0.05, lambda: incoming.accept().splice(near, Count(), lambda reason: None))

        async with lab.hbone(answer):
            connection, app = lab.start()
            app.send(b"early")
            assert await loop.sock_recv(far, 10) == b"early"
            await loop.sock_sendall(far, b"reply")
            far.close()
            assert await loop.sock_recv(app, 10) == b"reply"
            assert await loop.sock_recv(app, 10) == b""
            app.close()
            line = await lab.end(connection)
        assert (line["reason"], line["bytes_sent"], line["bytes_recv"]) == ("ok", 5, 5)
        assert line["dst.identity"] == "spiffe://cluster.local/ns/default/sa/server"

    run(check)
