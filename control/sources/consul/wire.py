"""What Consul's answers look like, and what of them is looked at. Pure: bytes in, frozen values out.

What has another shape than Consul's documentation says is no answer: `Garbled`, and nothing of it is used. Fields that we do not read may
be anything; Consul adds some with every version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from control.sources.consul.errors import Garbled, translated

PASSING, WARNING = "passing", "warning"
MAINTENANCE = ("_node_maintenance", "_service_maintenance:")


class Health(Enum):
    """Of one instance: the worst of its checks and of its node's. Maintenance is a critical check with a name of its own."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "maintenance"

    @property
    def serves(self) -> bool:
        return self in (Health.PASSING, Health.WARNING)


@dataclass(frozen=True, slots=True)
class Instance:
    """One registration of a service. `address` is its own, or its node's where it has none; `virtual` are addresses that Consul assigned to
    the service; `weight` is the one for its health.
    """

    node: str
    id: str
    address: str
    port: int
    health: Health = Health.PASSING
    weight: int = 1
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    region: str = ""
    zone: str = ""
    datacenter: str = ""
    virtual: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Unique among all instances of a datacenter."""
        return (self.node, self.id)


@dataclass(frozen=True, slots=True)
class Check:
    """One that does not pass. `service` is "" for a check of the whole node."""

    node: str
    id: str
    status: str
    service: str = ""


# As they come.


class _Check(msgspec.Struct, rename="pascal"):
    node: str
    check_id: str = msgspec.field(name="CheckID")
    status: str
    service_name: str = ""


class _Locality(msgspec.Struct, rename="pascal"):
    region: str = ""
    zone: str = ""


class _Node(msgspec.Struct, rename="pascal"):
    node: str
    address: str = ""
    datacenter: str = ""
    locality: _Locality | None = None


class _Address(msgspec.Struct, rename="pascal"):
    address: str = ""


class _Weights(msgspec.Struct, rename="pascal"):
    passing: int = 1
    warning: int = 1


class _Service(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(name="ID")
    service: str
    tags: tuple[str, ...] | None = None
    address: str = ""
    tagged_addresses: dict[str, _Address] | None = None
    meta: dict[str, str] | None = None
    port: int = 0
    weights: _Weights | None = None
    kind: str = ""
    locality: _Locality | None = None


class _Entry(msgspec.Struct, rename="pascal"):
    node: _Node
    service: _Service
    checks: list[_Check] | None = None


class _Kept(msgspec.Struct):
    """A service as it is kept on disk. The form is ours; a change of it makes older ones unreadable, which is said, and harms nothing."""

    name: str
    instances: tuple[Instance, ...]


_services = msgspec.json.Decoder(dict[str, tuple[str, ...] | None])
_entries = msgspec.json.Decoder(list[_Entry])
_checks = msgspec.json.Decoder(list[_Check])
_kept = msgspec.json.Decoder(_Kept)
_indexes = msgspec.json.Decoder(dict[str, int])


def read_services(body: bytes, most: int) -> dict[str, tuple[str, ...]]:
    """Names of services with all tags that any instance has, sorted. Garbled for more than `most`."""
    with translated("the list of services"):
        found = _services.decode(body)
    if len(found) > most:
        raise Garbled(f"the list of services: {len(found)} services are more than {most}")
    return {name: tuple(sorted(tags or ())) for name, tags in found.items()}


def read_checks(body: bytes) -> frozenset[Check]:
    """Those that do not pass. An old Consul that knows no filters sends the others as well."""
    with translated("the list of checks"):
        found = _checks.decode(body)
    return frozenset(
        Check(check.node, check.check_id, _health(check).value, check.service_name) for check in found if check.status != PASSING
    )


def read_instances(name: str, body: bytes) -> tuple[Instance, ...]:
    """The instances of a service, in a stable order."""
    with translated(f"service {name}"):
        found = _entries.decode(body)
    return tuple(sorted((_instance(entry) for entry in found), key=lambda instance: instance.key))


def _instance(entry: _Entry) -> Instance:
    service, node = entry.service, entry.node
    health = worst(_health(check) for check in entry.checks or ())
    weights = service.weights or _Weights()
    locality = service.locality or node.locality or _Locality()
    tagged = service.tagged_addresses or {}
    return Instance(
        node=node.node,
        id=service.id,
        address=service.address or node.address,
        port=service.port,
        health=health,
        weight=weights.warning if health is Health.WARNING else weights.passing,
        tags=tuple(sorted(set(service.tags or ()))),
        meta=service.meta or {},
        kind=service.kind,
        region=locality.region,
        zone=locality.zone,
        datacenter=node.datacenter,
        virtual=(tagged["consul-virtual"].address,) if "consul-virtual" in tagged else (),
    )


def _health(check: _Check) -> Health:
    """What Consul knows no word for does not pass."""
    if check.status == PASSING:
        return Health.PASSING
    if check.check_id.startswith(MAINTENANCE):
        return Health.MAINTENANCE
    return Health.WARNING if check.status == WARNING else Health.CRITICAL


_ORDER = (Health.PASSING, Health.WARNING, Health.CRITICAL, Health.MAINTENANCE)


def worst(found: Iterable[Health]) -> Health:
    return max(found, key=_ORDER.index, default=Health.PASSING)


# What is kept on disk.


def write_kept(name: str, instances: tuple[Instance, ...]) -> bytes:
    return msgspec.json.encode(_Kept(name, instances))


def read_kept(value: bytes) -> tuple[str, tuple[Instance, ...]]:
    with translated("what was kept"):
        found = _kept.decode(value)
    return found.name, found.instances


def write_indexes(indexes: Mapping[str, int]) -> bytes:
    return msgspec.json.encode(dict(indexes))


def read_indexes(value: bytes) -> dict[str, int]:
    with translated("what was kept"):
        return _indexes.decode(value)
