"""What node tunnels are served: workloads, services and L4 policies, as Istio's types, each with what it must not come before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from google.protobuf.message import Message

from control.resolve import Changes
from control.xds.messages import Rules
from control.xds.store import Entry
from mesh.model.codec.proto import ADDRESS_TYPE, AUTHORIZATION_TYPE, address_to, authorization_to
from mesh.model.policy import Authorization, PolicyScope
from mesh.model.workload import NetworkAddress, Service, Workload

T = TypeVar("T")

# A policy comes before the workload that names it.
TUNNEL_TYPES = (AUTHORIZATION_TYPE, ADDRESS_TYPE)
TUNNEL_RULES = Rules(TUNNEL_TYPES, patient=True)


def tunnel_entries(changes: Changes) -> dict[str, dict[str, Entry | None]]:
    """What a change of the mesh is to tunnels, by type and name."""
    addresses = {**_entries(changes.workloads, workload_entry), **_entries(changes.services, service_entry)}
    return {AUTHORIZATION_TYPE: _entries(changes.policies, policy_entry), ADDRESS_TYPE: addresses}


def _entries(changes: Mapping[str, T | None], encode: Callable[[T], Entry]) -> dict[str, Entry | None]:
    return {name: None if value is None else encode(value) for name, value in changes.items()}


def workload_entry(workload: Workload) -> Entry:
    return Entry(
        workload.uid,
        ADDRESS_TYPE,
        _bytes(address_to(workload)),
        keys=tuple(_address(NetworkAddress(workload.network, ip)) for ip in workload.addresses),
        groups=tuple(str(key) for key in workload.services),
        needs=tuple((AUTHORIZATION_TYPE, key) for key in workload.policies),
    )


def service_entry(service: Service) -> Entry:
    return Entry(str(service.key), ADDRESS_TYPE, _bytes(address_to(service)), keys=tuple(_address(vip) for vip in service.vips))


def policy_entry(policy: Authorization) -> Entry:
    named = policy.scope is PolicyScope.WORKLOAD
    return Entry(policy.key, AUTHORIZATION_TYPE, _bytes(authorization_to(policy)), named=named)


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _address(address: NetworkAddress) -> str:
    return f"{address.network}/{address.ip}"
