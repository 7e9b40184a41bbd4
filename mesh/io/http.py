"""A small HTTP/1.1 server for what the processes say of themselves: admin, metrics, readiness. Never for users' traffic.

Everything is bounded: connections, header and body size, what is held of requests and unread responses together, the time to send a
request (2 s, so that a slow or stuck peer costs little) and the time a kept-alive connection may idle or take to read what it asked for.
Where all connections are taken, the one that has waited longest for its client makes room: whoever holds them open does not keep out a
probe of the kubelet. `loopback_only` refuses requests whose Host is not this machine, so that
a web page cannot reach an admin port by rebinding a DNS name.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from mesh.io.log import Log

log = Log("http")

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
HTML = "text/html; charset=utf-8"
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


@dataclass(frozen=True, slots=True)
class Request:
    """`query` maps each parameter to its values, an empty one included; header names are lower-case."""

    method: str
    path: str
    query: Mapping[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    peer: str = ""

    def first(self, name: str) -> str | None:
        values = self.query.get(name)
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Response:
    status: int = 200
    body: bytes = b""
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Response | Awaitable[Response]]
Routes = Mapping[tuple[str, str], Handler]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Times in seconds, sizes in bytes."""

    connections: int = 64
    header_bytes: int = 16384
    body_bytes: int = 65536
    held_bytes: int = 64 << 20  # of all connections together; beyond that, who holds most is cut off
    read_timeout: float = 2.0
    idle_timeout: float = 30.0
    handler_timeout: float = 30.0


def text(body: str, status: int = 200) -> Response:
    return Response(status, body.encode())


def json_response(value: object, status: int = 200) -> Response:
    return Response(status, json.dumps(value, indent=2, default=str).encode() + b"\n", JSON)


