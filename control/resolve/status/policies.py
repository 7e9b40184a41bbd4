"""Statuses of policies: who enforces them, and what of them nobody can."""

from __future__ import annotations

from control.resolve.engine import Read
from control.resolve.l7.around import around
from control.resolve.l7.ports import guard
from control.resolve.l7.views import View
from control.resolve.policies import ADDRESSED, mtls_modes, policies
from control.resolve.services import declared
from control.resolve.status.common import BYPASSED, CONFLICT, NEEDS_WAYPOINT, UNSUPPORTED, Status, because, condition, made
from control.resolve.tables import SETTINGS
from control.resolve.waypoints import service_waypoint, waypoints
from mesh.model.l7.profile import Kind
from mesh.model.manifest import AuthorizationPolicy, Key, PeerAuthentication, RequestAuthentication, Telemetry
from mesh.model.manifest.security import DRY_RUN_ANNOTATION
from mesh.model.workload import NamespacedHostname

Policy = AuthorizationPolicy | RequestAuthentication | PeerAuthentication | Telemetry


def status(read: Read, entry: Policy) -> Status:
    if isinstance(entry, PeerAuthentication):
        return _modes(read, entry)
    if isinstance(entry, Telemetry):
        return _telemetry(read, entry)
    outcome = read(policies, entry.key)
    notes = (*outcome.notes, *_at_waypoints(read, entry))
    if isinstance(entry, AuthorizationPolicy) and entry.annotations.get(DRY_RUN_ANNOTATION) == "true":
        return made(read, entry, condition("Enforced", False, "DryRun", because(("it is a dry run", *notes))), notes=notes)
    if isinstance(entry, AuthorizationPolicy) and entry.spec.action == "AUDIT":
        return made(read, entry, condition("Enforced", False, UNSUPPORTED, because(notes)), notes=notes)
    if outcome.notes:
        return made(read, entry, condition("Enforced", False, outcome.reason or NEEDS_WAYPOINT, because(notes)), notes=notes)
    if isinstance(entry, RequestAuthentication) and not entry.spec.jwt_rules:
        return made(read, entry, condition("Enforced", True, "NothingToDo", "it names no issuer"))
    past = read(around, entry.key)
    if past:
        notes = (*notes, *past)
        return made(read, entry, condition("Enforced", False, BYPASSED, because(notes)), notes=notes)
    by = "Waypoint" if entry.spec.targets else "Tunnel"
    return made(read, entry, condition("Enforced", True, by, because(notes)), notes=notes)


def _at_waypoints(read: Read, entry: AuthorizationPolicy | RequestAuthentication) -> tuple[str, ...]:
    """What the waypoints that enforce a policy cannot do of it."""
    found: dict[str, None] = {}
    for view, name in _guarded(read, entry):
        for note in read(guard, (view, name)).notes:
            if note.subject == entry.key:
                found[f"{note.field}: {note.message}"] = None
    return tuple(found)


def _guarded(read: Read, entry: AuthorizationPolicy | RequestAuthentication | Telemetry) -> list[tuple[View, NamespacedHostname]]:
    """The services that a policy targets, each with the waypoint before it."""
    found = []
    for target in entry.spec.targets:
        key = Key(target.kind, entry.namespace, target.name)
        use = read(service_waypoint, key) if target.kind in ADDRESSED else None
        if use is not None and use.waypoint is not None:
            view = View(Kind.WAYPOINT, use.waypoint.key.namespace, use.waypoint.key.name)
            found += [(view, name) for name in read(declared, key)]
    return found


def _modes(read: Read, entry: PeerAuthentication) -> Status:
    for ignored, used in read(mtls_modes, entry.namespace).ignored:
        if ignored.key == entry.key:
            note = f"has no effect: {used.key} ({used.source}) is for the same pods and counts"
            return made(read, entry, condition("Enforced", False, CONFLICT, note), notes=(note,))
    return made(read, entry, condition("Enforced", True, "Tunnel"))


def _telemetry(read: Read, entry: Telemetry) -> Status:
    """Only waypoints look at it."""
    lacking = []
    for target in entry.spec.targets:
        if target.kind == "Gateway":
            why = read(waypoints, Key("Gateway", entry.namespace, target.name))
            if isinstance(why, str):
                lacking.append(f"Gateway {target.name}: {why}")
        elif target.kind in ADDRESSED and read(service_waypoint, Key(target.kind, entry.namespace, target.name)).waypoint is None:
            lacking.append(f"{target.kind} {target.name} has no waypoint")
    if entry.spec.selector is not None:
        lacking.append("a selector is for sidecars: waypoints take targetRefs")
    notes = list(lacking)
    for view, name in _guarded(read, entry):
        notes += [f"{note.field}: {note.message}" for note in read(guard, (view, name)).notes if note.subject == entry.key]
    if lacking:
        return made(read, entry, condition("Enforced", False, NEEDS_WAYPOINT, because(notes)), notes=notes)
    wide = not entry.spec.targets and entry.namespace == read(SETTINGS, None).root_namespace
    return made(read, entry, condition("Enforced", True, "Mesh" if wide else "Waypoint", because(notes)), notes=notes)
