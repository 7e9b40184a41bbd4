"""Where tunnels end at a waypoint: the listener on the network, and its route table, `connect_terminate`.

The table asks the policies of ports on which no HTTP is spoken before anything is connected. The chain of such a port asks them too, but a
TCP proxy begins to connect before its filters have seen a byte of the client's: a server that speaks first would greet whoever is
denied. A CONNECT that is denied is answered 403, and no connection is made. Being a route table, it changes without draining a tunnel.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as manager_pb2

from mesh.model.codec.envoy import filters, parts, rbac, state, tls
from mesh.model.l7.chains import Chain, Traffic
from mesh.model.l7.names import CONNECT_TERMINATE, FILTER_STATE_PRINCIPAL, FILTER_STATE_SOURCE_IP, MAIN_INTERNAL
from mesh.model.l7.policies import Action, Policy, at_connect
from mesh.model.l7.profile import Profile
from mesh.model.l7.texts import quoted
from mesh.model.workload import IPAddress, SocketAddress

DENY, ALLOW = "culvert.deny", "culvert.allow"
STREAMS = 100
PING, PING_TIMEOUT = timedelta(seconds=10), timedelta(seconds=20)


def listener(profile: Profile) -> Any:
    made = listener_pb2.Listener(name=CONNECT_TERMINATE, address=parts.socket_address(profile.listen, profile.hbone_port))
    made.connection_balance_config.exact_balance.SetInParent()
    manager = filters.base_manager(CONNECT_TERMINATE, profile)
    manager.codec_type = manager_pb2.HttpConnectionManager.HTTP2
    del manager.upgrade_configs[:]
    manager.upgrade_configs.add(upgrade_type="CONNECT")
    # The authority is an address; there is no path to make regular. Where a tunnel's client is, its connection tells, and never a header.
    manager.normalize_path.value = False
    manager.use_remote_address.value = True
    manager.skip_xff_append = True
    http2 = manager.http2_protocol_options
    http2.allow_connect = True
    http2.max_concurrent_streams.value = STREAMS
    http2.connection_keepalive.interval.CopyFrom(parts.duration(PING))
    http2.connection_keepalive.timeout.CopyFrom(parts.duration(PING_TIMEOUT))
    manager.rds.route_config_name = CONNECT_TERMINATE
    manager.rds.config_source.CopyFrom(parts.ads())
    manager.http_filters.extend(
        [
            filters.http(filters.SET_STATE, _remembered()),
            filters.http(rbac.HTTP_FILTER, _only_workloads(profile)),
            filters.http(DENY, http_rbac_pb2.RBAC()),
            filters.http(ALLOW, http_rbac_pb2.RBAC()),
            filters.http(filters.ROUTER, router_pb2.Router()),
        ]
    )
    made.filter_chains.add(
        name=CONNECT_TERMINATE,
        transport_socket=tls.terminating(profile),
        filters=[filters.network_filter(filters.MANAGER, manager)],
    )
    return made


def route_table(chains: Sequence[Chain]) -> Any:
    """A virtual host for each address and port whose policies can be asked at once; one for all others, which the next listener knows."""
    hosts = {
        str(SocketAddress(address, chain.port)): _policies(chain, address)
        for chain in chains
        if chain.traffic in (Traffic.TCP, Traffic.TLS) and chain.guard.tcp
        for address in chain.addresses
    }
    return route_pb2.RouteConfiguration(
        name=CONNECT_TERMINATE, virtual_hosts=[_host(name, [name], policies) for name, policies in hosts.items()] + [_host("*", ["*"], [])]
    )


def _policies(chain: Chain, address: IPAddress) -> list[Policy]:
    return [policy for policy in (at_connect(policy, address, chain.port) for policy in chain.guard.tcp) if policy is not None]


def _host(name: str, domains: Sequence[str], policies: Sequence[Policy]) -> Any:
    route = route_components_pb2.Route(name=MAIN_INTERNAL)
    route.match.connect_matcher.SetInParent()
    route.route.cluster = MAIN_INTERNAL
    route.route.timeout.SetInParent()
    route.route.upgrade_configs.add(upgrade_type="CONNECT").connect_config.SetInParent()
    for key, actions in ((DENY, (Action.CUSTOM, Action.DENY)), (ALLOW, (Action.ALLOW,))):
        for _, config in rbac.http_filters([policy for policy in policies if policy.action in actions]):
            route.typed_per_filter_config[key].CopyFrom(parts.packed(http_rbac_pb2.RBACPerRoute(rbac=config)))
    return route_components_pb2.VirtualHost(name=name, domains=domains, routes=[route])


def _remembered() -> Any:
    """What the next listener has to know of the tunnel."""
    return state.Request(
        on_request_headers=[
            state.value(state.ORIGINAL_LOCAL, "%REQ(:AUTHORITY)%"),
            state.value(state.ORIGINAL_DESTINATION, "%REQ(:AUTHORITY)%"),
            state.value(state.ORIGINAL_REMOTE, "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"),
            state.value(FILTER_STATE_PRINCIPAL, "%DOWNSTREAM_PEER_URI_SAN%", state.TEXT),
            state.value(FILTER_STATE_SOURCE_IP, "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", state.ADDRESS),
        ]
    )


def _only_workloads(profile: Profile) -> Any:
    """Certificates of our trust domains that name exactly one workload. Anything else could not be told apart by policies."""
    domains = "|".join(quoted(domain) for domain in profile.trust_domains)
    one = parts.spiffe(f"(?:{domains})", "[^/,]+", "[^/,]+")
    policy = rbac_pb2.Policy(
        permissions=[rbac_pb2.Permission(any=True)], principals=[rbac_pb2.Principal(filter_state=parts.principal_matches(one))]
    )
    return http_rbac_pb2.RBAC(rules=rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW, policies={"workloads": policy}))
