"""Who goes by what is written about a service, and what of it nobody does.

    it has a waypoint, and an address of its own    the waypoint; clients see the address alone (`control.resolve.l7.through`)
    it has a waypoint, but no address               clients, past the waypoint: they look up who is behind it
    it has none                                     clients

Only Envoys and gRPC clients that take xDS are such clients, so that what is left to them has its effect for some and not for others.
"""

from __future__ import annotations

from typing import NamedTuple

from control.resolve.engine import Read
from control.resolve.l7.lookup import destination_rule, find_service, mesh_service, virtual_services
from control.resolve.l7.through import through_waypoint
from control.resolve.l7.views import View
from control.resolve.services import holder
from control.resolve.status.common import CONFLICT, NEEDS_WAYPOINT, OTHER_NAMESPACE, UNSUPPORTED
from control.resolve.tables import SETTINGS
from control.resolve.waypoints import service_waypoint
from mesh.model.l7.profile import Kind
from mesh.model.l7.translate.delegates import visible
from mesh.model.manifest import DestinationRule, VirtualService
from mesh.model.workload import NamespacedHostname

FOR_SOME = "only Envoys and gRPC clients that take xDS honour this"


class Lack(NamedTuple):
    """Why something has not its full effect: the reason of the condition, and a sentence."""

    reason: str
    message: str


class Reader(NamedTuple):
    """The proxies that go by what is written about a service, and what is lacking all the same."""

    view: View
    lacks: tuple[Lack, ...] = ()


def viewer(entry: VirtualService | DestinationRule) -> View:
    """Clients that see an object: those of its own namespace, if they do."""
    own = entry.namespace
    return View(Kind.CLIENT, own if visible(entry.spec.export_to, own, own) else entry.spec.export_to[0])


def service_of(read: Read, clients: View, host: str) -> NamespacedHostname | None:
    """The service that a host is to them. Waypoints see what is not exported, too."""
    name = read(find_service, (clients, host))
    if name is None:
        hidden = read(find_service, (View(Kind.WAYPOINT, clients.namespace), host))
        if hidden is not None and reader(read, hidden, clients).view.kind is Kind.WAYPOINT:
            return hidden
    return name


def reader(read: Read, name: NamespacedHostname, clients: View) -> Reader:
    """Of what is written about a service in general. `clients`: those that it is for."""
    key, mesh = read(holder, name), read(mesh_service, name)
    use = read(service_waypoint, key) if key is not None else None
    if use is None or use.wanted is None:
        why = "it has no waypoint"
    elif use.waypoint is None:
        why = f"its waypoint {use.wanted.name}: {use.why}"
    elif mesh is not None and through_waypoint(clients, mesh.service):
        return Reader(View(Kind.WAYPOINT, use.waypoint.key.namespace, use.waypoint.key.name))
    else:
        why = f"it has no address of its own, so that nothing leads to its waypoint {use.wanted.name}"
    return Reader(clients, (Lack(NEEDS_WAYPOINT, f"{name.hostname}: {why}; {FOR_SOME}"),))


def of_virtual_service(read: Read, entry: VirtualService, name: NamespacedHostname) -> Reader:
    """Of one, for a service that it names by its exact host."""
    view, lacks = reader(read, name, viewer(entry))
    if any(other.key == entry.key for other in read(virtual_services, (view, name))):
        return Reader(view, lacks)
    return Reader(view, (_elsewhere(view, name, {name.namespace, view.namespace}),))


def of_wildcard(host: str) -> Lack:
    """Of a VirtualService, for the services that a wildcard stands for."""
    return Lack(UNSUPPORTED, f"{host}: waypoints go by exact hosts alone; {FOR_SOME}, where they pass no waypoint")


def of_destination_rule(read: Read, entry: DestinationRule, name: NamespacedHostname) -> Reader:
    """Of one, for the service that it names by its exact host."""
    view, lacks = reader(read, name, viewer(entry))
    if entry.spec.workload_selector is not None:
        return Reader(view, (for_some_clients(),))
    merged = read(destination_rule, (view, name)).value
    places = {view.namespace, name.namespace, read(SETTINGS, None).root_namespace}
    if merged is not None and entry.key in merged.rules:
        return Reader(view, lacks)
    if entry.namespace not in places:
        return Reader(view, (_elsewhere(view, name, places),))
    if not visible(entry.spec.export_to, entry.namespace, view.namespace):
        hidden = f"{name.hostname}: spec.exportTo hides this from its waypoint in {view.namespace}"
        return Reader(view, (Lack(OTHER_NAMESPACE, hidden),))
    assert merged is not None
    if view.kind is Kind.WAYPOINT:
        return Reader(view, (Lack(CONFLICT, f"{name.hostname}: {merged.rules[0]} is nearer to its waypoint, and counts instead"),))
    return Reader(view, lacks)  # to clients of another namespace that see it, none may be nearer


def for_some_clients() -> Lack:
    return Lack(UNSUPPORTED, "spec.workloadSelector: nobody goes by a rule that is for some clients of a namespace")


def _elsewhere(view: View, name: NamespacedHostname, places: set[str]) -> Lack:
    who = "its waypoint goes" if view.kind is Kind.WAYPOINT else f"clients of {view.namespace} go"
    return Lack(OTHER_NAMESPACE, f"{name.hostname}: {who} by what is written in {' and '.join(sorted(places))}")
