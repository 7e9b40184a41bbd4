"""Clusters → Envoy's Cluster, and those that are no service's: the way into tunnels, the addresses that connections were meant for.

A cluster whose endpoints may be at the end of tunnels has two transports, and each endpoint's metadata chooses: into a tunnel, or plainly.
TLS that a DestinationRule asks for is inside of either. Where proxies look up names, Envoy knows no such choice: addresses beside the names
are reached plainly, by the tunnel of the node, and not at all by proxies that would have to end the tunnel themselves.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.common.matcher.v3 import matcher_pb2
from envoy.config.core.v3 import base_pb2, protocol_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.clusters.dynamic_forward_proxy.v3 import cluster_pb2 as dynamic_pb2
from envoy.extensions.common.dynamic_forward_proxy.v3 import dns_cache_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.v3 import range_pb2
from google.protobuf import struct_pb2

from mesh.model.codec.envoy import endpoints, parts, routes, tls
from mesh.model.l7.clusters import Balancing, Cluster, Discovery, HttpVersion, Outlier, Policy, Pool, Warmup
from mesh.model.l7.endpoints import Assignment
from mesh.model.l7.names import BLACK_HOLE, CONNECT_ORIGINATE, DYNAMIC_FORWARD, MAIN_INTERNAL, PASSTHROUGH
from mesh.model.l7.profile import Kind, Profile

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
UNLIMITED = 2**32 - 1
MANY_STREAMS = 2**31 - 1
TYPES = {
    Discovery.EDS: cluster_pb2.Cluster.EDS,
    Discovery.STATIC: cluster_pb2.Cluster.STATIC,
    Discovery.DNS: cluster_pb2.Cluster.STRICT_DNS,
    Discovery.DNS_ONE: cluster_pb2.Cluster.LOGICAL_DNS,
    Discovery.ORIGINAL: cluster_pb2.Cluster.ORIGINAL_DST,
}
BY_NAME = (Discovery.DNS, Discovery.DNS_ONE)
POLICIES = {
    Policy.LEAST_REQUEST: cluster_pb2.Cluster.LEAST_REQUEST,
    Policy.ROUND_ROBIN: cluster_pb2.Cluster.ROUND_ROBIN,
    Policy.RANDOM: cluster_pb2.Cluster.RANDOM,
    Policy.RING_HASH: cluster_pb2.Cluster.RING_HASH,
    Policy.MAGLEV: cluster_pb2.Cluster.MAGLEV,
}
NAME_METADATA = "culvert"


def cluster(entry: Cluster, profile: Profile) -> Any:
    made = cluster_pb2.Cluster(
        name=entry.name,
        connect_timeout=parts.duration(entry.pool.connect_timeout),
        circuit_breakers=breakers(entry.pool),
        metadata=_described(entry),
    )
    _discovery(made, entry, profile)
    _balance(made, entry.balancing, entry.discovery)
    made.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(parts.packed(_http(entry)))
    if entry.outlier is not None:
        made.outlier_detection.CopyFrom(outlier(entry.outlier))
    _transport(made, entry, profile)
    keepalive = entry.pool.keepalive
    if keepalive is not None:
        kept = made.upstream_connection_options.tcp_keepalive
        kept.SetInParent()
        for name, value in (
            ("keepalive_probes", keepalive.probes),
            ("keepalive_time", int(keepalive.time.total_seconds())),
            ("keepalive_interval", int(keepalive.interval.total_seconds())),
        ):
            if value:
                getattr(kept, name).value = value
    return made


def _described(entry: Cluster) -> Any:
    """What the name stands for, for those who read this back."""
    described: dict[str, str | int] = {"host": entry.host, "namespace": entry.namespace, "port": entry.port, "subset": entry.subset}
    return parts.metadata({NAME_METADATA: described})


def _discovery(made: Any, entry: Cluster, profile: Profile) -> None:
    if entry.discovery is Discovery.DYNAMIC:
        made.cluster_type.name = "envoy.clusters.dynamic_forward_proxy"
        made.cluster_type.typed_config.CopyFrom(parts.packed(dynamic_pb2.ClusterConfig(dns_cache_config=dns_cache())))
        return
    made.type = TYPES[entry.discovery]
    if entry.discovery is Discovery.EDS:
        made.eds_cluster_config.eds_config.CopyFrom(parts.ads())
    elif entry.discovery in BY_NAME:
        made.dns_lookup_family = cluster_pb2.Cluster.V4_PREFERRED
    if entry.endpoints is not None and entry.discovery in BY_NAME:
        found = _without_tunnels(entry.endpoints) if profile.tunnels else entry.endpoints
        made.load_assignment.CopyFrom(endpoints.assignment(found, tunnels=False))
    elif entry.endpoints is not None:
        made.load_assignment.CopyFrom(endpoints.assignment(entry.endpoints))


def _without_tunnels(entry: Assignment) -> Assignment:
    """What is looked up cannot be in a tunnel. Who would have to end one is not let past it: a tunnel's end may be a waypoint."""
    groups = (
        replace(group, endpoints=tuple(endpoint for endpoint in group.endpoints if endpoint.tunnel is None)) for group in entry.groups
    )
    return replace(entry, groups=tuple(group for group in groups if group.endpoints))


