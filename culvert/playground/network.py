"""The playground's network: the wire, the control plane's place on it, nodes and pods. Runs in the namespace worker's thread.

    <name>-wire:      wire0 (bridge) ── one port per node and one for the control plane
    <name>-control:   eth0 172.30.0.10
    <name>-node-1:    eth0 172.30.0.11 (what `verify` captures); cni0 10.244.1.1/24, fd00:10:244:1::1/64; routes to the other nodes' pods
    <name>-node-1-…:  eth0 10.244.1.x/32, fd00:10:244:1::x/128; default route by way of the node, even to the pod next door

Each function makes its namespace from nothing, and only a namespace that is whole is recorded by the caller: after a crash, what
is not recorded is deleted and made again.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from culvert.playground import netns
from culvert.playground.addresses import CONTROL_HOST, SERVICES4, SERVICES6, gateways, node_wire_addresses, pod_ranges, wire_addresses
from culvert.playground.launch import in_netns
from culvert.playground.layout import Layout, netns_path

WIRE_BRIDGE = "wire0"
POD_BRIDGE = "cni0"
UPLINK = "eth0"
IFA_F_NODAD = 0x02
RTNH_F_ONLINK = 4

# Without these, the first second of every IPv6 address is spent on duplicate detection, and redirects teach pods to bypass the node.
COMMON = {
    "ipv6.conf.{}.disable_ipv6": "0",
    "ipv6.conf.{}.accept_dad": "0",
    "ipv6.conf.{}.accept_ra": "0",
    "ipv6.conf.{}.accept_redirects": "0",
    "ipv4.conf.{}.accept_redirects": "0",
    "ipv4.conf.{}.send_redirects": "0",
    "ipv4.conf.{}.rp_filter": "0",
}
ROUTER = {"ipv4.ip_forward": "1", "ipv6.conf.all.forwarding": "1", "ipv6.conf.default.forwarding": "1"}
# Where the kernel has it, frames inside a bridge else go through the IP hooks too: a translated packet would be bridged straight to its new
# destination, past the node, and a hairpin be dropped at the port that it came from.
NO_BRIDGE_HOOKS = {"bridge.bridge-nf-call-iptables": "0", "bridge.bridge-nf-call-ip6tables": "0", "bridge.bridge-nf-call-arptables": "0"}
NO_IPV6 = {"ipv6.conf.all.disable_ipv6": "1", "ipv6.conf.default.disable_ipv6": "1"}

IP = IPv4Address | IPv6Address


def make_wire(layout: Layout) -> None:
    _new(layout.wire)

    def inside() -> None:
        _sysctl({**COMMON, **NO_IPV6, **NO_BRIDGE_HOOKS})
        with _netlink() as route:
            _up(route, "lo")
            route.link("add", ifname=WIRE_BRIDGE, kind="bridge")
            _up(route, WIRE_BRIDGE)

    in_netns(layout.wire, inside)


def make_control(layout: Layout) -> None:
    _new(layout.control)
    _join_wire(layout, layout.control, "control", wire_addresses(CONTROL_HOST), lambda route: None)


def make_node(layout: Layout, node: str, number: int, count: int) -> None:
    """`number` of `count` nodes, from 1."""
    namespace = layout.node(node)
    _new(namespace)

    def inside(route: IPRoute) -> None:
        _sysctl({**ROUTER, **NO_BRIDGE_HOOKS})
        # A fixed hardware address: a bridge else takes its smallest port's, which changes with the pods, and pods remember the old one.
        route.link("add", ifname=POD_BRIDGE, kind="bridge", address=f"0a:58:0a:f4:{number:02x}:01")
        _addresses(route, POD_BRIDGE, gateways(number), pod_ranges(number)[0].prefixlen, pod_ranges(number)[1].prefixlen)
        _up(route, POD_BRIDGE)
        # The node's own processes reach services too: something must route there before the translation at the output hook is asked.
        bridge = _index(route, POD_BRIDGE)
        for services in (SERVICES4, SERVICES6):
            route.route("add", dst=str(services), oif=bridge, family=_family(str(services)))
        uplink = _index(route, UPLINK)
        for other in range(1, count + 1):
            if other != number:
                for network, gateway in zip(pod_ranges(other), node_wire_addresses(other), strict=True):
                    route.route("add", dst=str(network), gateway=str(gateway), oif=uplink, family=_family(str(gateway)))

    _join_wire(layout, namespace, node, node_wire_addresses(number), inside)


def make_pod(layout: Layout, namespace: str, node: str, number: int, uid: str, addresses: tuple[str, ...]) -> None:
    """The pod's namespace and its link to `node`, whose number is `number`. Raises OSError; may be called again then."""
    port = pod_port(uid)
    node_netns = layout.node(node)
    in_netns(node_netns, lambda: _drop_link(port))
    _new(namespace)

    def inside() -> None:
        _sysctl(COMMON)
        with _netlink() as route:
            _up(route, "lo")
            _veth(route, UPLINK, port, node_netns)
            index = _index(route, UPLINK)
            for text in addresses:
                _address(route, index, text, 128 if ":" in text else 32)
            _up(route, UPLINK)
            for gateway in gateways(number):
                family = _family(str(gateway))
                route.route("add", dst="default", gateway=str(gateway), oif=index, family=family, flags=RTNH_F_ONLINK)

    def at_node() -> None:
        with _netlink() as route:
            route.link("set", index=_index(route, port), master=_index(route, POD_BRIDGE), state="up")

    in_netns(namespace, inside)
    in_netns(node_netns, at_node)


