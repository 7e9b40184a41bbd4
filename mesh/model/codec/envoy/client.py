"""Envoy beside a client: a listener for each port of each service, at the service's own virtual addresses.

How connections get there:

    redirected   something (iptables, eBPF) sends every connection of the client to virtualOutbound, :15001, which hands it to the listener
                 whose address it was meant for; others bind no port. What is meant for nobody in the mesh passes through
    bound        the addresses are local where Envoy runs (`ip route add local 10.96.0.0/16 dev lo`), and listeners bind them themselves
    asked        an HTTP proxy on loopback: clients ask for a service by its name, `curl -x http://127.0.0.1:15080 http://reviews/`

The listener of a service does not look at the Host header: the address decides, as at a waypoint. Only the HTTP proxy does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from xds.type.matcher.v3 import matcher_pb2

from mesh.model.codec.envoy import filters, matching, parts, waypoint
from mesh.model.l7.chains import Chain, Traffic
from mesh.model.l7.names import BLACK_HOLE, HTTP_PROXY, PASSTHROUGH, VIRTUAL_OUTBOUND
from mesh.model.l7.profile import Profile
from mesh.model.l7.tcp import TcpDestination, TcpRoute
from mesh.model.l7.telemetry import NO_TELEMETRY
from mesh.model.workload import OUTBOUND_PORT, IPNetwork

ANYWHERE = "0.0.0.0"
LOOPBACK = "127.0.0.1"
PROXY_PORT = 15080


def listener_name(chain: Chain) -> str:
    return f"{chain.addresses[0]}_{chain.port}"


def listener(chain: Chain, profile: Profile) -> Any:
    """For a chain with addresses."""
    first, *others = (parts.socket_address(str(address), chain.port) for address in chain.addresses)
    made = _listener(listener_name(chain), first, profile.bind)
    if profile.bind:
        made.freebind.value = True
    made.additional_addresses.extend(listener_pb2.AdditionalAddress(address=address) for address in others)
    found = filters.filter_chains(chain, profile)
    made.filter_chains.extend(found.values())
    if len(found) > 1:
        waypoint.add_inspectors(made, [chain])
        _match(made, matching.on(chain))
    return made


def network_listener(port: int, chains: Sequence[Chain], profile: Profile, closed: Sequence[IPNetwork] = ()) -> Any:
    """For the services whose addresses are whole networks: one listener per port, only for redirected connections. `closed`: where what
    is for none of them goes nowhere.
    """
    chains = [*chains, *_closed(closed)]
    made = _listener(f"{ANYWHERE}_{port}", parts.socket_address(ANYWHERE, port), False)
    made.listener_filters.append(waypoint.listener_filter(waypoint.ORIGINAL_DST, original_dst_pb2.OriginalDst()))
    waypoint.add_inspectors(made, chains)
    for chain in chains:
        made.filter_chains.extend(filters.filter_chains(chain, profile).values())
    made.filter_chain_matcher.CopyFrom(matching.chain_matcher(chains))
    made.default_filter_chain.CopyFrom(_passthrough())
    return made


def virtual_outbound(profile: Profile, port: int = OUTBOUND_PORT, closed: Sequence[IPNetwork] = ()) -> Any:
    """Where redirected connections come in, and where those stay that no other listener is for: they pass on as they are, but to networks
    that are `closed` go nowhere.
    """
    made = _listener(VIRTUAL_OUTBOUND, parts.socket_address(profile.listen, port), True)
    made.use_original_dst.value = True
    for chain in _closed(closed):
        for found in filters.filter_chains(chain, profile).values():
            found.filter_chain_match.prefix_ranges.extend(parts.cidr(network) for network in closed)
            made.filter_chains.append(found)
    made.filter_chains.append(_passthrough())
    return made


def http_proxy(profile: Profile, port: int = PROXY_PORT) -> Any:
    """Its route table is called `http_proxy`: the virtual hosts of all services, each with its names as domains."""
    made = _listener(HTTP_PROXY, parts.socket_address(LOOPBACK, port), True)
    chain = Chain(HTTP_PROXY, port, Traffic.HTTP, table=HTTP_PROXY)
    made.filter_chains.add(name=HTTP_PROXY, filters=[filters.http_filter(chain, profile)])
    return made


def domains(host: str, namespace: str, port: int, addresses: Sequence[object] = (), cluster_domain: str = "cluster.local") -> list[str]:
    """By what names a service may be asked for: Kubernetes' short ones where it has them. Without a port where that is HTTP's own."""
    names = [host]
    name = host.removesuffix(f".{namespace}.svc.{cluster_domain}")
    if name != host:
        names += [f"{name}.{namespace}.svc", f"{name}.{namespace}"]
    names += [f"[{address}]" if ":" in str(address) else str(address) for address in addresses]
    return [f"{entry}:{port}" for entry in names] + (names if port == 80 else [])


def _listener(name: str, address: Any, bind: bool) -> Any:
    made = listener_pb2.Listener(name=name, address=address, traffic_direction=base_pb2.OUTBOUND)
    made.bind_to_port.value = bind
    return made


def _match(made: Any, chosen: Any) -> None:
    if chosen.HasField("matcher"):
        made.filter_chain_matcher.CopyFrom(chosen.matcher)
    else:
        made.filter_chain_matcher.CopyFrom(matcher_pb2.Matcher(on_no_match=chosen))


def _closed(networks: Sequence[IPNetwork]) -> list[Chain]:
    """Every port of these networks leads nowhere. None, where there are none."""
    nowhere = (TcpRoute((TcpDestination(BLACK_HOLE),)),)
    return [Chain(BLACK_HOLE, 0, Traffic.TCP, networks=tuple(networks), tcp=nowhere)] if networks else []


def _passthrough() -> Any:
    route = TcpRoute((TcpDestination(PASSTHROUGH),))
    return listener_components_pb2.FilterChain(name=PASSTHROUGH, filters=filters.tcp_filters(PASSTHROUGH, route, (), NO_TELEMETRY))
