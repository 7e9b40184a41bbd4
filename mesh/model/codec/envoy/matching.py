"""Which chain takes a connection: a decision tree by address, then port, then what the first bytes tell. No list is walked.

address ── port ── server name ── chain            (TLS)
       │       └── HTTP or not ── chain            (AUTO)
       └─ network ── port ── …
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2 as inputs_pb2
from google.protobuf import wrappers_pb2
from google.protobuf.message import Message
from xds.core.v3 import cidr_pb2, extension_pb2
from xds.type.matcher.v3 import domain_pb2, ip_pb2, matcher_pb2

from mesh.model.codec.envoy import filters, parts
from mesh.model.l7.chains import Chain, Traffic
from mesh.model.workload import IPNetwork

ANY_PORT = "0"
# As Envoy's inspector writes them.
HTTP_PROTOCOLS = ("'http/1.0'", "'http/1.1'", "'h2c'")


def chain_matcher(chains: Sequence[Chain]) -> Any:
    """The first of two chains for one address and port wins; whoever makes the list has seen to it that there are none."""
    by_ip: dict[str, dict[str, Chain]] = defaultdict(dict)
    by_network: dict[IPNetwork, dict[str, Chain]] = defaultdict(dict)
    for chain in chains:
        for address in chain.addresses:
            by_ip[str(address)].setdefault(str(chain.port), chain)
        for network in chain.networks:
            by_network[network].setdefault(str(chain.port), chain)
    made = matcher_pb2.Matcher()
    if by_ip:
        made.matcher_tree.CopyFrom(_exact(inputs_pb2.DestinationIPInput(), {ip: _by_port(ports) for ip, ports in by_ip.items()}))
    if by_network:
        networks = _by_network(by_network)
        if not by_ip:
            return networks
        made.on_no_match.matcher.CopyFrom(networks)
    if not (by_ip or by_network):
        # A matcher has to ask something.
        nothing = matcher_pb2.Matcher.OnMatch(matcher=matcher_pb2.Matcher(on_no_match=_choose("none")))
        made.matcher_tree.CopyFrom(_exact(inputs_pb2.DestinationIPInput(), {"none": nothing}))
    return made


def _by_port(ports: Mapping[str, Chain]) -> Any:
    rest = ports.get(ANY_PORT)
    named = {port: on(chain) for port, chain in ports.items() if port != ANY_PORT}
    if rest is not None and not named:
        return on(rest)
    made = matcher_pb2.Matcher(matcher_tree=_exact(inputs_pb2.DestinationPortInput(), named))
    if rest is not None:
        made.on_no_match.CopyFrom(on(rest))
    return matcher_pb2.Matcher.OnMatch(matcher=made)


def on(chain: Chain) -> Any:
    """What becomes of a connection to a chain's own address and port."""
    if chain.traffic is Traffic.AUTO:
        http = _choose(filters.http_name(chain))
        made = matcher_pb2.Matcher(matcher_tree=_exact(inputs_pb2.ApplicationProtocolInput(), dict.fromkeys(HTTP_PROTOCOLS, http)))
        if chain.tcp:
            made.on_no_match.CopyFrom(_choose(filters.tcp_name(chain, 0)))
        return matcher_pb2.Matcher.OnMatch(matcher=made)
    if chain.traffic is Traffic.HTTP:
        return _choose(filters.http_name(chain))
    return _by_server_name(chain)


def _by_server_name(chain: Chain) -> Any:
    named: dict[str, int] = {}
    rest: int | None = None
    for index, route in enumerate(chain.tcp):
        for name in route.server_names:
            named.setdefault(name.lower(), index)
        if not route.server_names and rest is None:
            rest = index
    if not named:
        return _choose(filters.tcp_name(chain, rest or 0))
    by_index: dict[int, list[str]] = defaultdict(list)
    for name, index in named.items():
        by_index[index].append(name)
    domains = domain_pb2.ServerNameMatcher(
        domain_matchers=[
            domain_pb2.ServerNameMatcher.DomainMatcher(domains=names, on_match=_choose(filters.tcp_name(chain, index)))
            for index, names in by_index.items()
        ]
    )
    made = matcher_pb2.Matcher(matcher_tree=_custom(inputs_pb2.ServerNameInput(), "server names", domains))
    if rest is not None:
        made.on_no_match.CopyFrom(_choose(filters.tcp_name(chain, rest)))
    return matcher_pb2.Matcher.OnMatch(matcher=made)


def _by_network(networks: Mapping[IPNetwork, Mapping[str, Chain]]) -> Any:
    """The longest prefix first."""
    ranges = [
        ip_pb2.IPMatcher.IPRangeMatcher(
            ranges=[cidr_pb2.CidrRange(address_prefix=str(network.network_address), prefix_len=parts.uint32(network.prefixlen))],
            on_match=_by_port(ports),
        )
        for network, ports in networks.items()
    ]
    return matcher_pb2.Matcher(matcher_tree=_custom(inputs_pb2.DestinationIPInput(), "networks", ip_pb2.IPMatcher(range_matchers=ranges)))


def _choose(name: str) -> Any:
    """An action is the name of a filter chain."""
    value = parts.packed(wrappers_pb2.StringValue(value=name))
    return matcher_pb2.Matcher.OnMatch(action=extension_pb2.TypedExtensionConfig(name=name, typed_config=value))


def _input(message: Message) -> Any:
    return extension_pb2.TypedExtensionConfig(name=message.DESCRIPTOR.name, typed_config=parts.packed(message))


def _exact(source: Message, choices: Mapping[str, Any]) -> Any:
    made = matcher_pb2.Matcher.MatcherTree(input=_input(source))
    for value, choice in choices.items():
        made.exact_match_map.map[value].CopyFrom(choice)
    return made


def _custom(source: Message, name: str, matcher: Message) -> Any:
    config = extension_pb2.TypedExtensionConfig(name=name, typed_config=parts.packed(matcher))
    return matcher_pb2.Matcher.MatcherTree(input=_input(source), custom_match=config)
