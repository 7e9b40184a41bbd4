"""Delta xDS over gRPC: one `DeltaStream` per client, all fed by the newest snapshot.

Two tasks per stream: one reads requests, one writes what is due. The writer waits for gRPC's flow control and for the client's answer, so
that a slow client holds one response and no more; one that does not answer for UNANSWERED seconds is cut off and may come again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2

from control.metrics import Metrics
from control.snapshot import TYPES, Snapshot
from control.tokens import NodeTokens
from control.xds.delta import DeltaStream, Refusal, Request, Response
from mesh.io.log import Log

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
UNANSWERED = 60.0
MAX_STREAMS = 1024

log = Log("xds")


@dataclass(slots=True)
class Client:
    """One connected client, as /debug/sync shows it. `node` is proved by its token; `id` is what it says of itself."""

    number: int
    node: str
    peer: str
    stream: DeltaStream
    wake: asyncio.Event
    since: float
    id: str = ""


class XdsServer:
    """The aggregated discovery service. `publish` gives every client the difference to a new snapshot."""

    def __init__(self, tokens: NodeTokens, metrics: Metrics) -> None:
        self.snapshot = Snapshot()
        self.clients: dict[int, Client] = {}
        self._tokens = tokens
        self._metrics = metrics
        self._numbers = itertools.count(1)

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        for client in self.clients.values():
            client.wake.set()

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        method = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
            response_serializer=discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": method})

    def debug(self) -> list[dict[str, Any]]:
        """What each client has and has said, for /debug/sync."""
        now = asyncio.get_running_loop().time()
        return [
            {
                "node": client.node,
                "id": client.id,
                "peer": client.peer,
                "connected_seconds": round(now - client.since, 3),
                "types": {
                    type_url: {
                        "wildcard": state.wildcard,
                        "keys": len(state.keys),
                        "resources": len(state.held),
                        "sent_snapshot": state.snapshot,
                        "acked_snapshot": state.acked,
                        "synced": state.acked == self.snapshot.number and not state.outstanding and not state.leaving,
                        "waiting_seconds": round(now - state.since, 3) if state.outstanding else None,
                        "nacks": state.nacks,
                        "error": state.error or None,
                    }
                    for type_url, state in client.stream.states.items()
                },
            }
            for client in self.clients.values()
        ]

    async def _stream(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        node = self._tokens.node_of(context.invocation_metadata())  # type: ignore[arg-type]
        if node is None:
            log.warning("an xDS stream was refused: no token, or none of a node", peer=context.peer())
            self._metrics.refused_clients.inc()
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a node's bearer token is required")
        assert node is not None
        if len(self.clients) >= MAX_STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MAX_STREAMS} streams")
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        client = Client(number, node, context.peer(), DeltaStream(TYPES, number, loop.time()), asyncio.Event(), loop.time())
        self.clients[number] = client
        self._metrics.clients.set(len(self.clients))
        log.info("connected", node=node, peer=client.peer)
        reader = loop.create_task(self._read(client, requests))
        writer = loop.create_task(self._write(client, context))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            ended = reader if reader.done() else writer
            ended.result()
        except Refusal as refusal:
            log.warning("a client broke the protocol", node=node, error=str(refusal))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refusal))
        except TimeoutError:
            log.warning("a client does not answer", node=node, seconds=UNANSWERED)
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer to a response for {UNANSWERED:.0f} s")
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            self.clients.pop(number, None)
            self._metrics.clients.set(len(self.clients))
            log.info("disconnected", node=node, peer=client.peer)

    async def _read(self, client: Client, requests: AsyncIterator[Any]) -> None:
        async for message in requests:
            if message.HasField("node"):
                _check_node(client, message.node)
            request = Request(
                message.type_url,
                message.response_nonce,
                tuple(message.resource_names_subscribe),
                tuple(message.resource_names_unsubscribe),
                dict(message.initial_resource_versions),
                _error_text(message),
            )
            client.stream.receive(request)
            if request.error:
                self._metrics.rejects.labels(short(request.type_url)).inc()
                log.warning("a client rejected resources", node=client.node, type=short(request.type_url), error=request.error[:1000])
            client.wake.set()

    async def _write(self, client: Client, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client.wake.clear()
            # Before the first snapshot nothing is known, and an empty answer would be a lie.
            if self.snapshot.number:
                for response in client.stream.next_responses(self.snapshot, loop.time()):
                    async with asyncio.timeout(UNANSWERED):
                        await context.write(_message(response))
                    self._metrics.pushes.labels(short(response.type_url)).inc()
            oldest = client.stream.oldest_wait()
            limit = None if oldest is None else oldest + UNANSWERED
            look = client.stream.waits_until(loop.time())
            try:
                async with asyncio.timeout_at(min((when for when in (limit, look) if when is not None), default=None)):
                    await client.wake.wait()
            except TimeoutError:
                if limit is not None and loop.time() >= limit:
                    raise


def _check_node(client: Client, node: Any) -> None:
    """A client may call itself what it likes, but not another node."""
    client.id = node.id[:256]
    claimed = node.metadata.fields["NODE_NAME"].string_value if "NODE_NAME" in node.metadata.fields else ""
    if claimed and claimed != client.node:
        raise Refusal(f"metadata NODE_NAME is {claimed!r}, but the token is another node's")


def _error_text(message: Any) -> str:
    if not message.HasField("error_detail"):
        return ""
    return str(message.error_detail.message) or f"code {message.error_detail.code}"


def _message(response: Response) -> Any:
    message = discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=response.version,
        type_url=response.type_url,
        nonce=response.nonce,
        removed_resources=response.removed,
    )
    for entry, aliases in response.resources:
        resource = message.resources.add(name=entry.name, version=entry.version, aliases=aliases)
        resource.resource.type_url = response.type_url
        resource.resource.value = entry.body
    return message


def short(type_url: str) -> str:
    """The message's own name, as metrics and logs say it."""
    return type_url.rpartition(".")[2]
