"""What clients are served: every resource in its wire form with a version that is a hash of its content. Immutable; made anew per change.

A resource whose object did not change is taken over from the snapshot before, so that a change costs what changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from google.protobuf.message import Message

from control.resolve import Resolved
from mesh.model.codec.proto import ADDRESS_TYPE, AUTHORIZATION_TYPE, address_to, authorization_to, resource_name
from mesh.model.policy import Authorization, PolicyScope
from mesh.model.workload import NetworkAddress, Service, Workload

T = TypeVar("T", bound=Workload | Service | Authorization)
# In the order in which a change is sent: a policy comes before the workload that names it.
TYPES = (AUTHORIZATION_TYPE, ADDRESS_TYPE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One resource. `aliases` are further keys by which it may be asked for. `named`: it counts only where another resource names it."""

    name: str
    version: str
    body: bytes
    value: Workload | Service | Authorization
    aliases: tuple[str, ...] = ()
    named: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`entries` by type URL and name; `keys` by type URL, from what an on-demand client may ask for to the names that answer it.
    `number` counts snapshots from 1; 0 is before the first.
    """

    number: int = 0
    entries: Mapping[str, Mapping[str, Entry]] = field(
        default_factory=lambda: MappingProxyType({name: MappingProxyType({}) for name in TYPES})
    )
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def find(self, type_url: str, key: str) -> list[Entry]:
        """What answers a request for `key`: a resource, or a service with all its endpoints; empty where nothing does."""
        entries = self.entries[type_url]
        if type_url == ADDRESS_TYPE:
            return [entries[name] for name in self.keys.get(key, ())]
        return [entries[key]] if key in entries else []


def build(resolved: Resolved, previous: Snapshot) -> Snapshot:
    """The next snapshot; `previous` itself where nothing is different."""
    addresses: dict[str, Entry] = {}
    old = previous.entries[ADDRESS_TYPE]
    values: tuple[Workload | Service, ...] = (*resolved.workloads, *resolved.services)
    for value in values:
        name = resource_name(value)
        addresses[name] = _entry(old.get(name), name, value, address_to, _aliases(value))
    old = previous.entries[AUTHORIZATION_TYPE]
    policies = {policy.key: _entry(old.get(policy.key), policy.key, policy, authorization_to, ()) for policy in resolved.policies}
    entries = {ADDRESS_TYPE: addresses, AUTHORIZATION_TYPE: policies}
    if previous.number and all(_versions(entries[name]) == _versions(previous.entries[name]) for name in TYPES):
        return previous
    frozen = MappingProxyType({name: MappingProxyType(found) for name, found in entries.items()})
    return Snapshot(previous.number + 1, frozen, MappingProxyType(_keys(addresses.values())))


def _entry(old: Entry | None, name: str, value: T, encode: Callable[[T], Message], aliases: tuple[str, ...]) -> Entry:
    if old is not None and old.value == value:
        return old
    body = encode(value).SerializeToString(deterministic=True)
    named = isinstance(value, Authorization) and value.scope is PolicyScope.WORKLOAD
    return Entry(name, hashlib.sha256(body).hexdigest()[:16], body, value, aliases, named)


def _versions(entries: Mapping[str, Entry]) -> dict[str, str]:
    return {name: entry.version for name, entry in entries.items()}


def _aliases(value: Workload | Service) -> tuple[str, ...]:
    if isinstance(value, Service):
        return tuple(_address(vip) for vip in value.vips)
    return tuple(_address(NetworkAddress(value.network, ip)) for ip in value.addresses)


def _address(address: NetworkAddress) -> str:
    return f"{address.network}/{address.ip}"


def _keys(entries: Iterable[Entry]) -> dict[str, tuple[str, ...]]:
    endpoints: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}
    services: list[Entry] = []
    for entry in entries:
        if isinstance(entry.value, Workload):
            for key in entry.value.services:
                endpoints.setdefault(str(key), []).append(entry.name)
        else:
            services.append(entry)
        for key_name in (entry.name, *entry.aliases):
            found.setdefault(key_name, []).append(entry.name)
    for service in services:
        for key_name in (service.name, *service.aliases):
            found[key_name] += [name for name in endpoints.get(service.name, ()) if name not in found[key_name]]
    return {key: tuple(names) for key, names in found.items()}
