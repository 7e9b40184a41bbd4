"""Aggregated discovery over gRPC, both variants: one `Stream` per client, over the store that it is served from.

Two tasks per client: one reads requests, one writes what is due. The writer waits for gRPC's flow control and for the client's answer, so
that a slow client holds one response per type and no more; one that does not answer for UNANSWERED seconds is cut off and may come again.
Large responses wait for their turn (`Budget`), so that many clients that come at once do not need memory for all of them at once.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2

from control.auth import Authenticator, Caller, TooManyAsk
from control.auth.places import NoPlace, Places
from control.metrics import Metrics
from control.xds.budget import Budget
from control.xds.clients import ANONYMOUS, Client, Clients, Hello, Opens
from control.xds.messages import Exhausted, Refusal, Request, Response
from control.xds.stream import Stream
from mesh.io.log import Log
from mesh.model.workload import Locality

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
UNANSWERED = 60.0
MAX_STREAMS, KEPT_FOR_TUNNELS = 1024, 512
MAX_NAME = 4096  # characters of a resource's name
MAX_SAID = 1000  # characters of what a client said, in a log line or an answer
SENDING = 24 << 20  # bytes of responses on their way at a time
SMALL = 64 << 10  # bytes; a response up to this size waits for nobody

log = Log("xds")


class XdsServer:
    """The aggregated discovery service. `publish` lets every client know of changes to a store, and `told` tells when all do."""

    def __init__(self, authenticator: Authenticator, opens: Opens, metrics: Metrics) -> None:
        self.clients = Clients(metrics.behind)
        self.publish = self.clients.publish
        self.told = self.clients.told
        self.places = Places(MAX_STREAMS, KEPT_FOR_TUNNELS)
        self._authenticator = authenticator
        self._opens = opens
        self._metrics = metrics
        self._numbers = itertools.count(1)
        self._budget = Budget(SENDING)

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        delta = grpc.stream_stream_rpc_method_handler(
            self._delta,
            request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
        )
        whole = grpc.stream_stream_rpc_method_handler(
            self._whole,
            request_deserializer=discovery_pb2.DiscoveryRequest.FromString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": delta, "StreamAggregatedResources": whole})

    async def _delta(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await self._serve(requests, context, delta=True)

    async def _whole(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await self._serve(requests, context, delta=False)

    async def _serve(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any], *, delta: bool) -> None:
        try:
            caller = await self._authenticator.authenticate(context.invocation_metadata())  # type: ignore[arg-type]
        except TooManyAsk as full:
            await self._cut_off(ANONYMOUS, context, Exhausted("callers", str(full)))
        if caller is None and not _over_tls(context) and not _has_token(context):
            caller = ANONYMOUS
        if caller is None:
            log.warning("an xDS stream was refused: no token, or one that proves nothing", peer=context.peer())
            self._metrics.refused_clients.inc()
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid bearer token is required")
        assert caller is not None
        try:
            self.places.take(caller)
        except NoPlace as full:
            await self._cut_off(caller, context, Exhausted(full.bound, str(full)))
        loop = asyncio.get_running_loop()
        client = Client(next(self._numbers), caller, context.peer(), loop.time())
        self.clients[client.number] = client
        self._metrics.clients.set(len(self.clients))
        log.info("connected", caller=str(caller), peer=client.peer)
        reader = loop.create_task(self._read(client, requests, delta=delta))
        writer = loop.create_task(self._write(client, context, delta=delta))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            ended = reader if reader.done() else writer
            ended.result()
        except Refusal as refusal:
            await self._cut_off(caller, context, refusal)
        except TimeoutError:
            self._metrics.cut_off.labels("unanswered").inc()
            log.warning("a client does not answer", caller=str(caller), seconds=UNANSWERED)
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer to a response for {UNANSWERED:.0f} s")
        finally:
            # First: gRPC may cancel a call twice, and the second time ends what is awaited here.
            reader.cancel()
            writer.cancel()
            self.clients.pop(client.number, None)
            self.places.give_back(caller)
            if client.view is not None:
                client.view.close()
            self._metrics.clients.set(len(self.clients))
            log.info("disconnected", caller=str(caller), peer=client.peer)
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _cut_off(self, caller: Caller, context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> None:
        """End a stream whose client broke the protocol, or for which there is no room."""
        full = isinstance(refusal, Exhausted)
        self._metrics.cut_off.labels(refusal.bound if isinstance(refusal, Exhausted) else "protocol").inc()
        why = str(refusal)[:MAX_SAID]
        log.warning("no room for a client" if full else "a client broke the protocol", caller=str(caller), error=why)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.INVALID_ARGUMENT, why)

    async def _read(self, client: Client, requests: AsyncIterator[Any], *, delta: bool) -> None:
        loop = asyncio.get_running_loop()
        async for message in requests:
            if client.stream is None:
                await self._open(client, message, delta=delta)
            assert client.stream is not None
            assert client.view is not None
            request = _request(message) if delta else _whole_request(message)
            client.catch_up()
            state = client.stream.states.get(request.type_url)
            waited = state is not None and request.nonce and request.nonce in (state.outstanding, *state.passed)
            client.stream.receive(request, loop.time())
            state = client.stream.states[request.type_url]
            client.view.want(request.type_url, state.keys)
            if waited and not request.error:
                client.view.accepted(request.type_url, state.acked, state.held)
            if waited and request.type_url in client.sent:
                self._metrics.convergence.observe(loop.time() - client.sent[request.type_url][1])
            if request.error and waited:
                self._metrics.reject(request.type_url)
                log.warning("a client rejected resources", client=client.id, type=short(request.type_url), error=request.error[:MAX_SAID])
            client.wake.set()

    async def _open(self, client: Client, message: Any, *, delta: bool) -> None:
        node = message.node
        client.id = node.id[:256]
        metadata = _metadata(node)
        claimed = metadata.get("NODE_NAME", "")
        if claimed and client.caller.node and claimed != client.caller.node:
            # A client may call itself what it likes, but not another node.
            raise Refusal(f"metadata NODE_NAME is {claimed!r}, but the token is another node's")
        place = Locality(node.locality.region, node.locality.zone, node.locality.sub_zone)
        agent = node.user_agent_name[:64]
        client.view = await self._opens(Hello(client.caller, client.id, metadata, agent, message.type_url, delta, place))
        client.stream = Stream(client.view.store, client.view.rules, client.number, client.since)

    async def _write(self, client: Client, context: grpc.aio.ServicerContext[Any, Any], *, delta: bool) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client.wake.clear()
            client.catch_up()
            if client.broken is not None:
                raise client.broken
            limit: float | None = client.since + UNANSWERED  # for the first request
            look = None
            if client.stream is not None:
                for response in client.stream.next_responses(loop.time()):
                    await self._send(client, context, response, delta=delta)
                oldest = client.stream.oldest_wait()
                limit = None if oldest is None else oldest + UNANSWERED
                look = client.stream.waits_until(loop.time())
            try:
                async with asyncio.timeout_at(min((when for when in (limit, look) if when is not None), default=None)):
                    await client.wake.wait()
            except TimeoutError:
                if limit is not None and loop.time() >= limit:
                    raise

    async def _send(self, client: Client, context: grpc.aio.ServicerContext[Any, Any], response: Response, *, delta: bool) -> None:
        begun = time.monotonic()
        data = encode(response, delta=delta)
        async with asyncio.timeout(UNANSWERED):
            if len(data) <= SMALL:
                await context.write(data)
            else:
                async with self._budget.take(len(data)):
                    await context.write(data)
        loop = asyncio.get_running_loop()
        client.sent[response.type_url] = (len(data), loop.time())
        self._metrics.push(response.type_url, len(data), time.monotonic() - begun)

    def debug(self) -> list[dict[str, Any]]:
        """What each client has and has said, for /debug/sync."""
        now = asyncio.get_running_loop().time()
        return [
            {
                "client": str(client.caller),
                "node": client.caller.node,
                "id": client.id,
                "kind": client.view.kind if client.view is not None else "",
                "peer": client.peer,
                "connected_seconds": round(now - client.since, 3),
                "number": client.view.store.number if client.view is not None else 0,
                "types": _types(client.stream, now) if client.stream is not None else {},
            }
            for client in self.clients.values()
        ]


def _over_tls(context: grpc.aio.ServicerContext[Any, Any]) -> bool:
    return b"ssl" in context.auth_context().get("transport_security_type", ())


def _has_token(context: grpc.aio.ServicerContext[Any, Any]) -> bool:
    """A bad token is an error, not as good as none."""
    return any(key == "authorization" for key, _ in context.invocation_metadata() or ())


def encode(response: Response, *, delta: bool) -> bytes:
    """The response on the wire: its own few fields, then the resources, whose bytes are shared with other clients' responses."""
    if not delta:
        head = discovery_pb2.DiscoveryResponse(version_info=response.version, type_url=response.type_url, nonce=response.nonce)
        return b"".join((head.SerializeToString(), response.bundle.state_of_the_world()))
    first = discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=response.version,
        type_url=response.type_url,
        nonce=response.nonce,
        removed_resources=response.removed,
    )
    if response.aliases:
        body = b"".join([entry.delta(response.aliases.get(entry.name, ())) for entry in response.bundle.entries])
    else:
        body = response.bundle.delta()
    return b"".join((first.SerializeToString(), body))


