"""Workloads that clients address by themselves, and that a waypoint stands before: for each a chain for every port that is known to speak
HTTP, and one for all others. What is written about services does not count for them; policies of the waypoint do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from control.resolve.engine import Group, Read, query
from control.resolve.l7.lookup import mesh_service
from control.resolve.l7.ports import guard
from control.resolve.l7.views import View
from control.resolve.tables import SETTINGS
from control.resolve.workloads import workloads
from mesh.model.l7.chains import Chain, Traffic
from mesh.model.l7.names import workload_cluster_name
from mesh.model.l7.profile import Kind
from mesh.model.l7.services import traffic_of
from mesh.model.l7.translate import workload as direct
from mesh.model.manifest import Key
from mesh.model.workload import NamespacedHostname, Workload


def _waypoint_of(_: Key, found: tuple[Workload, ...]) -> Iterable[NamespacedHostname]:
    for workload in found:
        if workload.waypoint is not None and isinstance(workload.waypoint.destination, NamespacedHostname):
            yield workload.waypoint.destination


THROUGH: Group[Key, tuple[Workload, ...], NamespacedHostname] = Group("workloads by waypoint", workloads, _waypoint_of)


@query(71)
def directly(read: Read, view: View) -> Mapping[str, Workload]:
    """The workloads behind a waypoint that have an address, by the name of their cluster."""
    if view.kind is not Kind.WAYPOINT:
        return MappingProxyType({})
    host = f"{view.gateway}.{view.namespace}.svc.{read(SETTINGS, None).cluster_domain}"
    found = {}
    for key in sorted(read(THROUGH, NamespacedHostname(view.namespace, host))):
        for workload in read(workloads, key):
            if workload.waypoint is not None and workload.addresses:
                found[workload_cluster_name(workload.uid)] = workload
    return MappingProxyType(found)


@query(72)
def direct_chains(read: Read, view: View) -> tuple[Chain, ...]:
    found: list[Chain] = []
    before = read(guard, (view, None)) if read(directly, view) else None
    for workload in read(directly, view).values():
        assert before is not None  # there is a workload
        made = Chain(workload.uid, 0, Traffic.TCP, workload.addresses, guard=before.guard, telemetry=before.telemetry, direct=True)
        table = direct.route_table(workload).name
        found += [replace(made, port=port, traffic=Traffic.HTTP, table=table) for port in sorted(_speaking_http(read, workload))]
        found.append(replace(made, tcp=direct.tcp_routes(workload)))
    return tuple(found)


def _speaking_http(read: Read, workload: Workload) -> set[int]:
    """The workload's own ports that some service of it says speak HTTP."""
    found = set()
    for name, targets in workload.services.items():
        mesh = read(mesh_service, name)
        for entry in mesh.service.ports if mesh is not None else ():
            target = targets.get(entry.port, 0) or entry.target
            if target and traffic_of(entry.protocol) is Traffic.HTTP:
                found.add(target)
    return found