def parse_address(address: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port` (every address). ValueError otherwise."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535 or (":" in host) != (host[:1] + host[-1:] == "[]"):
        raise ValueError(f"{address!r}: expected host:port, [ipv6]:port or :port")
    return host.strip("[]"), int(port)


def listen(address: str, backlog: int = 64) -> socket.socket:
    """A listening socket; `[::]` and an empty host take IPv4 too, and fall back to it where the machine has no IPv6."""
    host, port = parse_address(address)
    if host == "localhost":
        host = "127.0.0.1"
    any_host = host in ("", "::")
    family = socket.AF_INET6 if any_host or ":" in host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError:
        if not any_host:
            raise
        return listen(f"0.0.0.0:{port}", backlog)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if any_host:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host or "::", port))
        sock.listen(backlog)
    except OSError:
        sock.close()
        if any_host and not socket.has_dualstack_ipv6():
            return listen(f"0.0.0.0:{port}", backlog)
        raise
    return sock


class HttpServer:
    """`routes` maps (method, path) to a handler. GET also answers HEAD; a known path with another method is 405."""

    def __init__(
        self, routes: Routes, *, loopback_only: bool = False, limits: HttpLimits | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.routes = routes
        self.tls = tls
        self.loopback_only = loopback_only
        self.limits = limits or HttpLimits()
        self.connections: set[_Connection] = set()
        self._servers: list[asyncio.Server] = []

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [sock.getsockname()[:2] for server in self._servers for sock in server.sockets]

    async def start(self, address: str) -> None:
        """Listen on one more address. OSError where it is taken."""
        await self.serve(listen(address))

    async def serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        patience = self.limits.read_timeout if self.tls is not None else None
        server = await loop.create_server(lambda: _Connection(self), sock=sock, ssl=self.tls, ssl_handshake_timeout=patience)
        self._servers.append(server)

    async def close(self, grace: float = 1.0) -> None:
        """Stop listening at once, let requests in progress finish for `grace` seconds, then end all."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in list(self.connections):
            connection.finish()
        deadline = asyncio.get_running_loop().time() + grace
        while self.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.wait([connection.closed for connection in self.connections], timeout=grace)
        for connection in list(self.connections):
            connection.abort()

    def make_room(self) -> bool:
        """Whether one more connection may be taken, if need be in the place of one that waits for its client."""
        if len(self.connections) < self.limits.connections:
            return True
        idle = [connection for connection in self.connections if not connection.working]
        if idle:
            min(idle, key=lambda connection: connection.since).drop()
        return bool(idle)

    def relieve(self) -> None:
        """Cut off whoever holds most while all of them hold too much."""
        held = {connection: connection.held for connection in self.connections}
        while sum(held.values()) > self.limits.held_bytes:
            most = max(held, key=lambda connection: held[connection])
            log.warning("a connection is cut off: too much is held for it", peer=most.peer, bytes=held.pop(most))
            most.drop()

    async def answer(self, request: Request) -> Response:
        """What a request gets. Never raises: a handler's failure is a 500 and a logged traceback."""
        if self.loopback_only and not _is_loopback_host(request.headers.get("host", "")):
            return text("this port answers only to a loopback Host\n", 403)
        method = "GET" if request.method == "HEAD" else request.method
        handler = self.routes.get((method, request.path))
        if handler is None:
            allowed = sorted(known for known, path in self.routes if path == request.path)
            if not allowed:
                return text("not found\n", 404)
            return Response(405, b"method not allowed\n", headers=(("allow", ", ".join(allowed)),))
        try:
            result = handler(request)
            if inspect.isawaitable(result):
                return await asyncio.wait_for(_as_coroutine(result), self.limits.handler_timeout)
            return result
        except TimeoutError:
            return text("the handler took too long\n", 504)
        except Exception:
            log.exception("a handler failed", path=request.path)
            return text("internal error\n", 500)


class _Connection(asyncio.Protocol):
    """One client. At most one request is in work, and none while the response to the one before is not read; what comes meanwhile stays
    in h11, and no more is read then.
    """

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=server.limits.header_bytes)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._unread = False  # the transport holds much that the client does not take
        self._paused = False
        self.peer = ""
        self.since = self._loop.time()
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        if not self._server.make_room():
            transport.abort()
            return
        self._server.connections.add(self)
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else ""
        self._arm(self._server.limits.read_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._server.connections.discard(self)
        if self._task is not None:
            self._task.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._h11.receive_data(data)
        if self._busy:
            self._pause(True)
        else:
            self._advance()

    def pause_writing(self) -> None:
        self._unread = True

    def resume_writing(self) -> None:
        self._unread = False
        self._go_on()

    @property
    def working(self) -> bool:
        return self._task is not None

    @property
    def held(self) -> int:
        """Bytes of a request that is not whole yet, and of a response that is not read yet."""
        return len(self._body) + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def drop(self) -> None:
        self._server.connections.discard(self)
        self.abort()

    @property
    def _busy(self) -> bool:
        return self._task is not None or self._unread

    def _pause(self, pause: bool) -> None:
        if self._transport is None or pause == self._paused or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _go_on(self) -> None:
        if not self._busy:
            self._pause(False)
            self._advance()

    def eof_received(self) -> bool:
        self._h11.receive_data(b"")
        self._advance()
        return self._task is not None  # a request in work is still answered

    def finish(self) -> None:
        """Close as soon as no request is in work."""
        self._closing = True
        if self._task is None:
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _advance(self) -> None:
        while not self._busy:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint or 400)
                return
            if event is h11.NEED_DATA:
                if self._h11.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
                return
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                if isinstance(event, h11.ConnectionClosed) and self._transport is not None:
                    self._transport.close()
                return
            if isinstance(event, h11.Request):
                self._request = event
                self._body.clear()
                self._arm(self._server.limits.read_timeout)
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._server.limits.body_bytes:
                    self._refuse(413)
                    return
                self._server.relieve()
            elif isinstance(event, h11.EndOfMessage) and self._request is not None:
                self._disarm()
                try:
                    request = _request(self._request, bytes(self._body), self.peer)
                except ValueError:
                    self._refuse(400)
                    return
                self._task = self._loop.create_task(self._work(request))

    async def _work(self, request: Request) -> None:
        response = await self._server.answer(request)
        self._task = None
        self._body.clear()
        self._respond(response, request.method == "HEAD")

    def _respond(self, response: Response, head: bool) -> None:
        headers = [("content-type", response.content_type), ("content-length", str(len(response.body))), *response.headers]
        if self._closing:
            headers.append(("connection", "close"))
        self._send(h11.Response(status_code=response.status, headers=headers))
        if response.body and not head:
            self._send(h11.Data(data=response.body))
        self._send(h11.EndOfMessage())
        if self._h11.our_state is h11.MUST_CLOSE or self._closing:
            if self._transport is not None:
                self._transport.close()
            return
        self._h11.start_next_cycle()
        self._arm(self._server.limits.idle_timeout)
        self.since = self._loop.time()
        self._server.relieve()
        self._go_on()

    def _refuse(self, status: int) -> None:
        """Answer what could not be read as a request, and close."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [("content-length", "0"), ("connection", "close")]
            self._send(h11.Response(status_code=status, headers=headers))
            self._send(h11.EndOfMessage())
        if self._transport is not None:
            self._transport.close()

    def _send(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, self.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _request(raw: h11.Request, body: bytes, peer: str) -> Request:
    """ValueError for a target that is no URL or has too many parameters."""
    target = urlsplit(raw.target.decode("ascii", "replace"))
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in raw.headers}
    query = parse_qs(target.query, keep_blank_values=True, max_num_fields=64)
    return Request(raw.method.decode("ascii"), unquote(target.path), query, headers, body, peer)


def _is_loopback_host(host: str) -> bool:
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    return name.lower() in _LOOPBACK_HOSTS


async def _as_coroutine(value: Awaitable[Response]) -> Response:
    return await value
