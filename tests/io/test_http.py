"""The small HTTP server: what it answers, and what it does to peers that are slow, hostile or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from mesh.io.http import HttpLimits, HttpServer, Request, Response, listen, parse_address, text

GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


async def exchange(server: HttpServer, sent: bytes, timeout: float = 5) -> bytes:
    host, port = server.addresses[0]
    reader, writer = await asyncio.open_connection("127.0.0.1" if host == "0.0.0.0" else host, port)
    try:
        writer.write(sent)
        return await asyncio.wait_for(ended(reader), timeout)
    finally:
        writer.close()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that came before the connection ended, in whichever way it did."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := await reader.read(65536):
            received += chunk
    return received


def serve(check: Callable[[HttpServer], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        async def slow(request: Request) -> Response:
            await asyncio.sleep(0)
            return text(f"slow {request.first('a')}")

        def broken(request: Request) -> Response:
            raise RuntimeError("boom")

        routes = {
            ("GET", "/"): lambda request: text("hello"),
            ("GET", "/slow"): slow,
            ("GET", "/broken"): broken,
            ("POST", "/echo"): lambda request: Response(200, request.body),
        }
        server = HttpServer(routes, **options)  # type: ignore[arg-type]
        await server.start("127.0.0.1:0")
        try:
            await check(server)
        finally:
            await server.close(0.1)
            assert not server.connections

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"200", b"hello"),
        (b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"200", b""),
        (b"GET /slow?a=b%20c HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"200", b"slow b c"),
        (b"GET /none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"404", b"not found\n"),
        (b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", b"405", b"method not allowed\n"),
        (b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc", b"200", b"abc"),
        (b"GET /broken HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"500", b"internal error\n"),
        (b"nonsense\r\n\r\n", b"400", b""),
        (b"GET /?" + b"&".join([b"a=1"] * 99) + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"400", b""),
        (b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\n\r\n" + b"x" * 99999, b"413", b""),
        (b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 20000, b"431", b""),
    ],
)
def test_answers(sent: bytes, status: bytes, body: bytes) -> None:
    async def check(server: HttpServer) -> None:
        got = await exchange(server, sent)
        head, _, rest = got.partition(b"\r\n\r\n")
        assert head.split()[1] == status
        assert rest == body

    serve(check)


def test_keeps_alive_and_pipelines() -> None:
    async def check(server: HttpServer) -> None:
        one = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        got = await exchange(server, one + one + b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert got.count(b"HTTP/1.1 200") == 3

    serve(check)


def test_a_slow_header_is_cut_off() -> None:
    async def check(server: HttpServer) -> None:
        assert await exchange(server, b"GET / HTTP/1.1\r\nhost:") == b""

    serve(check, limits=HttpLimits(read_timeout=0.05))


def test_connections_are_bounded_and_who_waits_longest_makes_room() -> None:
    async def check(server: HttpServer) -> None:
        held = [await asyncio.open_connection(*server.addresses[0]) for _ in range(2)]
        assert (await exchange(server, GET)).endswith(b"hello")
        assert await ended(held[0][0]) == b""
        held[1][1].write(GET)
        assert (await ended(held[1][0])).endswith(b"hello")
        for _, writer in held:
            writer.close()

    serve(check, limits=HttpLimits(connections=2))


def test_where_all_are_at_work_nobody_else_is_taken() -> None:
    async def check(server: HttpServer) -> None:
        go_on = asyncio.Event()

        async def wait(request: Request) -> Response:
            await go_on.wait()
            return text("at last")

        server.routes = {("GET", "/"): wait}
        first = asyncio.ensure_future(exchange(server, GET))
        while not any(connection.working for connection in server.connections):
            await asyncio.sleep(0)
        assert await exchange(server, GET) == b""
        go_on.set()
        assert (await first).endswith(b"at last")

    serve(check, limits=HttpLimits(connections=1))


def test_who_does_not_read_is_answered_no_more_and_not_read_from() -> None:
    async def check(server: HttpServer) -> None:
        answered = 0

        def large(request: Request) -> Response:
            nonlocal answered
            answered += 1
            return Response(200, b"x" * (1 << 20))

        server.routes = {("GET", "/"): large}
        reader, writer = await asyncio.open_connection(*server.addresses[0], limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 1_000_000)
        while not answered:
            await asyncio.sleep(0)
        (connection,) = server.connections
        for _ in range(50):
            await asyncio.sleep(0.002)
        assert answered < 10, "as many as the kernel's buffers take"
        assert connection.held < 2 << 20
        assert len(connection._h11.trailing_data[0]) < 1 << 20
        assert writer.transport.get_write_buffer_size() > 0, "the client's own side holds the rest"
        before = answered
        received = 0
        while received < 20 << 20:
            received += len(await reader.read(1 << 16))
        assert answered > before + 10, "it goes on where it reads"
        writer.transport.abort()

    serve(check)


def test_while_one_is_in_work_little_more_is_read() -> None:
    async def check(server: HttpServer) -> None:
        go_on = asyncio.Event()

        async def wait(request: Request) -> Response:
            await go_on.wait()
            return text("at last")

        server.routes = {("GET", "/"): wait, ("GET", "/end"): lambda request: text("the end")}
        _, writer = await asyncio.open_connection(*server.addresses[0])
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 1_000_000)
        for _ in range(50):
            await asyncio.sleep(0.002)
        (connection,) = server.connections
        assert len(connection._h11.trailing_data[0]) < 1 << 20
        writer.transport.abort()
        go_on.set()

    serve(check)


def test_of_all_who_hold_too_much_the_one_that_holds_most_is_cut_off() -> None:
    head = b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 90000\r\n\r\n"

    async def check(server: HttpServer) -> None:
        held = []
        for size in (80_000, 60_000):
            reader, writer = await asyncio.open_connection(*server.addresses[0])
            writer.write(head + b"x" * size)
            held.append((reader, writer))
            while sum(connection.held for connection in server.connections) < sum((80_000, 60_000)[: len(held)]):
                await asyncio.sleep(0)
        assert (await exchange(server, head.replace(b"90000", b"30000") + b"y" * 30_000)).endswith(b"y" * 30_000)
        assert await ended(held[0][0]) == b""
        held[1][1].write(b"x" * 30_000)
        assert (await ended(held[1][0])).endswith(b"x" * 90_000)
        for _, writer in held:
            writer.close()

    serve(check, limits=HttpLimits(body_bytes=100_000, held_bytes=160_000))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost:15000", b"200"),
        (b"127.0.0.1", b"200"),
        (b"[::1]:1", b"200"),
        (b"[::1]", b"200"),
        (b"evil.example", b"403"),
        (b"", b"403"),
    ],
)
def test_a_loopback_server_asks_for_a_loopback_host(host: bytes, status: bytes) -> None:
    async def check(server: HttpServer) -> None:
        got = await exchange(server, b"GET / HTTP/1.1\r\nhost: " + host + b"\r\nconnection: close\r\n\r\n")
        assert got.split()[1] == status

    serve(check, loopback_only=True)


@pytest.mark.parametrize(
    ("address", "parsed"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::]:15020", ("::", 15020)), (":1", ("", 1)), ("localhost:0", ("localhost", 0))],
)
def test_addresses(address: str, parsed: tuple[str, int]) -> None:
    assert parse_address(address) == parsed


@pytest.mark.parametrize("address", ["80", "::1:80", "host:", "host:99999", "[::1"])
def test_bad_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_address(address)


def test_any_address_takes_both_families() -> None:
    sock = listen("[::]:0")
    with sock:
        assert sock.getsockname()[1] > 0
