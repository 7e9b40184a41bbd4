"""The ZDS socket itself: real SEQPACKET, real descriptors, real (short) deadlines. Needs no privilege."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.tunnels import Progress, Tunnels
from agent.zds_server import ZdsLimits, ZdsServer
from mesh.io.netns import Namespace
from mesh.wire.zds import Ack, Add, Hello, SnapshotSent, WorkloadInfo, decode_request, encode_ack, encode_hello
from tests.agent.zdsclient import connect, receive

INFO = WorkloadInfo("a", "shop", "default")
QUICK = ZdsLimits(hello_timeout=0.1, ack_timeout=0.1)


@asynccontextmanager
async def serving(path: Path, limits: ZdsLimits | None = None) -> AsyncIterator[ZdsServer]:
    server = ZdsServer(str(path / "zds.sock"), Tunnels(lambda _: None), limits)
    server.start()
    try:
        yield server
    finally:
        server.close()
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(sock: socket.socket) -> tuple[bytes, list[int]]:
    return await asyncio.to_thread(receive, sock)


def play(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def test_a_namespace_travels_with_its_add(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as server:
            with Namespace(os.open("/proc/self/ns/net", os.O_RDONLY)) as namespace, connect(server.path) as sock:
                server.tunnels.announce("u1", INFO, namespace)
                sock.send(encode_hello(Hello()))
                data, (fd,) = await ask(sock)
                assert decode_request(data) == Add("u1", INFO)
                assert os.fstat(fd).st_ino == namespace.inode
                assert fd != namespace.fd
                os.close(fd)
                sock.send(encode_ack(Ack()))
                assert [decode_request((await ask(sock))[0])] == [SnapshotSent()]
                assert server.tunnels.progress("u1") == (Progress.ACCEPTED, "")
                sock.send(encode_ack(Ack()))
                await asyncio.to_thread(sock.close)
                await until(lambda: not server.links)
                assert server.tunnels.progress("u1") == (Progress.NO_TUNNEL, "")

    play(story)


def test_nobody_else_may_connect(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "zds.sock").write_text("left by a killed agent")
        async with serving(tmp_path) as server:
            assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
        assert not os.path.exists(server.path)

    play(story)


@pytest.mark.parametrize("late", ["hello", "ack"])
def test_a_silent_tunnel_is_let_go(tmp_path: Path, late: str) -> None:
    async def story() -> None:
        async with serving(tmp_path, QUICK) as server:
            with connect(server.path) as sock:
                if late == "ack":
                    sock.send(encode_hello(Hello()))
                    assert decode_request((await ask(sock))[0]) == SnapshotSent()
                assert await ask(sock) == (b"", [])
            assert not server.links
            assert not server.tunnels.connected

    play(story)


@pytest.mark.parametrize("packet", [b"\x08\x02", b"\xff", b"x" * 2000], ids=["version 2", "garbage", "too long"])
def test_a_tunnel_that_breaks_the_protocol_is_let_go(tmp_path: Path, packet: bytes) -> None:
    async def story() -> None:
        async with serving(tmp_path) as server:
            with connect(server.path) as sock:
                sock.send(packet)
                assert await ask(sock) == (b"", [])
            with connect(server.path) as sock:
                sock.send(encode_hello(Hello()))
                await ask(sock)
                sock.send(encode_hello(Hello()))
                assert await ask(sock) == (b"", [])

    play(story)


def test_descriptors_that_a_tunnel_sends_are_not_taken(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as server:
            before = len(os.listdir("/proc/self/fd"))
            with connect(server.path) as sock, open("/dev/null") as file:
                socket.send_fds(sock, [encode_hello(Hello())], [file.fileno()] * 8)
                await ask(sock)
            await until(lambda: not server.links)
            assert len(os.listdir("/proc/self/fd")) <= before

    play(story)


def test_accepts_are_paced_and_bounded(tmp_path: Path) -> None:
    async def story() -> None:
        limits = ZdsLimits(accepts_per_second=3, connections=4)
        async with serving(tmp_path, limits) as server:
            loop = asyncio.get_running_loop()
            socks = [connect(server.path) for _ in range(6)]
            begun = loop.time()
            await until(lambda: len(server.links) == 3)
            await asyncio.sleep(0.3)
            assert len(server.links) == 3
            assert await ask(socks[5]) == (b"", []), "the fifth and sixth are turned away"
            assert loop.time() - begun >= 0.9
            assert len(server.links) == 4
            for sock in socks:
                sock.close()

    play(story)
