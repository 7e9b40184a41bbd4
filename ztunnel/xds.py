"""The control plane's stream: Istio's node tunnel client of delta ADS, on top of the pure machine in `mesh/wire/xds.py`.

One stream at a time. Responses are read one by one: decoded in slices, so that a mesh of ten thousand pods does not hold up the
connections that run; applied to the view in one piece; then answered. Whatever ends the stream, the next begins with what we hold,
after a delay that doubles from 10 ms to 15 s and starts anew once a stream has brought something.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from mesh.io.log import Log
from mesh.model.codec.proto import address_from, authorization_from
from mesh.model.errors import ConfigError, PeerError
from mesh.model.policy import Authorization, PolicyScope
from mesh.model.reasons import Reason
from mesh.model.workload import Service, Workload
from mesh.pb import authorization_pb2, workload_pb2
from mesh.wire.xds import ADDRESS_TYPE, AUTHORIZATION_TYPE, INVALID_ARGUMENT, Backoff, DeltaClient, DeltaRequest, DeltaResponse, Resource
from ztunnel.config import Config
from ztunnel.metrics import Metrics
from ztunnel.view import View

if TYPE_CHECKING:
    from mesh.io.grpc import GrpcTarget

log = Log("xds")

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
SLICE = 200  # resources decoded before the loop has its turn

_SCOPES = {0: PolicyScope.GLOBAL, 1: PolicyScope.NAMESPACE, 2: PolicyScope.WORKLOAD}


class XdsClient:
    """Keeps `view` current until cancelled."""

    def __init__(self, config: Config, target: GrpcTarget, view: View, metrics: Metrics) -> None:
        self.machine = DeltaClient([AUTHORIZATION_TYPE, ADDRESS_TYPE])  # policies are there before the workloads that name them
        self.connected = False
        self.last_error = ""
        self._config = config
        self._target = target
        self._view = view
        self._metrics = metrics
        self._backoff = Backoff()

    @property
    def pending(self) -> list[str]:
        """What has not come yet, with the last error."""
        error = f" ({self.last_error})" if self.last_error else ""
        return [f"xds {type_url.rpartition('.')[2]}{error}" for type_url in self.machine.unsynced]

    async def run(self) -> None:
        while True:
            reason = await self._one_stream()
            self.connected = False
            self._metrics.xds_connected.set(0)
            self._metrics.xds_ends.add(reason)
            delay = self._backoff.fail()
            level = log.info if reason in ("Complete", "Reconnect") else log.warning
            level("control plane disconnected", address=self._target.address, error=self.last_error, retry_in=f"{delay:g}s")
            await asyncio.sleep(delay)

    async def _one_stream(self) -> str:
        """Connect, and stay until the stream ends. Returns why, in Istio's words."""
        import grpc.aio

        from mesh.io.grpc import open_channel

        self.last_error = ""
        try:
            channel = open_channel(self._target)
        except OSError as error:
            self.last_error = str(error)
            return "ConnectionError"
        try:
            self.last_error = await self._converse(channel)
        except grpc.aio.AioRpcError as error:
            self.last_error = f"{error.code().name}: {error.details()}"
            return "Error" if self.connected else "ConnectionError"
        except (OSError, ValueError) as error:
            self.last_error = str(error)
            return "ConnectionError"
        except PeerError as error:
            self.last_error = str(error)
            return "Error"
        except Exception as error:
            # A bug of ours in one response must not be the last that this tunnel hears of policy: what was not answered comes again.
            log.exception("a bug ends one stream")
            self.last_error = f"{Reason.INTERNAL.word}: {error!r}"
            return "Error"
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await channel.close(None)
        return "Error" if self.last_error else "Complete"

    async def _converse(self, channel: Any) -> str:
        """Until the server ends the stream; the error that it ended with, if any. Raises AioRpcError, PeerError."""
        import grpc.aio
        from envoy.service.discovery.v3 import discovery_pb2

        from mesh.io.grpc import metadata

        call = channel.stream_stream(
            METHOD,
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=_decode_response,
        )(metadata=metadata(self._target))
        try:
            for request in self.machine.connect():
                await call.write(self._message(request))
            while True:
                received = await call.read()
                if received is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs are older
                    code = await call.code()
                    return "" if code == grpc.StatusCode.OK else f"{code.name}: {await call.details()}"
                response, size = received
                if not self.connected:
                    self.connected = True
                    self._metrics.xds_connected.set(1)
                    log.info("control plane connected", address=self._target.address)
                self._backoff.succeed()
                self._metrics.xds_messages.add(response.type_url)
                self._metrics.xds_bytes.add(response.type_url, by=size)
                rejected = await self._apply(self.machine.receive(response))
                await call.write(self._message(self.machine.answer(rejected)))
        finally:
            call.cancel()

    def _message(self, request: DeltaRequest) -> Any:
        from envoy.service.discovery.v3 import discovery_pb2

        message = discovery_pb2.DeltaDiscoveryRequest(
            type_url=request.type_url, response_nonce=request.nonce, initial_resource_versions=dict(request.versions)
        )
        if request.error:
            message.error_detail.code = INVALID_ARGUMENT
            message.error_detail.message = request.error
        if request.first:
            fill_node(message.node, self._config)
        return message

    async def _apply(self, response: DeltaResponse) -> dict[str, str]:
        """Decode in slices, apply in one piece. Returns what was rejected, with why."""
        rejected: dict[str, str] = {}
        if response.type_url == ADDRESS_TYPE:
            addresses: list[Workload | Service] = []
            async for resource in _sliced(response.resources):
                try:
                    addresses.append(read_address(resource))
                except ConfigError as error:
                    rejected[resource.name] = str(error)
            self._view.apply_addresses(addresses, rejected, response.removed)
        else:
            policies: list[Authorization] = []
            scopes: dict[str, PolicyScope | None] = {}
            async for resource in _sliced(response.resources):
                try:
                    policies.append(read_policy(resource))
                except ConfigError as error:
                    rejected[resource.name] = str(error)
                    scopes[resource.name] = scope_of(resource)
            self._view.apply_policies(policies, scopes, response.removed)
        if rejected:
            self._metrics.xds_rejected.add(response.type_url, by=len(rejected))
            for name, why in rejected.items():
                log.error("resource refused", name=name, error=why)
        log.debug("applied", type=response.type_url, resources=len(response.resources), removed=len(response.removed))
        return rejected


