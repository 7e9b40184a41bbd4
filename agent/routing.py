"""The routing of a pod's namespace that brings an app's replies back to the tunnel, and its exact inverse.

The tunnel delivers to an app from the client's address, over `lo`, with the mark 0x111. `tcp_fwmark_accept` gives the app's accepted
socket that mark, so its replies carry it; the rule below sends whatever carries it to table 100, where everything is local to `lo`:

    sysctl net.ipv4.tcp_fwmark_accept = 1
    sysctl net.ipv4.fwmark_reflect = 1, net.ipv6.fwmark_reflect = 1
    ip rule  add fwmark 0x111/0xfff priority 32764 lookup 100      (also -6)
    ip route add local default dev lo table 100                    (also -6)

`fwmark_reflect` does the same for what no socket answers: without it the reset of a port on which no app listens would leave by eth0
towards the client, and the tunnel's connect would wait for its time-out instead of being refused at once.

The numbers are Istio's, so a tunnel of theirs finds what it expects. What was there before is noted first (`Before`), so that
`restore` takes away only what `install` brought. All functions block for some milliseconds: call them on a worker thread. The
only exception that comes out is OSError.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from mesh.io.netns import Namespace
from mesh.model.workload import IPAddress

REPLY_MARK = 0x111
MARK_MASK = 0xFFF
RULE_PRIORITY = 32764
TABLE = 100
SYSCTLS = ("net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect")
"""All of these are 1 in an enrolled pod's namespace. The last is not there on a kernel without IPv6."""
_PROC_SYS = "/proc/sys/"
_IPV6_OFF = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"

_RT_SCOPE_HOST = 254
_RTN_LOCAL = 2
_GONE = {errno.ENOENT, errno.ESRCH, errno.EEXIST}


@dataclass(frozen=True, slots=True)
class Before:
    """How a namespace was before the first `install`: sysctls, and the families (4, 6) whose rule or route was there already."""

    sysctls: tuple[tuple[str, str], ...]
    rules: tuple[int, ...] = ()
    routes: tuple[int, ...] = ()


def needed_sysctls() -> list[str]:
    """Files without which enrolment cannot work; IPv6's only where the kernel has IPv6."""
    return [_PROC_SYS + name for name in SYSCTLS if "ipv6" not in name or os.path.exists(_IPV6_OFF)]


def survey(namespace: Namespace) -> Before:
    """Look, change nothing. OSError where the namespace or the kernel does not allow it."""
    with _as_oserror():
        return namespace.run(_survey)


def install(namespace: Namespace) -> None:
    """Idempotent. OSError with what could not be done; what was done stays for the next try (or for `restore`)."""
    with _as_oserror():
        namespace.run(_install)


def restore(namespace: Namespace, before: Before) -> None:
    """The exact inverse of `install`. Idempotent. What somebody else changed meanwhile is left as it is."""
    with _as_oserror():
        namespace.run(lambda: _restore(before))


def addresses(namespace: Namespace) -> tuple[IPAddress, ...]:
    """Every address of every interface but `lo`: what may be the destination of inbound traffic. Link-local ones come last."""
    with _as_oserror():
        return namespace.run(_addresses)


def _survey() -> Before:
    with IPRoute() as netlink:
        families = list(_families())
        return Before(
            sysctls=tuple((name, _read(_PROC_SYS + name)) for name in SYSCTLS if os.path.exists(_PROC_SYS + name)),
            rules=tuple(version for version, family in families if _has_rule(netlink, family)),
            routes=tuple(version for version, family in families if _has_route(netlink, family)),
        )


def _install() -> None:
    with IPRoute() as netlink:
        for _, family in _families():
            if not _has_route(netlink, family):
                _change(netlink.route, "add", **_route(family))
            if not _has_rule(netlink, family):
                _change(netlink.rule, "add", **_rule(family))
    for name in SYSCTLS:
        if os.path.exists(_PROC_SYS + name) and _read(_PROC_SYS + name) != "1":
            _write(_PROC_SYS + name, "1")


def _restore(before: Before) -> None:
    for name, value in before.sysctls:
        if value != "1" and _read(_PROC_SYS + name) == "1":
            _write(_PROC_SYS + name, value)
    with IPRoute() as netlink:
        for version, family in _families():
            if version not in before.rules and _has_rule(netlink, family):
                _change(netlink.rule, "del", **_rule(family))
            if version not in before.routes and _has_route(netlink, family):
                _change(netlink.route, "del", **_route(family))


def _addresses() -> tuple[IPAddress, ...]:
    loopback = socket.if_nametoindex("lo")
    found: dict[IPAddress, None] = {}  # a set that keeps the kernel's order
    with IPRoute() as netlink:
        for message in netlink.get_addr():
            # IFA_LOCAL is the own address where IFA_ADDRESS is the far end of a point-to-point link; IPv6 has only the latter.
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if message["index"] != loopback and text:
                found[ip_address(text)] = None
    return tuple(sorted(found, key=lambda ip: ip.is_link_local))


def _families() -> Iterator[tuple[int, int]]:
    yield 4, socket.AF_INET
    try:
        if _read(_IPV6_OFF) == "0":
            yield 6, socket.AF_INET6
    except FileNotFoundError:
        return  # a kernel without IPv6


def _rule(family: int) -> dict[str, Any]:
    return {"family": family, "fwmark": REPLY_MARK, "fwmask": MARK_MASK, "priority": RULE_PRIORITY, "table": TABLE}


def _route(family: int) -> dict[str, Any]:
    everything = "0.0.0.0/0" if family == socket.AF_INET else "::/0"
    route = {"family": family, "dst": everything, "oif": socket.if_nametoindex("lo"), "table": TABLE, "type": "local"}
    return route | ({"scope": _RT_SCOPE_HOST} if family == socket.AF_INET else {})


def _has_rule(netlink: IPRoute, family: int) -> bool:
    wanted = {"FRA_FWMARK": REPLY_MARK, "FRA_FWMASK": MARK_MASK, "FRA_PRIORITY": RULE_PRIORITY, "FRA_TABLE": TABLE}
    return any(all(rule.get_attr(name) == value for name, value in wanted.items()) for rule in netlink.get_rules(family=family))


def _has_route(netlink: IPRoute, family: int) -> bool:
    loopback = socket.if_nametoindex("lo")
    return any(
        route["dst_len"] == 0 and route["type"] == _RTN_LOCAL and route.get_attr("RTA_OIF") == loopback
        for route in netlink.get_routes(family=family, table=TABLE)
    )


def _change(call: Any, command: str, **spec: Any) -> None:
    try:
        call(command, **spec)
    except NetlinkError as error:
        if error.code not in _GONE:  # else somebody did the same meanwhile
            what = "ip rule" if "fwmark" in spec else "ip route"
            raise OSError(error.code, f"{what} {command} table {TABLE}: {os.strerror(error.code)}") from error


@contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, f"netlink: {os.strerror(error.code)}") from error


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def _write(path: str, value: str) -> None:
    with open(path, "w") as file:
        file.write(value)