def dns_cache() -> Any:
    """Cluster and filter of a dynamic forward proxy share it, and must say exactly the same of it."""
    return dns_cache_pb2.DnsCacheConfig(name=DYNAMIC_FORWARD, dns_lookup_family=cluster_pb2.Cluster.V4_PREFERRED)


def _balance(made: Any, balancing: Balancing, discovery: Discovery) -> None:
    common = made.common_lb_config
    common.healthy_panic_threshold.value = balancing.panic
    if discovery in (Discovery.ORIGINAL, Discovery.DYNAMIC):
        made.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
        return
    made.lb_policy = POLICIES[balancing.policy]
    if balancing.by_locality:
        common.locality_weighted_lb_config.SetInParent()
    match balancing.policy:
        case Policy.RING_HASH:
            made.ring_hash_lb_config.minimum_ring_size.value = balancing.ring_size
            if balancing.ring_size > 8 * 1024 * 1024:
                made.ring_hash_lb_config.maximum_ring_size.value = balancing.ring_size
        case Policy.MAGLEV:
            made.maglev_lb_config.table_size.value = balancing.table_size
        case Policy.LEAST_REQUEST if balancing.warmup is not None:
            made.least_request_lb_config.slow_start_config.CopyFrom(_warmup(balancing.warmup))
        case Policy.ROUND_ROBIN if balancing.warmup is not None:
            made.round_robin_lb_config.slow_start_config.CopyFrom(_warmup(balancing.warmup))


def _warmup(warmup: Warmup) -> Any:
    aggression = base_pb2.RuntimeDouble(default_value=warmup.aggression, runtime_key="culvert.warmup.aggression")
    return cluster_pb2.Cluster.SlowStartConfig(
        slow_start_window=parts.duration(warmup.window), aggression=aggression, min_weight_percent=parts.percent(warmup.minimum)
    )


def breakers(pool: Pool) -> Any:
    """Limits that nobody asked for are lifted: Envoy's own (1024 of each) would turn requests away."""
    limits = circuit_breaker_pb2.CircuitBreakers.Thresholds(
        max_connections=parts.uint32(_or_unlimited(pool.connections)),
        max_pending_requests=parts.uint32(_or_unlimited(pool.pending)),
        max_requests=parts.uint32(_or_unlimited(pool.requests)),
        max_retries=parts.uint32(_or_unlimited(pool.retries)),
        track_remaining=True,
    )
    if pool.retry_budget is not None:
        limits.retry_budget.budget_percent.value = pool.retry_budget.percent
        limits.retry_budget.min_retry_concurrency.value = pool.retry_budget.least
    return circuit_breaker_pb2.CircuitBreakers(thresholds=[limits])


