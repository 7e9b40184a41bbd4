"""GET over kept-alive connections: what comes back, and what becomes of servers that close, hang, lie or talk something else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import h11
import pytest

from control.sources.consul.http import Http, TooLongError
from tests.control.consul.rig import run

HEADERS = {"user-agent": "test"}


class Last(bytes):
    """An answer after which the connection is closed."""


class Held(bytes):
    """One that waits for `release`."""


CLOSE = Last(b"")


class Server:
    """Sends one of `answers` for each request. `requests` are what it was sent."""

    def __init__(self, answers: Iterable[bytes]) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = self.open = self.port = 0
        self.release = asyncio.Event()
        self._news = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release.set()
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self.until(lambda: not self.open)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.connections += 1
        self.open += 1
        answer = b""
        try:
            while not isinstance(answer, Last):
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                self._news.set()
                answer = self.answers.pop(0)
                if isinstance(answer, Held):
                    await self.release.wait()
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            self._news.set()
            writer.close()


def ok(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def talk(answers: Iterable[bytes], test: Callable[[Http, Server], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Server(answers) as server:
            http = Http("127.0.0.1", server.port, None, 2)
            try:
                await test(http, server)
            finally:
                http.close()

    run(main())


def test_an_answer_has_a_status_headers_and_a_body() -> None:
    async def test(http: Http, server: Server) -> None:
        reply = await http.get("/v1/x?a=b", HEADERS, 100)
        assert (reply.status, reply.headers["x-consul-index"], reply.body) == (200, "7", b"hello")
        (request,) = server.requests
        assert request == f"GET /v1/x?a=b HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\nuser-agent: test\r\n\r\n".encode()

    talk([ok(b"hello", "X-Consul-Index: 7")], test)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
def test_a_connection_is_used_again(answer: bytes) -> None:
    async def test(http: Http, server: Server) -> None:
        for _ in range(3):
            assert (await http.get("/", HEADERS, 100)).body == b"hello"
        assert server.connections == 1

    talk([answer] * 3, test)


def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    async def test(http: Http, server: Server) -> None:
        assert (await http.get("/", HEADERS, 100)).body == b"hello"
        assert (await http.get("/", HEADERS, 100)).body == b"again"
        assert server.connections == 2

    talk([Last(b"HTTP/1.0 200 OK\r\n\r\nhello"), ok(b"again")], test)


def test_a_connection_that_was_closed_while_idle_is_replaced() -> None:
    async def test(http: Http, server: Server) -> None:
        await http.get("/", HEADERS, 100)
        assert (await http.get("/", HEADERS, 100)).body == b"two"
        assert server.connections == 2

    talk([ok(b"one"), CLOSE, ok(b"two")], test)


def test_a_question_that_may_wait_is_not_asked_twice() -> None:
    async def test(http: Http, server: Server) -> None:
        await http.get("/", HEADERS, 100)
        with pytest.raises(ConnectionResetError, match="closed without an answer"):
            await http.get("/", HEADERS, 100, again=False)
        assert len(server.requests) == 2

    talk([ok(b"one"), CLOSE, ok(b"two")], test)


def test_a_server_that_closes_new_connections_is_not_asked_for_ever() -> None:
    async def test(http: Http, server: Server) -> None:
        with pytest.raises(ConnectionResetError, match="closed without an answer"):
            await http.get("/", HEADERS, 100)
        assert server.connections == 1

    talk([CLOSE] * 10, test)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", h11.RemoteProtocolError, "illegal status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", h11.RemoteProtocolError, "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (70 << 10), h11.RemoteProtocolError, "Receive buffer too long"),
        (ok(b"x" * 101), TooLongError, "more than 100 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + b"x" * 255 + b"\r\n", TooLongError, "more than 100 bytes"),
    ],
)
def test_what_is_no_answer_is_an_error_and_its_connection_is_not_used_again(answer: bytes, error: type[Exception], words: str) -> None:
    async def test(http: Http, server: Server) -> None:
        with pytest.raises(error, match=words):
            await http.get("/", HEADERS, 100)
        assert (await http.get("/", HEADERS, 100)).body == b"good"
        assert server.connections == 2

    talk([answer, ok(b"good")], test)


def test_half_an_answer_is_a_broken_connection() -> None:
    async def test(http: Http, server: Server) -> None:
        with pytest.raises(ConnectionResetError, match="in the middle of an answer"):
            await http.get("/", HEADERS, 100)

    talk([Last(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhel")], test)


def test_a_question_that_is_given_up_takes_its_connection_along() -> None:
    async def test(http: Http, server: Server) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await http.get("/", HEADERS, 100)
        assert (await http.get("/", HEADERS, 100)).body == b"good"
        assert server.connections == 2

    talk([Held(ok(b"late")), ok(b"good")], test)


def test_more_questions_than_connections_wait_for_one() -> None:
    async def test(http: Http, server: Server) -> None:
        replies = await asyncio.gather(*(http.get("/", HEADERS, 100) for _ in range(20)))
        assert [reply.body for reply in replies] == [b"x"] * 20
        assert server.connections == 2

    talk([ok(b"x")] * 20, test)


def test_nobody_there_is_an_error_at_once() -> None:
    async def main() -> None:
        async with Server([]) as server:
            port = server.port
        await asyncio.sleep(0)
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await Http("127.0.0.1", port, None, 1).get("/", HEADERS, 100)

    run(main())


def test_closing_ends_what_is_idle_at_once_and_the_rest_when_it_is_answered() -> None:
    async def test(http: Http, server: Server) -> None:
        replies = await asyncio.gather(http.get("/", HEADERS, 100), http.get("/", HEADERS, 100))
        assert {reply.body for reply in replies} == {b"one", b"two"}
        waiting = asyncio.create_task(http.get("/", HEADERS, 100))
        await server.until(lambda: len(server.requests) == 3)
        http.close()
        await server.until(lambda: server.open == 1)
        server.release.set()
        assert (await waiting).body == b"late"
        await server.until(lambda: server.open == 0)

    talk([ok(b"one"), ok(b"two"), Held(ok(b"late"))], test)
