"""Proxyless gRPC: the same messages, with only what gRPC's clients read of them: they refuse a whole resource for a part they do not know.

What they do with it is in gRFC A27 (xDS), A28 (routing), A31 (timeouts), A32 (circuit breaking), A33 (faults), A42 (ring hash), A44
(retries) and A50 (outliers). What a route asks beyond that was taken out, and said, by `mesh.model.l7.translate.grpc`. Endpoints are
reached by their own addresses, without a tunnel of the client's: where its pod is in the mesh, its node's tunnel takes the connections
as it takes any.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.listener.v3 import api_listener_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2 as route_pb
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as manager_pb2

from mesh.model.codec.envoy import endpoints, filters, parts, routes
from mesh.model.l7.clusters import Cluster, Discovery, Outlier, Policy
from mesh.model.l7.endpoints import Assignment
from mesh.model.l7.names import BLACK_HOLE
from mesh.model.l7.routes import MILLION, Fault, Forward, HashKind, Redirect, Respond, Route, RouteTable

CLUSTER_POLICIES = {Policy.RING_HASH: cluster_pb2.Cluster.RING_HASH, Policy.MAGLEV: cluster_pb2.Cluster.RING_HASH}
LARGEST_RING = 8 * 1024 * 1024
UNAVAILABLE, FIRST_ERROR = 14, 400
NO_SLACK = timedelta()
SLACK_OF_C_CORE = timedelta(seconds=2)
"""gRPC's C core (C++, Python, Ruby, PHP) counts a timeout of configuration from one to two seconds before the call, in every version that
was tried (1.71 to 1.85): what is shorter than that fails every call at once. For its clients timeouts are longer by this.
"""


def listener(name: str, table: str) -> Any:
    """`name` is what the client dials, `xds:///<name>`."""
    manager = manager_pb2.HttpConnectionManager()
    manager.rds.route_config_name = table
    manager.rds.config_source.CopyFrom(_ads())
    manager.http_filters.extend(
        [filters.http(routes.FAULT_FILTER, fault_pb2.HTTPFault()), filters.http(filters.ROUTER, router_pb2.Router())]
    )
    return listener_pb2.Listener(name=name, api_listener=api_listener_pb2.ApiListener(api_listener=parts.packed(manager)))


def route_table(table: RouteTable, *, slack: timedelta = NO_SLACK) -> Any:
    """`slack` is put on every timeout."""
    hosts = [
        route_pb.VirtualHost(name=host.name, domains=host.domains, routes=[_route(entry, slack) for entry in host.routes])
        for host in table.hosts
    ]
    return route_pb2.RouteConfiguration(name=table.name, virtual_hosts=hosts)


def _route(entry: Route, slack: timedelta) -> Any:
    made = routes.route(entry)
    kept = route_pb.Route(name=entry.name, match=made.match)
    if not isinstance(entry.action, Forward):
        # Clients can neither answer themselves nor follow a redirect. One of them (JavaScript's) does not survive a route without a
        # cluster, so that the call is aborted on its way to one that exists, and has nobody in it.
        kept.route.cluster = BLACK_HOLE
        kept.typed_per_filter_config[routes.FAULT_FILTER].CopyFrom(parts.packed(routes.fault(_failure(entry.action))))
        return kept
    action = route_pb.RouteAction()
    forward = made.route
    if forward.HasField("weighted_clusters"):
        for one in forward.weighted_clusters.clusters:
            action.weighted_clusters.clusters.add(name=one.name, weight=one.weight)
    else:
        action.cluster = forward.cluster
    timeout = entry.action.timeout
    limit = parts.duration(timeout + slack if timeout is not None else None)
    action.max_stream_duration.grpc_timeout_header_max.CopyFrom(limit)
    if timeout is not None:
        action.max_stream_duration.max_stream_duration.CopyFrom(limit)
    if forward.HasField("retry_policy"):
        action.retry_policy.retry_on = forward.retry_policy.retry_on
        action.retry_policy.num_retries.CopyFrom(forward.retry_policy.num_retries)
        if forward.retry_policy.HasField("retry_back_off"):
            action.retry_policy.retry_back_off.CopyFrom(forward.retry_policy.retry_back_off)
    action.hash_policy.extend(routes.hash_policy(one) for one in entry.action.hashes if one.kind is HashKind.HEADER)
    kept.route.CopyFrom(action)
    if entry.fault is not None:
        kept.typed_per_filter_config[routes.FAULT_FILTER].CopyFrom(parts.packed(routes.fault(entry.fault)))
    return kept


def _failure(action: Redirect | Respond) -> Fault:
    if isinstance(action, Respond) and action.status >= FIRST_ERROR:
        return Fault(abort_status=action.status, abort_share=MILLION)
    return Fault(abort_grpc=UNAVAILABLE, abort_share=MILLION)


def black_hole() -> tuple[Any, Any]:
    """The cluster of whatever does not exist, and its endpoints, of which there are none. Clients wait for a quarter of a minute, with all
    their calls, for a cluster that some route names and nobody serves; so this one always is.
    """
    return cluster(Cluster(BLACK_HOLE, "", 0)), assignment(Assignment(BLACK_HOLE))


def cluster(entry: Cluster) -> Any:
    made = cluster_pb2.Cluster(name=entry.name, lb_policy=CLUSTER_POLICIES.get(entry.balancing.policy, cluster_pb2.Cluster.ROUND_ROBIN))
    if entry.discovery is Discovery.DNS_ONE and entry.endpoints is not None:
        made.type = cluster_pb2.Cluster.LOGICAL_DNS
        made.load_assignment.CopyFrom(assignment(entry.endpoints))
    else:
        made.type = cluster_pb2.Cluster.EDS
        made.eds_cluster_config.eds_config.CopyFrom(_ads())
    if entry.balancing.policy in CLUSTER_POLICIES:
        made.ring_hash_lb_config.minimum_ring_size.value = min(entry.balancing.ring_size, LARGEST_RING)
    if entry.pool.requests is not None:
        limits = circuit_breaker_pb2.CircuitBreakers.Thresholds(max_requests=parts.uint32(entry.pool.requests))
        made.circuit_breakers.thresholds.append(limits)
    if entry.outlier is not None:
        made.outlier_detection.CopyFrom(_outlier(entry.outlier))
    return made


def _outlier(entry: Outlier) -> Any:
    """gRPC counts failures as shares, never one after the other: an endpoint most of whose calls fail is left out."""
    return outlier_detection_pb2.OutlierDetection(
        interval=parts.duration(entry.interval),
        base_ejection_time=parts.duration(entry.ejection),
        max_ejection_percent=parts.uint32(entry.max_percent),
        enforcing_success_rate=parts.uint32(0),
        failure_percentage_threshold=parts.uint32(50),
        enforcing_failure_percentage=parts.uint32(100),
        failure_percentage_minimum_hosts=parts.uint32(1),
        failure_percentage_request_volume=parts.uint32(max(entry.consecutive_5xx, entry.gateway_errors, 1)),
    )


def assignment(entry: Assignment) -> Any:
    return endpoints.assignment(entry, tunnels=False)


def _ads() -> Any:
    made = parts.ads()
    made.ClearField("initial_fetch_timeout")
    return made
