"""The network of a cluster: the hub's namespace and bridge, the nodes' namespaces on it, and every route between them.

Addresses are the same in every cluster, since each is in namespaces of its own: nodes 10.97.0.N and fd00:97::N, their pods in
10.244.N.0/24 and fd00:244:N::/64. Only the pair of links that leads from the machine into the hub has to differ: it takes a network of four
addresses from 198.18.0.0/16, a range that is set aside for tests (RFC 2544).
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack

from tests.cluster import ports
from tests.cluster.apiserver import Place
from tests.cluster.janitor import NETNS, Record

HUB_ADDRESS, HUB_ADDRESS6 = "10.97.0.254", "fd00:97::fe"
SUBNETS = 2**14
COMMAND_SECONDS = 60.0


def hub_of(record: Record) -> str:
    return f"cvt{record.id}-hub"


def node_addresses(number: int) -> tuple[str, str]:
    return f"10.97.0.{number}", f"fd00:97::{number}"


def pods_of(number: int) -> tuple[str, str]:
    """The ranges of a node's pods."""
    return f"10.244.{number}.0/24", f"fd00:244:{number}::/64"


def inside(netns: str) -> list[str]:
    """The prefix of a command that runs in a network namespace. `ip netns exec` would mount another /sys and hide the cgroups."""
    return ["nsenter", f"--net={NETNS / netns}", "--"]


def make_hub(stack: ExitStack, record: Record) -> Place:
    hub, link = record.namespace(hub_of(record)), record.link(f"cvt{record.id}")
    number, lock = next((number, lock) for number in range(SUBNETS) if (lock := ports.try_lock("subnets", number)) is not None)
    stack.callback(os.close, lock)
    here, there = (f"198.18.{number // 64}.{number % 64 * 4 + end}" for end in (1, 2))
    run("ip", "netns", "add", hub)
    run("ip", "link", "add", link, "type", "veth", "peer", "name", "machine", "netns", hub)
    run("ip", "address", "add", f"{here}/30", "dev", link)
    run("ip", "link", "set", link, "up")
    bridge = [f"address add {HUB_ADDRESS}/24 dev nodes", f"address add {HUB_ADDRESS6}/64 dev nodes nodad", "link set nodes up"]
    machine = [f"address add {there}/30 dev machine", "link set machine up"]
    _batch(hub, ["link set lo up", "link add nodes type bridge", *bridge, *machine])
    _forward(hub)
    return Place(inside=tuple(inside(hub)), host=there, advertise=HUB_ADDRESS)


def make_node(record: Record, number: int, count: int) -> str:
    """The network namespace of node `number` of `count`, on the hub's bridge."""
    name = f"node-{number}"
    netns = record.namespace(f"cvt{record.id}-{name}")
    address, address6 = node_addresses(number)
    run("ip", "netns", "add", netns)
    link = [f"link add {name} type veth peer name eth0 netns {netns}", f"link set {name} master nodes up"]
    _batch(hub_of(record), [*link, *_routes_to_pods(number)])
    others = [route for other in range(1, count + 1) if other != number for route in _routes_to_pods(other)]
    eth0 = [f"address add {address}/24 dev eth0", f"address add {address6}/64 dev eth0 nodad", "link set eth0 up"]
    defaults = [f"route add default via {HUB_ADDRESS}", f"route add default via {HUB_ADDRESS6}"]
    _batch(netns, ["link set lo up", *eth0, *defaults, *others])
    _forward(netns)
    return netns


def _routes_to_pods(number: int) -> list[str]:
    return [f"route add {pods} via {node}" for pods, node in zip(pods_of(number), node_addresses(number), strict=True)]


def run(*command: str, check: bool = True, stdin: str = "") -> str:
    """Standard output; AssertionError with both outputs if it fails, unless `check` is off."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def _batch(netns: str, lines: list[str]) -> None:
    run("ip", "-netns", netns, "-batch", "-", stdin="\n".join(lines) + "\n")


def _forward(netns: str) -> None:
    switches = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")
    run(*inside(netns), "tee", *switches, stdin="1")
