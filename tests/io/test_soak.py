"""Many streams with random sizes, pieces, pauses and ends, both ways at once: every byte arrives once and in order, every end is one."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket

import pytest

from mesh.io import mux
from mesh.model.reasons import Reason
from mesh.wire.h2 import LocalSettings
from tests.io.rig import Ends, Link, ends, on_loop

STREAMS = 40
NOISE = random.Random(7).randbytes(1 << 20)


async def talk(sock: socket.socket, chance: random.Random) -> bytes:
    """Write a random amount in random pieces, then end this side. The digest of what was written."""
    loop, digest = asyncio.get_running_loop(), hashlib.sha256()
    left = chance.choice([0, 1, chance.randrange(2000), chance.randrange(1 << 20)])
    while left:
        size = min(left, chance.choice([1, 9, 1000, 16384, 65536, 300_000]))
        start = chance.randrange(len(NOISE) - size)
        piece = NOISE[start : start + size]
        digest.update(piece)
        await loop.sock_sendall(sock, piece)
        left -= size
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    sock.shutdown(socket.SHUT_WR)
    return digest.digest()


async def listen(sock: socket.socket, chance: random.Random) -> bytes:
    loop, digest = asyncio.get_running_loop(), hashlib.sha256()
    while piece := await loop.sock_recv(sock, chance.choice([1000, 65536, 1 << 20])):
        digest.update(piece)
        if chance.random() < 0.05:
            await asyncio.sleep(0.001)
    return digest.digest()


async def converse(link: Link, seed: int) -> None:
    chances = [random.Random(seed * 4 + number) for number in range(4)]
    said, heard, answered, answer = await asyncio.gather(
        talk(link.client, chances[0]),
        listen(link.server, chances[1]),
        talk(link.server, chances[2]),
        listen(link.client, chances[3]),
    )
    assert (said, answered) == (heard, answer), f"seed {seed}"
    assert (await link.done, await link.far_done) == (Reason.OK, Reason.OK)
    assert (link.done.calls, link.far_done.calls) == (1, 1)
    assert (link.sent.sent, link.sent.received) == (link.far.received, link.far.sent)


async def many(pair: Ends, other: Ends) -> None:
    links = [await (pair if number % 3 else other).link(receive_buffer=4096 if number % 5 == 0 else 0) for number in range(STREAMS)]
    await asyncio.gather(*(converse(link, number) for number, link in enumerate(links)))
    assert pair.near.open_streams == pair.far.open_streams == other.near.open_streams == other.far.open_streams == 0


@on_loop
async def test_forty_streams_on_two_tunnels() -> None:
    async with await ends() as pair, await ends() as other:
        await many(pair, other)


@pytest.mark.parametrize("window", [65_535, 100_000])
@on_loop
async def test_the_same_between_ends_that_allow_little(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a peer with HTTP/2's defaults: frames of 16 KB and windows of 64 KB."""
    small = LocalSettings(stream_window=window, connection_window=window, max_frame=16_384)
    monkeypatch.setattr(mux, "SERVER_SETTINGS", small)
    monkeypatch.setattr(mux, "CLIENT_SETTINGS", small)
    async with await ends() as pair, await ends() as other:
        await many(pair, other)
