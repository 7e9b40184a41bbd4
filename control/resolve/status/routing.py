"""Statuses of what says where traffic goes: whether the places are there, and whether anybody takes it there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control.kube.conditions import Condition, Parent, Wanted
from control.resolve.engine import Read
from control.resolve.l7.lookup import destination_rule, find_service, mesh_service, rule_host, virtual_hosts
from control.resolve.l7.ports import Port, routes_of
from control.resolve.l7.views import View
from control.resolve.services import declared, described, holder
from control.resolve.status.common import NEEDS_WAYPOINT, OTHER_NAMESPACE, Status, accepted, because, condition, made
from control.resolve.tables import OBJECTS, SETTINGS
from control.resolve.waypoints import service_waypoint
from mesh.model.l7.notes import Note, Problem
from mesh.model.l7.profile import Kind
from mesh.model.manifest import (
    DestinationRule,
    GRPCRoute,
    HTTPRoute,
    Key,
    ServiceEntry,
    TCPRoute,
    TLSRoute,
    VirtualService,
    WorkloadEntry,
)
from mesh.model.manifest.gatewayapi.common import ParentRef
from mesh.model.workload import NamespacedHostname

Route = HTTPRoute | GRPCRoute | TLSRoute | TCPRoute
UNRESOLVED = {
    Problem.UNKNOWN_DESTINATION: "BackendNotFound",
    Problem.UNKNOWN_PORT: "BackendNotFound",
    Problem.MISSING_SUBSET: "SubsetNotFound",
    Problem.NOT_GRANTED: "RefNotPermitted",
    Problem.MISSING_DELEGATE: "DelegateNotFound",
    Problem.BAD_DELEGATE: "DelegateNotFound",
}
NOT_TAKEN = frozenset({Problem.NO_EFFECT, Problem.CONFLICT})


def status(read: Read, entry: VirtualService | DestinationRule | ServiceEntry | WorkloadEntry) -> Status:
    match entry:
        case VirtualService():
            return _virtual_service(read, entry)
        case DestinationRule():
            return _destination_rule(read, entry)
        case ServiceEntry():
            return _service_entry(read, entry)
        case WorkloadEntry():
            return made(read, entry, condition("Programmed", True, "Programmed"))


# VirtualServices and DestinationRules.


def _virtual_service(read: Read, entry: VirtualService) -> Status:
    if entry.spec.delegated:
        return made(read, entry, condition("Programmed", True, "Delegated", "it counts where others delegate to it"))
    if not entry.spec.in_mesh:
        note = "no gateway of the mesh takes it: ingress gateways are not served here"
        return made(read, entry, condition("Programmed", False, "NoGateway", note), notes=(note,))
    viewer = View(Kind.CLIENT, entry.namespace)
    lacking: list[str] = []
    unproxied: list[str] = []
    unread: list[str] = []
    notes: dict[Note, None] = {}
    programmed = False
    for host in read(virtual_hosts, entry.key):
        if host.startswith("*"):
            programmed = True  # whatever services it stands for, clients' own proxies take it
            continue
        name = read(find_service, (viewer, host))
        if name is None:
            lacking.append(f"there is no service {host}")
            continue
        programmed = True
        view, why = _taken_by(read, name, entry.namespace)
        if why:
            unproxied.append(f"{host}: {why}")
        unread += _unread(view, entry.namespace, host, {name.namespace, view.namespace})
        notes.update(dict.fromkeys(note for note in _notes(read, view, name) if note.subject == entry.key))
    return made(
        read,
        entry,
        _resolved(notes, lacking),
        condition("Programmed", True, "Programmed", because(_others(notes)))
        if programmed
        else condition("Programmed", False, "NoService", because(lacking)),
        _enforced(unproxied, unread),
        notes=(*lacking, *unread, *(f"{note.field}: {note.message}" for note in notes)),
    )


def _destination_rule(read: Read, entry: DestinationRule) -> Status:
    found = read(rule_host, entry.key)
    host = found[1] if found is not None else entry.spec.host
    if host.startswith("*"):
        return made(read, entry, condition("Programmed", True, "Programmed"))
    name = read(find_service, (View(Kind.CLIENT, entry.namespace), host))
    if name is None:
        lacking = f"there is no service {host}"
        return made(
            read,
            entry,
            condition("ResolvedRefs", False, "HostNotFound", lacking),
            condition("Programmed", False, "NoService", lacking),
            notes=(lacking,),
        )
    view, why = _taken_by(read, name, entry.namespace)
    unread = _unread(view, entry.namespace, host, {name.namespace, view.namespace, read(SETTINGS, None).root_namespace})
    notes = [note for note in read(destination_rule, (view, name)).notes if note.subject == entry.key]
    return made(
        read,
        entry,
        condition("ResolvedRefs", True, "ResolvedRefs"),
        condition("Programmed", True, "Programmed", because(f"{note.field}: {note.message}" for note in notes)),
        _enforced([f"{host}: {why}"] if why else [], unread),
        notes=[*unread, *(f"{note.field}: {note.message}" for note in notes)],
    )


def _service_entry(read: Read, entry: ServiceEntry) -> Status:
    shadowed = [
        f"{name.hostname} is what {owner} says, which goes first"
        for name in read(declared, entry.key)
        if (owner := read(holder, name)) not in (None, entry.key)
    ]
    addresses = [
        {"value": str(vip.ip), "host": name.hostname}
        for name in read(declared, entry.key)
        if not entry.spec.addresses and (service := read(described, name)) is not None and read(holder, name) == entry.key
        for vip in service.vips
    ]
    conflict = (
        [condition("Programmed", False, "Conflict", because(shadowed))] if shadowed else [condition("Programmed", True, "Programmed")]
    )
    wanted = Wanted(entry.metadata.generation or 0, (accepted(entry), *conflict), fields={"addresses": addresses})
    return made(read, entry, notes=shadowed, wanted=wanted)


def _taken_by(read: Read, name: NamespacedHostname, namespace: str) -> tuple[View, str]:
    """Who takes routes of a service into account: its waypoint; without one clients' own proxies, and why that may be nobody."""
    key = read(holder, name)
    use = read(service_waypoint, key) if key is not None else None
    if use is not None and use.waypoint is not None:
        return View(Kind.WAYPOINT, use.waypoint.key.namespace, use.waypoint.key.name), ""
    asked = f"its waypoint {use.wanted.name}: {use.why}" if use is not None and use.wanted is not None else "it has no waypoint"
    return View(Kind.CLIENT, namespace), f"{asked}; only Envoys and gRPC clients that take xDS honour this"