def pod_port(uid: str) -> str:
    """The node's end of a pod's link: at most 15 characters, different for every pod that lives."""
    return f"veth{zlib.crc32(uid.encode()):08x}"


def _new(namespace: str) -> None:
    netns.delete(namespace)
    netns.create(namespace)


def _join_wire(layout: Layout, namespace: str, port: str, addresses: tuple[IP, IP], more: Callable[[IPRoute], None]) -> None:
    def inside() -> None:
        _sysctl(COMMON)
        with _netlink() as route:
            _up(route, "lo")
            _veth(route, UPLINK, port, layout.wire)
            _addresses(route, UPLINK, addresses, 24, 64)
            _up(route, UPLINK)
            more(route)

    def at_wire() -> None:
        with _netlink() as route:
            route.link("set", index=_index(route, port), master=_index(route, WIRE_BRIDGE), state="up")

    in_netns(namespace, inside)
    in_netns(layout.wire, at_wire)


def _drop_link(name: str) -> None:
    """A link of an attempt that was cut short: the kernel takes a dead namespace's links away only some time later."""
    with _netlink() as route:
        for index in route.link_lookup(ifname=name):
            route.link("del", index=index)


def _veth(route: IPRoute, name: str, peer: str, peer_netns: str) -> None:
    with open(netns_path(peer_netns), "rb") as file:
        route.link("add", ifname=name, kind="veth", peer={"ifname": peer, "net_ns_fd": file.fileno()})


@contextmanager
def _netlink() -> Iterator[IPRoute]:
    route = IPRoute()
    try:
        yield route
    except NetlinkError as error:
        raise OSError(error.code, f"netlink: {error}") from error
    finally:
        route.close()


def _addresses(route: IPRoute, name: str, addresses: tuple[IP, IP], prefix4: int, prefix6: int) -> None:
    index = _index(route, name)
    for address in addresses:
        _address(route, index, str(address), prefix6 if address.version == 6 else prefix4)


def _address(route: IPRoute, index: int, address: str, prefix: int) -> None:
    six = ":" in address
    options: dict[str, Any] = {"flags": IFA_F_NODAD} if six else {}
    route.addr("add", index=index, address=address, prefixlen=prefix, family=_family(address), **options)


def _up(route: IPRoute, name: str) -> None:
    route.link("set", index=_index(route, name), state="up")


def _index(route: IPRoute, name: str) -> int:
    found = route.link_lookup(ifname=name)
    if not found:
        raise FileNotFoundError(f"link {name} does not exist")
    return int(found[0])


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _sysctl(values: dict[str, str]) -> None:
    """Keys below net; `{}` stands for `all` and `default` both, the latter for links that come later."""
    for key, value in values.items():
        for which in ("all", "default") if "{}" in key else ("",):
            path = Path("/proc/sys/net") / key.format(which).replace(".", "/")
            if path.parent.is_dir():  # no such directory: the kernel has no such feature
                path.write_text(value)
