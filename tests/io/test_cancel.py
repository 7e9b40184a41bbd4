"""Cancelled at any await, nothing stays behind: no descriptor (the rig looks), no callback, no stream."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from mesh.io import sockets, tunnel
from mesh.model.errors import PeerError
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress
from tests.io.rig import CONNECT, credentials, ends, free_port, on_loop, tcp_pair

STEPS = range(1, 24)
BOB = frozenset({credentials("b").identity})


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[tunnel.Tunnel]) -> bool:
    """Cancel; False if it had finished."""
    task.cancel()
    try:
        (await task).close(Reason.OK)
    except asyncio.CancelledError:
        return True
    except PeerError:
        pass
    return False


@on_loop
async def test_dial_and_accept_cancelled_at_every_step() -> None:
    interrupted = 0
    for count in STEPS:
        for victim in (0, 1):
            near, far = tcp_pair()
            tasks = [
                asyncio.create_task(tunnel.dial(near, credentials("a"), BOB, None)),
                asyncio.create_task(tunnel.accept(far, credentials("b"), lambda incoming: None)),
            ]
            await steps(count)
            interrupted += await cancelled(tasks.pop(victim))
            await cancelled(tasks.pop())
            assert near.fileno() == far.fileno() == -1
    assert interrupted > len(STEPS) // 2


@on_loop
async def test_dial_cancelled_while_tcp_connects() -> None:
    sock = sockets.stream_socket(4)
    # A listener whose backlog is full does not answer: the SYN waits.
    with sockets.listener(0, host="127.0.0.1") as quiet:
        quiet.listen(0)
        address = SocketAddress(ipaddress.ip_address("127.0.0.1"), quiet.getsockname()[1])
        fillers = [sockets.stream_socket(4) for _ in range(4)]
        for filler in fillers:
            sockets.begin_connect(filler, address)
        sockets.begin_connect(sock, address)
        task = asyncio.create_task(tunnel.dial(sock, credentials("a"), BOB, None))
        await steps(3)
        assert await cancelled(task)
        assert sock.fileno() == -1
        waiting = sockets.stream_socket(4)
        with pytest.raises(PeerError) as late:
            await sockets.connect(waiting, address, asyncio.get_running_loop().time() + 0.02)
        assert late.value.reason is Reason.CONNECT_TIMEOUT
        assert waiting.fileno() == -1
        for filler in fillers:
            filler.close()


@on_loop
async def test_connect_cancelled_at_every_step() -> None:
    for count in range(1, 6):
        port = free_port()
        with sockets.listener(port, host="127.0.0.1"):
            sock = sockets.stream_socket(4)
            task = asyncio.create_task(sockets.connect(sock, SocketAddress(ipaddress.ip_address("127.0.0.1"), port), None))
            await steps(count)
            task.cancel()
            try:
                (await task).close()
            except asyncio.CancelledError:
                pass
            assert sock.fileno() == -1


@on_loop
async def test_a_stream_that_is_cancelled_while_it_opens_leaves_the_tunnel_whole() -> None:
    async with await ends() as pair:
        for count in range(8):
            opening = asyncio.create_task(pair.near.connect(CONNECT))
            await steps(count)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert pair.near.open_streams == 0
        await pair.near.loop.create_task(_until_empty(pair.far))
        while not pair.requests.empty():
            pair.requests.get_nowait()
        await pair.link()


async def _until_empty(far: tunnel.Tunnel) -> None:
    while far.open_streams:
        await asyncio.sleep(0.001)
