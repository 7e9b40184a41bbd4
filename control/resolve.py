"""Objects → workloads, services and policies, as tunnels are told of them. One pure function of everything that is in force."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from control.catalog import Catalog
from control.policies import USE_WAYPOINT, Policies, Status, resolve_policies
from mesh.model.enrolment import FINISHED_PHASES, REDIRECTION_ANNOTATION
from mesh.model.identity import DEFAULT_TRUST_DOMAIN, Identity
from mesh.model.manifest import AuthorizationPolicy, Key, Namespace, PeerAuthentication, Pod, Refused, Service, ServicePort, selects
from mesh.model.policy import Authorization
from mesh.model.state import DEFAULT_ROOT_NAMESPACE
from mesh.model.workload import (
    AppProtocol,
    Health,
    HealthPolicy,
    LbMode,
    LoadBalancing,
    NamespacedHostname,
    NetworkAddress,
    NetworkMode,
    Scope,
    TunnelProtocol,
    Workload,
    WorkloadType,
)
from mesh.model.workload import Service as MeshService
from mesh.model.workload import ServicePort as MeshPort

REDIRECTION_ENABLED = "enabled"
TUNNEL_LABEL, NETWORK_LABEL = "networking.istio.io/tunnel", "topology.istio.io/network"
NAME_LABELS = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
REVISION_LABELS = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")

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


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """`root_namespace`: where policies are for all of the mesh. `cluster`: prefix of workloads' uids."""

    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    cluster: str = "Kubernetes"
    cluster_domain: str = "cluster.local"


@dataclass(frozen=True, slots=True)
class Resolved:
    """`identities` by node: those that pods which run there may have. `consequences` go with the catalog's refused objects."""

    workloads: tuple[Workload, ...]
    services: tuple[MeshService, ...]
    policies: tuple[Authorization, ...]
    identities: Mapping[str, frozenset[Identity]]
    status: tuple[Status, ...]
    refused: tuple[tuple[Refused, str], ...]


def resolve(catalog: Catalog, settings: MeshSettings) -> Resolved:
    pods: list[Pod] = []
    services: dict[str, list[Service]] = defaultdict(list)
    authorizations: list[AuthorizationPolicy] = []
    peer_authentications: list[PeerAuthentication] = []
    for entry in catalog.objects.values():
        match entry:
            case Pod():
                pods.append(entry)
            case Service() if entry.spec.type != "ExternalName":
                services[entry.namespace].append(entry)
            case AuthorizationPolicy():
                authorizations.append(entry)
            case PeerAuthentication():
                peer_authentications.append(entry)
            case _:
                pass
    policies = resolve_policies(authorizations, peer_authentications, catalog.refused, settings.root_namespace)
    workloads: list[Workload] = []
    identities: dict[str, set[Identity]] = defaultdict(set)
    for pod in pods:
        if pod.status.phase in FINISHED_PHASES:
            continue
        if pod.spec.node_name:
            identities[pod.spec.node_name].add(Identity(settings.trust_domain, pod.namespace, pod.spec.account))
        if pod.status.addresses:
            workloads.append(_workload(pod, services[pod.namespace], catalog, policies, settings))
    flat = [service for found in services.values() for service in found]
    return Resolved(
        tuple(workloads),
        tuple(mesh_service(service, settings) for service in flat),
        tuple(policies.authorizations.values()),
        MappingProxyType({node: frozenset(found) for node, found in identities.items()}),
        (*policies.status, *_without_waypoint(catalog)),
        tuple((entry, kept or policies.consequences.get(index, "")) for index, (entry, kept) in enumerate(catalog.refused)),
    )


