"""Services as tunnels are told of them, and which pods are behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from control.resolve.engine import Group, Read, query
from control.resolve.tables import OBJECTS, SETTINGS, Labels, MeshSettings, Pair, first_pair, pairs
from mesh.model.manifest import Key, Object, Service, ServicePort, selects
from mesh.model.workload import AppProtocol, HealthPolicy, LbMode, LoadBalancing, NamespacedHostname, NetworkAddress, Scope
from mesh.model.workload import Service as MeshService
from mesh.model.workload import ServicePort as MeshPort

NETWORK_LABEL = "topology.istio.io/network"

APP_PROTOCOLS = {
    "http": AppProtocol.HTTP11,
    "http2": AppProtocol.HTTP2,
    "kubernetes.io/h2c": AppProtocol.HTTP2,
    "grpc": AppProtocol.GRPC,
    "tcp": AppProtocol.TCP,
    "tls": AppProtocol.TLS,
    "https": AppProtocol.TLS,
}
DISTRIBUTIONS = {
    "PreferClose": (Scope.NETWORK, Scope.REGION, Scope.ZONE),
    "PreferSameZone": (Scope.NETWORK, Scope.REGION, Scope.ZONE),
    "PreferSameNode": (Scope.NETWORK, Scope.REGION, Scope.ZONE, Scope.SUBZONE, Scope.NODE),
}

NamedPorts = tuple[tuple[str, int], ...]
"""A pod's named TCP ports."""


def _selector(_: Key, entry: Object) -> Iterable[tuple[str, Pair]]:
    if isinstance(entry, Service) and entry.spec.selector and entry.spec.type != "ExternalName":
        yield entry.namespace, first_pair(entry.spec.selector)


SELECTORS: Group[Key, Object | None, tuple[str, Pair]] = Group("selectors", OBJECTS, _selector)
"""Services by namespace and a label that their pods must have."""


@query(40)
def services_for(read: Read, arg: tuple[str, Labels]) -> tuple[Key, ...]:
    """The services that select pods of a namespace with these labels, sorted."""
    namespace, labels = arg
    have = dict(labels)
    found = []
    for pair in pairs(labels):
        for key in read(SELECTORS, (namespace, pair)):
            service = read(OBJECTS, key)
            if isinstance(service, Service) and selects(service.spec.selector, have):
                found.append(key)
    return tuple(sorted(found))


@query(41)
def memberships(read: Read, arg: tuple[str, Labels, NamedPorts]) -> Mapping[NamespacedHostname, Mapping[int, int]]:
    """{service: {service port: the pod's port}} of pods of a namespace with these labels and named ports, without ports they lack."""
    namespace, labels, named = arg
    settings = read(SETTINGS, None)
    found = {}
    for key in read(services_for, (namespace, labels)):
        service = read(OBJECTS, key)
        assert isinstance(service, Service)
        found[service_key(service, settings)] = _endpoint_ports(service, dict(named))
    return MappingProxyType(found)


def service_key(service: Service, settings: MeshSettings) -> NamespacedHostname:
    return NamespacedHostname(service.namespace, f"{service.name}.{service.namespace}.svc.{settings.cluster_domain}")


@query(60)
def services(read: Read, key: Key) -> tuple[MeshService, ...]:
    """What one Service is to the mesh: one service, or nothing."""
    service = read(OBJECTS, key)
    if not isinstance(service, Service) or service.spec.type == "ExternalName":
        return ()
    network = service.labels.get(NETWORK_LABEL, "")
    made = MeshService(
        name=service.name,
        namespace=service.namespace,
        hostname=service_key(service, read(SETTINGS, None)).hostname,
        vips=tuple(NetworkAddress(network, ip) for ip in service.spec.addresses),
        ports=tuple(MeshPort(port.port, _fixed_target(port), _app_protocol(port)) for port in _tcp(service)),
        load_balancing=_balancing(service),
        canonical=True,
    )
    return (made,)


def _kubernetes_services(key: Key, entry: Object) -> Iterable[Key]:
    if isinstance(entry, Service):
        yield key


ALL_SERVICES: Group[Key, Object | None, Key] = Group("all services", OBJECTS, _kubernetes_services, spawns=services)


def _tcp(service: Service) -> list[ServicePort]:
    """Only TCP is carried; a UDP port beside it may have the same number."""
    return [port for port in service.spec.ports if port.protocol == "TCP"]


def _fixed_target(port: ServicePort) -> int:
    """0 where each pod says its own."""
    return 0 if isinstance(port.target_port, str) else port.target_port or port.port


def _endpoint_ports(service: Service, named: Mapping[str, int]) -> Mapping[int, int]:
    found: dict[int, int] = {}
    for port in _tcp(service):
        target = named.get(port.target_port, 0) if isinstance(port.target_port, str) else port.target_port or port.port
        if target:
            found[port.port] = target
    return MappingProxyType(found)


def _app_protocol(port: ServicePort) -> AppProtocol:
    """By `appProtocol`, else by the port's name up to its first hyphen."""
    if port.app_protocol:
        return APP_PROTOCOLS.get(port.app_protocol.lower(), AppProtocol.UNKNOWN)
    return APP_PROTOCOLS.get(port.name.partition("-")[0], AppProtocol.UNKNOWN)


def _balancing(service: Service) -> LoadBalancing | None:
    spec = service.spec
    health = HealthPolicy.ALLOW_ALL if spec.publish_not_ready_addresses else HealthPolicy.ONLY_HEALTHY
    if spec.internal_traffic_policy == "Local":
        return LoadBalancing((Scope.NODE,), LbMode.STRICT, health)
    preference = DISTRIBUTIONS.get(spec.traffic_distribution)
    if preference is not None:
        return LoadBalancing(preference, LbMode.FAILOVER, health)
    return LoadBalancing(health=health) if spec.publish_not_ready_addresses else None
