"""A small ADS server, state-of-the-world and delta, that serves what a test gives it and writes down what clients refuse."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue
from typing import Any

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf.message import Message

from mesh.model.codec.envoy.parts import packed

WAIT_SECONDS = 20.0
PREFIX = "type.googleapis.com/"
LISTENER, ROUTES, CLUSTER, ENDPOINTS, SECRET = (
    f"{PREFIX}envoy.config.listener.v3.Listener",
    f"{PREFIX}envoy.config.route.v3.RouteConfiguration",
    f"{PREFIX}envoy.config.cluster.v3.Cluster",
    f"{PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment",
    f"{PREFIX}envoy.extensions.transport_sockets.tls.v3.Secret",
)
# Envoy warms a cluster with its endpoints, then a listener with its routes: what is named goes first.
ORDER = (CLUSTER, ENDPOINTS, SECRET, LISTENER, ROUTES)


@dataclass
class Asked:
    """What one stream asked of one type. `version` is what it has accepted."""

    names: set[str] = field(default_factory=set)
    wildcard: bool = False
    sent: int = -1
    version: int = -1
    held: dict[str, int] = field(default_factory=dict)


class Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """`put` and `drop` change what is served; `refused` are the texts of NACKs."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._resources: dict[str, dict[str, tuple[int, Any]]] = {one: {} for one in ORDER}
        self._number = 0
        self._streams: list[tuple[Queue[Any], dict[str, Asked]]] = []
        self.refused: list[str] = []
        self.tokens: list[str] = []
        self._server = grpc.server(ThreadPoolExecutor(16))
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Ads:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for queue, _states in self._streams:
                queue.put(None)
        self._server.stop(0).wait(5)

    def put(self, *messages: Any) -> int:
        """Serve these resources, instead of those of the same names. Returns the version that has them."""
        with self._lock:
            self._number += 1
            for message in messages:
                entries = self._resources[PREFIX + message.DESCRIPTOR.full_name]
                entries[_name(message)] = (self._number, packed(message))
            return self._wake()

    def drop(self, type_url: str, names: Iterable[str]) -> int:
        with self._lock:
            self._number += 1
            for name in names:
                self._resources[type_url].pop(name, None)
            return self._wake()

    def wait_accepted(self, version: int) -> None:
        """Until every stream has accepted this version of all that it asks for."""
        with self._lock:
            done = self._lock.wait_for(lambda: self.refused or self._accepted(version), WAIT_SECONDS)
            assert not self.refused, self.refused
            assert done, [states for _, states in self._streams]

    def _accepted(self, version: int) -> bool:
        return bool(self._streams) and all(
            state.version >= version and state.version == state.sent for _, states in self._streams for state in states.values()
        )

    def _wake(self) -> int:
        for queue, _ in self._streams:
            queue.put("changed")
        return self._number

    # The two forms of the protocol.

    def StreamAggregatedResources(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        return self._stream(requests, context, self._whole_request, self._whole)

    def DeltaAggregatedResources(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        return self._stream(requests, context, self._delta_request, self._delta)

    def _stream(self, requests: Iterator[Any], context: Any, receive: Callable[..., None], respond: Callable[..., Any]) -> Iterator[Any]:
        queue: Queue[Any] = Queue()
        states: dict[str, Asked] = {}
        with self._lock:
            self._streams.append((queue, states))
            self.tokens += [str(value) for key, value in context.invocation_metadata() if key == "authorization"]

        def read() -> None:
            try:
                for request in requests:
                    queue.put(request)
            except grpc.RpcError:
                pass
            queue.put(None)

        threading.Thread(target=read, daemon=True).start()
        try:
            while (event := queue.get()) is not None:
                with self._lock:
                    if event != "changed":
                        if event.HasField("error_detail"):
                            self.refused.append(f"{event.type_url}: {event.error_detail.message}")
                        receive(states.setdefault(event.type_url, Asked()), event)
                        self._lock.notify_all()
                    responses = [respond(type_url, states[type_url]) for type_url in sorted(states, key=ORDER.index)]
                yield from filter(None, responses)
        finally:
            with self._lock:
                self._streams = [entry for entry in self._streams if entry[0] is not queue]
                self._lock.notify_all()

    def _whole_request(self, state: Asked, request: Any) -> None:
        names = set(request.resource_names)
        state.wildcard = not names
        if names != state.names:
            state.names, state.sent = names, -1
        if request.response_nonce and not request.HasField("error_detail"):
            state.version = max(state.version, int(request.response_nonce))

    def _whole(self, type_url: str, state: Asked) -> Any:
        if state.sent == self._number:
            return None
        found = self._wanted(type_url, state)
        state.sent = self._number
        version = str(self._number)
        return discovery_pb2.DiscoveryResponse(
            version_info=version, nonce=version, type_url=type_url, resources=[body for _, body in found.values()]
        )

    def _delta_request(self, state: Asked, request: Any) -> None:
        state.names |= set(request.resource_names_subscribe) - {"*"}
        state.names -= set(request.resource_names_unsubscribe)
        if not request.response_nonce:
            state.wildcard |= not request.resource_names_subscribe or "*" in request.resource_names_subscribe
        elif not request.HasField("error_detail"):
            state.version = max(state.version, int(request.response_nonce))
        if request.resource_names_subscribe:
            for name in request.resource_names_subscribe:
                state.held.pop(name, None)
            state.sent = -1

    def _delta(self, type_url: str, state: Asked) -> Any:
        if state.sent == self._number:
            return None
        found = self._wanted(type_url, state)
        changed = {name: entry for name, entry in found.items() if state.held.get(name) != entry[0]}
        gone = [name for name in {**state.held, **dict.fromkeys(state.names)} if name not in found]
        state.held = {name: entry[0] for name, entry in found.items()}
        state.sent = self._number
        return discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=str(self._number),
            nonce=str(self._number),
            type_url=type_url,
            resources=[discovery_pb2.Resource(name=name, version=str(entry[0]), resource=entry[1]) for name, entry in changed.items()],
            removed_resources=gone,
        )

    def _wanted(self, type_url: str, state: Asked) -> Mapping[str, tuple[int, Any]]:
        entries = self._resources[type_url]
        return entries if state.wildcard else {name: entries[name] for name in sorted(state.names) if name in entries}


def _name(message: Message) -> str:
    return str(getattr(message, "name", "") or getattr(message, "cluster_name", ""))
