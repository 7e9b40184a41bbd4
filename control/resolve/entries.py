"""Endpoints that are no pods: WorkloadEntries, what a ServiceEntry lists or looks up, and EndpointSlices of Services without selector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from control.resolve.engine import Read
from control.resolve.passage import ip_of
from control.resolve.policies import workload_policies
from control.resolve.services import Ports, declared, endpoint_ports, memberships, names_of
from control.resolve.tables import OBJECTS, SETTINGS, MeshSettings, labels_of, node_locality
from control.resolve.waypoints import workload_waypoint
from mesh.model.enrolment import REDIRECTION_ANNOTATION
from mesh.model.identity import DEFAULT_TRUST_DOMAIN
from mesh.model.manifest import EndpointSlice, Key, Pod, Service, ServiceEntry, WorkloadEntry
from mesh.model.manifest.endpoints import Endpoint
from mesh.model.manifest.istio.workloadentry import UNIX, WorkloadEntrySpec
from mesh.model.workload import (
    Health,
    Locality,
    NamespacedHostname,
    NetworkMode,
    TunnelProtocol,
    Workload,
)

NETWORKING, DISCOVERY = "networking.istio.io", "discovery.k8s.io"
TUNNEL_LABEL = "networking.istio.io/tunnel"


def of_workload_entry(read: Read, entry: WorkloadEntry) -> tuple[Workload, ...]:
    labels = labels_of({**entry.labels, **entry.spec.labels})
    settings = read(SETTINGS, None)
    services = read(memberships, (entry.namespace, labels, (), tuple(sorted(entry.spec.ports.items()))))
    redirected = entry.annotations.get(REDIRECTION_ANNOTATION) == "enabled"
    use = read(workload_waypoint, (entry.namespace, labels))
    uid = f"{settings.cluster}/{NETWORKING}/WorkloadEntry/{entry.namespace}/{entry.name}"
    made = _listed(uid, entry.name, entry.namespace, entry.spec, dict(labels), services, settings)
    if made is None:
        return ()
    meshed = made.protocol is TunnelProtocol.HBONE or redirected
    waypoint = use.waypoint.address if use.waypoint is not None and meshed else None
    policies = workload_policies(read, entry.namespace, labels, made.addresses)
    protocol = TunnelProtocol.HBONE if meshed else TunnelProtocol.NONE
    return (replace(made, policies=policies, waypoint=waypoint, protocol=protocol),)


def of_service_entry(read: Read, entry: ServiceEntry) -> tuple[Workload, ...]:
    return tuple(workload for workload, _ in listed_endpoints(read, entry))


def listed_endpoints(read: Read, entry: ServiceEntry) -> list[tuple[Workload, Mapping[str, str]]]:
    """Its endpoints with their labels; where it lists none and is looked up by DNS, its hosts."""
    settings = read(SETTINGS, None)
    names = read(declared, entry.key)
    base = f"{settings.cluster}/{NETWORKING}/ServiceEntry/{entry.namespace}/{entry.name}"
    found: dict[str, tuple[Workload, Mapping[str, str]]] = {}
    for spec in entry.spec.endpoints:
        ports = endpoint_ports(entry, {}, spec.ports)
        services = MappingProxyType(dict.fromkeys(names, ports))
        made = _listed("", entry.name, entry.namespace, spec, spec.labels, services, settings)
        if made is not None:
            uid = _free(found, f"{base}/{spec.address}")
            found[uid] = (replace(made, uid=uid), spec.labels)
    if not found and entry.spec.resolution in ("DNS", "DNS_ROUND_ROBIN") and entry.spec.workload_selector is None:
        for name in names:
            if not name.hostname.startswith("*"):
                services = MappingProxyType({name: endpoint_ports(entry, {}, {})})
                uid = f"{base}/{name.hostname}"
                made = replace(_plain(uid, entry.name, entry.namespace, services, settings), hostname=name.hostname)
                found[uid] = (made, entry.labels)
    return list(found.values())


def of_slice(read: Read, slice_: EndpointSlice) -> tuple[Workload, ...]:
    """Of a Service without selector: those of others are their pods."""
    service = read(OBJECTS, Key(Service.TYPE, slice_.namespace, slice_.service)) if slice_.service else None
    if not isinstance(service, Service) or service.spec.selector or service.spec.type == "ExternalName":
        return ()
    settings = read(SETTINGS, None)
    names = names_of(service, settings)
    services = MappingProxyType(dict.fromkeys(names, _slice_ports(service, slice_)))
    found: dict[str, Workload] = {}
    for endpoint in slice_.endpoints:
        uid = _free(found, f"{settings.cluster}/{DISCOVERY}/EndpointSlice/{slice_.namespace}/{slice_.name}/{endpoint.addresses[0]}")
        made = _of_endpoint(read, uid, slice_, endpoint, services, settings)
        if made is not None:
            found[uid] = made
    return tuple(found.values())


def _of_endpoint(
    read: Read,
    uid: str,
    slice_: EndpointSlice,
    endpoint: Endpoint,
    services: Mapping[NamespacedHostname, Ports],
    settings: MeshSettings,
) -> Workload | None:
    address = endpoint.addresses[0]
    # Kubernetes: unknown counts as ready; terminating endpoints are not for new connections.
    healthy = endpoint.conditions.ready is not False and not endpoint.conditions.terminating
    plain = replace(
        _plain(uid, slice_.name, slice_.namespace, services, settings),
        health=Health.HEALTHY if healthy else Health.UNHEALTHY,
        node=endpoint.node_name,
        locality=_in_zone(read(node_locality, endpoint.node_name), endpoint.zone),
        # Who shares its address, a pod say, is who is found by it.
        network_mode=NetworkMode.HOST_NETWORK,
    )
    if slice_.address_type == "FQDN":
        return replace(plain, hostname=address)
    ip = ip_of(address)
    if ip is None:
        return None
    plain = replace(plain, addresses=(ip,))
    target = endpoint.target_ref
    pod = read(OBJECTS, Key(Pod.TYPE, target.namespace or slice_.namespace, target.name)) if target and target.kind == "Pod" else None
    if not isinstance(pod, Pod):
        return plain
    meshed = pod.annotations.get(REDIRECTION_ANNOTATION) == "enabled" or pod.labels.get(TUNNEL_LABEL) == "http"
    return replace(
        plain,
        protocol=TunnelProtocol.HBONE if meshed else TunnelProtocol.NONE,
        service_account=pod.spec.account,
        namespace=pod.namespace,
        policies=workload_policies(read, pod.namespace, labels_of(pod.labels), (ip,)),
    )


def _listed(
    uid: str,
    name: str,
    namespace: str,
    spec: WorkloadEntrySpec,
    labels: Mapping[str, str],
    services: Mapping[NamespacedHostname, Ports],
    settings: MeshSettings,
) -> Workload | None:
    """An endpoint that somebody wrote down; None for one that no tunnel reaches."""
    address = spec.address
    if isinstance(address, str) and address.startswith(UNIX):
        return None
    native = labels.get(TUNNEL_LABEL) == "http"
    return replace(
        _plain(uid, name, namespace, services, settings),
        addresses=() if address is None or isinstance(address, str) else (address,),
        hostname=address if isinstance(address, str) else "",
        network=spec.network,
        protocol=TunnelProtocol.HBONE if native else TunnelProtocol.NONE,
        native_tunnel=native,
        service_account=spec.service_account or "default",
        canonical_name=labels.get("service.istio.io/canonical-name") or labels.get("app") or name,
        canonical_revision=labels.get("service.istio.io/canonical-revision") or labels.get("version") or "latest",
        locality=spec.locality,
        capacity=1 if spec.weight is None else spec.weight,
    )


def _plain(uid: str, name: str, namespace: str, services: Mapping[NamespacedHostname, Ports], settings: MeshSettings) -> Workload:
    return Workload(
        uid=uid,
        name=name,
        namespace=namespace,
        trust_domain=settings.trust_domain or DEFAULT_TRUST_DOMAIN,
        canonical_name=name,
        canonical_revision="latest",
        workload_name=name,
        cluster=settings.cluster,
        services=services,
    )


def _slice_ports(service: Service, slice_: EndpointSlice) -> Ports:
    """A slice's ports have the names of the Service's."""
    numbers = {port.name: port.port for port in slice_.ports if port.protocol == "TCP" and port.port}
    pairs = ((port.port, numbers.get(port.name)) for port in service.spec.ports if port.protocol == "TCP")
    return MappingProxyType({port: target for port, target in pairs if target})


def _in_zone(locality: Locality, zone: str) -> Locality:
    return replace(locality, zone=zone) if zone and not locality.zone else locality


def _free(taken: Iterable[str], uid: str) -> str:
    """Several endpoints may have one address, on different ports."""
    count, free = 1, uid
    while free in taken:
        count += 1
        free = f"{uid}/{count}"
    return free
