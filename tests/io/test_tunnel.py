"""Streams over a tunnel: bytes, ends, resets, answers, drain; two real ends, TLS and TCP on loopback."""

from __future__ import annotations

import asyncio
import os

import pytest

from mesh.io.counters import Tally
from mesh.model.errors import BugError, PeerError
from mesh.model.reasons import Reason
from mesh.wire.h2 import Code
from tests.io.rig import CONNECT, Ending, credentials, ends, on_loop, read_end, read_exactly, send_reset, tcp_pair, write


@on_loop
async def test_bytes_go_both_ways_and_are_counted() -> None:
    async with await ends() as pair:
        link = await pair.link()
        await write(link.client, b"question")
        assert await read_exactly(link.server, 8) == b"question"
        await write(link.server, b"the answer")
        assert await read_exactly(link.client, 10) == b"the answer"
        assert (link.sent.sent, link.sent.received) == (8, 10)
        assert (link.far.sent, link.far.received) == (10, 8)


@on_loop
async def test_both_ends_know_who_the_other_is() -> None:
    async with await ends() as pair:
        assert pair.near.peer_identity == credentials("b").identity
        assert pair.far.peer_identity == credentials("a").identity
        opening = asyncio.ensure_future(pair.near.connect(CONNECT))
        incoming = await pair.requests.get()
        assert incoming.peer_identity == credentials("a").identity
        assert incoming.peer_address is not None
        assert str(incoming.peer_address.ip) == "127.0.0.1"
        assert list(incoming.headers) == CONNECT
        incoming.reject(503, [(b"x-why", b"test")])
        stream = await opening
        assert (stream.status, stream.headers[1]) == (503, (b"x-why", b"test"))
        assert stream.reason is Reason.OK
        assert (pair.near.open_streams, pair.far.open_streams) == (0, 0)


@on_loop
async def test_the_client_ends_first_and_the_server_goes_on() -> None:
    async with await ends() as pair:
        link = await pair.link()
        await write(link.client, b"all I have")
        link.client.shutdown(1)
        assert await read_end(link.server) == b"all I have"
        assert link.done.pending
        await write(link.server, b"late answer")
        link.server.shutdown(1)
        assert await read_end(link.client) == b"late answer"
        assert (await link.done, await link.far_done) == (Reason.OK, Reason.OK)
        assert (link.done.calls, link.far_done.calls) == (1, 1)


@on_loop
async def test_the_server_ends_first_and_the_client_goes_on() -> None:
    async with await ends() as pair:
        link = await pair.link()
        link.server.shutdown(1)
        assert await read_end(link.client) == b""
        await write(link.client, b"still here")
        link.client.shutdown(1)
        assert await read_end(link.server) == b"still here"
        assert (await link.done, await link.far_done) == (Reason.OK, Reason.OK)


@on_loop
async def test_a_reset_by_the_client_is_a_reset_at_the_server() -> None:
    async with await ends() as pair:
        link = await pair.link()
        await write(link.client, b"x")
        await read_exactly(link.server, 1)
        send_reset(link.client)
        with pytest.raises(ConnectionResetError):
            await read_end(link.server)
        assert (await link.done, await link.far_done) == (Reason.RESET_BY_SOURCE, Reason.RESET_BY_SOURCE)


@on_loop
async def test_a_reset_by_the_server_is_a_reset_at_the_client() -> None:
    async with await ends() as pair:
        link = await pair.link()
        await write(link.server, b"x")
        await read_exactly(link.client, 1)
        send_reset(link.server)
        with pytest.raises(ConnectionResetError):
            await read_end(link.client)
        assert (await link.done, await link.far_done) == (Reason.RESET_BY_DESTINATION, Reason.RESET_BY_DESTINATION)


@on_loop
async def test_a_server_that_closed_for_good_resets_a_client_that_goes_on_writing() -> None:
    async with await ends() as pair:
        link = await pair.link()
        link.server.close()
        assert await read_end(link.client) == b""
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await write(link.client, bytes(64 << 20))
        assert await link.done is Reason.RESET_BY_DESTINATION


@pytest.mark.parametrize("code", [Code.NO_ERROR, Code.CANCEL])
@on_loop
async def test_a_polite_reset_by_the_peer_is_an_end_of_file(code: Code) -> None:
    async with await ends() as pair:
        link = await pair.link()
        await write(link.server, b"bye")
        assert await read_exactly(link.client, 3) == b"bye"
        pair.far.h2.reset(link.far_stream.id, code)
        pair.far.schedule_flush()
        assert await read_end(link.client) == b""
        assert await link.done is Reason.OK
        link.far_stream.finish(Reason.OK)


@on_loop
async def test_abort_resets_both_apps_and_says_why() -> None:
    async with await ends() as pair:
        link = await pair.link()
        link.far_stream.abort(Reason.POLICY_REVOKED)
        assert await link.far_done is Reason.POLICY_REVOKED
        for sock in (link.client, link.server):
            with pytest.raises(ConnectionResetError):
                await read_end(sock)
        assert await link.done is Reason.RESET_BY_DESTINATION
        assert not pair.near.closed.done()


@on_loop
async def test_data_that_comes_before_the_splice_is_kept() -> None:
    async with await ends() as pair:
        opening = asyncio.ensure_future(pair.near.connect(CONNECT))
        incoming = await pair.requests.get()
        incoming.accept()
        server, outer = tcp_pair()
        incoming.stream.splice(outer, Tally(), Ending())
        stream = await opening
        await write(server, b"I speak first")
        server.shutdown(1)
        while not stream.held:
            await asyncio.sleep(0.001)
        client, inner = tcp_pair()
        done = Ending()
        stream.splice(inner, Tally(), done)
        assert await read_end(client) == b"I speak first"
        client.close()
        assert await done is Reason.OK
        server.close()


