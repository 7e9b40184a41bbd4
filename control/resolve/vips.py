"""Virtual addresses for names that have none: a ServiceEntry, or a service of another catalogue, is addressed by them.

Each name has a place of its own in the block, by a hash; where two meet, the older keeps it and the younger takes the next free one. So an
address is the same in every replica and after every restart, and stays as long as what is older than its name does. What the object's
status says was handed out before counts first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType

from control.resolve.engine import Group, Read, query
from control.resolve.tables import OBJECTS
from mesh.model.manifest import Key, Object, ServiceEntry
from mesh.model.workload import IPAddress

AUTOMATIC_LABEL = "networking.istio.io/enable-autoallocate-ip"
V4_BLOCK = int(IPv4Address("240.240.0.0"))
V6_BLOCK = int(IPv6Address("2001:2::f0f0:0"))
PLACES = 65534
"""Addresses of the block, without its first and last."""


def automatic(entry: Object) -> bool:
    """Whether an object's names need addresses: they are looked up by name, and nobody gave any."""
    if not isinstance(entry, ServiceEntry) or entry.labels.get(AUTOMATIC_LABEL) == "false":
        return False
    return entry.spec.resolution in ("STATIC", "DNS", "DNS_ROUND_ROBIN") and not entry.spec.addresses


def _automatic(key: Key, entry: Object) -> Iterable[None]:
    if automatic(entry):
        yield None


AUTOMATIC: Group[Key, Object | None, None] = Group("objects that need addresses", OBJECTS, _automatic)


@query(15)
def places(read: Read, _: None) -> Mapping[tuple[str, str], int]:
    """{(namespace, host): place in the block}"""
    entries = [entry for entry in (read(OBJECTS, key) for key in read(AUTOMATIC, None)) if isinstance(entry, ServiceEntry)]
    entries.sort(key=lambda entry: (entry.metadata.creation_timestamp or "~", entry.namespace, entry.name))
    found: dict[tuple[str, str], int] = {}
    taken: set[int] = set()
    for entry in entries:
        for host in entry.spec.hosts:
            name = (entry.namespace, host)
            if host.startswith("*") or name in found or len(taken) >= PLACES:
                continue
            place = _hash(name)
            while place in taken:
                place = place % PLACES + 1
            taken.add(place)
            found[name] = place
    return MappingProxyType(found)


@query(16)
def automatic_addresses(read: Read, name: tuple[str, str]) -> tuple[IPAddress, ...]:
    """The addresses of a host of a namespace; none where it needs none."""
    place = read(places, None).get(name)
    return () if place is None else (IPv4Address(V4_BLOCK + place), IPv6Address(V6_BLOCK + place))


def _hash(name: tuple[str, str]) -> int:
    return int.from_bytes(hashlib.sha256("/".join(name).encode()).digest()[:8], "big") % PLACES + 1
