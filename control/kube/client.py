"""One API server's client: lightkube's configuration, credentials, HTTP client and typed verbs, with one way for things to go wrong.

    api = Api(Access())                                        # ConfigError where there is nothing to connect with
    answer = await api.call("list", "pods", "/api/v1/pods", query={"limit": "500"})
    async with api.stream("watch", "pods", path, query=…, silence=100) as chunks: …
    review = await api.typed("create", "tokenreviews.authentication.k8s.io", lambda client: client.create(TokenReview(…)))

`verb` and `resource` are RBAC's words, and are what a `Forbidden` names. Every wait has a bound. A 401 makes the client read
its credentials anew (token files are read again by lightkube at once, before it gives up), and so does a server certificate that our CA
did not sign: both rotate under a running process.
"""

from __future__ import annotations

import asyncio
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import msgspec
from lightkube import AsyncClient
from lightkube.config.client_adapter import user_auth, verify_cluster
from lightkube.config.kubeconfig import SingleConfig
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

from control.kube.access import Access
from control.kube.errors import TooLong, Unauthorized, Unreachable, failure, is_certificate_failure, read_status, translated
from mesh.io.log import Log
from mesh.model.errors import ConfigError, Refusal

log = Log("kube")

METHODS = {"get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}
JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
CONNECT = 5.0
PATIENCE = 15.0
"""Seconds for one answer, whole."""
MOST = 16 << 20
"""Bytes of one answer, unless the caller says otherwise."""
RELOAD_PAUSE = 10.0
SETTLE = 1.0
"""Seconds at the end for requests that nobody waits for any more."""
FIELD_MANAGER = "culvert.dev/control"

T = TypeVar("T")

# A peer that is gone without a word is noticed after 15 + 3 x 5 seconds, also while nothing is asked of it.
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Api:
    """`transport` replaces the network, for tests. Used from one event loop."""

    def __init__(self, access: Access, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._access = access
        self._transport: Any = transport
        self._reloading = False
        self._reload_from = 0.0
        self._strays: set[asyncio.Task[Any]] = set()
        config = access.load()
        self.server = config.cluster.server
        self.namespace = config.namespace
        self._http, self._typed = self._connect(config)

    async def call(
        self,
        verb: str,
        resource: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
        most: int = MOST,
    ) -> Answer:
        """One request, its answer read whole, and good (2xx or 304). KubeError for anything else; Garbled for more than `most` bytes."""
        async with self._asking(verb, resource):
            request = self._http.build_request(METHODS[verb], path, params=query, content=body, headers=headers, timeout=patience)
            async with asyncio.timeout(patience):
                response = await self._send(request)
                try:
                    content = await _content(response, most)
                finally:
                    await response.aclose()
            if response.status_code >= 300 and response.status_code != 304:
                raise failure(read_status(content, response.status_code), response.headers, verb, resource)
            return Answer(response.status_code, response.headers, content)

    @asynccontextmanager
    async def stream(
        self, verb: str, resource: str, path: str, *, query: Mapping[str, str], silence: float, patience: float = PATIENCE
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A response as it comes. `patience`: seconds until it begins; `silence`: the longest in which nothing comes. Errors as above."""
        times = httpx2.Timeout(patience, connect=CONNECT, read=silence)
        async with self._asking(verb, resource):
            request = self._http.build_request(METHODS[verb], path, params=query, timeout=times)
            async with asyncio.timeout(patience):
                response = await self._send(request)
        try:
            if response.status_code >= 300:
                async with self._asking(verb, resource):
                    async with asyncio.timeout(patience):
                        content = await _content(response, MOST)
                    raise failure(read_status(content, response.status_code), response.headers, verb, resource)
            yield _chunks(response, verb, resource)
        finally:
            await response.aclose()

    async def typed(self, verb: str, resource: str, ask: Callable[[AsyncClient], Coroutine[Any, Any, T]], patience: float = PATIENCE) -> T:
        """One request by lightkube's client. Errors as above."""
        async with self._asking(verb, resource), asyncio.timeout(patience):
            return await self._whole(ask(self._typed))

    async def close(self) -> None:
        await self._settle()
        await self._http.aclose()
        await self._typed.close()

    # Requests that are cancelled

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        return await self._whole(self._http.send(request, stream=True))

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Await it; a cancellation leaves it to its own end, which its timeouts bound. A connection that is cancelled while it is made
        would stay open: the libraries below forget it.
        """
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._strays.add(task)
            task.add_done_callback(self._forget)
            raise

    def _forget(self, task: asyncio.Task[Any]) -> None:
        """Nobody waits for it any more: what it brought is thrown away."""
        self._strays.discard(task)
        if not task.cancelled() and task.exception() is None and isinstance(response := task.result(), httpx2.Response):
            closing = asyncio.ensure_future(response.aclose())
            self._strays.add(closing)
            closing.add_done_callback(self._strays.discard)

    async def _settle(self) -> None:
        """Give strays a moment, then end them."""
        strays = set(self._strays)
        if strays:
            _, late = await asyncio.wait(strays, timeout=SETTLE)
            for task in late:
                task.cancel()

    @asynccontextmanager
    async def _asking(self, verb: str, resource: str) -> AsyncIterator[None]:
        try:
            with translated(verb, resource):
                yield
        except Unauthorized:
            await self.reload()
            raise
        except Unreachable as error:
            if is_certificate_failure(error):
                await self.reload()
            raise

    async def reload(self) -> None:
        """Read the configuration again and connect anew with it; at most once in RELOAD_PAUSE. What cannot be used changes nothing."""
        now = time.monotonic()
        if self._reloading or now < self._reload_from:
            return
        self._reload_from = now + RELOAD_PAUSE
        self._reloading = True
        try:
            config = await asyncio.to_thread(self._access.load)
            http, typed = self._connect(config)
        except ConfigError as error:
            log.error("credentials cannot be read anew: the old ones stay", error=str(error))
            return
        finally:
            self._reloading = False
        old_http, old_typed = self._http, self._typed
        self.server, self._http, self._typed = config.cluster.server, http, typed
        log.info("credentials read anew", server=self.server)
        # What is under way over the old connections fails, and is asked again over the new ones.
        await old_http.aclose()
        await old_typed.close()

    def _connect(self, config: SingleConfig) -> tuple[httpx2.AsyncClient, AsyncClient]:
        """Both clients, each with connections of its own."""
        times = httpx2.Timeout(PATIENCE, connect=CONNECT)
        # Compressing costs the API server more than the bytes cost the network of its own cluster.
        headers = {"User-Agent": "culvert-control", "Accept-Encoding": "identity"}
        try:
            one, two = (self._transport or _transport(config) for _ in range(2))
            auth = user_auth(config.user)
            http = httpx2.AsyncClient(
                base_url=config.cluster.server, auth=auth, transport=one, timeout=times, headers=headers, trust_env=False
            )
            typed = AsyncClient(config, timeout=times, trust_env=False, transport=_Stated(two), field_manager=FIELD_MANAGER)
        except (LightkubeConfigError, OSError, ValueError) as error:  # ssl.SSLError is an OSError
            # The library's frames hold open the files that it made of what it was given, until somebody collects them.
            traceback.clear_frames(error.__traceback__)
            refusal = Refusal(str(config.fname or ""), "", "", f"what cannot be used ({error})", "a server, a CA and credentials")
            raise ConfigError(refusal) from error
        return http, typed


class _Stated(httpx2.AsyncBaseTransport):
    """Every failure as an API server states it. lightkube's client takes for granted that it is one's, and fails itself (KeyError) at what
    something in between says without a Content-Type.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["Accept-Encoding"] = "identity"  # as of `call`
        response: httpx2.Response = await self._inner.handle_async_request(request)
        if response.status_code < 300:
            return response
        try:
            status = read_status(await _content(response, MOST), response.status_code)
        finally:
            await response.aclose()
        headers = {"Content-Type": JSON} | {name: value for name, value in response.headers.items() if name == "retry-after"}
        return httpx2.Response(response.status_code, headers=headers, content=msgspec.json.encode(status))

    async def aclose(self) -> None:
        await self._inner.aclose()


def _transport(config: SingleConfig) -> Any:
    """One connection for each watch, and some for the rest. (Any: lightkube's types name transports of synchronous clients only.)"""
    assert config.user is not None  # Access sees to it
    verify = verify_cluster(config.cluster, config.user, config.abs_file, trust_env=False)
    limits = httpx2.Limits(max_connections=200, max_keepalive_connections=20)
    return httpx2.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits, socket_options=KEEPALIVE)


async def _content(response: httpx2.Response, most: int) -> bytes:
    parts, size = [], 0
    async for chunk in response.aiter_raw():
        parts.append(chunk)
        size += len(chunk)
        if size > most:
            raise TooLong(f"an answer of more than {most} bytes")
    return b"".join(parts)


async def _chunks(response: httpx2.Response, verb: str, resource: str) -> AsyncIterator[bytes]:
    with translated(verb, resource):
        async for chunk in response.aiter_raw():
            yield chunk