def _or_unlimited(limit: int | None) -> int:
    return UNLIMITED if limit is None else limit


def _http(entry: Cluster) -> Any:
    pool = entry.pool
    made = http_protocol_options_pb2.HttpProtocolOptions(hash_policy=[routes.hash_policy(one) for one in entry.balancing.hashes])
    common = made.common_http_protocol_options
    common.idle_timeout.CopyFrom(parts.duration(pool.http_idle))
    if pool.per_connection:
        common.max_requests_per_connection.value = pool.per_connection
    if pool.longest is not None:
        common.max_connection_duration.CopyFrom(parts.duration(pool.longest))
    http2 = protocol_pb2.Http2ProtocolOptions()
    if pool.streams is not None:
        http2.max_concurrent_streams.value = min(pool.streams, MANY_STREAMS)
    if pool.ping is not None:
        http2.connection_keepalive.interval.CopyFrom(parts.duration(pool.ping[0]))
        http2.connection_keepalive.timeout.CopyFrom(parts.duration(pool.ping[1]))
    http1 = protocol_pb2.Http1ProtocolOptions(enable_trailers=True)
    match entry.http:
        case HttpVersion.HTTP1:
            made.explicit_http_config.http_protocol_options.CopyFrom(http1)
        case HttpVersion.HTTP2:
            made.explicit_http_config.http2_protocol_options.CopyFrom(http2)
        case HttpVersion.CLIENT:
            made.use_downstream_protocol_config.http_protocol_options.CopyFrom(http1)
            made.use_downstream_protocol_config.http2_protocol_options.CopyFrom(http2)
    if entry.discovery is Discovery.DYNAMIC:
        made.upstream_http_protocol_options.auto_sni = True
        made.upstream_http_protocol_options.auto_san_validation = True
    elif entry.tls is not None and not entry.tls.sni:
        made.upstream_http_protocol_options.auto_sni = True
        made.upstream_http_protocol_options.auto_san_validation = not (entry.tls.insecure or entry.tls.sans)
    if entry.outlier is not None and entry.outlier.codes:
        made.outlier_detection.error_matcher.CopyFrom(_errors(entry.outlier.codes))
    return made


def _errors(codes: tuple[int, ...]) -> Any:
    """Answers that count as errors: 5xx as ever, and these."""
    ranges = [range_pb2.Int64Range(start=500, end=600), *(range_pb2.Int64Range(start=code, end=code + 1) for code in codes if code < 500)]
    rules = [
        matcher_pb2.MatchPredicate(
            http_response_headers_match=matcher_pb2.HttpHeadersMatch(
                headers=[route_components_pb2.HeaderMatcher(name=":status", range_match=one)]
            )
        )
        for one in ranges
    ]
    return rules[0] if len(rules) == 1 else matcher_pb2.MatchPredicate(or_match=matcher_pb2.MatchPredicate.MatchSet(rules=rules))


def outlier(entry: Outlier) -> Any:
    """Only what was asked for ejects, and always then: Envoy's statistical detection is off."""
    made = outlier_detection_pb2.OutlierDetection(
        interval=parts.duration(entry.interval),
        base_ejection_time=parts.duration(entry.ejection),
        max_ejection_percent=parts.uint32(entry.max_percent),
        enforcing_success_rate=parts.uint32(0),
        enforcing_local_origin_success_rate=parts.uint32(0),
        consecutive_5xx=parts.uint32(entry.consecutive_5xx or 1),
        enforcing_consecutive_5xx=parts.uint32(100 if entry.consecutive_5xx else 0),
        consecutive_gateway_failure=parts.uint32(entry.gateway_errors or 1),
        enforcing_consecutive_gateway_failure=parts.uint32(100 if entry.gateway_errors else 0),
        split_external_local_origin_errors=entry.split,
    )
    if entry.split:
        made.consecutive_local_origin_failure.value = entry.local_failures or 1
        made.enforcing_consecutive_local_origin_failure.value = 100 if entry.local_failures else 0
    return made


