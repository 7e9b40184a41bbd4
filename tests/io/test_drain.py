"""The end of a process: what runs may finish, what does not is cut at the deadline."""

from __future__ import annotations

import asyncio

import pytest

from mesh.io import relay
from mesh.io.counters import Tally
from mesh.io.drain import Live, drain
from mesh.model.reasons import Reason
from tests.io.rig import Ending, ends, on_loop, read_end, tcp_pair, write


class Door:
    closed = False

    def close(self) -> None:
        self.closed = True


@on_loop
async def test_nothing_live_takes_no_time() -> None:
    door = Door()
    assert await drain([door], Live(), asyncio.get_running_loop().time() + 60) == 0
    assert door.closed


@on_loop
async def test_a_tunnel_whose_streams_finish_in_time_is_not_cut() -> None:
    async with await ends() as pair:
        link = await pair.link()
        live = Live()
        live.add(pair.far)
        pair.far.closed.add_done_callback(lambda _: live.remove(pair.far))
        draining = asyncio.create_task(drain([], live, asyncio.get_running_loop().time() + 20))
        await write(link.client, b"last words")
        link.client.shutdown(1)
        assert await read_end(link.server) == b"last words"
        assert not draining.done()
        link.server.close()
        assert await draining == 0
        assert (await link.done, await link.far_done) == (Reason.OK, Reason.OK)
        assert await pair.far.closed is Reason.DRAINING


@on_loop
async def test_what_does_not_finish_is_cut_at_the_deadline() -> None:
    async with await ends() as pair:
        link = await pair.link()
        client, inner = tcp_pair()
        server, outer = tcp_pair()
        done = Ending()
        plain = relay.splice(inner, outer, Tally(), done)
        live = Live()
        live.add(pair.far)
        live.add(plain)
        assert len(live) == 2
        assert await drain([], live, asyncio.get_running_loop().time() + 0.02) == 2
        assert (await link.far_done, await done) == (Reason.DRAINING, Reason.DRAINING)
        for sock in (link.client, link.server, client, server):
            with pytest.raises(ConnectionResetError):
                await read_end(sock)
        client.close()
        server.close()
