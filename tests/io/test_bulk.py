"""Much data: nothing lost, nothing mixed, nothing piled up; slow readers, small windows, and tunnels that die in the middle."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket

import pytest

from mesh.io import mux
from mesh.io.channel import FLUSH_AT
from mesh.io.stage import SIZE
from mesh.model.errors import PeerError
from mesh.model.reasons import Reason
from mesh.wire.h2 import SERVER_SETTINGS, LocalSettings
from tests.io.rig import Link, ends, on_loop, read_end, read_exactly, write

MEGABYTE = 1 << 20
BLOCK = os.urandom(MEGABYTE)
MUCH = 100


async def pour(sock: socket.socket, blocks: int, digest: hashlib._Hash) -> None:
    for number in range(blocks):
        piece = BLOCK[number % 7 :]
        digest.update(piece)
        await write(sock, piece)
    sock.shutdown(socket.SHUT_WR)


async def drink(sock: socket.socket, digest: hashlib._Hash, at_once: int = 1 << 16) -> int:
    loop = asyncio.get_running_loop()
    total = 0
    while piece := await loop.sock_recv(sock, at_once):
        digest.update(piece)
        total += len(piece)
    return total


@pytest.mark.parametrize("buffer", [0, 4096])
@on_loop
async def test_a_hundred_megabytes_each_way(buffer: int) -> None:
    async with await ends() as pair:
        link = await pair.link(receive_buffer=buffer)
        up, up_got, down, down_got = (hashlib.sha256() for _ in range(4))
        blocks = MUCH if not buffer else MUCH // 10
        _, _, arrived_up, arrived_down = await asyncio.gather(
            pour(link.client, blocks, up),
            pour(link.server, blocks, down),
            drink(link.server, up_got),
            drink(link.client, down_got),
        )
        assert up.digest() == up_got.digest()
        assert down.digest() == down_got.digest()
        assert (await link.done, await link.far_done) == (Reason.OK, Reason.OK)
        assert link.sent.sent == link.far.received == arrived_up
        assert link.far.sent == link.sent.received == arrived_down


async def fill(link: Link) -> int:
    """Write until nothing more is taken anywhere on the way; how much that was."""
    loop = asyncio.get_running_loop()
    total = 0
    while True:
        try:
            async with asyncio.timeout(0.3):
                await loop.sock_sendall(link.client, BLOCK[:65536])
        except TimeoutError:
            return total
        total += 65536


@on_loop
async def test_a_slow_reader_stops_its_own_sender_and_nobody_else() -> None:
    async with await ends() as pair:
        slow = await pair.link(receive_buffer=4096)
        quick = await pair.link()
        await fill(slow)
        # What is held for the app that does not read is bounded by its stream's window, and its client is not read any more.
        assert 0 < slow.far_stream.held <= SERVER_SETTINGS.stream_window
        assert not slow.stream.reading
        assert slow.stream in pair.near.starved
        assert pair.near.queued == 0
        assert pair.far.queued == 0
        # The other stream of the same tunnel does not notice.
        digest, got = hashlib.sha256(), hashlib.sha256()
        await asyncio.gather(pour(quick.client, 20, digest), drink(quick.server, got))
        assert digest.digest() == got.digest()
        # And the slow one goes on where it stopped, as soon as its app reads.
        before = slow.sent.sent
        await read_exactly(slow.server, before)
        while slow.sent.sent == before:
            await asyncio.sleep(0.001)


@on_loop
async def test_a_peer_that_does_not_read_its_tunnel_stops_the_apps_behind_it() -> None:
    async with await ends() as pair:
        links = [await pair.link() for _ in range(4)]
        # The far end is deaf: its process hangs, or the network swallows everything. Little fits into the kernel, so that the streams'
        # windows are not what stops the apps first.
        loop = asyncio.get_running_loop()
        loop.remove_reader(pair.far._descriptor)
        pair.near.channel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        pair.far.channel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await asyncio.gather(*(fill(link) for link in links))
        assert pair.near.congested
        assert sorted(map(id, pair.near.paused)) == sorted(id(link.stream) for link in links)
        assert not any(link.stream.reading for link in links)
        assert not pair.near.starved
        assert 0 < pair.near.queued <= FLUSH_AT + SIZE + 4096
        loop.add_reader(pair.far._descriptor, pair.far._on_readable)
        for link in links:
            link.client.shutdown(socket.SHUT_WR)
        received = await asyncio.gather(*(read_end(link.server) for link in links))
        assert [len(each) for each in received] == [link.sent.sent for link in links]
        assert not pair.near.congested


@on_loop
async def test_streams_that_wait_for_the_connections_window_all_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux, "SERVER_SETTINGS", LocalSettings(connection_window=65_535))
    async with await ends() as pair:
        links = [await pair.link() for _ in range(3)]
        digests = [(hashlib.sha256(), hashlib.sha256()) for _ in links]
        pairs = list(zip(links, digests, strict=True))
        await asyncio.gather(
            *(pour(link.client, 2, sent) for link, (sent, _) in pairs), *(drink(link.server, got) for link, (_, got) in pairs)
        )
        assert [sent.digest() for sent, _ in digests] == [got.digest() for _, got in digests]


@on_loop
async def test_a_tunnel_killed_in_the_middle_resets_the_apps_and_never_ends_them() -> None:
    async with await ends() as pair:
        link = await pair.link()
        pouring = asyncio.create_task(pour(link.client, MUCH, hashlib.sha256()))
        await read_exactly(link.server, 3 * MEGABYTE)
        # No close_notify, no GOAWAY: as when the process is killed.
        pair.far.channel.close(notify=False)
        asyncio.get_running_loop().remove_reader(pair.far._descriptor)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await pouring
        assert await link.done is Reason.TUNNEL_LOST
        assert await pair.near.closed is Reason.TUNNEL_LOST
        pair.far._lost(pair.near.error)  # type: ignore[arg-type]
        with pytest.raises(ConnectionResetError):
            await read_end(link.server)


@on_loop
async def test_a_tunnel_that_is_cut_off_between_frames_is_lost_too() -> None:
    async with await ends() as pair:
        link = await pair.link()
        await write(link.client, b"x")
        await read_exactly(link.server, 1)
        pair.near.channel._sock.shutdown(socket.SHUT_WR)  # a FIN of TCP without the close_notify of TLS: anybody on the way can send it
        assert await link.far_done is Reason.TUNNEL_LOST
        assert await pair.far.closed is Reason.TUNNEL_LOST
        with pytest.raises(ConnectionResetError):
            await read_end(link.server)


@on_loop
async def test_a_tunnel_that_ends_in_good_order_in_the_middle_of_a_stream_is_lost_too() -> None:
    async with await ends() as pair:
        link = await pair.link()
        await write(link.client, b"x")
        await read_exactly(link.server, 1)
        pair.near.channel.close()  # with close_notify
        asyncio.get_running_loop().remove_reader(pair.near._descriptor)
        assert await link.far_done is Reason.TUNNEL_LOST
        assert await pair.far.closed is Reason.TUNNEL_LOST
        with pytest.raises(ConnectionResetError):
            await read_end(link.server)
        pair.near._lost(PeerError(Reason.TUNNEL_LOST))


@pytest.mark.parametrize(("notify", "reason"), [(True, Reason.OK), (False, Reason.TUNNEL_LOST)])
@on_loop
async def test_an_idle_tunnel_that_ends(notify: bool, reason: Reason) -> None:
    async with await ends() as pair:
        asyncio.get_running_loop().remove_reader(pair.near._descriptor)
        pair.near.channel.close(notify)
        assert await pair.far.closed is reason
        pair.near._lost(PeerError(Reason.TUNNEL_LOST))
