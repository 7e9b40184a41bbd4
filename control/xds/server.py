"""The aggregated discovery service: one stream per client, any of our types on it. Only nodes that prove themselves by token get one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2

from control.metrics import Metrics
from control.tokens import NodeTokens
from control.xds.resources import Resources
from control.xds.session import TypeSession, Update
from mesh.io.log import Log

log = Log("xds")

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
MAX_CLIENTS = 5000


@dataclass(slots=True, eq=False)
class Client:
    """One stream, as /debug/sync shows it. Clients are told apart by being themselves."""

    node: str
    peer: str
    id: str = ""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    sessions: dict[str, TypeSession] = field(default_factory=dict)


class DiscoveryService:
    def __init__(self, resources: Resources, tokens: NodeTokens, metrics: Metrics, ready: Callable[[], bool]) -> None:
        """`ready`: whether the sources have been read; before that a client is told nothing, rather than that there is nothing."""
        self.clients: set[Client] = set()
        self._resources = resources
        self._tokens = tokens
        self._metrics = metrics
        self._ready = ready

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        method = grpc.stream_stream_rpc_method_handler(
            self.stream,
            request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
            response_serializer=discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": method})

    async def stream(
        self, requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        node = self._tokens.node_of(context.invocation_metadata())  # type: ignore[arg-type]
        if node is None:
            self._metrics.refused_clients.inc()
            log.warning("xDS stream refused: no token, or none of a node", peer=context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a node's bearer token is required")
        if len(self.clients) >= MAX_CLIENTS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_CLIENTS} clients are connected")
        if not self._ready():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the sources are still being read")
        assert node is not None
        client = Client(node, context.peer())
        self.clients.add(client)
        self._metrics.clients.set(len(self.clients))
        log.info("xDS client connected", node=node, peer=client.peer)
        try:
            async for response in self._serve(client, requests, context):
                yield response
        finally:
            self.clients.discard(client)
            self._metrics.clients.set(len(self.clients))
            log.info("xDS client gone", node=node, peer=client.peer)

    async def _serve(
        self, client: Client, requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        iterator = aiter(requests)
        incoming: asyncio.Task[discovery_pb2.DeltaDiscoveryRequest] | None = None
        waiting: asyncio.Task[bool] | None = None
        try:
            while True:
                changed = self._resources.next_change()
                for session in client.sessions.values():
                    update = session.next_update(self._resources.types[session.type_url])
                    if update is not None:
                        self._metrics.pushes.labels(session.type_url.rpartition(".")[2].lower()).inc()
                        yield response_of(session.type_url, update)
                incoming = incoming or asyncio.ensure_future(anext(iterator))
                waiting = asyncio.ensure_future(changed.wait())
                await asyncio.wait({incoming, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if incoming.done():
                    try:
                        request = incoming.result()
                    except StopAsyncIteration:
                        return
                    incoming = None
                    await self._take(client, request, context)
        finally:
            for task in (incoming, waiting):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, grpc.RpcError):
                        await task

    async def _take(
        self, client: Client, request: discovery_pb2.DeltaDiscoveryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        if request.HasField("node") and request.node.id:
            client.id = request.node.id
        session = client.sessions.get(request.type_url)
        if session is None:
            if request.type_url not in self._resources.types:
                # Answering with nothing would look like a mesh without such resources.
                served = ", ".join(self._resources.types)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{request.type_url!r} is not served; served are {served}")
            session = client.sessions[request.type_url] = TypeSession(request.type_url)
        error = request.error_detail.message if request.HasField("error_detail") else None
        try:
            rejected = session.on_request(
                request.resource_names_subscribe,
                request.resource_names_unsubscribe,
                request.initial_resource_versions,
                request.response_nonce,
                error,
            )
        except ValueError as fault:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(fault))
        if rejected:
            self._metrics.rejects.inc()
            log.error("a client rejected what it was sent", node=client.node, type=request.type_url, error=(error or "")[:2000])


def response_of(type_url: str, update: Update) -> discovery_pb2.DeltaDiscoveryResponse:
    response = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce=update.nonce, removed_resources=update.removed)
    for item in update.resources:
        resource = response.resources.add(name=item.name, version=item.version, aliases=update.aliases.get(item.name, ()))
        resource.resource.type_url = type_url
        resource.resource.value = item.body
    return response