@on_loop
async def test_a_client_that_gives_up_tells_the_server() -> None:
    async with await ends() as pair:
        opening = asyncio.ensure_future(pair.near.connect(CONNECT))
        incoming = await pair.requests.get()
        gone = Ending()
        incoming.on_gone = gone
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert await gone is Reason.RESET_BY_SOURCE
        assert pair.near.open_streams == 0
        # An answer that comes too late does no harm, and the socket that was meant for it is closed.
        late, inner = tcp_pair()
        done = Ending()
        incoming.accept().splice(inner, Tally(), done)
        assert await done is Reason.RESET_BY_SOURCE
        with pytest.raises(ConnectionResetError):
            await read_end(late)
        late.close()


@on_loop
async def test_many_streams_at_once_do_not_mix() -> None:
    async with await ends() as pair:
        links = [await pair.link() for _ in range(60)]
        payloads = [os.urandom(20_000) for _ in links]
        readers = [asyncio.ensure_future(read_exactly(link.server, 20_000)) for link in links]
        await asyncio.gather(*(write(link.client, data) for link, data in zip(links, payloads, strict=True)))
        assert await asyncio.gather(*readers) == payloads
        assert pair.near.open_streams == 60


@on_loop
async def test_no_more_streams_than_the_peer_takes() -> None:
    async with await ends() as pair:
        opening = [asyncio.ensure_future(pair.near.connect(CONNECT)) for _ in range(200)]
        incoming = [await pair.requests.get() for _ in range(200)]
        full = not pair.near.can_open
        assert full
        with pytest.raises(PeerError) as refused:
            await pair.near.connect(CONNECT)
        assert refused.value.reason is Reason.TOO_MANY_CONNECTIONS
        incoming[0].reject(401)
        await opening[0]
        assert pair.near.can_open
        for each in incoming[1:]:
            each.reject(401)
        await asyncio.gather(*opening)


@on_loop
async def test_a_draining_server_serves_what_runs_and_then_closes() -> None:
    async with await ends() as pair:
        link = await pair.link()
        pair.far.drain()
        await write(link.client, b"go on")
        assert await read_exactly(link.server, 5) == b"go on"
        while pair.near.can_open:
            await asyncio.sleep(0.001)
        with pytest.raises(PeerError) as refused:
            await pair.near.connect(CONNECT)
        assert refused.value.reason is Reason.GOAWAY
        link.close()
        assert await link.done is Reason.OK
        assert await pair.far.closed is Reason.DRAINING
        assert await pair.near.closed is Reason.GOAWAY


@on_loop
async def test_an_idle_tunnel_that_drains_closes_both_ends() -> None:
    async with await ends() as pair:
        pair.far.drain()
        assert await pair.far.closed is Reason.DRAINING
        assert await pair.near.closed is Reason.GOAWAY


@on_loop
async def test_a_draining_client_closes_both_ends_in_order() -> None:
    async with await ends() as pair:
        link = await pair.link()
        pair.near.drain()
        assert not pair.near.can_open
        link.close()
        assert await pair.near.closed is Reason.DRAINING
        assert await pair.far.closed in (Reason.GOAWAY, Reason.OK), pair.far.error


@on_loop
async def test_a_tunnel_that_is_closed_resets_its_streams_with_its_reason() -> None:
    async with await ends() as pair:
        link = await pair.link()
        pair.far.close(Reason.POD_REMOVED)
        assert await link.far_done is Reason.POD_REMOVED
        assert await link.done is Reason.TUNNEL_LOST
        for sock in (link.client, link.server):
            with pytest.raises(ConnectionResetError):
                await read_end(sock)
        with pytest.raises(PeerError) as refused:
            await pair.near.connect(CONNECT)
        assert refused.value.reason is Reason.TUNNEL_LOST


@on_loop
async def test_a_request_that_is_waiting_fails_with_the_tunnel() -> None:
    async with await ends() as pair:
        opening = asyncio.ensure_future(pair.near.connect(CONNECT))
        await pair.requests.get()
        pair.far.close(Reason.DRAINING)
        with pytest.raises(PeerError) as lost:
            await opening
        assert lost.value.reason is Reason.TUNNEL_LOST


@on_loop
async def test_a_bug_in_a_request_handler_closes_that_tunnel(caplog: pytest.LogCaptureFixture) -> None:
    async with await ends() as pair, await ends() as other:
        pair.requests.put_nowait = None  # type: ignore[method-assign, assignment]
        pair.far._on_request = lambda incoming: 1 / 0  # type: ignore[assignment]
        with pytest.raises(PeerError) as lost:
            await pair.near.connect(CONNECT)
        assert lost.value.reason is Reason.TUNNEL_LOST
        assert await pair.far.closed is Reason.INTERNAL
        assert "ZeroDivisionError" in caplog.text
        await other.link()


@on_loop
async def test_a_stream_cannot_be_spliced_twice() -> None:
    async with await ends() as pair:
        link = await pair.link()
        spare, inner = tcp_pair()
        with pytest.raises(BugError):
            link.stream.splice(inner, Tally(), Ending())
        spare.close()
        inner.close()
