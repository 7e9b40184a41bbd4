"""Who gets which address. Pure: allocators take what is in use and give what is next.

| range | what |
|---|---|
| 172.30.0.0/24, fd00:172:30::/64 | the wire between nodes: .10 is the control plane, .11 the first node |
| 10.244.<n>.0/24, fd00:10:244:<n>::/64 | pods of node n; .1 is the node's bridge |
| 10.96.0.0/16, fd00:10:96::/112 | service addresses, translated in each node |

All of it lives inside the playground's own namespaces, so several playgrounds use the same ranges side by side.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mesh.model.errors import CulvertError

WIRE4 = IPv4Network("172.30.0.0/24")
WIRE6 = IPv6Network("fd00:172:30::/64")
SERVICES4 = IPv4Network("10.96.0.0/16")
SERVICES6 = IPv6Network("fd00:10:96::/112")
CONTROL_HOST = 10
MAX_NODES = 64
FIRST_POD, LAST_POD = 2, 254


class AddressesExhausted(CulvertError):  # noqa: N818 - reads as what happened
    """A range has no free address left."""


def wire_addresses(host: int) -> tuple[IPv4Address, IPv6Address]:
    return WIRE4[host], WIRE6[host]


def node_wire_addresses(node_number: int) -> tuple[IPv4Address, IPv6Address]:
    """Underlay addresses of the node with this number (from 1)."""
    return wire_addresses(CONTROL_HOST + node_number)


def pod_ranges(node_number: int) -> tuple[IPv4Network, IPv6Network]:
    return IPv4Network(f"10.244.{node_number}.0/24"), IPv6Network(f"fd00:10:244:{node_number}::/64")


def gateways(node_number: int) -> tuple[IPv4Address, IPv6Address]:
    four, six = pod_ranges(node_number)
    return four[1], six[1]


def next_pod_host(used: Collection[int], last: int) -> int:
    """The next free host number of a pod range after `last`, round and round: an address is reused as late as possible, since
    peers may still remember what the last pod with it was.
    """
    span = LAST_POD - FIRST_POD + 1
    for step in range(1, span + 1):
        host = FIRST_POD + (last - FIRST_POD + step) % span
        if host not in used:
            return host
    raise AddressesExhausted(f"a node has room for {span} pods and all are in use; add nodes or delete pods")


def pod_addresses(node_number: int, host: int) -> tuple[IPv4Address, IPv6Address]:
    four, six = pod_ranges(node_number)
    return four[host], six[host]


def service_host(key: str, used: Collection[int]) -> int:
    """A host number for the service `<namespace>/<name>`: the same at every start unless another service already has it."""
    span = SERVICES4.num_addresses - 256 - 1
    start = zlib.crc32(key.encode()) % span
    for step in range(span):
        host = 256 + (start + step) % span
        if host not in used:
            return host
    raise AddressesExhausted("no service address is left in 10.96.0.0/16; delete services")


def service_addresses(host: int) -> tuple[IPv4Address, IPv6Address]:
    return SERVICES4[host], SERVICES6[host]


def service_host_of(address: str) -> int | None:
    """The host number behind a service address that a manifest asks for, or None if it is outside the ranges."""
    try:
        four = IPv4Address(address)
    except ValueError:
        six = IPv6Address(address)
        return int(six) - int(SERVICES6.network_address) if six in SERVICES6 else None
    return int(four) - int(SERVICES4.network_address) if four in SERVICES4 else None
