"""ServiceEntries and WorkloadEntries: whether anything leads to them, and anybody is there."""

from __future__ import annotations

from control.analyze.codes import mesh as codes
from control.analyze.findings import Findings
from control.analyze.given import about
from control.analyze.hosts import Host
from control.analyze.services import suggestion, written
from control.analyze.world import PODS, SERVICES, World
from control.resolve.services import services_for
from control.resolve.tables import labels_of
from mesh.model.manifest import Service, ServiceEntry, WorkloadEntry
from mesh.model.workload import NamespacedHostname


def check(world: World, found: Findings) -> None:
    for entry in world.of(ServiceEntry):
        _endpoints(world, entry, found)
        _address(world, entry, found)
    for workload in world.of(WorkloadEntry):
        labels = labels_of({**workload.labels, **workload.spec.labels})
        if not world.ask(services_for, (workload.namespace, labels)) and world.knows(SERVICES, workload.namespace):
            message = f"no Service or ServiceEntry of {workload.namespace} selects {written(dict(labels))}"
            hint = "set spec.labels to what a workloadSelector asks for"
            found.add(codes.UNUSED_ENTRY, about(workload), "spec.labels", message, hint)
    for name in world.hosts:
        _same_host(world.hosts.find(name), found)


def _endpoints(world: World, entry: ServiceEntry, found: Findings) -> None:
    spec = entry.spec
    if spec.workload_selector is not None:
        hint, key = suggestion(spec.workload_selector.labels, world.runs_in(entry.namespace))
        if not world.behind(entry.key) and not world.entries_behind(entry.key) and world.lacks(PODS, entry.namespace, key):
            field = "spec.workloadSelector" + (f".labels[{key}]" if key else "")
            message = f"no pod and no WorkloadEntry of {entry.namespace} has {written(spec.workload_selector.labels)}"
            found.add(codes.SELECTS_NO_ENDPOINT, about(entry), field, message, hint)
    elif spec.resolution == "STATIC" and not spec.endpoints:
        message = "with the resolution STATIC and neither endpoints nor workloadSelector there is nobody to connect to"
        found.add(codes.NO_ENDPOINT, about(entry), "spec.resolution", message, "list endpoints, or resolve it by DNS")


def _address(world: World, entry: ServiceEntry, found: Findings) -> None:
    for index, host in enumerate(entry.spec.hosts):
        if str(NamespacedHostname(entry.namespace, host)) in world.mesh.services or world.routed(entry.key) is None:
            continue
        if any(isinstance(other.entry, Service) for other in world.hosts.find(host)):
            continue
        kind = "a wildcard" if host.startswith("*") else f"the resolution {entry.spec.resolution}"
        message = f"no connection is told to be one to {host}: it has no address, and with {kind} it gets none"
        hint = "add addresses, or label it istio.io/use-waypoint so that a waypoint tells hosts apart"
        found.add(codes.NO_ADDRESS, about(entry), f"spec.hosts[{index}]", message, hint)


def _same_host(hosts: list[Host], found: Findings) -> None:
    """Of one namespace the Service, then the oldest counts; elsewhere clients may see either. A ServiceEntry that only brings endpoints to
    a Service is a way to extend it.
    """
    ordered = sorted(hosts, key=_rank)
    for index, host in enumerate(ordered):
        first = next((other for other in ordered[:index] if _meet(other, host)), None)
        if first is None or not isinstance(host.entry, ServiceEntry):
            continue
        field = f"spec.hosts[{host.entry.spec.hosts.index(host.name)}]"
        if first.namespace == host.namespace:
            if isinstance(first.entry, Service) and {port.number for port in host.ports} <= {port.number for port in first.ports}:
                continue
            message = f"{first.key} declares {host.name} as well, and its ports count"
        else:
            message = f"{first.key} declares {host.name} as well: clients elsewhere may reach either"
        found.add(codes.SAME_HOST, about(host.entry), field, message, "keep one of them, or set exportTo", related=[about(first.entry)])


def _rank(host: Host) -> tuple[bool, str, str]:
    return (not isinstance(host.entry, Service), host.entry.metadata.creation_timestamp or "~", host.entry.name)


def _meet(one: Host, other: Host) -> bool:
    """Whether some client may see both."""
    namespaces = {one.namespace, other.namespace, "~elsewhere"}
    return any(one.seen_from(namespace) and other.seen_from(namespace) for namespace in namespaces)
