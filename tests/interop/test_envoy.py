"""Envoy as HBONE client and as HBONE server against our tunnel: bytes, half-close, and who is believed to be whom.

app ─▶ Envoy ══ CONNECT over mutual TLS ══▶ our tunnel ─▶ echo          app ─▶ our tunnel ══▶ Envoy ─▶ echo
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.l4 import configs
from mesh.io import tunnel
from mesh.io.counters import Tally
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress
from mesh.wire.hbone import ConnectRequest, connect_headers, read_request
from tests.interop import envoy

pytestmark = [pytest.mark.interop, pytest.mark.skipif(envoy.binary() is None, reason="Envoy is not installed: make envoy")]

LOCALHOST = "127.0.0.1"
SIZE = 8 << 20
SOURCE = SocketAddress(IPv4Address("10.0.0.9"), 40000)
TRACEPARENT = "00-" + "1" * 32 + "-" + "2" * 16 + "-00"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("envoy")
    envoy.make_certificates(path)
    return path


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main, 60))


@dataclass
class Server:
    """Our tunnel's server end, as far as Envoy needs one: who came, what they asked for, and an answer."""

    directory: Path
    status: int = 200
    requests: list[tuple[Identity, str]] = field(default_factory=list)
    refused: list[Reason] = field(default_factory=list)
    ended: list[Reason] = field(default_factory=list)
    tunnels: list[tunnel.Tunnel] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        credentials = envoy.credentials(self.directory, "b")
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            try:
                self.tunnels.append(await tunnel.accept(sock, credentials, self.on_request))
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
        if self.status != 200:
            incoming.reject(self.status)
            return
        app = socket.socket()
        app.setblocking(False)
        await asyncio.get_running_loop().sock_connect(app, (LOCALHOST, request.authority.port))
        incoming.accept().splice(app, Tally(), self.ended.append)


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server that answers only when its client has closed its half: it proves half-close both ways."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(await reader.read(-1))
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, LOCALHOST, 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, payload: bytes) -> bytes:
    writer.write(payload)
    writer.write_eof()
    try:
        return await reader.read(-1)
    finally:
        writer.close()


async def through(port: int, payload: bytes) -> bytes:
    return await converse(*await asyncio.open_connection(LOCALHOST, port), payload)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.asynccontextmanager
async def envoy_client(
    directory: Path, server: Server, target: int, *, accepted: str = envoy.SERVER, name: str = "a"
) -> AsyncIterator[int]:
    """Envoy as HBONE client of `server`; yields the port where an app finds the echo server on `target` behind it."""
    with socket.create_server((LOCALHOST, 0)) as listener:
        task = asyncio.create_task(server.serve(listener))
        (local,) = envoy.free_ports(1)
        config = configs.envoy_a(directory, LOCALHOST, {target: local}, listener.getsockname()[1], accepted, name)
        with contextlib.ExitStack() as stack:
            await asyncio.to_thread(stack.enter_context, envoy.running(directory, config, local))
            try:
                yield local
            finally:
                task.cancel()
                for one in server.tunnels:
                    one.close(Reason.OK)


def test_envoy_as_client(directory: Path) -> None:
    async def main() -> None:
        server = Server(directory)
        async with echo() as target, envoy_client(directory, server, target) as port:
            payloads = [random.Random(seed).randbytes(SIZE if seed == 0 else 3000) for seed in range(40)]
            answers = await asyncio.gather(*(through(port, payload) for payload in payloads))
            assert [digest(answer) for answer in answers] == [digest(payload) for payload in payloads]
            # Envoy's readiness was asked with a connection too, which may be among the requests.
            assert set(server.requests) == {(envoy.identity(envoy.CLIENT), f"{LOCALHOST}:{target}")}
            assert len(server.requests) >= len(payloads)
            assert server.refused == []
            assert len(server.tunnels) == 1, "the streams share one connection"

    run(main())