def _transport(made: Any, entry: Cluster, profile: Profile) -> None:
    inner = tls.raw()
    if entry.tls is not None:
        inner = tls.to_server(entry.tls, profile, protocols(entry.http))
    if entry.proxy_protocol:
        inner = tls.announced(inner, entry.proxy_protocol)
    if entry.discovery in (Discovery.EDS, Discovery.STATIC) and profile.kind is not Kind.GRPC:
        match = struct_pb2.Struct()
        match.update(endpoints.TUNNELLED)
        made.transport_socket_matches.add(name="tunnel", match=match, transport_socket=tls.into_tunnel(inner))
        made.transport_socket_matches.add(name="plain", match=struct_pb2.Struct(), transport_socket=inner)
    elif entry.tls is not None or entry.proxy_protocol:
        made.transport_socket.CopyFrom(inner)


def protocols(version: HttpVersion) -> list[str]:
    return {HttpVersion.HTTP1: ["http/1.1"], HttpVersion.HTTP2: [tls.H2], HttpVersion.CLIENT: [tls.H2, "http/1.1"]}[version]


# Clusters that are no service's.


def connect_originate(profile: Profile) -> Any:
    """The tunnels themselves: HTTP/2 over the mesh's mutual TLS, to the tunnel port of the address that the connection was meant for, or of
    the waypoint that is before it.
    """
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.common_http_protocol_options.idle_timeout.CopyFrom(parts.duration(timedelta(hours=1)))
    http2 = options.explicit_http_config.http2_protocol_options
    http2.allow_connect = True
    http2.connection_keepalive.interval.CopyFrom(parts.duration(timedelta(seconds=10)))
    http2.connection_keepalive.timeout.CopyFrom(parts.duration(timedelta(seconds=20)))
    made = cluster_pb2.Cluster(
        name=CONNECT_ORIGINATE,
        type=cluster_pb2.Cluster.ORIGINAL_DST,
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
        connect_timeout=parts.duration(Pool().connect_timeout),
        cleanup_interval=parts.duration(timedelta(seconds=60)),
        circuit_breakers=breakers(Pool()),
        transport_socket=tls.originating(profile),
    )
    made.original_dst_lb_config.upstream_port_override.value = profile.hbone_port
    waypoint = made.original_dst_lb_config.metadata_key
    waypoint.key = endpoints.ORIGINAL_DST_METADATA
    waypoint.path.add(key=endpoints.WAYPOINT)
    made.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(parts.packed(options))
    return made


def main_internal() -> Any:
    """From the listener that ends tunnels to the one that serves what was in them."""
    made = cluster_pb2.Cluster(
        name=MAIN_INTERNAL, type=cluster_pb2.Cluster.STATIC, circuit_breakers=breakers(Pool()), transport_socket=tls.into_tunnel(tls.raw())
    )
    made.load_assignment.cluster_name = MAIN_INTERNAL
    made.load_assignment.endpoints.add().lb_endpoints.add().endpoint.address.CopyFrom(parts.internal_address(MAIN_INTERNAL))
    return made


def passthrough() -> Any:
    """Whatever address a connection was meant for."""
    made = cluster_pb2.Cluster(
        name=PASSTHROUGH,
        type=cluster_pb2.Cluster.ORIGINAL_DST,
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
        connect_timeout=parts.duration(Pool().connect_timeout),
        circuit_breakers=breakers(Pool()),
    )
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    made.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(parts.packed(options))
    return made


def black_hole() -> Any:
    """Nowhere: connections end, requests are answered 503."""
    return cluster_pb2.Cluster(name=BLACK_HOLE, type=cluster_pb2.Cluster.STATIC, connect_timeout=parts.duration(Pool().connect_timeout))