def _notes(read: Read, view: View, name: NamespacedHostname) -> Iterable[Note]:
    mesh = read(mesh_service, name)
    for port in mesh.service.ports if mesh is not None else ():
        found = read(routes_of, Port(view, name, port.port))
        if found is not None:
            yield from found.notes


def _resolved(notes: Iterable[Note], lacking: Iterable[str] = ()) -> Condition:
    missing = [(UNRESOLVED[note.problem], f"{note.field}: {note.message}") for note in notes if note.problem in UNRESOLVED]
    sentences = [*lacking, *(sentence for _, sentence in missing)]
    if not sentences:
        return condition("ResolvedRefs", True, "ResolvedRefs")
    return condition("ResolvedRefs", False, missing[0][0] if missing else "HostNotFound", because(sentences))


def _others(notes: Iterable[Note]) -> list[str]:
    return [f"{note.field}: {note.message}" for note in notes if note.problem not in UNRESOLVED]


def _unread(view: View, namespace: str, host: str, read_by_it: set[str]) -> list[str]:
    """Why a waypoint, if that is the view, does not know what is written in a namespace about a host. Nobody else goes by it either."""
    if view.kind is not Kind.WAYPOINT or namespace in read_by_it:
        return []
    return [f"{host}: its waypoint goes by what is written in {' and '.join(sorted(read_by_it))}"]


def _enforced(unproxied: list[str], unread: Iterable[str] = ()) -> Condition:
    if unproxied:
        return condition("Enforced", False, NEEDS_WAYPOINT, because(unproxied))
    if unread:
        return condition("Enforced", False, OTHER_NAMESPACE, because(unread))
    return condition("Enforced", True, "Waypoint")


# Routes of the Gateway API: a status for each parent.


def of_route(read: Read, entry: Route) -> Status:
    parents: list[Parent] = []
    notes: dict[str, None] = {}
    for ref in entry.spec.parent_refs:
        if ref.kind in ("Service", "ServiceEntry"):
            parent, said = _at_service(read, entry, ref)
            parents.append(parent)
            notes.update(dict.fromkeys(said))
    wanted = Wanted(entry.metadata.generation or 0, parents=tuple(parents))
    return made(read, entry, notes=notes, wanted=wanted)


def _at_service(read: Read, entry: Route, ref: ParentRef) -> tuple[Parent, list[str]]:
    key = Key(ref.kind, ref.namespace or entry.namespace, ref.name)
    names = read(declared, key) if read(OBJECTS, key) is not None else ()
    written = _written(ref)
    if not names:
        message = f"there is no {key}"
        return Parent(written, (condition("Accepted", False, "NoMatchingParent", message),)), [message]
    found: dict[Note, None] = {}
    ports = 0
    view, why = _taken_by(read, names[0], entry.namespace)
    for name in names:
        mesh = read(mesh_service, name)
        for port in mesh.service.ports if mesh is not None else ():
            if ref.port not in (None, port.port) or (mesh is not None and ref.section_name not in ("", mesh.port_names.get(port.port, ""))):
                continue
            ports += 1
            routes = read(routes_of, Port(view, name, port.port))
            found.update(dict.fromkeys(note for note in (routes.notes if routes is not None else ()) if note.subject == entry.key))
    if not ports:
        message = f"{key} has no such port"
        return Parent(written, (condition("Accepted", False, "NoMatchingParent", message),)), [message]
    refused = [note for note in found if note.problem in NOT_TAKEN]
    if refused and len(refused) >= ports:
        reason = "Conflicted" if refused[0].problem is Problem.CONFLICT else "UnsupportedProtocol"
        taken = condition("Accepted", False, reason, because(note.message for note in refused))
    else:
        taken = accepted(entry, *_others(found))
    sentences = [f"{note.field}: {note.message}" for note in found]
    return Parent(written, (taken, _resolved(found), _enforced([f"{key}: {why}"] if why else []))), sentences


def _written(ref: ParentRef) -> dict[str, Any]:
    """A parentRef as the object has it."""
    named = {
        "group": ref.group,
        "kind": ref.kind,
        "namespace": ref.namespace,
        "name": ref.name,
        "sectionName": ref.section_name,
        "port": ref.port,
    }
    return {name: value for name, value in named.items() if value not in (None, "") or name == "group"}
