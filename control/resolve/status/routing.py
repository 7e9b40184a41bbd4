"""Statuses of what says where traffic goes: whether the places are there, and whether anybody takes it there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from control.kube.conditions import Condition, Parent, Wanted
from control.resolve.engine import Read
from control.resolve.l7.backends import candidates
from control.resolve.l7.lookup import destination_rule, mesh_service, rule_host, virtual_hosts
from control.resolve.l7.ports import Port, routes_of
from control.resolve.l7.views import View
from control.resolve.services import declared, described, holder
from control.resolve.status import readers
from control.resolve.status.common import CONFLICT, NEEDS_WAYPOINT, UNSUPPORTED, Status, accepted, because, condition, made
from control.resolve.status.readers import Lack
from control.resolve.tables import OBJECTS
from mesh.model.l7.notes import Note, Problem
from mesh.model.l7.profile import Kind
from mesh.model.l7.services import MeshService
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
from mesh.model.workload import NamespacedHostname, TunnelProtocol

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
    unknown: list[str] = []
    lacks: list[Lack] = []
    notes: dict[Note, None] = {}
    programmed = False
    for host in read(virtual_hosts, entry.key):
        if host.startswith("*"):
            programmed = True  # whatever services it stands for, clients' own proxies take it
            lacks.append(readers.of_wildcard(host))
            continue
        name = readers.service_of(read, readers.viewer(entry), host)
        if name is None:
            unknown.append(f"there is no service {host}")
            continue
        programmed = True
        found = readers.of_virtual_service(read, entry, name)
        notes.update(dict.fromkeys(note for note in _notes(read, found.view, name) if note.subject == entry.key))
        lacks += found.lacks
    lacks += _conflicts(notes)
    return made(
        read,
        entry,
        _resolved(notes, unknown),
        condition("Programmed", True, "Programmed", because(_others(notes)))
        if programmed
        else condition("Programmed", False, "NoService", because(unknown)),
        _enforced(lacks),
        notes=(*unknown, *_worth_noting(lacks), *(f"{note.field}: {note.message}" for note in notes)),
    )


def _destination_rule(read: Read, entry: DestinationRule) -> Status:
    found = read(rule_host, entry.key)
    host = found[1] if found is not None else entry.spec.host
    if host.startswith("*"):
        lacks = [readers.for_some_clients()] if entry.spec.workload_selector is not None else []
        enforced = [_enforced(lacks)] if lacks else []
        return made(read, entry, condition("Programmed", True, "Programmed"), *enforced, notes=_worth_noting(lacks))
    name = readers.service_of(read, readers.viewer(entry), host)
    if name is None:
        unknown = f"there is no service {host}"
        return made(
            read,
            entry,
            condition("ResolvedRefs", False, "HostNotFound", unknown),
            condition("Programmed", False, "NoService", unknown),
            notes=(unknown,),
        )
    by = readers.of_destination_rule(read, entry, name)
    notes = [note for note in read(destination_rule, (by.view, name)).notes if note.subject == entry.key]
    lacks = [*by.lacks, *_conflicts(notes)]
    return made(
        read,
        entry,
        condition("ResolvedRefs", True, "ResolvedRefs"),
        condition("Programmed", True, "Programmed", because(f"{note.field}: {note.message}" for note in notes)),
        _enforced(lacks),
        notes=[*_worth_noting(lacks), *(f"{note.field}: {note.message}" for note in notes)],
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
    mixed = _mixed(read, entry)
    programmed = condition("Programmed", False, CONFLICT, because(shadowed))
    if not shadowed:
        programmed = condition("Programmed", True, "Programmed", because(mixed))
    wanted = Wanted(entry.metadata.generation or 0, (accepted(entry), programmed), fields={"addresses": addresses})
    return made(read, entry, notes=(*shadowed, *mixed), wanted=wanted)


def _mixed(read: Read, entry: ServiceEntry) -> list[str]:
    """Proxies look up all of a cluster or nothing of it, and know no tunnels where they do."""
    if entry.spec.resolution not in ("DNS", "DNS_ROUND_ROBIN"):
        return []
    behind = [
        candidate.workload
        for name in read(declared, entry.key)
        for port in entry.spec.ports[:1]
        for candidate in read(candidates, (name, port.number))
    ]
    named = [workload for workload in behind if not workload.addresses]
    tunnelled = [workload for workload in behind if workload.addresses and workload.protocol is TunnelProtocol.HBONE]
    if not (named and tunnelled):
        return []
    inside = f"{tunnelled[0].namespace}/{tunnelled[0].name}"
    return [f"{named[0].hostname} is looked up, {inside} is in the mesh: waypoints, and Envoys that tunnel, reach only what is looked up"]


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


def _conflicts(notes: Iterable[Note]) -> list[Lack]:
    return [Lack(CONFLICT, f"{note.field}: {note.message}") for note in notes if note.problem is Problem.CONFLICT]


def _worth_noting(lacks: Iterable[Lack]) -> list[str]:
    """Not where a waypoint is lacking: most who write for clients know that."""
    return [lack.message for lack in lacks if lack.reason != NEEDS_WAYPOINT]


def _enforced(lacks: Sequence[Lack]) -> Condition:
    if lacks:
        return condition("Enforced", False, lacks[0].reason, because(lack.message for lack in lacks))
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
    found: dict[Note, None] = {}
    lacks: list[Lack] = []
    ports = 0
    for name in names:
        if (owner := read(holder, name)) != key:
            lacks.append(Lack(CONFLICT, f"what {name.hostname} is, {owner} says"))
            continue
        by = readers.reader(read, name, View(Kind.CLIENT, entry.namespace))
        mesh = read(mesh_service, name)
        numbers = [port.port for port in mesh.service.ports if _is_for(ref, mesh, port.port)] if mesh is not None else []
        for number in numbers:
            routes = read(routes_of, Port(by.view, name, number))
            found.update(dict.fromkeys(note for note in (routes.notes if routes is not None else ()) if note.subject == entry.key))
        ports += len(numbers)
        lacks += by.lacks if numbers else ()
    written = _written(ref)
    if not ports:
        message = because(lack.message for lack in lacks) or (f"{key} has no such port" if names else f"there is no {key}")
        return Parent(written, (condition("Accepted", False, "NoMatchingParent", message),)), [message]
    refused = [note for note in found if note.problem in NOT_TAKEN]
    taken = accepted(entry, *_others(found))
    if refused and len(refused) >= ports:
        reason = "Conflicted" if refused[0].problem is Problem.CONFLICT else "UnsupportedProtocol"
        taken = condition("Accepted", False, reason, because(note.message for note in refused))
    lacks += (Lack(CONFLICT if note.problem is Problem.CONFLICT else UNSUPPORTED, note.message) for note in refused)
    sentences = [*_worth_noting(lacks), *(f"{note.field}: {note.message}" for note in found)]
    return Parent(written, (taken, _resolved(found), _enforced(lacks))), sentences


def _is_for(ref: ParentRef, mesh: MeshService, port: int) -> bool:
    return ref.port in (None, port) and ref.section_name in ("", mesh.port_names.get(port, ""))


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
