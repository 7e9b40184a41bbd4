"""Routes of the Gateway API: what they are attached to, where they lead, and which of their rules can be reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from control.analyze import destinations
from control.analyze.codes import traffic as codes
from control.analyze.destinations import Reference, Subsets
from control.analyze.findings import Findings
from control.analyze.given import about
from control.analyze.grants import granted
from control.analyze.matches import same
from control.analyze.parents import Parents, parent_key
from control.analyze.world import SERVICES, World
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.translate.attached import AnyRoute, age
from mesh.model.l7.translate.backends import backend_host, not_granted
from mesh.model.l7.translate.backends import reference as crossing
from mesh.model.manifest import GRPCRoute, HTTPRoute, Key, Service, TCPRoute, TLSRoute
from mesh.model.manifest.gatewayapi import GROUP
from mesh.model.manifest.gatewayapi.common import Backend
from mesh.model.manifest.gatewayapi.filters import GRPCFilter, HTTPFilter
from mesh.model.manifest.gatewayapi.grpc import GRPCRouteRule
from mesh.model.manifest.gatewayapi.http import HTTPRouteMatch, HTTPRouteRule
from mesh.model.manifest.gatewayapi.l4 import L4RouteRule


def every(world: World) -> list[AnyRoute]:
    return [*world.of(HTTPRoute), *world.of(GRPCRoute), *world.of(TCPRoute), *world.of(TLSRoute)]


def rules_of(route: AnyRoute) -> Sequence[HTTPRouteRule | GRPCRouteRule | L4RouteRule]:
    return route.spec.rules


def check(world: World, subsets: Subsets, found: Findings) -> None:
    parents = Parents(world, found)
    for route in every(world):
        parents.check(route)
        for reference, path, backend in references(world, route):
            _backend(world, subsets, route, reference, path, backend, found)
        _weights(route, found)
    _repeated(world, found)


def references(world: World, route: AnyRoute) -> Iterator[tuple[Reference | None, str, Backend]]:
    """Every backend that it names, with its path; no reference where it is no service."""
    context = _context(world, route)
    at_waypoint = any(key in world.objects and world.routed(key) for key in _parents(route) if key is not None)
    for path, backend in _backends(route):
        host = backend_host(backend, route.namespace, context)
        fields = (f"{path}.name", backend.port, f"{path}.port")
        yield (Reference(about(route), route.namespace, host, *fields, at_waypoint=at_waypoint) if host else None), path, backend


def _backends(route: AnyRoute) -> Iterator[tuple[str, Backend]]:
    for index, rule in enumerate(rules_of(route)):
        path = f"spec.rules[{index}]"
        filters: list[tuple[str, HTTPFilter | GRPCFilter]] = []
        for number, entry in enumerate(getattr(rule, "filters", ())):
            filters.append((f"{path}.filters[{number}]", entry))
        for number, backend in enumerate(rule.backend_refs):
            if backend.weight:
                yield f"{path}.backendRefs[{number}]", backend
        for where, one in filters:
            if one.request_mirror is not None:
                yield f"{where}.requestMirror.backendRef", one.request_mirror.backend_ref


def _backend(
    world: World, subsets: Subsets, route: AnyRoute, reference: Reference | None, path: str, backend: Backend, found: Findings
) -> None:
    if reference is None:
        message = f"a {backend.kind}{f' of {backend.group}' if backend.group else ''} is no backend here: its share of requests fails"
        found.add(codes.UNKNOWN_BACKEND, about(route), f"{path}.kind", message, "name a Service")
        return
    destinations.check(world, subsets, reference, found)
    wanted = crossing(route, reference.host, _context(world, route))
    if wanted is None or all(key == Key(Service.TYPE, wanted.of, wanted.service) for key in _parents(route)):
        return
    target = ("", Service.KIND, wanted.service)
    if not granted(world, (GROUP, wanted.kind, wanted.namespace), target, wanted.of) and world.knows(SERVICES, wanted.of):
        field = f"{path}.namespace" if backend.namespace else f"{path}.name"
        found.add(codes.NO_GRANT, about(route), field, not_granted(wanted), f"create a ReferenceGrant in {wanted.of}")


def _context(world: World, route: AnyRoute) -> Context:
    return Context(Kind.WAYPOINT, route.namespace, cluster_domain=world.settings.cluster_domain)


def _parents(route: AnyRoute) -> list[Key | None]:
    return [parent_key(ref, route) for ref in route.spec.parent_refs]


def _weights(route: AnyRoute, found: Findings) -> None:
    for index, rule in enumerate(rules_of(route)):
        redirects = isinstance(rule, HTTPRouteRule) and any(entry.request_redirect is not None for entry in rule.filters)
        if redirects or any(backend.weight for backend in rule.backend_refs):
            continue
        if rule.backend_refs:
            message, hint = "every backend has the weight 0: nothing gets requests, which are answered with an error", "give one a weight"
            field = f"spec.rules[{index}].backendRefs"
        else:
            message, hint = "this rule has no backend: requests are answered with an error", "add backendRefs"
            field = f"spec.rules[{index}]"
        found.add(codes.NO_WEIGHT, about(route), field, message, hint)


def _repeated(world: World, found: Findings) -> None:
    """The most specific match counts, and of equal ones that of the older route, then of the earlier rule."""
    seen: dict[tuple[object, ...], list[tuple[HTTPRoute, int, HTTPRouteMatch]]] = {}
    for route in sorted(world.of(HTTPRoute), key=age):
        for ref in route.spec.parent_refs:
            place = (ref.group, ref.kind, ref.namespace or route.namespace, ref.name, ref.section_name, ref.port, route.namespace)
            known = seen.setdefault((*place, frozenset(route.spec.hostnames)), [])
            for index, rule in enumerate(route.spec.rules):
                matches = rule.matches or (HTTPRouteMatch(),)
                first = [next((entry for entry in known if same(entry[2], match)), None) for match in matches]
                if first[0] is not None and all(first):
                    _never(route, index, first[0][0], first[0][1], found)
                known += [(route, index, match) for match in matches]


def _never(route: HTTPRoute, index: int, other: HTTPRoute, number: int, found: Findings) -> None:
    before = "before it" if other is route else f"of {other.key}"
    message = f"this rule is never reached: spec.rules[{number}] {before} has the same match"
    related = [] if other is route else [about(other)]
    found.add(codes.UNREACHABLE_RULE, about(route), f"spec.rules[{index}]", message, "make it more specific", related=related)