def test_envoy_refuses_our_certificate_when_it_names_somebody_else(directory: Path) -> None:
    async def main() -> None:
        server = Server(directory)
        async with echo() as target, envoy_client(directory, server, target, accepted=f"{envoy.SERVER}-impostor") as port:
            assert await refusal(port)
            assert server.requests == []

    run(main())


def test_we_refuse_an_envoy_of_another_trust_domain(directory: Path) -> None:
    async def main() -> None:
        server = Server(directory)
        async with echo() as target, envoy_client(directory, server, target, name="foreign") as port:
            assert await refusal(port)
            assert server.requests == []
            assert set(server.refused) == {Reason.WRONG_TRUST_DOMAIN}

    run(main())


def test_envoy_passes_on_that_policy_refused(directory: Path) -> None:
    async def main() -> None:
        server = Server(directory, status=401)
        async with echo() as target, envoy_client(directory, server, target) as port:
            assert await refusal(port)
            assert server.requests
            assert server.tunnels[0].open_streams == 0

    run(main())


async def refusal(port: int) -> bool:
    """Whether a conversation through Envoy ends without a byte."""
    try:
        return not await asyncio.wait_for(through(port, b"anybody there?"), 20)
    except ConnectionError:
        return True


def with_envoy_server(directory: Path, test: Callable[[int, int], Coroutine[Any, Any, None]]) -> None:
    """Run `test(echo's port, Envoy's HBONE port)`."""

    async def main() -> None:
        async with echo() as target:
            (port,) = envoy.free_ports(1)
            config = configs.envoy_b(directory, LOCALHOST, {target: 0}, port)
            with contextlib.ExitStack() as stack:
                await asyncio.to_thread(stack.enter_context, envoy.running(directory, config, port))
                await test(target, port)

    run(main())


async def dial(directory: Path, port: int, *, name: str = "a", accepted: str = envoy.SERVER) -> tunnel.Tunnel:
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex((LOCALHOST, port))
    return await tunnel.dial(sock, envoy.credentials(directory, name), frozenset({envoy.identity(accepted)}), None)


def headers(authority: str) -> Any:
    return connect_headers(authority, source=SOURCE, traceparent=TRACEPARENT, baggage="k8s.namespace.name=interop")


def test_envoy_as_server(directory: Path) -> None:
    async def test(target: int, port: int) -> None:
        ours = await dial(directory, port)
        assert ours.peer_identity == envoy.identity(envoy.SERVER)

        async def one(payload: bytes) -> str:
            stream = await ours.connect(headers(f"{LOCALHOST}:{target}"))
            assert stream.status == 200
            near, far = socket.socketpair()
            for sock in (near, far):
                sock.setblocking(False)
            ended: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()
            stream.splice(far, Tally(), ended.set_result)
            answer = await converse(*await asyncio.open_connection(sock=near), payload)
            assert await ended is Reason.OK
            return digest(answer)

        payloads = [random.Random(seed).randbytes(SIZE if seed == 0 else 3000) for seed in range(40)]
        assert await asyncio.gather(*map(one, payloads)) == [digest(payload) for payload in payloads]
        ours.close(Reason.OK)

    with_envoy_server(directory, test)


def test_envoy_server_knows_no_such_target(directory: Path) -> None:
    async def test(target: int, port: int) -> None:
        ours = await dial(directory, port)
        stream = await ours.connect(headers("192.0.2.1:80"))
        assert stream.status == 404
        ours.close(Reason.OK)

    with_envoy_server(directory, test)


def test_we_refuse_an_envoy_that_is_somebody_else(directory: Path) -> None:
    async def test(target: int, port: int) -> None:
        with pytest.raises(PeerError) as caught:
            await dial(directory, port, accepted=f"{envoy.SERVER}-impostor")
        assert caught.value.reason is Reason.IDENTITY_MISMATCH

    with_envoy_server(directory, test)


def test_envoy_refuses_us_from_another_trust_domain(directory: Path) -> None:
    async def test(target: int, port: int) -> None:
        with pytest.raises(PeerError) as caught:
            await dial(directory, port, name="foreign")
        assert caught.value.reason is Reason.TLS_HANDSHAKE

    with_envoy_server(directory, test)