def read_address(resource: Resource) -> Workload | Service:
    """Raises ConfigError."""
    message = workload_pb2.Address()
    _parse(message, resource, ADDRESS_TYPE)
    value = address_from(message, resource.name)
    if isinstance(value, Workload) and value.uid != resource.name:
        raise _refusal(resource, "uid", value.uid, "the resource's name")
    if isinstance(value, Service) and str(value.key) != resource.name:
        raise _refusal(resource, "name", str(value.key), "the resource's name")
    return value


def read_policy(resource: Resource) -> Authorization:
    """Raises ConfigError."""
    message = authorization_pb2.Authorization()
    _parse(message, resource, AUTHORIZATION_TYPE)
    value = authorization_from(message, resource.name)
    if value.key != resource.name:
        raise _refusal(resource, "name", value.key, "the resource's name")
    return value


def scope_of(resource: Resource) -> PolicyScope | None:
    """The scope of a policy that was refused, if at least that can be read."""
    message = authorization_pb2.Authorization()
    try:
        _parse(message, resource, AUTHORIZATION_TYPE)
    except ConfigError:
        return None
    return _SCOPES.get(message.scope)


def fill_node(node: Any, config: Config) -> None:
    """Who asks, in the form that istiod parses: `ztunnel~<ip>~<pod>.<namespace>~<domain>` and a few metadata."""
    node.id = f"ztunnel~{config.instance_ip}~{config.pod_name}.{config.pod_namespace}~{config.pod_namespace}.svc.cluster.local"
    node.metadata.update(
        {
            "NAME": config.pod_name,
            "NAMESPACE": config.pod_namespace,
            "INSTANCE_IPS": config.instance_ip,
            "NODE_NAME": config.node_name,
            "CLUSTER_ID": config.cluster_id,
            **({"NETWORK": config.network} if config.network else {}),
            **config.node_metadata,
        }
    )


def _decode_response(data: bytes) -> tuple[DeltaResponse, int]:
    from envoy.service.discovery.v3 import discovery_pb2

    message = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
    resources = tuple(Resource(each.name, each.version, each.resource.type_url, each.resource.value) for each in message.resources)
    return DeltaResponse(message.type_url, message.nonce, resources, tuple(message.removed_resources)), len(data)


async def _sliced(resources: Iterable[Resource]) -> AsyncIterator[Resource]:
    for index, resource in enumerate(resources):
        if index and index % SLICE == 0:
            await asyncio.sleep(0)
        yield resource


def _parse(message: Any, resource: Resource, type_url: str) -> None:
    from google.protobuf.message import DecodeError

    if resource.body_type != type_url:
        raise _refusal(resource, "type_url", resource.body_type, type_url)
    try:
        message.ParseFromString(resource.body)
    except DecodeError as error:
        raise _refusal(resource, "", str(error), f"a message of type {type_url}") from error


def _refusal(resource: Resource, field: str, value: str, accepted: str) -> ConfigError:
    from mesh.model.errors import Refusal

    return ConfigError(Refusal(resource.name, "", field, repr(value), accepted))
