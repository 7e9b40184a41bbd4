"""The plain relay keeps the same promises as a stream of a tunnel."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from mesh.io import relay
from mesh.io.counters import Tally
from mesh.model.reasons import Reason
from tests.io.rig import Ending, on_loop, read_end, read_exactly, send_reset, tcp_pair, write
from tests.io.test_bulk import drink, pour


class Joined:
    """client — (a) relay (b) — server."""

    def __init__(self, receive_buffer: int = 0) -> None:
        self.client, inner = tcp_pair(receive_buffer)
        self.server, outer = tcp_pair(receive_buffer)
        self.tally, self.done = Tally(), Ending()
        self.relay = relay.splice(inner, outer, self.tally, self.done)

    def close(self) -> None:
        self.client.close()
        self.server.close()


@on_loop
async def test_bytes_both_ways_and_half_closes() -> None:
    joined = Joined()
    await write(joined.client, b"question")
    joined.client.shutdown(1)
    assert await read_end(joined.server) == b"question"
    assert joined.done.pending
    await write(joined.server, b"the answer")
    joined.server.shutdown(1)
    assert await read_end(joined.client) == b"the answer"
    assert await joined.done is Reason.OK
    assert (joined.tally.sent, joined.tally.received, joined.done.calls) == (8, 10, 1)
    joined.close()


@pytest.mark.parametrize("buffer", [0, 4096])
@on_loop
async def test_much_each_way(buffer: int) -> None:
    joined = Joined(buffer)
    up, up_got, down, down_got = (hashlib.sha256() for _ in range(4))
    blocks = 10 if buffer else 50
    await asyncio.gather(
        pour(joined.client, blocks, up), pour(joined.server, blocks, down), drink(joined.server, up_got), drink(joined.client, down_got)
    )
    assert (up.digest(), down.digest()) == (up_got.digest(), down_got.digest())
    assert await joined.done is Reason.OK
    joined.close()


@on_loop
async def test_what_is_held_for_a_reader_that_does_not_read_is_bounded() -> None:
    joined = Joined(4096)
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await loop.sock_sendall(joined.client, bytes(64 << 20))
    assert 0 < joined.relay.held <= relay.CHUNK
    # The other direction goes on.
    await write(joined.server, b"hello")
    assert await read_exactly(joined.client, 5) == b"hello"
    joined.relay.abort(Reason.POD_REMOVED)
    joined.relay.abort(Reason.DRAINING)
    assert (await joined.done, joined.done.calls) == (Reason.POD_REMOVED, 1)
    joined.close()


@pytest.mark.parametrize(("breaks", "reason"), [("client", Reason.RESET_BY_SOURCE), ("server", Reason.RESET_BY_DESTINATION)])
@on_loop
async def test_a_reset_is_passed_on_as_a_reset(breaks: str, reason: Reason) -> None:
    joined = Joined()
    broken, other = (joined.client, joined.server) if breaks == "client" else (joined.server, joined.client)
    await write(broken, b"x")
    await read_exactly(other, 1)
    send_reset(broken)
    with pytest.raises(ConnectionResetError):
        await read_end(other)
    assert await joined.done is reason
    joined.close()


@on_loop
async def test_abort_resets_both() -> None:
    joined = Joined()
    joined.relay.abort(Reason.DRAINING)
    for sock in (joined.client, joined.server):
        with pytest.raises(ConnectionResetError):
            await read_end(sock)
    assert await joined.done is Reason.DRAINING
    joined.close()
