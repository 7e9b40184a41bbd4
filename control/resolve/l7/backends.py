"""Where requests go in the end: clusters, as a proxy's DestinationRules make them, and the endpoints behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from control.resolve.engine import Group, Read, query
from control.resolve.entries import listed_endpoints
from control.resolve.l7.lookup import find_service, mesh_service, seen
from control.resolve.l7.through import before_pod, entrance
from control.resolve.l7.views import View, context
from control.resolve.tables import OBJECTS, SETTINGS
from control.resolve.workloads import workloads
from mesh.model.l7.clusters import Cluster, Discovery
from mesh.model.l7.endpoints import Assignment
from mesh.model.l7.names import parse_cluster_name
from mesh.model.l7.notes import Translated
from mesh.model.l7.profile import Kind
from mesh.model.l7.translate.balancing import Candidate, Viewpoint, assignment, depends_on_viewpoint
from mesh.model.l7.translate.destination_rule import cluster, effective
from mesh.model.l7.translate.targets import Target
from mesh.model.manifest import Key, Pod, ServiceEntry, WorkloadEntry
from mesh.model.manifest.shapes import NOTHING
from mesh.model.workload import GatewayAddress, Health, HealthPolicy, NamespacedHostname, Workload

BY_NAME = (Discovery.DNS, Discovery.DNS_ONE)


class Backend(NamedTuple):
    """A cluster by its name, in the eyes of a view."""

    view: View
    cluster: str


# Who is behind a service.


def _services(_: Key, found: tuple[Workload, ...]) -> Iterable[NamespacedHostname]:
    return {name for workload in found for name in workload.services}


BEHIND: Group[Key, tuple[Workload, ...], NamespacedHostname] = Group("endpoints of services", workloads, _services)


@query(52)
def labelled(read: Read, key: Key) -> tuple[tuple[Workload, Mapping[str, str]], ...]:
    """The endpoints that an object stands for, with the labels that subsets choose them by."""
    found = read(workloads, key)
    match read(OBJECTS, key):
        case Pod() as pod:
            return tuple((workload, pod.labels) for workload in found)
        case WorkloadEntry() as entry:
            return tuple((workload, {**entry.labels, **entry.spec.labels}) for workload in found)
        case ServiceEntry() as entry:
            return tuple(listed_endpoints(read, entry))
        case _:
            return tuple((workload, NOTHING) for workload in found)


@query(55)
def candidates(read: Read, arg: tuple[NamespacedHostname, int]) -> tuple[Candidate, ...]:
    """The endpoints of a port of a service, in no particular order but always the same one."""
    name, port = arg
    mesh = read(mesh_service, name)
    entry = mesh.port(port) if mesh is not None else None
    if entry is None:
        return ()
    found = []
    for key in sorted(read(BEHIND, name)):
        for workload, labels in read(labelled, key):
            if name in workload.services:
                target = workload.services[name].get(port, 0) or entry.target
                if target:
                    found.append(Candidate(workload, target, labels))
    return tuple(found)


@query(56)
def waypoint_pods(read: Read, gateway: GatewayAddress) -> tuple[Workload, ...]:
    """The pods of a waypoint that tunnels may go to, as nodes' tunnels choose them."""
    name = gateway.destination
    mesh = read(mesh_service, name) if isinstance(name, NamespacedHostname) else None
    if mesh is None or not isinstance(name, NamespacedHostname):
        return ()
    balancing = mesh.service.load_balancing
    unready = balancing is not None and balancing.health is HealthPolicy.ALLOW_ALL
    pods = (candidate.workload for candidate in read(candidates, (name, gateway.hbone_port)))
    usable = (pod for pod in pods if pod.addresses and pod.capacity and (unready or pod.health is Health.HEALTHY))
    return tuple(sorted(usable, key=lambda pod: pod.uid))


# Clusters.


@query(70)
def clusters(read: Read, backend: Backend) -> Translated[Cluster] | None:
    """None where there is no such service, port or subset: then there is no cluster either."""
    found = _found(read, backend)
    if found is None:
        return None
    mesh, rule, around = found.target.mesh, found.target.rule, context(read, backend.view)
    made = cluster(mesh, rule, found.port, found.subset, around)
    if made.value.discovery not in BY_NAME:
        return made
    # Proxies look these up themselves, so that endpoints are a part of the cluster.
    return cluster(mesh, rule, found.port, found.subset, around, _assigned(read, backend, found))


@query(71)
def assignments(read: Read, backend: Backend) -> Assignment | None:
    found = _found(read, backend)
    return None if found is None else _assigned(read, backend, found)


@query(68)
def placed(read: Read, backend: Backend) -> bool:
    """Whether a cluster's endpoints are others for proxies in other places."""
    found = _found(read, backend)
    if found is None:
        return False
    return depends_on_viewpoint(effective(found.target.rule, found.port, found.subset), found.target.mesh.distribution)


class Found(NamedTuple):
    name: NamespacedHostname
    target: Target
    port: int
    subset: str


def _found(read: Read, backend: Backend) -> Found | None:
    parsed = parse_cluster_name(backend.cluster)
    name = read(find_service, (backend.view.anywhere(), parsed.host)) if parsed is not None else None
    target = read(seen, (backend.view.unplaced(), name)) if name is not None else None
    if parsed is None or name is None or target is None or target.mesh.port(parsed.port) is None:
        return None
    if parsed.subset and not target.has_subset(parsed.subset):
        return None
    return Found(name, target, parsed.port, parsed.subset)


def _assigned(read: Read, backend: Backend, found: Found) -> Assignment:
    name, target, port, subset = found
    mesh, rule = target.mesh, target.rule
    if target.through:
        waypoint = mesh.service.waypoint if _tunnels(backend.view) else None
        pods = read(waypoint_pods, waypoint) if waypoint is not None else ()
        return entrance(backend.view, backend.cluster, mesh, port, pods)
    labels = rule.subsets[subset].labels if rule is not None and subset else NOTHING
    balancing = mesh.service.load_balancing
    behind: Iterable[Candidate] = read(candidates, (name, port))
    if _tunnels(backend.view) and not (mesh.service.vips or mesh.service.vip_networks):
        reached = (_by_waypoint(read, candidate) for candidate in behind)
        behind = [candidate for candidate in reached if candidate is not None]
    return assignment(
        backend.cluster,
        behind,
        effective(rule, port, subset),
        Viewpoint(backend.view.locality, cluster=read(SETTINGS, None).cluster),
        subset=labels,
        distribution=mesh.distribution,
        unready=balancing is not None and balancing.health is HealthPolicy.ALLOW_ALL,
    )


def _by_waypoint(read: Read, candidate: Candidate) -> Candidate | None:
    """A pod that is addressed by itself, as the tunnel of a client reaches it; None where nothing does."""
    waypoint = candidate.workload.waypoint
    return candidate if waypoint is None else before_pod(candidate, waypoint, read(waypoint_pods, waypoint))


def _tunnels(view: View) -> bool:
    """It is a client that ends tunnels itself. A waypoint does, too, but is on nobody's way to itself."""
    return view.kind is Kind.CLIENT and view.tunnels
