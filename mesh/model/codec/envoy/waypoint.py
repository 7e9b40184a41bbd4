"""Envoy as a waypoint: four listeners, of which only the first has an address on the network.

    connect_terminate   :15008, mutual TLS. Ends tunnels (`terminate`). Each CONNECT becomes a connection to the next, together with
                        (filter state) where it was going, where it came from, and the identity that the client's certificate proved
    main_internal       finds the chain of the service's address and port, and serves: policies, routes
    connect_originate   tunnels to endpoints: where to and to whom, an endpoint's metadata says
    connect_direct      tunnels to workloads that clients address by themselves

Everything is stock Envoy. What is served by names (route tables, clusters, secrets) comes from the same ADS stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf.message import Message

from mesh.model.codec.envoy import filters, parts, state
from mesh.model.codec.envoy.endpoints import TUNNEL_IDENTITIES, TUNNEL_METADATA
from mesh.model.codec.envoy.matching import chain_matcher
from mesh.model.l7.chains import Chain, Traffic
from mesh.model.l7.names import CONNECT_DIRECT, CONNECT_ORIGINATE, FILTER_STATE_ADDRESSED, MAIN_INTERNAL
from mesh.model.l7.profile import Profile

ORIGINAL_DST, HTTP_INSPECTOR, TLS_INSPECTOR = (
    "envoy.filters.listener.original_dst",
    "envoy.filters.listener.http_inspector",
    "envoy.filters.listener.tls_inspector",
)
INSPECTION = timedelta(seconds=5)
"""How long first bytes are waited for, where they have to tell what is spoken. Afterwards it is TCP."""


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
    """First bytes are looked at only on ports where that decides something: a protocol whose server speaks first would wait. A chain for
    any port (0) makes it every one.
    """
    sniffed = sorted({chain.port for chain in chains if chain.traffic is Traffic.AUTO})
    named = sorted({chain.port for chain in chains if any(route.server_names for route in chain.tcp)})
    for name, message, ports in (
        (TLS_INSPECTOR, tls_inspector_pb2.TlsInspector(), named),
        (HTTP_INSPECTOR, http_inspector_pb2.HttpInspector(), sniffed),
    ):
        if ports:
            entry = listener_filter(name, message)
            if ports[0]:
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


def connect_originate() -> Any:
    """An endpoint without identities is reached by nobody: the list that its certificate must match is empty, which none does."""
    return _into_tunnels(CONNECT_ORIGINATE, "%DOWNSTREAM_LOCAL_ADDRESS%", [])


def connect_direct() -> Any:
    """The same for workloads that are addressed by themselves: what the tunnel is asked for is what the client asked for."""
    addressed = f"%FILTER_STATE({FILTER_STATE_ADDRESSED}:PLAIN)%"
    return _into_tunnels(CONNECT_DIRECT, addressed, [state.value(state.ORIGINAL_DESTINATION, addressed)])


def _into_tunnels(name: str, authority: str, more: Sequence[Any]) -> Any:
    made = listener_pb2.Listener(name=name)
    made.internal_listener.SetInParent()
    made.listener_filters.append(listener_filter(ORIGINAL_DST, original_dst_pb2.OriginalDst()))
    expected = state.value(state.PEER_NAMES, f"%DYNAMIC_METADATA({TUNNEL_METADATA}:{TUNNEL_IDENTITIES})%")
    proxy = tcp_proxy_pb2.TcpProxy(
        stat_prefix=name,
        cluster=CONNECT_ORIGINATE,
        idle_timeout=parts.duration(None),
        tunneling_config=tcp_proxy_pb2.TcpProxy.TunnelingConfig(hostname=authority),
    )
    made.filter_chains.add(
        name=name,
        filters=[
            filters.network_filter(filters.SET_NETWORK_STATE, state.Connection(on_new_connection=[expected, *more])),
            filters.network_filter(filters.TCP_PROXY, proxy),
        ],
    )
    return made
