"""Statuses of gateways: a waypoint is programmed when there is a Service through which it is reached."""

from __future__ import annotations

from control.kube.conditions import Listener, Wanted
from control.resolve.engine import Read
from control.resolve.l7.listens import ATTACHED
from control.resolve.status.common import Status, accepted, condition, made
from control.resolve.tables import OBJECTS
from control.resolve.waypoints import Waypoint, waypoints
from mesh.model.manifest import Gateway, GatewayClass, IstioGateway, Key, Service
from mesh.model.workload import NamespacedHostname

CONTROLLERS = frozenset({"culvert.dev/control", "istio.io/mesh-controller"})
"""Classes that are ours: Istio's waypoints too, since the same class is used for them here."""


def status(read: Read, entry: Gateway | GatewayClass | IstioGateway) -> Status | None:
    match entry:
        case GatewayClass():
            if entry.spec.controller_name not in CONTROLLERS:
                return None
            return made(read, entry)
        case IstioGateway():
            note = "ingress gateways are not served here"
            return made(read, entry, condition("Programmed", False, "NoGateway", note), notes=(note,))
        case Gateway():
            return _waypoint(read, entry) if entry.spec.waypoint else None


def _waypoint(read: Read, entry: Gateway) -> Status:
    found = read(waypoints, entry.key)
    generation = entry.metadata.generation or 0
    if isinstance(found, Waypoint):
        service = read(OBJECTS, Key(Service.TYPE, entry.namespace, entry.name))
        addresses = service.spec.addresses if isinstance(service, Service) else ()
        reached = [{"type": "IPAddress", "value": str(ip)} for ip in addresses]
        destination = found.address.destination
        assert isinstance(destination, NamespacedHostname)
        reached = reached or [{"type": "Hostname", "value": destination.hostname}]
        attached = len(read(ATTACHED, destination))
        works, programmed = True, condition("Programmed", True, "Programmed")
        notes: tuple[str, ...] = ()
    else:
        reached, attached, works, notes = [], 0, False, (found,)
        programmed = condition("Programmed", False, "AddressNotAssigned", found)
    listeners = tuple(
        Listener(
            one.name,
            attached,
            (),
            (
                condition("Accepted", True, "Accepted"),
                condition("Conflicted", False, "NoConflicts"),
                condition("Programmed", works, "Programmed" if works else "Pending"),
                condition("ResolvedRefs", True, "ResolvedRefs"),
            ),
        )
        for one in entry.spec.listeners
    )
    wanted = Wanted(generation, (accepted(entry), programmed), listeners=listeners, fields={"addresses": reached})
    return made(read, entry, notes=notes, wanted=wanted)
