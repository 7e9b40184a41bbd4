"""Rules and the services that they are for: whether a waypoint goes by them at all, and what the translation for it says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from control.analyze import routes, virtualservices
from control.analyze.codes import Code
from control.analyze.codes import traffic as codes
from control.analyze.destinations import Subsets
from control.analyze.findings import Findings
from control.analyze.given import Subject, about
from control.analyze.hosts import Host
from control.analyze.parents import is_gateway, parent_key
from control.analyze.world import World
from control.resolve.waypoints import USE_WAYPOINT
from mesh.model.l7.notes import Problem
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.services import MeshService
from mesh.model.l7.translate.attached import AnyRoute
from mesh.model.l7.translate.delegates import Delegates, visible
from mesh.model.l7.translate.destination_rule import merge
from mesh.model.l7.translate.ports import Written, port_routes
from mesh.model.l7.translate.targets import Target
from mesh.model.manifest import DestinationRule, GRPCRoute, HTTPRoute, Key, TCPRoute, TLSRoute, VirtualService
from mesh.model.workload import NamespacedHostname

NOTED: dict[Problem, tuple[Code, str]] = {
    Problem.CONFLICT: (codes.OUTRANKED, "keep one of them"),
    Problem.NO_EFFECT: (codes.NO_EFFECT, "attach it elsewhere, or remove it"),
    Problem.UNSUPPORTED: (codes.CANNOT_BE_DONE, "do without it"),
}
"""What is taken from the translation. What it says of destinations and delegates is found with more care elsewhere."""


@dataclass(slots=True)
class Rules:
    """What is written about one service."""

    host: Host
    services: list[VirtualService] = field(default_factory=list)
    routes: list[AnyRoute] = field(default_factory=list)


def check(world: World, subsets: Subsets, found: Findings) -> frozenset[Key]:
    """The services that some route is for, or whose traffic a waypoint routes."""
    every: dict[NamespacedHostname, Rules] = {}
    for subject, place, host, rule in _attached(world):
        rules = every.setdefault(NamespacedHostname(host.namespace, host.name), Rules(host))
        if isinstance(rule, VirtualService):
            _seen(world, subject, place, host, rule, found)
            rules.services.append(rule)
        else:
            rules.routes.append(rule)
        _routed(world, subject, place, host, found)
    _unused_rules(world, found)
    delegates: Delegates = {(service.namespace, service.name): service for service in world.of(VirtualService) if service.spec.delegated}
    for rules in every.values():
        _translate(world, subsets, rules, delegates, found)
    routed = {host.key for name in world.hosts for host in world.hosts.find(name) if world.service_use(host.key).waypoint is not None}
    return frozenset(routed | {rules.host.key for rules in every.values()})


def _attached(world: World) -> Iterator[tuple[Subject, str, Host, VirtualService | AnyRoute]]:
    """Every rule for a service inside the mesh, and where in it the service is named."""
    for service in world.of(VirtualService):
        for index, host in virtualservices.bound(world, service):
            yield about(service), f"spec.hosts[{index}]", host, service
    by_key: dict[Key, list[Host]] = {}
    for name in world.hosts:
        for host in world.hosts.find(name):
            by_key.setdefault(host.key, []).append(host)
    for route in routes.every(world):
        for index, ref in enumerate(route.spec.parent_refs):
            key = parent_key(ref, route)
            for host in by_key.get(key, ()) if key is not None else ():
                yield about(route), f"spec.parentRefs[{index}]", host, route


def _routed(world: World, subject: Subject, place: str, host: Host, found: Findings) -> None:
    use = world.service_use(host.key)
    # Why a waypoint that is asked for does not work is said where it is asked for.
    if use.wanted is None and world.routed(host.key) is False:
        message = f"no waypoint routes what is sent to {host.name}: only proxyless gRPC clients go by these rules"
        hint = f"label {host.key} or its namespace {USE_WAYPOINT}"
        found.add(codes.NO_ROUTER, subject, place, message, hint, related=[about(host.entry)])


def _seen(world: World, subject: Subject, place: str, host: Host, service: VirtualService, found: Findings) -> None:
    use = world.service_use(host.key)
    if use.waypoint is None or service.namespace in (host.namespace, use.waypoint.key.namespace):
        return
    message = f"the waypoint of {host.name} reads VirtualServices of {host.namespace} and of its own namespace, not of {service.namespace}"
    found.add(codes.UNSEEN, subject, place, message, f"move it to {host.namespace}", related=[about(host.entry)])


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


def _translate(world: World, subsets: Subsets, rules: Rules, delegates: Delegates, found: Findings) -> None:
    """As for a waypoint of the service, whether it has one or not."""
    host = rules.host
    service = world.mesh.services.get(str(NamespacedHostname(host.namespace, host.name)))
    if service is None:
        return
    use = world.service_use(host.key)
    own = use.waypoint.key.namespace if use.waypoint is not None else host.namespace
    context = Context(Kind.WAYPOINT, own, root_namespace=world.settings.root_namespace, cluster_domain=world.settings.cluster_domain)
    mesh = MeshService(service, port_names={port.number: port.name for port in host.ports})
    merged = merge([rule for rule in subsets.rules(host.name) if rule.namespace == host.namespace]).value
    written = Written(
        virtual_services=tuple(sorted((entry for entry in rules.services if _counts(entry, host, own)), key=virtualservices.age)),
        http_routes=tuple(route for route in rules.routes if isinstance(route, HTTPRoute)),
        grpc_routes=tuple(route for route in rules.routes if isinstance(route, GRPCRoute)),
        tls_routes=tuple(route for route in rules.routes if isinstance(route, TLSRoute)),
        tcp_routes=tuple(route for route in rules.routes if isinstance(route, TCPRoute)),
        delegates=delegates,
    )
    for port in service.ports:
        for note in port_routes(Target(mesh, merged), port.port, written, context).notes:
            noted = NOTED.get(note.problem)
            entry = world.objects.get(note.subject)
            if noted is not None and entry is not None:
                code, hint = noted
                found.add(code, about(entry), note.field, note.message, hint)


def _counts(service: VirtualService, host: Host, waypoint: str) -> bool:
    return service.namespace in (host.namespace, waypoint) and visible(service.spec.export_to, service.namespace, waypoint)
