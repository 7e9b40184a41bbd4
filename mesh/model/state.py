"""The mesh as one node tunnel knows it: workloads, services and policies, indexed for the questions that a connection asks.

Mutable in place by whole objects only (`upsert_*`, `remove`), from one thread; every object inside is frozen. Endpoints that name a
service which has not arrived are kept with their workload and take effect when the service does, in either order of arrival.

Connections ask the same few questions again and again: `verdicts` (of `policy.evaluate`) and `hops` (of `route`) remember answers. Every
change forgets all of them, so none outlives what it was derived from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from mesh.model.policy import Authorization, Connection, Decision, PolicyScope
from mesh.model.workload import (
    Health,
    HealthPolicy,
    IPAddress,
    NamespacedHostname,
    NetworkAddress,
    NetworkMode,
    Service,
    Visibility,
    Workload,
)

K = TypeVar("K")
V = TypeVar("V")

DEFAULT_ROOT_NAMESPACE = "istio-system"
MAX_REMEMBERED = 8192


class MeshState:
    """All lookups are dictionary look-ups, except CIDR VIPs, which are few and scanned."""

    def __init__(self) -> None:
        self.workloads: dict[str, Workload] = {}
        self.services: dict[NamespacedHostname, Service] = {}
        self.policies: dict[str, Authorization] = {}
        self._by_address: dict[NetworkAddress, dict[str, Workload]] = {}
        self._by_pod: dict[tuple[str, str], dict[str, Workload]] = {}
        self._by_vip: dict[NetworkAddress, dict[NamespacedHostname, Service]] = {}
        self._by_hostname: dict[str, dict[NamespacedHostname, Service]] = {}
        self._endpoints: dict[NamespacedHostname, dict[str, Workload]] = {}
        self._global: dict[str, Authorization] = {}
        self._by_namespace: dict[str, dict[str, Authorization]] = {}
        self.verdicts: dict[tuple[str, Connection], Decision] = {}
        self.hops: dict[tuple[str, str, IPAddress, int, NamespacedHostname | None], object] = {}

    # Changes

    def _forget(self) -> None:
        self.verdicts.clear()
        self.hops.clear()

    def upsert_workload(self, workload: Workload) -> None:
        self._forget()
        self.remove_workload(workload.uid)
        self.workloads[workload.uid] = workload
        if workload.network_mode is NetworkMode.STANDARD:
            for ip in workload.addresses:
                self._by_address.setdefault(NetworkAddress(workload.network, ip), {})[workload.uid] = workload
        self._by_pod.setdefault((workload.namespace, workload.name), {})[workload.uid] = workload
        for key in workload.services:
            self._endpoints.setdefault(key, {})[workload.uid] = workload

    def remove_workload(self, uid: str) -> Workload | None:
        self._forget()
        old = self.workloads.pop(uid, None)
        if old is None:
            return None
        for ip in old.addresses:
            _discard(self._by_address, NetworkAddress(old.network, ip), uid)
        _discard(self._by_pod, (old.namespace, old.name), uid)
        for key in old.services:
            _discard(self._endpoints, key, uid)
        return old

    def upsert_service(self, service: Service) -> None:
        self._forget()
        self.remove_service(service.key)
        self.services[service.key] = service
        for vip in service.vips:
            self._by_vip.setdefault(vip, {})[service.key] = service
        self._by_hostname.setdefault(service.hostname, {})[service.key] = service

    def remove_service(self, key: NamespacedHostname) -> Service | None:
        self._forget()
        old = self.services.pop(key, None)
        if old is None:
            return None
        for vip in old.vips:
            _discard(self._by_vip, vip, key)
        _discard(self._by_hostname, old.hostname, key)
        return old

    def remove_address(self, name: str) -> None:
        """Remove what the control plane calls `name`: a workload's uid or a service's `<namespace>/<hostname>`."""
        if self.remove_workload(name) is None:
            namespace, _, hostname = name.partition("/")
            self.remove_service(NamespacedHostname(namespace, hostname))

    def upsert_policy(self, policy: Authorization) -> None:
        self._forget()
        self.remove_policy(policy.key)
        self.policies[policy.key] = policy
        if policy.scope is PolicyScope.GLOBAL:
            self._global[policy.key] = policy
        elif policy.scope is PolicyScope.NAMESPACE:
            self._by_namespace.setdefault(policy.namespace, {})[policy.key] = policy

    def remove_policy(self, key: str) -> None:
        self._forget()
        old = self.policies.pop(key, None)
        if old is not None:
            self._global.pop(key, None)
            _discard(self._by_namespace, old.namespace, key)

    # Questions

    def workload_at(self, address: NetworkAddress) -> Workload | None:
        """The workload with this address; with several, the one with the smallest uid, so that the answer is stable."""
        found = self._by_address.get(address)
        if not found:
            return None
        return next(iter(found.values())) if len(found) == 1 else found[min(found)]

    def workload_of_pod(self, namespace: str, name: str, service_account: str) -> Workload | None:
        for workload in self._by_pod.get((namespace, name), {}).values():
            if workload.service_account == service_account:
                return workload
        return None

    def service_at(self, address: NetworkAddress, client_namespace: str) -> Service | None:
        """The service with this VIP that the client may see; its own namespace's first, then canonical ones, then by key."""
        found = [service for service in self._by_vip.get(address, {}).values() if _visible(service, client_namespace)]
        if found:
            return min(found, key=lambda service: (service.namespace != client_namespace, not service.canonical, service.key))
        ranked = [
            (service.namespace != client_namespace, -network.prefixlen, not service.canonical, service.key)
            for service in self.services.values()
            for name, network in service.vip_networks
            if name == address.network and address.ip in network and _visible(service, client_namespace)
        ]
        return self.services[min(ranked)[3]] if ranked else None

    def services_named(self, hostname: str) -> list[Service]:
        return list(self._by_hostname.get(hostname, {}).values())

    def endpoints(self, service: Service, port: int) -> Iterator[tuple[Workload, int]]:
        """Endpoints usable for `port` of the service, with the port to use there. Unhealthy ones are left out unless allowed."""
        balancing = service.load_balancing
        allow_all = balancing is not None and balancing.health is HealthPolicy.ALLOW_ALL
        fallback = next((entry.target for entry in service.ports if entry.port == port), 0)
        for workload in self._endpoints.get(service.key, {}).values():
            if workload.health is Health.UNHEALTHY and not allow_all:
                continue
            target = workload.services[service.key].get(port, 0) or fallback
            if target:
                yield workload, target

    def policies_for(self, workload: Workload) -> tuple[list[Authorization], list[str]]:
        """The policies that apply to a workload, and the keys it names that are not (yet) here."""
        found = [*self._global.values(), *self._by_namespace.get(workload.namespace, {}).values()]
        missing: list[str] = []
        for key in workload.policies:
            policy = self.policies.get(key)
            if policy is None:
                missing.append(key)
            elif policy.scope is PolicyScope.WORKLOAD:
                found.append(policy)
        return found, missing


def remember(memo: dict[K, V], key: K, value: V) -> V:
    """Keep an answer; where there are too many, begin anew."""
    if len(memo) >= MAX_REMEMBERED:
        memo.clear()
    memo[key] = value
    return value


def _visible(service: Service, client_namespace: str) -> bool:
    return service.visibility is Visibility.PUBLIC or service.namespace == client_namespace


def _discard(index: dict, outer: object, inner: object) -> None:  # type: ignore[type-arg]
    bucket = index.get(outer)
    if bucket is not None:
        bucket.pop(inner, None)
        if not bucket:
            del index[outer]


__all__ = ["DEFAULT_ROOT_NAMESPACE", "IPAddress", "MeshState"]