def _types(stream: Stream, now: float) -> dict[str, Any]:
    return {
        type_url: {
            "wildcard": state.wildcard,
            "names": len(state.keys),
            "resources": stream.size(type_url),
            "sent": state.covers,
            "answered": state.answered,
            "accepted": state.acked,
            "synced": stream.synced(type_url),
            "behind": len(state.noted),
            "waiting_seconds": round(now - state.since, 3) if state.outstanding else None,
            "nacks": state.nacks,
            "error": state.error or None,
        }
        for type_url, state in stream.states.items()
    }


def _request(message: Any) -> Request:
    return Request(
        message.type_url,
        message.response_nonce,
        _names(message.resource_names_subscribe),
        tuple(message.resource_names_unsubscribe),
        dict(message.initial_resource_versions),
        _error_text(message),
    )


def _whole_request(message: Any) -> Request:
    return Request(message.type_url, message.response_nonce, _names(message.resource_names), error=_error_text(message))


def _names(asked: Iterable[str]) -> tuple[str, ...]:
    """Refusal for one that is longer than any of ours: names are kept, and a message may hold many megabytes of them."""
    names = tuple(asked)
    if any(len(name) > MAX_NAME for name in names):
        raise Refusal(f"a resource's name of more than {MAX_NAME} characters")
    return names


def _metadata(node: Any) -> dict[str, Any]:
    """The strings of the node's metadata, as many as anybody needs."""
    fields = itertools.islice(node.metadata.fields.items(), 256)
    return {key: value.string_value for key, value in fields if value.WhichOneof("kind") == "string_value"}


def _error_text(message: Any) -> str:
    if not message.HasField("error_detail"):
        return ""
    return str(message.error_detail.message) or f"code {message.error_detail.code}"


def short(type_url: str) -> str:
    """The message's own name, as metrics and logs say it."""
    return type_url.rpartition(".")[2]
