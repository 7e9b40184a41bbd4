"""Whom policies are for: the pods that they select, and what they target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from control.analyze.codes import policy as codes
from control.analyze.findings import Findings
from control.analyze.given import about
from control.analyze.hosts import Host
from control.analyze.near import near
from control.analyze.runs import Runs
from control.analyze.services import suggestion, written
from control.analyze.world import GATEWAYS, PODS, SERVICES, World
from control.resolve.l7.around import around
from control.resolve.l7.ports import guard
from control.resolve.l7.views import View
from control.resolve.waypoints import USE_WAYPOINT, gateway_key
from mesh.model.l7.notes import Note, Problem
from mesh.model.l7.profile import Kind
from mesh.model.manifest import (
    AuthorizationPolicy,
    Gateway,
    Key,
    PeerAuthentication,
    RequestAuthentication,
    Service,
    ServiceEntry,
    Telemetry,
    WorkloadEntry,
    selects,
)
from mesh.model.manifest.targets import TargetRef
from mesh.model.workload import AppProtocol, NamespacedHostname

Policy = AuthorizationPolicy | PeerAuthentication | RequestAuthentication | Telemetry


def reach(world: World, namespace: str) -> str | None:
    """The namespace whose pods a policy can select; None for every one."""
    return None if namespace == world.settings.root_namespace else namespace


def selected(world: World, policy: Policy, found: Findings) -> list[Runs]:
    """What a policy with a selector, or for a namespace, is for. Says so where that is nothing, or outside the mesh."""
    labels = policy.spec.match_labels
    where = reach(world, policy.namespace)
    if isinstance(policy, PeerAuthentication) and labels:
        where = policy.namespace  # a selector of the root namespace selects pods of that namespace
    runs = world.selected(where, labels)
    if labels and not runs and not _entries(world, where, labels):
        hint, key = suggestion(labels, world.runs if where is None else world.runs_in(where))
        if not (world.given.complete or (where is not None and world.lacks(PODS, where, key))):
            return runs
        field = "spec.selector.matchLabels" + (f"[{key}]" if key else "")
        message = f"no pod {'of the mesh' if where is None else f'of {where}'} has {written(labels)}"
        found.add(codes.SELECTS_NOTHING, about(policy), field, message, hint)
    return runs


def _entries(world: World, where: str | None, labels: Mapping[str, str]) -> bool:
    """Whether it selects a WorkloadEntry."""
    return any(
        where in (None, entry.namespace) and selects(labels, {**entry.labels, **entry.spec.labels}) for entry in world.of(WorkloadEntry)
    )


def outside(world: World, policy: Policy, runs: list[Runs], found: Findings) -> None:
    """Says which of the pods that a policy selects have no tunnel to enforce it; of a whole namespace or mesh, only where none has."""
    without = [made for made in runs if made.in_mesh is False]
    labels = policy.spec.match_labels
    if not without or (not labels and len(without) < len(runs)):
        return
    names = sorted({made.subject.name for made in without})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    message = f"{', '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'} outside the mesh: nothing enforces the policy there"
    field = "spec.selector" if labels else "metadata.namespace"
    hint = f"label the namespace {without[0].namespace} istio.io/dataplane-mode=ambient"
    found.add(codes.OUTSIDE, about(policy), field, message, hint, related=[made.subject for made in without[:3]])


def targets(policy: AuthorizationPolicy | RequestAuthentication | Telemetry) -> Iterator[tuple[str, TargetRef]]:
    """Every target, with its path."""
    if policy.spec.target_refs:
        yield from ((f"spec.targetRefs[{index}]", target) for index, target in enumerate(policy.spec.target_refs))
    elif policy.spec.target_ref is not None:
        yield "spec.targetRef", policy.spec.target_ref


def lacking(world: World, policy: AuthorizationPolicy | RequestAuthentication | Telemetry, found: Findings) -> Iterator[tuple[str, str]]:
    """Of targets without a waypoint: their path, and why there is none. Says itself which are not there at all."""
    for path, target in targets(policy):
        if target.kind == "GatewayClass":
            continue
        if target.kind == "Gateway":
            key = gateway_key(policy.namespace, target.name)
            gateway = world.find(Gateway, key.namespace, key.name)
            if gateway is None:
                _missing(world, policy, key, target, path, found)
            elif isinstance(why := world.waypoint(key), str) and gateway.spec.waypoint:
                yield path, why
            continue
        key = Key(target.kind, policy.namespace, target.name)
        entry = world.objects.get(key)
        if not isinstance(entry, (Service, ServiceEntry)):
            _missing(world, policy, key, target, path, found)
            continue
        use = world.service_use(key)
        wanted = use.wanted
        if use.waypoint is None and wanted is not None:
            if wanted in world.objects or world.knows(GATEWAYS, wanted.namespace):
                yield path, f"{USE_WAYPOINT}={wanted.name}: {use.why}"
        elif world.routed(key) is False:
            yield path, f"{key} asks for none"


def at_waypoints(world: World, policy: AuthorizationPolicy | RequestAuthentication, found: Findings) -> None:
    """What the waypoints that enforce a policy make of it, and what never comes to them."""
    for path, target in targets(policy):
        key = Key(target.kind, policy.namespace, target.name)
        if key not in world.objects or target.kind not in ("Service", "ServiceEntry"):
            continue
        waypoint = world.service_use(key).waypoint
        for host in world.hosts.of(key) if waypoint is not None else ():
            assert waypoint is not None
            view = View(Kind.WAYPOINT, waypoint.key.namespace, waypoint.key.name)
            for note in world.ask(guard, (view, NamespacedHostname(host.namespace, host.name))).notes:
                if note.subject == policy.key:
                    _noted(policy, host, note, path, found)
    past = world.ask(around, policy.key)
    if past:
        path, _ = next(targets(policy))
        hint = "say it for the service whose routes these are too, or let in the waypoint alone at the pods"
        found.add(codes.BYPASSED, about(policy), path, "; ".join(past), hint)


def _noted(policy: Policy, host: Host, note: Note, path: str, found: Findings) -> None:
    match note.problem:
        case Problem.NO_KEYS:
            found.add(codes.NO_KEYS, about(policy), note.field, note.message, "write jwksUri, or jwks with a key that can be used")
        case Problem.ALLOWS_LESS | Problem.DENIES_MORE if note.field.startswith("spec.rules"):
            plain = [port for port in host.ports if port.protocol in (AppProtocol.TCP, AppProtocol.TLS)]
            if plain:
                message = f"port {plain[0].number} of {host.key} speaks no HTTP: {note.message}"
                hint = f"{path} is better a Service without such a port, or set its appProtocol"
                found.add(codes.NO_REQUESTS, about(policy), note.field, message, hint, related=[about(host.entry)])
        case Problem.DENIES_ALL:
            found.add(codes.DENIES_ALL, about(policy), note.field, note.message, "write shorter values")


def _missing(
    world: World, policy: AuthorizationPolicy | RequestAuthentication | Telemetry, key: Key, target: TargetRef, path: str, found: Findings
) -> None:
    meant = near(target.name, [other.name for other in world.objects if other.kind == key.kind and other.namespace == key.namespace])
    if not world.lacks(GATEWAYS if target.kind == "Gateway" else SERVICES, policy.namespace, meant):
        return
    elsewhere = sorted(other.namespace for other in world.objects if other.kind == key.kind and other.name == key.name)
    if meant:
        hint = f"did you mean {meant}?"
    elif elsewhere:
        hint = f"there is one in {elsewhere[0]}: a policy targets only its own namespace"
    else:
        hint = "create it, or mend the name"
    found.add(codes.MISSING_TARGET, about(policy), f"{path}.name", f"there is no {key}: the policy covers nothing of it", hint)