def _workload(pod: Pod, services: list[Service], catalog: Catalog, policies: Policies, settings: MeshSettings) -> Workload:
    selecting = [service for service in services if service.spec.selector and selects(service.spec.selector, pod.labels)]
    namespace = catalog.objects.get(Key(Namespace.KIND, "", pod.namespace))
    native = pod.labels.get(TUNNEL_LABEL) == "http"
    redirected = pod.annotations.get(REDIRECTION_ANNOTATION) == REDIRECTION_ENABLED
    kind, owner = owner_of(pod)
    healthy = pod.status.ready and not pod.metadata.deletion_timestamp
    return Workload(
        uid=f"{settings.cluster}//Pod/{pod.namespace}/{pod.name}",
        name=pod.name,
        namespace=pod.namespace,
        addresses=pod.status.addresses,
        network=pod.labels.get(NETWORK_LABEL, ""),
        protocol=TunnelProtocol.HBONE if native or redirected else TunnelProtocol.NONE,
        trust_domain=settings.trust_domain,
        service_account=pod.spec.account,
        node=pod.spec.node_name,
        canonical_name=_first(pod.labels, NAME_LABELS) or owner,
        canonical_revision=_first(pod.labels, REVISION_LABELS) or "latest",
        workload_type=kind,
        workload_name=owner,
        native_tunnel=native,
        policies=policies.keys_for(pod, selecting, namespace.labels if namespace is not None else {}),
        health=Health.HEALTHY if healthy else Health.UNHEALTHY,
        cluster=settings.cluster,
        services=MappingProxyType({service_key(service, settings): _endpoint_ports(service, pod) for service in selecting}),
        network_mode=NetworkMode.HOST_NETWORK if pod.spec.host_network else NetworkMode.STANDARD,
    )


def owner_of(pod: Pod) -> tuple[WorkloadType, str]:
    """Type and name of what made the pod, seen through a ReplicaSet to its Deployment and through a Job to its CronJob."""
    owners = pod.metadata.owner_references
    owner = next((entry for entry in owners if entry.controller), owners[0] if owners else None)
    if owner is None:
        return WorkloadType.POD, pod.name
    if owner.kind == "ReplicaSet":
        suffix = pod.labels.get("pod-template-hash", "")
        name = owner.name.removesuffix(f"-{suffix}") if suffix else owner.name
        return WorkloadType.DEPLOYMENT, name
    if owner.kind == "Job":
        name, _, scheduled = owner.name.rpartition("-")
        return (WorkloadType.CRONJOB, name) if name and scheduled.isdigit() and len(scheduled) >= 8 else (WorkloadType.JOB, owner.name)
    return (WorkloadType.DEPLOYMENT, owner.name) if owner.kind == "Deployment" else (WorkloadType.POD, owner.name)


def service_key(service: Service, settings: MeshSettings) -> NamespacedHostname:
    return NamespacedHostname(service.namespace, f"{service.name}.{service.namespace}.svc.{settings.cluster_domain}")


def mesh_service(service: Service, settings: MeshSettings) -> MeshService:
    key = service_key(service, settings)
    network = service.labels.get(NETWORK_LABEL, "")
    return MeshService(
        name=service.name,
        namespace=service.namespace,
        hostname=key.hostname,
        vips=tuple(NetworkAddress(network, ip) for ip in service.spec.addresses),
        ports=tuple(MeshPort(port.port, _fixed_target(port), _app_protocol(port)) for port in _tcp(service)),
        load_balancing=_balancing(service),
        canonical=True,
    )


def _tcp(service: Service) -> list[ServicePort]:
    """Only TCP is carried; a UDP port beside it may have the same number."""
    return [port for port in service.spec.ports if port.protocol == "TCP"]


def _fixed_target(port: ServicePort) -> int:
    """0 where each pod says its own."""
    return 0 if isinstance(port.target_port, str) else port.target_port or port.port


def _endpoint_ports(service: Service, pod: Pod) -> Mapping[int, int]:
    """{service port: the pod's port}, without named ports that the pod does not have."""
    named = {port.name: port.container_port for container in pod.spec.containers for port in container.ports if port.protocol == "TCP"}
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


def _first(labels: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((labels[key] for key in keys if labels.get(key)), "")


def _without_waypoint(catalog: Catalog) -> list[Status]:
    """What asks for a waypoint, while there is none: said, since its traffic goes on without one."""
    return [
        Status(
            str(key), entry.source, (f"{USE_WAYPOINT}={entry.labels[USE_WAYPOINT]}: there is no such waypoint; traffic goes without one",)
        )
        for key, entry in catalog.objects.items()
        if entry.labels.get(USE_WAYPOINT, "none") != "none"
    ]
