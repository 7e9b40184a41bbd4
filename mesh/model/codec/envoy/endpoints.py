"""Assignments → ClusterLoadAssignment.

An endpoint at the end of a tunnel is, to Envoy, one behind an internal listener (`connect_originate`), which is told by the endpoint's
metadata where the tunnel goes and who has to be there:

    envoy.filters.listener.original_dst: {local: "10.244.1.5:8080"}     becomes the CONNECT authority, and the tunnel goes to that address
                                         {waypoint: "10.244.1.9:15008"} but to this one where a waypoint is before it
    culvert: {identities: "spiffe://…,spiffe://…"}                     one of which the tunnel's other end must prove
    envoy.transport_socket_match: {tunnel: http}                       chooses the transport that goes there
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2 as pb
from envoy.config.endpoint.v3 import endpoint_pb2

from mesh.model.codec.envoy import parts
from mesh.model.l7.endpoints import Assignment, Endpoint, EndpointHealth, HostPort, LocalityGroup
from mesh.model.l7.names import CONNECT_DIRECT, CONNECT_ORIGINATE
from mesh.model.workload import Locality

ORIGINAL_DST_METADATA = "envoy.filters.listener.original_dst"
MATCH_METADATA = "envoy.transport_socket_match"
WAYPOINT = "waypoint"
TUNNEL_METADATA, TUNNEL_IDENTITIES = "culvert", "identities"
TUNNELLED = {"tunnel": "http"}
ISTIO_METADATA = "istio"
OVERPROVISIONING = 140
HEALTHS = {
    EndpointHealth.HEALTHY: health_check_pb2.HEALTHY,
    EndpointHealth.UNHEALTHY: health_check_pb2.UNHEALTHY,
    EndpointHealth.DRAINING: health_check_pb2.DRAINING,
}


def assignment(entry: Assignment, *, tunnels: bool = True) -> Any:
    """`tunnels=False` is for clients that reach every endpoint by its own address."""
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=entry.cluster,
        endpoints=[_group(group, tunnels) for group in entry.groups],
        policy=endpoint_pb2.ClusterLoadAssignment.Policy(overprovisioning_factor=parts.uint32(OVERPROVISIONING)),
    )


def locality(place: Locality) -> Any:
    return base_pb2.Locality(region=place.region, zone=place.zone, sub_zone=place.subzone)


def _group(group: LocalityGroup, tunnels: bool) -> Any:
    """A locality without a weight gets one per endpoint: some clients leave out those that have none."""
    weight = group.weight or sum(endpoint.weight for endpoint in group.endpoints)
    return pb.LocalityLbEndpoints(
        locality=locality(group.locality),
        lb_endpoints=[_endpoint(endpoint, tunnels) for endpoint in group.endpoints],
        load_balancing_weight=parts.uint32(weight) if weight else None,
        priority=group.priority,
    )


def _endpoint(endpoint: Endpoint, tunnels: bool) -> Any:
    made = pb.LbEndpoint(health_status=HEALTHS[endpoint.health], load_balancing_weight=parts.uint32(endpoint.weight))
    address = endpoint.address
    described: dict[str, Mapping[str, str]] = {}
    if endpoint.tunnel is not None and tunnels and not isinstance(address, str):
        via = endpoint.tunnel.via
        name = f"{address} by {via}" if via is not None else str(address)
        made.endpoint.address.CopyFrom(parts.internal_address(CONNECT_ORIGINATE if address.port else CONNECT_DIRECT, name))
        described[ORIGINAL_DST_METADATA] = {"local": str(address)} | ({WAYPOINT: str(via)} if via is not None else {})
        described[TUNNEL_METADATA] = {TUNNEL_IDENTITIES: ",".join(endpoint.tunnel.identities)}
        described[MATCH_METADATA] = TUNNELLED
    elif isinstance(address, str):
        made.endpoint.address.pipe.path = address
    elif isinstance(address, HostPort):
        made.endpoint.address.CopyFrom(parts.socket_address(address.host, address.port))
        made.endpoint.hostname = address.host
    else:
        made.endpoint.address.CopyFrom(parts.socket_address(str(address.ip), address.port))
    if endpoint.workload:
        described[ISTIO_METADATA] = {"workload": endpoint.workload}
    if described:
        made.metadata.CopyFrom(parts.metadata(described))
    return made
