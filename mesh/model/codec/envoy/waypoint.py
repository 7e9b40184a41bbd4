"""Envoy as a waypoint: three listeners, of which only the first has an address on the network.

    connect_terminate   :15008, mutual TLS. Ends tunnels. Each CONNECT becomes a connection to the next, together with (filter state)
                        where it was going, where it came from, and the identity that the client's certificate proved
    main_internal       finds the chain of the service's address and port, and serves: policies, routes
    connect_originate   tunnels to endpoints: where to and to whom, an endpoint's metadata says

Everything is stock Envoy. What is served by names (route tables, clusters, secrets) comes from the same ADS stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from envoy.config.core.v3 import substitution_format_string_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as manager_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2 as network_state_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf.message import Message

from mesh.model.codec.envoy import filters, parts, rbac, tls
from mesh.model.codec.envoy.endpoints import TUNNEL_IDENTITIES, TUNNEL_METADATA
from mesh.model.codec.envoy.matching import chain_matcher
from mesh.model.l7.chains import Chain, Traffic
from mesh.model.l7.names import (
    CONNECT_ORIGINATE,
    CONNECT_TERMINATE,
    FILTER_STATE_PRINCIPAL,
    FILTER_STATE_SOURCE_IP,
    MAIN_INTERNAL,
)
from mesh.model.l7.profile import Profile
from mesh.model.l7.texts import quoted

ORIGINAL_DST, HTTP_INSPECTOR, TLS_INSPECTOR = (
    "envoy.filters.listener.original_dst",
    "envoy.filters.listener.http_inspector",
    "envoy.filters.listener.tls_inspector",
)
SET_STATE, SET_NETWORK_STATE = "envoy.filters.http.set_filter_state", "envoy.filters.network.set_filter_state"
ORIGINAL_LOCAL, ORIGINAL_REMOTE = "envoy.filters.listener.original_dst.local_ip", "envoy.filters.listener.original_dst.remote_ip"
PEER_NAMES = "envoy.network.upstream_subject_alt_names"
STREAMS = 100
PING, PING_TIMEOUT = timedelta(seconds=10), timedelta(seconds=20)
INSPECTION = timedelta(seconds=5)
"""How long first bytes are waited for, where they have to tell what is spoken. Afterwards it is TCP."""


# Where tunnels end.


def connect_terminate(profile: Profile) -> Any:
    made = listener_pb2.Listener(name=CONNECT_TERMINATE, address=parts.socket_address(profile.listen, profile.hbone_port))
    made.connection_balance_config.exact_balance.SetInParent()
    manager = filters.base_manager(CONNECT_TERMINATE, profile)
    manager.codec_type = manager_pb2.HttpConnectionManager.HTTP2
    del manager.upgrade_configs[:]
    manager.upgrade_configs.add(upgrade_type="CONNECT")
    # The authority is an address; there is no path to make regular.
    manager.normalize_path.value = False
    http2 = manager.http2_protocol_options
    http2.allow_connect = True
    http2.max_concurrent_streams.value = STREAMS
    http2.connection_keepalive.interval.CopyFrom(parts.duration(PING))
    http2.connection_keepalive.timeout.CopyFrom(parts.duration(PING_TIMEOUT))
    manager.route_config.CopyFrom(_into_main())
    manager.http_filters.extend(
        [
            filters.http(SET_STATE, _remembered()),
            filters.http(rbac.HTTP_FILTER, _only_workloads(profile)),
            filters.http(filters.ROUTER, router_pb2.Router()),
        ]
    )
    made.filter_chains.add(
        name=CONNECT_TERMINATE,
        transport_socket=tls.terminating(profile),
        filters=[filters.network_filter(filters.MANAGER, manager)],
    )
    return made


def _into_main() -> Any:
    route = route_components_pb2.Route(name=MAIN_INTERNAL)
    route.match.connect_matcher.SetInParent()
    route.route.cluster = MAIN_INTERNAL
    route.route.timeout.SetInParent()
    route.route.upgrade_configs.add(upgrade_type="CONNECT").connect_config.SetInParent()
    host = route_components_pb2.VirtualHost(name=MAIN_INTERNAL, domains=["*"], routes=[route])
    return route_pb2.RouteConfiguration(name=MAIN_INTERNAL, virtual_hosts=[host])


def _remembered() -> Any:
    """What the next listener has to know of the tunnel."""
    return set_filter_state_pb2.Config(
        on_request_headers=[
            _state(ORIGINAL_LOCAL, "%REQ(:AUTHORITY)%"),
            _state(ORIGINAL_REMOTE, "%DOWNSTREAM_REMOTE_ADDRESS%"),
            _state(FILTER_STATE_PRINCIPAL, "%DOWNSTREAM_PEER_URI_SAN%", "envoy.string"),
            _state(FILTER_STATE_SOURCE_IP, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "envoy.network.ip"),
        ]
    )


def _state(key: str, value: str, factory: str = "") -> Any:
    made = value_pb2.FilterStateValue(
        object_key=key,
        factory_key=factory,
        format_string=substitution_format_string_pb2.SubstitutionFormatString(),
        shared_with_upstream=value_pb2.FilterStateValue.ONCE,
    )
    made.format_string.text_format_source.inline_string = value
    return made


def _only_workloads(profile: Profile) -> Any:
    """Certificates of our trust domains that name exactly one workload. Anything else could not be told apart by policies."""
    domains = "|".join(quoted(domain) for domain in profile.trust_domains)
    one = parts.spiffe(f"(?:{domains})", "[^/,]+", "[^/,]+")
    policy = rbac_pb2.Policy(
        permissions=[rbac_pb2.Permission(any=True)], principals=[rbac_pb2.Principal(filter_state=parts.principal_matches(one))]
    )
    return http_rbac_pb2.RBAC(rules=rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW, policies={"workloads": policy}))


# What was in them.


def main_internal(chains: Sequence[Chain], profile: Profile) -> Any:
    """Connections to an address and port that no chain is for are closed."""
    made = listener_pb2.Listener(name=MAIN_INTERNAL)
    made.internal_listener.SetInParent()
    made.listener_filters.append(listener_filter(ORIGINAL_DST, original_dst_pb2.OriginalDst()))
    add_inspectors(made, chains)
    found: Mapping[str, Any] = {name: one for chain in chains for name, one in filters.filter_chains(chain, profile).items()}
    made.filter_chains.extend(found.values())
    if not found:
        # A listener needs a chain. This one is never chosen.
        made.filter_chains.add(name="none", filters=[filters.network_filter(filters.TCP_PROXY, _nowhere())])
    made.filter_chain_matcher.CopyFrom(chain_matcher(chains))
    return made


def _nowhere() -> Any:
    return tcp_proxy_pb2.TcpProxy(stat_prefix="none", cluster="none")


def listener_filter(name: str, message: Message) -> Any:
    return listener_components_pb2.ListenerFilter(name=name, typed_config=parts.packed(message))


def add_inspectors(made: Any, chains: Iterable[Chain]) -> None:
    """First bytes are looked at only on ports where that decides something: a protocol whose server speaks first would wait."""
    sniffed = sorted({chain.port for chain in chains if chain.traffic is Traffic.AUTO})
    named = sorted({chain.port for chain in chains if any(route.server_names for route in chain.tcp)})
    for name, message, ports in (
        (TLS_INSPECTOR, tls_inspector_pb2.TlsInspector(), named),
        (HTTP_INSPECTOR, http_inspector_pb2.HttpInspector(), sniffed),
    ):
        if ports:
            entry = listener_filter(name, message)
            entry.filter_disabled.not_match.CopyFrom(_any_port(ports))
            made.listener_filters.append(entry)
    if sniffed or named:
        made.listener_filters_timeout.CopyFrom(parts.duration(INSPECTION))
        made.continue_on_listener_filters_timeout = True


def _any_port(ports: Sequence[int]) -> Any:
    predicate = listener_components_pb2.ListenerFilterChainMatchPredicate
    rules = [predicate() for _ in ports]
    for rule, port in zip(rules, ports, strict=True):
        rule.destination_port_range.start = port
        rule.destination_port_range.end = port + 1
    return rules[0] if len(rules) == 1 else predicate(or_match=predicate.MatchSet(rules=rules))


# Tunnels to endpoints.


def connect_originate() -> Any:
    """An endpoint without identities is reached by nobody: the list that its certificate must match is empty, which none does."""
    made = listener_pb2.Listener(name=CONNECT_ORIGINATE)
    made.internal_listener.SetInParent()
    made.listener_filters.append(listener_filter(ORIGINAL_DST, original_dst_pb2.OriginalDst()))
    expected = network_state_pb2.Config(
        on_new_connection=[_state(PEER_NAMES, f"%DYNAMIC_METADATA({TUNNEL_METADATA}:{TUNNEL_IDENTITIES})%")]
    )
    proxy = tcp_proxy_pb2.TcpProxy(
        stat_prefix=CONNECT_ORIGINATE,
        cluster=CONNECT_ORIGINATE,
        idle_timeout=parts.duration(None),
        tunneling_config=tcp_proxy_pb2.TcpProxy.TunnelingConfig(hostname="%DOWNSTREAM_LOCAL_ADDRESS%"),
    )
    made.filter_chains.add(
        name=CONNECT_ORIGINATE,
        filters=[filters.network_filter(SET_NETWORK_STATE, expected), filters.network_filter(filters.TCP_PROXY, proxy)],
    )
    return made
