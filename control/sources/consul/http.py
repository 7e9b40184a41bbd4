"""GET over kept-alive HTTP/1.1 connections to one server: asyncio and h11, as `mesh.io.http` is on the other side.

Why not httpx2, which a Kubernetes client brings along: a sweep over a thousand services is a thousand small answers, and cost 0.55 s of CPU
there, 0.4 s with the httpcore2 below it, and 0.1 s here. What it does beyond this (redirects, proxies, cookies, HTTP/2) is not wanted.

    http = Http("127.0.0.1", 8500, None, connections=11)
    reply = await http.get("/v1/catalog/services", {"user-agent": "…"}, most=1 << 20)
    http.close()
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import h11

MAX_HEAD = 64 << 10
CONNECT = 5.0
CHUNK = 64 << 10
# A peer that is gone without a word is noticed after 15 + 3 x 5 seconds, also while it may take its time to answer.
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class TooLongError(Exception):
    """The answer is longer than the caller can take."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http:
    """`connections`: how many there may be; more questions than that wait for one. Without `context`, no TLS."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, connections: int, server_name: str = "") -> None:
        self._host = host
        self._port = port
        self._context = context
        self._server_name = (server_name or host) if context is not None else None
        self._free = asyncio.Semaphore(connections)
        self._idle: list[_Connection] = []
        self._closed = False
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def get(self, target: str, headers: Mapping[str, str], most: int, *, again: bool = True) -> Reply:
        """OSError where no connection is to be had, or it breaks; h11.RemoteProtocolError for what is no HTTP; TooLongError.

        A server may close an idle connection just when it is used again, and the question is then asked over another one. `again` False:
        it is not, for a question whose answer takes its time, since then the server may have gone in the middle of it, and be another one.
        """
        async with self._free:
            while True:
                idle = bool(self._idle)
                connection = self._idle.pop() if idle else await self._connect()
                try:
                    return await self._ask(connection, target, headers, most)
                except _UnansweredError as error:
                    if not (idle and again):
                        raise ConnectionResetError("the connection was closed without an answer") from error

    def close(self) -> None:
        """Idle connections at once, the others when their question is answered."""
        self._closed = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connect(self) -> _Connection:
        # What asyncio buffers beyond this it leaves to the kernel, and so to the sender.
        async with asyncio.timeout(CONNECT):
            reader, writer = await asyncio.open_connection(
                self._host, self._port, ssl=self._context, server_hostname=self._server_name, limit=CHUNK
            )
        sock = writer.get_extra_info("socket")
        for option in KEEPALIVE:
            sock.setsockopt(*option)
        return _Connection(reader, writer)

    async def _ask(self, connection: _Connection, target: str, headers: Mapping[str, str], most: int) -> Reply:
        try:
            reply = await connection.get(target, {"host": self._authority, **headers}, most)
        except BaseException:
            connection.close()  # also when cancelled: what would come is an answer to somebody else's question
            raise
        if connection.reusable and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()
        return reply


class _UnansweredError(Exception):
    """Closed before the first byte of an answer."""


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self.reusable = False

    async def get(self, target: str, headers: Mapping[str, str], most: int) -> Reply:
        self._send(h11.Request(method="GET", target=target, headers=list(headers.items())))
        self._send(h11.EndOfMessage())
        self._h11.receive_data(await self._begin())
        response: h11.Response | None = None
        parts: list[bytes] = []
        size = 0
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                size += len(event.data)
                if size > most:
                    raise TooLongError(f"an answer of more than {most} bytes")
            elif isinstance(event, h11.EndOfMessage):
                break
        assert response is not None  # h11 sees to the order
        self.reusable = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        if self.reusable:
            self._h11.start_next_cycle()
        found = {name.decode("ascii"): value.decode("latin-1") for name, value in response.headers}
        return Reply(response.status_code, found, b"".join(parts))

    def close(self) -> None:
        self._writer.transport.abort()

    def _send(self, event: h11.Request | h11.EndOfMessage) -> None:
        data = self._h11.send(event)
        if data:
            self._writer.write(data)

    async def _begin(self) -> bytes:
        """The first bytes of the answer."""
        try:
            data = await self._reader.read(CHUNK)
        except ConnectionError as error:
            raise _UnansweredError from error
        if not data:
            raise _UnansweredError
        return data

    async def _next(self) -> h11.Event:
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                assert not isinstance(event, type)  # PAUSED comes only after the end
                return event
            data = await self._reader.read(CHUNK)
            self._h11.receive_data(data)
            if not data:
                try:
                    event = self._h11.next_event()  # the end, of an answer that says so by closing
                except h11.RemoteProtocolError as error:
                    raise ConnectionResetError("the connection was closed in the middle of an answer") from error
                assert not isinstance(event, type)
                return event
