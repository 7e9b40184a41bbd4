"""Endpoints as tunnels are told of them: pods, and in `entries` what is no pod."""

from __future__ import annotations

from collections.abc import Mapping

from control.resolve.engine import Read, query
from control.resolve.entries import of_service_entry, of_slice, of_workload_entry
from control.resolve.policies import workload_policies
from control.resolve.services import NETWORK_LABEL, NamedPorts, memberships
from control.resolve.tables import OBJECTS, SETTINGS, labels_of, node_locality
from control.resolve.waypoints import workload_waypoint
from mesh.model.enrolment import FINISHED_PHASES, REDIRECTION_ANNOTATION
from mesh.model.identity import Identity
from mesh.model.manifest import EndpointSlice, Key, Pod, ServiceEntry, WorkloadEntry
from mesh.model.workload import Health, NetworkMode, TunnelProtocol, Workload, WorkloadType

REDIRECTION_ENABLED = "enabled"
TUNNEL_LABEL = "networking.istio.io/tunnel"
NAME_LABELS = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
REVISION_LABELS = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")


@query(10)
def node_identity(read: Read, key: Key) -> tuple[str, Identity] | None:
    """The node that a pod is on, with the identity that its tunnel may have for it; a starting pod may have its certificate already."""
    pod = read(OBJECTS, key)
    if not isinstance(pod, Pod) or pod.status.phase in FINISHED_PHASES or not pod.spec.node_name:
        return None
    return pod.spec.node_name, Identity(read(SETTINGS, None).trust_domain, pod.namespace, pod.spec.account)


@query(50)
def workloads(read: Read, key: Key) -> tuple[Workload, ...]:
    match read(OBJECTS, key):
        case Pod() as pod:
            return _of_pod(read, pod)
        case WorkloadEntry() as entry:
            return of_workload_entry(read, entry)
        case ServiceEntry() as entry:
            return of_service_entry(read, entry)
        case EndpointSlice() as slice_:
            return of_slice(read, slice_)
        case _:
            return ()


def _of_pod(read: Read, pod: Pod) -> tuple[Workload, ...]:
    if pod.status.phase in FINISHED_PHASES or not pod.status.addresses:
        return ()
    settings = read(SETTINGS, None)
    labels = labels_of(pod.labels)
    native = pod.labels.get(TUNNEL_LABEL) == "http"
    redirected = pod.annotations.get(REDIRECTION_ANNOTATION) == REDIRECTION_ENABLED
    kind, owner = owner_of(pod)
    healthy = pod.status.ready and not pod.metadata.deletion_timestamp
    use = read(workload_waypoint, (pod.namespace, labels))
    made = Workload(
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
        # Only what is in the mesh is reached through a waypoint: a tunnel must be there to know that traffic came from it.
        waypoint=use.waypoint.address if use.waypoint is not None and redirected and not pod.spec.host_network else None,
        policies=workload_policies(read, pod.namespace, labels, pod.status.addresses),
        health=Health.HEALTHY if healthy else Health.UNHEALTHY,
        cluster=settings.cluster,
        services=read(memberships, (pod.namespace, labels, _named_ports(pod), ())),
        locality=read(node_locality, pod.spec.node_name),
        network_mode=NetworkMode.HOST_NETWORK if pod.spec.host_network else NetworkMode.STANDARD,
    )
    return (made,)


OBJECTS.spawn(workloads, lambda entry: isinstance(entry, (Pod, WorkloadEntry, ServiceEntry, EndpointSlice)))
OBJECTS.spawn(node_identity, lambda entry: isinstance(entry, Pod))


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


def _named_ports(pod: Pod) -> NamedPorts:
    ports = (port for container in pod.spec.containers for port in container.ports)
    return tuple(sorted((port.name, port.container_port) for port in ports if port.protocol == "TCP" and port.name))


def _first(labels: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((labels[key] for key in keys if labels.get(key)), "")
