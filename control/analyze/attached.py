"""Rules and the services that they are for: whether a waypoint goes by them at all, and what comes of them there."""

from __future__ import annotations

from collections.abc import Iterator

from control.analyze import routes, virtualservices
from control.analyze.codes import Code
from control.analyze.codes import traffic as codes
from control.analyze.findings import Findings
from control.analyze.given import Subject, about
from control.analyze.hosts import Host
from control.analyze.parents import is_gateway, parent_key
from control.analyze.world import World
from control.resolve.l7.ports import Port, routes_of
from control.resolve.l7.views import View
from control.resolve.waypoints import USE_WAYPOINT
from mesh.model.l7.notes import Problem
from mesh.model.l7.profile import Kind
from mesh.model.l7.translate.attached import AnyRoute
from mesh.model.manifest import DestinationRule, Key, VirtualService
from mesh.model.workload import NamespacedHostname

NOTED: dict[Problem, tuple[Code, str]] = {
    Problem.CONFLICT: (codes.OUTRANKED, "keep one of them"),
    Problem.NO_EFFECT: (codes.NO_EFFECT, "attach it elsewhere, or remove it"),
    Problem.UNSUPPORTED: (codes.CANNOT_BE_DONE, "do without it"),
}
"""What is taken from the translation. What it says of destinations and delegates is found with more care elsewhere."""


def check(world: World, found: Findings) -> frozenset[Key]:
    """The services that some route is for, or whose traffic a waypoint routes."""
    every: dict[NamespacedHostname, Host] = {}
    for subject, place, host, rule in _attached(world):
        every[NamespacedHostname(host.namespace, host.name)] = host
        if isinstance(rule, VirtualService):
            _seen(world, subject, place, host, rule, found)
        _routed(world, subject, place, host, found)
    _wildcards(world, found)
    _unused_rules(world, found)
    for host in every.values():
        _routes(world, host, found)
    routed = {host.key for name in world.hosts for host in world.hosts.find(name) if world.service_use(host.key).waypoint is not None}
    return frozenset(routed | {host.key for host in every.values()})


def _attached(world: World) -> Iterator[tuple[Subject, str, Host, VirtualService | AnyRoute]]:
    """Every rule for a service inside the mesh, and where in it the service is named."""
    for service in world.of(VirtualService):
        for index, host in virtualservices.bound(world, service):
            yield about(service), f"spec.hosts[{index}]", host, service
    for route in routes.every(world):
        for index, ref in enumerate(route.spec.parent_refs):
            key = parent_key(ref, route)
            for host in world.hosts.of(key) if key is not None else ():
                yield about(route), f"spec.parentRefs[{index}]", host, route


def _routed(world: World, subject: Subject, place: str, host: Host, found: Findings) -> None:
    use = world.service_use(host.key)
    some = "only Envoys and gRPC clients that take xDS go by these rules"
    # Why a waypoint that is asked for does not work is said where it is asked for.
    if use.wanted is None and world.routed(host.key) is False:
        message = f"no waypoint routes what is sent to {host.name}: {some}"
        hint = f"label {host.key} or its namespace {USE_WAYPOINT}"
        found.add(codes.NO_ROUTER, subject, place, message, hint, related=[about(host.entry)])
    elif use.waypoint is not None and world.passed_by(host):
        message = f"{host.name} has no address of its own, so that nothing leads to its waypoint: {some}"
        hint = f"give {host.key} an address"
        found.add(codes.NO_ROUTER, subject, place, message, hint, related=[about(host.entry)])


def _seen(world: World, subject: Subject, place: str, host: Host, service: VirtualService, found: Findings) -> None:
    use = world.service_use(host.key)
    if use.waypoint is None or world.passed_by(host) or service.namespace in (host.namespace, use.waypoint.key.namespace):
        return
    message = f"the waypoint of {host.name} reads VirtualServices of {host.namespace} and of its own namespace, not of {service.namespace}"
    found.add(codes.UNSEEN, subject, place, message, f"move it to {host.namespace}", related=[about(host.entry)])


def _wildcards(world: World, found: Findings) -> None:
    for service in world.of(VirtualService):
        for index, name in enumerate(service.spec.hosts if service.spec.in_mesh else ()):
            within = world.hosts.within(name) if name.startswith("*") else []
            host = next((host for host in within if world.service_use(host.key).waypoint is not None and not world.passed_by(host)), None)
            if host is not None:
                message = f"{name} is for {host.name}, too, whose waypoint goes by exact hosts alone"
                hint = f"add {host.name}, or a VirtualService for it"
                found.add(codes.UNSEEN, about(service), f"spec.hosts[{index}]", message, hint, related=[about(host.entry)])


def _unused_rules(world: World, found: Findings) -> None:
    """DestinationRules for services that nobody routes: neither a waypoint nor a gateway that routes lead in from."""
    bound = (service for service in world.of(VirtualService) if service.spec.gateways)
    entered = {reference.host for service in bound for reference in virtualservices.references(world, service)}
    for route in routes.every(world):
        if any(map(is_gateway, route.spec.parent_refs)):
            entered |= {reference.host for reference, _, _ in routes.references(world, route) if reference is not None}
    for rule in world.of(DestinationRule):
        full = world.hosts.qualified(rule.spec.host, rule.namespace)
        if full not in entered and not full.startswith("*."):
            for host in world.hosts.find(full):
                _routed(world, about(rule), "spec.host", host, found)


def _view(world: World, host: Host) -> View:
    """That of the service's waypoint, or, where there is none, of one that it might have."""
    use = world.service_use(host.key)
    return View(Kind.WAYPOINT, use.waypoint.key.namespace, use.waypoint.key.name) if use.waypoint else View(Kind.WAYPOINT, host.namespace)


def _routes(world: World, host: Host, found: Findings) -> None:
    """What comes of the routes of each port of a service."""
    name = NamespacedHostname(host.namespace, host.name)
    for port in host.ports:
        made = world.ask(routes_of, Port(_view(world, host), name, port.number))
        for note in made.notes if made is not None else ():
            noted = NOTED.get(note.problem)
            entry = world.objects.get(note.subject)
            if noted is not None and entry is not None:
                found.add(noted[0], about(entry), note.field, note.message, noted[1])
