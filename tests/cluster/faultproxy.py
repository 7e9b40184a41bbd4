"""A reverse proxy in front of a real API server that misbehaves on request.

    with FaultProxy(server.url, server.ca, tls=server.pki.server("proxy", ["127.0.0.1"])) as proxy:
        kubeconfig = server.admin_kubeconfig(proxy.url)
        pods = call("LIST", "/api/v1/pods")
        proxy.inject(too_many(retry_after=1), when=pods, times=2)
        proxy.wait_for_calls(3, pods)
        proxy.cut(call("WATCH"))

How it works. It runs on a thread and a loop of its own, so that tests with and without a loop use it alike. A request is read whole, then
the first rule that it meets decides its fate; without one it goes to the server on a connection of its own. Answers are passed on as their
bytes arrive: a watch event is never held back. Credentials pass through, so clients come with tokens, not with certificates.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import h11

from tests.cluster import ports
from tests.cluster.faults import Answer, Call, Cut, Delay, Fault, Rule, Silence, Stale, When

READ = 65536  # bytes
MAX_HEADERS = 256 * 1024  # bytes: selectors travel in the request's target
PATIENCE = 15.0  # seconds
JSON = [("Content-Type", "application/json")]

T = TypeVar("T")


class FaultProxy:
    """`tls`: (certificate, key) to serve with; None is plaintext."""

    def __init__(self, upstream: str, ca: Path, tls: tuple[Path, Path] | None = None) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self._upstream_tls = ssl.create_default_context(cafile=str(ca))
        self._tls: ssl.SSLContext | None = None
        if tls is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*tls)
        self._port = ports.take()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._port.number}"
        self.calls: list[Call] = []
        self._rules: list[Rule] = []
        self._running: dict[asyncio.Task[None], Call | None] = {}
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._refusing = False

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._port.release()

    # What a test says

    def inject(self, fault: Fault, when: When, times: int | None = None) -> Rule:
        """From now on; rules that were injected earlier come first."""
        rule = Rule(fault, when, times)
        self._rules.append(rule)
        return rule

    def clear(self) -> None:
        self._rules.clear()

    def cut(self, when: When = lambda _: True) -> int:
        """Reset the connections of requests that are being answered now; how many there were."""

        async def cut() -> int:
            return await _cancel([task for task, seen in self._running.items() if seen is not None and when(seen)])

        return self._run(cut())

    def refuse(self) -> None:
        """Nobody listens any more, and every connection is reset."""

        async def refuse() -> None:
            server, self._server = self._server, None
            if server is not None:
                server.close()
            await _cancel(list(self._running))

        self._refusing = True
        self._run(refuse())

    def accept(self) -> None:
        """Listen again, on the same port."""

        async def accept() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port.number, ssl=self._tls)

        self._refusing = False
        self._run(accept())

    def count(self, when: When) -> int:
        return sum(1 for seen in list(self.calls) if when(seen))

    def wait_for_calls(self, least: int, when: When, seconds: float = PATIENCE) -> None:
        """Until so many matching requests were seen since the beginning. It blocks: from a loop, call it in a thread."""
        with self._changed:
            met = self._changed.wait_for(lambda: self.count(when) >= least, seconds)
        assert met, f"waited {seconds:g} s for {least} calls, saw {self.count(when)} of {len(self.calls)} in all"

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    # What it does for a client

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._refusing:  # it was in its TLS handshake when we ceased to listen
            writer.transport.abort()
            return
        self._running[task] = None
        client = _Side(h11.Connection(h11.SERVER, MAX_HEADERS), reader, writer)
        try:
            while message := [event async for event in client.events()]:
                request, body = message[0], b"".join(bytes(event.data) for event in message if isinstance(event, h11.Data))
                assert isinstance(request, h11.Request)
                seen = self._running[task] = Call.of(request)
                with self._changed:
                    self.calls.append(seen)
                    self._changed.notify_all()
                if not await self._answer(client, seen, request, body) or not client.next():
                    break
                self._running[task] = None
        except (OSError, h11.ProtocolError, asyncio.CancelledError):
            pass  # the client or the server went away, or a test said so: either way the connection is reset below
        finally:
            del self._running[task]
            writer.transport.abort()

    async def _answer(self, client: _Side, seen: Call, request: h11.Request, body: bytes) -> bool:
        """False if the connection has to be reset."""
        rule = next((rule for rule in list(self._rules) if rule.meets(seen)), None)
        match rule.fault if rule else None:
            case Answer(code, content, headers):
                fields = [*JSON, ("Content-Length", str(len(content))), *headers]
                await client.send(h11.Response(status_code=code, headers=fields), h11.Data(content), h11.EndOfMessage())
                return True
            case Silence():
                await client.send(h11.Response(status_code=200, headers=[*JSON, ("Transfer-Encoding", "chunked")]))
                await client.closed()
                return False
            case Delay(seconds):
                await asyncio.sleep(seconds)
            case Stale() if rule and request.target in rule.kept:
                response, content = rule.kept[request.target]
                await client.send(response, h11.Data(content), h11.EndOfMessage())
                return True
        return await self._forward(client, rule, request, body)

    async def _forward(self, client: _Side, rule: Rule | None, request: h11.Request, body: bytes) -> bool:
        reader, writer = await asyncio.open_connection(*self._upstream, ssl=self._upstream_tls)
        server = _Side(h11.Connection(h11.CLIENT, MAX_HEADERS), reader, writer)
        copy = asyncio.create_task(self._copy(server, client, rule, request, body))
        closed = asyncio.create_task(client.closed())
        try:
            await asyncio.wait({copy, closed}, return_when=asyncio.FIRST_COMPLETED)
            return copy.done() and copy.result()
        finally:
            writer.transport.abort()  # before anything is awaited: a test may cancel us here, too
            await _cancel([copy, closed])

    async def _copy(self, server: _Side, client: _Side, rule: Rule | None, request: h11.Request, body: bytes) -> bool:
        fields = [(name, value) for name, value in request.headers if name not in (b"connection", b"transfer-encoding", b"content-length")]
        fields += [(b"connection", b"close"), (b"content-length", str(len(body)).encode())]
        await server.send(h11.Request(method=request.method, target=request.target, headers=fields), h11.Data(body), h11.EndOfMessage())
        cut = rule.fault if rule and isinstance(rule.fault, Cut) else None
        kept = bytearray() if rule and isinstance(rule.fault, Stale) else None
        response: h11.Response | None = None
        lines = size = 0
        async for event in server.events():
            data = b""
            if isinstance(event, h11.Response):
                fields = [(name, value) for name, value in event.headers if name != b"connection"]
                response = h11.Response(status_code=event.status_code, headers=fields, reason=event.reason)
                await client.send(response)
            elif isinstance(event, h11.Data):
                data = bytes(event.data)
            if cut and (end := cut.keep(lines, size, data)) is not None:
                await client.send(h11.Data(data[:end]))
                return False
            lines, size = lines + data.count(b"\n"), size + len(data)
            if data:
                await client.send(h11.Data(data))
                if kept is not None:
                    kept += data
        if rule and kept is not None and response is not None:
            rule.kept[request.target] = response, bytes(kept)
        await client.send(h11.EndOfMessage())
        return True


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> int:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return len(tasks)


class _Side:
    """One connection: its h11 state and its streams."""

    def __init__(self, state: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._state = state
        self._reader, self._writer = reader, writer

    async def send(self, *events: h11.Event) -> None:
        for event in events:
            self._writer.write(self._state.send(event) or b"")
        await self._writer.drain()

    async def events(self) -> AsyncIterator[h11.Event]:
        """Those of one message, EndOfMessage the last; none if the other side closed before it began. ProtocolError if it closes within."""
        while True:
            event = self._state.next_event()
            if event is h11.NEED_DATA:
                self._state.receive_data(await self._reader.read(READ))
            elif isinstance(event, h11.ConnectionClosed):
                return
            elif isinstance(event, h11.Event) and not isinstance(event, h11.InformationalResponse):
                yield event
                if isinstance(event, h11.EndOfMessage):
                    return

    async def closed(self) -> None:
        """Until the other side closes, while it is our turn to speak."""
        while data := await self._reader.read(READ):
            self._state.receive_data(data)

    def next(self) -> bool:
        """Ready for another message; False if this connection may not have one."""
        if self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE:
            return False
        self._state.start_next_cycle()
        return True
