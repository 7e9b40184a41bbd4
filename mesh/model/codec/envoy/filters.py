"""Chains → filter chains: the connection manager or the TCP proxy, with everything that stands before them, in Istio's order.

    HTTP   tokens → policies (AUDIT, DENY, ALLOW) → gRPC statistics → fault → CORS → router
    TCP    policies → proxy

Tokens come before policies because policies ask about claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.dynamic_forward_proxy.v3 import dynamic_forward_proxy_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as grpc_stats_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.type.v3 import hash_policy_pb2
from google.protobuf.message import Message

from mesh.model.codec.envoy import clusters, jwt, logs, parts, rbac, state
from mesh.model.codec.envoy.routes import CORS_FILTER, FAULT_FILTER
from mesh.model.l7.chains import Chain, Traffic
from mesh.model.l7.names import BLACK_HOLE, FILTER_STATE_ADDRESSED
from mesh.model.l7.policies import Policy
from mesh.model.l7.profile import PathNormalization, Profile
from mesh.model.l7.tcp import TcpRoute
from mesh.model.l7.telemetry import Telemetry

ROUTER, GRPC_STATS = "envoy.filters.http.router", "envoy.filters.http.grpc_stats"
DYNAMIC_PROXY = "envoy.filters.http.dynamic_forward_proxy"
MANAGER, TCP_PROXY = "envoy.filters.network.http_connection_manager", "envoy.filters.network.tcp_proxy"
SET_STATE, SET_NETWORK_STATE = "envoy.filters.http.set_filter_state", "envoy.filters.network.set_filter_state"
SERVER_NAME = "istio-envoy"
IDLE = timedelta(hours=1)
MERGING = (PathNormalization.MERGE_SLASHES, PathNormalization.DECODE_AND_MERGE_SLASHES)


def filter_chains(chain: Chain, profile: Profile) -> dict[str, Any]:
    """By name. One for HTTP, one for each route of anything else."""
    found: dict[str, Any] = {}
    if chain.speaks_http:
        found[http_name(chain)] = [http_filter(chain, profile)]
    for index, route in enumerate(chain.tcp):
        before = [network_filter(SET_NETWORK_STATE, state.Connection(on_new_connection=[_addressed()]))] if chain.direct else []
        found[tcp_name(chain, index)] = [*before, *tcp_filters(tcp_name(chain, index), route, chain.guard.tcp, chain.telemetry)]
    return {name: listener_components_pb2.FilterChain(name=name, filters=filters) for name, filters in found.items()}


def http_name(chain: Chain) -> str:
    return f"{chain.name}_http" if chain.traffic is Traffic.AUTO else chain.name


def tcp_name(chain: Chain, index: int) -> str:
    return f"{chain.name}_tcp" if chain.traffic is Traffic.AUTO else f"{chain.name}_{index}" if index else chain.name


def http_filter(chain: Chain, profile: Profile) -> Any:
    return network_filter(MANAGER, manager(chain, profile))


def network_filter(name: str, message: Message) -> Any:
    return listener_components_pb2.Filter(name=name, typed_config=parts.packed(message))


def manager(chain: Chain, profile: Profile) -> Any:
    made = base_manager(chain.name, profile)
    made.codec_type = manager_pb2.HttpConnectionManager.AUTO
    made.rds.route_config_name = chain.table
    made.rds.config_source.CopyFrom(parts.ads())
    made.http_filters.extend(http_filters(chain))
    made.access_log.extend(logs.access_logs(chain.telemetry))
    traced = logs.tracing(chain.telemetry.tracing)
    if traced is not None:
        made.tracing.CopyFrom(traced)
    return made


def base_manager(stat_prefix: str, profile: Profile) -> Any:
    """What all connection managers of ours say. Clients' addresses are those of their connections, never what a header claims."""
    made = manager_pb2.HttpConnectionManager(
        stat_prefix=stat_prefix,
        server_name=SERVER_NAME,
        stream_idle_timeout=parts.duration(None),
        proxy_100_continue=True,
        forward_client_cert_details=manager_pb2.HttpConnectionManager.SANITIZE,
        merge_slashes=profile.normalization in MERGING,
        use_remote_address=parts.flag(False),
        normalize_path=parts.flag(profile.normalization is not PathNormalization.NONE),
    )
    made.common_http_protocol_options.idle_timeout.CopyFrom(parts.duration(IDLE))
    made.http_protocol_options.enable_trailers = True
    made.upgrade_configs.add(upgrade_type="websocket")
    if profile.normalization is PathNormalization.DECODE_AND_MERGE_SLASHES:
        made.path_with_escaped_slashes_action = manager_pb2.HttpConnectionManager.UNESCAPE_AND_FORWARD
    return made


def http_filters(chain: Chain) -> list[Any]:
    found: list[tuple[str, Message]] = []
    if chain.guard.jwt:
        found.append(jwt.filter_config(chain.guard.jwt, routes_by_claims=chain.claims))
    found += rbac.http_filters(chain.guard.http)
    found.append((GRPC_STATS, grpc_stats_pb2.FilterConfig(emit_filter_state=True, stats_for_all_methods=parts.flag(False))))
    found.append((FAULT_FILTER, fault_pb2.HTTPFault()))
    found.append((CORS_FILTER, cors_pb2.Cors()))
    if chain.direct:
        found.append((SET_STATE, state.Request(on_request_headers=[_addressed()])))
    if chain.dynamic:
        found.append((DYNAMIC_PROXY, dynamic_forward_proxy_pb2.FilterConfig(dns_cache_config=clusters.dns_cache())))
    return [http(name, message) for name, message in [*found, (ROUTER, router_pb2.Router())]]


def _addressed() -> Any:
    """Where a connection was going goes along with it, to the tunnel that it is put into."""
    return state.value(FILTER_STATE_ADDRESSED, "%DOWNSTREAM_LOCAL_ADDRESS%", state.HASHED_TEXT)


def http(name: str, message: Message) -> Any:
    return manager_pb2.HttpFilter(name=name, typed_config=parts.packed(message))


def tcp_filters(stat_prefix: str, route: TcpRoute, policies: Sequence[Policy], telemetry: Telemetry) -> list[Any]:
    found = [network_filter(name, message) for name, message in rbac.network_filters(policies)]
    return [*found, network_filter(TCP_PROXY, tcp_proxy(stat_prefix, route, telemetry))]


def tcp_proxy(stat_prefix: str, route: TcpRoute, telemetry: Telemetry) -> Any:
    """Without destinations, to a cluster without endpoints: the connection ends. Balancing by hash sees the client's address."""
    made = tcp_proxy_pb2.TcpProxy(
        stat_prefix=stat_prefix,
        idle_timeout=parts.duration(route.idle),
        access_log=logs.access_logs(telemetry),
        hash_policy=[hash_policy_pb2.HashPolicy(source_ip=hash_policy_pb2.HashPolicy.SourceIp())],
    )
    if route.longest is not None:
        made.max_downstream_connection_duration.CopyFrom(parts.duration(route.longest))
    if len(route.destinations) > 1:
        weighted = tcp_proxy_pb2.TcpProxy.WeightedCluster
        made.weighted_clusters.clusters.extend(
            weighted.ClusterWeight(name=entry.cluster, weight=entry.weight) for entry in route.destinations
        )
    else:
        made.cluster = route.destinations[0].cluster if route.destinations else BLACK_HOLE
    return made
