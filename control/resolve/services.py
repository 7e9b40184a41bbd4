"""Services as tunnels are told of them, and which workloads are behind them: Services of Kubernetes, and ServiceEntries.

A name (namespace and host) may be declared by several objects. A Service counts before a ServiceEntry and the older before the younger;
their endpoints are all the name's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from control.resolve.engine import Group, Read, query
from control.resolve.tables import OBJECTS, SETTINGS, Labels, MeshSettings, Pair, first_pair, pairs
from control.resolve.vips import automatic_addresses
from control.resolve.waypoints import service_waypoint
from mesh.model.manifest import Key, Object, Service, ServiceEntry, ServicePort, selects
from mesh.model.manifest.shapes import NOTHING
from mesh.model.workload import (
    AppProtocol,
    HealthPolicy,
    LbMode,
    LoadBalancing,
    NamespacedHostname,
    NetworkAddress,
    Scope,
    Visibility,
)
from mesh.model.workload import Service as MeshService
from mesh.model.workload import ServicePort as MeshPort

NETWORK_LABEL = "topology.istio.io/network"
EXPORT_ANNOTATION = "networking.istio.io/exportTo"

APP_PROTOCOLS = {
    "http": AppProtocol.HTTP11,
    "http2": AppProtocol.HTTP2,
    "kubernetes.io/h2c": AppProtocol.HTTP2,
    "grpc": AppProtocol.GRPC,
    "grpc-web": AppProtocol.GRPC,
    "tcp": AppProtocol.TCP,
    "mongo": AppProtocol.TCP,
    "mysql": AppProtocol.TCP,
    "redis": AppProtocol.TCP,
    "tls": AppProtocol.TLS,
    "https": AppProtocol.TLS,
}
DISTRIBUTIONS = {
    "PreferClose": (Scope.NETWORK, Scope.REGION, Scope.ZONE),
    "PreferSameZone": (Scope.NETWORK, Scope.REGION, Scope.ZONE),
    "PreferSameNode": (Scope.NETWORK, Scope.REGION, Scope.ZONE, Scope.SUBZONE, Scope.NODE),
}

NamedPorts = tuple[tuple[str, int], ...]
Ports = Mapping[int, int]
"""{service port: the endpoint's port}"""


# Which services select what.


def selector_of(entry: Object | None) -> Mapping[str, str]:
    """The labels of what is behind a service; empty selects nothing."""
    if isinstance(entry, Service) and entry.spec.type != "ExternalName":
        return entry.spec.selector
    if isinstance(entry, ServiceEntry) and entry.spec.workload_selector is not None:
        return entry.spec.workload_selector.labels
    return NOTHING


def _selector(_: Key, entry: Object) -> Iterable[tuple[str, Pair]]:
    selector = selector_of(entry)
    if selector:
        yield entry.namespace, first_pair(selector)


SELECTORS: Group[Key, Object | None, tuple[str, Pair]] = Group("selectors", OBJECTS, _selector)
"""Services by namespace and a label that their workloads must have."""


@query(40)
def services_for(read: Read, arg: tuple[str, Labels]) -> tuple[Key, ...]:
    """The services that select workloads of a namespace with these labels, sorted."""
    namespace, labels = arg
    have = dict(labels)
    candidates = (key for pair in pairs(labels) for key in read(SELECTORS, (namespace, pair)))
    return tuple(sorted(key for key in candidates if selects(selector_of(read(OBJECTS, key)), have)))


@query(41)
def memberships(read: Read, arg: tuple[str, Labels, NamedPorts, NamedPorts]) -> Mapping[NamespacedHostname, Ports]:
    """The services of workloads of a namespace with these labels, without ports that they lack.

    The third element are ports of the workload by the names that a Service's targetPort may say, the fourth by the names of the services'
    ports.
    """
    namespace, labels, named, by_service_port = arg
    settings = read(SETTINGS, None)
    found: dict[NamespacedHostname, Ports] = {}
    for key in read(services_for, (namespace, labels)):
        entry = read(OBJECTS, key)
        ports = endpoint_ports(entry, dict(named), dict(by_service_port))
        for name in names_of(entry, settings):
            found[name] = ports
    return MappingProxyType(found)


def endpoint_ports(entry: Object | None, named: Mapping[str, int], by_service_port: Mapping[str, int]) -> Ports:
    found: dict[int, int] = {}
    if isinstance(entry, Service):
        for port in _tcp(entry):
            own = named.get(port.target_port, 0) if isinstance(port.target_port, str) else port.target_port or port.port
            target = by_service_port.get(port.name) or own
            if target:
                found[port.port] = target
    elif isinstance(entry, ServiceEntry):
        for declared in entry.spec.ports:
            found[declared.number] = by_service_port.get(declared.name) or declared.target_port or declared.number
    return MappingProxyType(found)


# Names.


def names_of(entry: Object | None, settings: MeshSettings) -> tuple[NamespacedHostname, ...]:
    """The names that an object declares."""
    if isinstance(entry, Service) and entry.spec.type != "ExternalName":
        return (NamespacedHostname(entry.namespace, f"{entry.name}.{entry.namespace}.svc.{settings.cluster_domain}"),)
    if isinstance(entry, ServiceEntry):
        return tuple(NamespacedHostname(entry.namespace, host) for host in entry.spec.hosts)
    return ()


@query(12)
def declared(read: Read, key: Key) -> tuple[NamespacedHostname, ...]:
    return names_of(read(OBJECTS, key), read(SETTINGS, None))


@query(45)
def described(read: Read, name: NamespacedHostname) -> MeshService | None:
    """What a name is to the mesh."""
    key = read(holder, name)
    entry = read(OBJECTS, key) if key is not None else None
    if isinstance(entry, Service):
        return _of_service(read, entry, name)
    return _of_entry(read, entry, name) if isinstance(entry, ServiceEntry) else None


@query(60)
def services(read: Read, name: NamespacedHostname) -> tuple[MeshService, ...]:
    """The services that tunnels are told of. Where nothing leads, a name is looked up outside, and the connection passes as one to an
    unknown destination.
    """
    made = read(described, name)
    return (made,) if made is not None and (made.canonical or made.vips or made.vip_networks or made.waypoint) else ()


OBJECTS.spawn(declared, lambda entry: isinstance(entry, (Service, ServiceEntry)))
DECLARED: Group[Key, tuple[NamespacedHostname, ...], NamespacedHostname] = Group(
    "declared names", declared, lambda _, names: names, spawns=services
)


@query(14)
def holder(read: Read, name: NamespacedHostname) -> Key | None:
    """The object that says what a name is, of those that declare it."""
    found = [entry for entry in (read(OBJECTS, key) for key in read(DECLARED, name)) if entry is not None]
    found.sort(key=lambda entry: (not isinstance(entry, Service), entry.metadata.creation_timestamp or "~", entry.name))
    return found[0].key if found else None


def _of_service(read: Read, service: Service, name: NamespacedHostname) -> MeshService:
    network = service.labels.get(NETWORK_LABEL, "")
    use = read(service_waypoint, service.key)
    return MeshService(
        name=service.name,
        namespace=service.namespace,
        hostname=name.hostname,
        vips=tuple(NetworkAddress(network, ip) for ip in service.spec.addresses),
        ports=tuple(MeshPort(port.port, _fixed_target(port), app_protocol(port.app_protocol, port.name)) for port in _tcp(service)),
        waypoint=use.waypoint.address if use.waypoint is not None else None,
        load_balancing=_balancing(service),
        canonical=True,
        visibility=visibility(service.annotations.get(EXPORT_ANNOTATION, "").split(",")),
    )


def _of_entry(read: Read, entry: ServiceEntry, name: NamespacedHostname) -> MeshService:
    spec = entry.spec
    use = read(service_waypoint, entry.key)
    single = [network for network in spec.addresses if network.prefixlen == network.max_prefixlen]
    ips = [network.network_address for network in single] or list(read(automatic_addresses, (name.namespace, name.hostname)))
    blocks = [network for network in spec.addresses if network.prefixlen != network.max_prefixlen]
    return MeshService(
        name=entry.name,
        namespace=entry.namespace,
        hostname=name.hostname,
        vips=tuple(NetworkAddress("", ip) for ip in ips),
        vip_networks=tuple(("", block) for block in blocks),
        ports=tuple(MeshPort(port.number, port.target_port or port.number, app_protocol("", port.protocol.lower())) for port in spec.ports),
        subject_alt_names=spec.subject_alt_names,
        waypoint=use.waypoint.address if use.waypoint is not None else None,
        load_balancing=LoadBalancing(mode=LbMode.PASSTHROUGH) if spec.resolution == "NONE" else None,
        visibility=visibility(spec.export_to),
    )


def visibility(export_to: Iterable[str]) -> Visibility:
    """To tunnels a service is either everybody's or its namespace's."""
    words = {word.strip() for word in export_to} - {""}
    return Visibility.NAMESPACE if words and words <= {".", "~"} else Visibility.PUBLIC


def _tcp(service: Service) -> list[ServicePort]:
    """Only TCP is carried; a UDP port beside it may have the same number."""
    return [port for port in service.spec.ports if port.protocol == "TCP"]


def _fixed_target(port: ServicePort) -> int:
    """0 where each pod says its own."""
    return 0 if isinstance(port.target_port, str) else port.target_port or port.port


def app_protocol(declared_protocol: str, name: str) -> AppProtocol:
    """By `appProtocol`, else by the port's name: all of it, or up to its first hyphen."""
    if declared_protocol:
        return APP_PROTOCOLS.get(declared_protocol.lower(), AppProtocol.UNKNOWN)
    return APP_PROTOCOLS.get(name) or APP_PROTOCOLS.get(name.partition("-")[0], AppProtocol.UNKNOWN)


def _balancing(service: Service) -> LoadBalancing | None:
    spec = service.spec
    health = HealthPolicy.ALLOW_ALL if spec.publish_not_ready_addresses else HealthPolicy.ONLY_HEALTHY
    if spec.internal_traffic_policy == "Local":
        return LoadBalancing((Scope.NODE,), LbMode.STRICT, health)
    preference = DISTRIBUTIONS.get(spec.traffic_distribution)
    if preference is not None:
        return LoadBalancing(preference, LbMode.FAILOVER, health)
    return LoadBalancing(health=health) if spec.publish_not_ready_addresses else None
