"""GRPCRoutes on one service port → routes, the most specific first.

Order: hostname, longest service, longest method, more headers, the older object, its name, the order within it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from mesh.model.l7.notes import Translated
from mesh.model.l7.profile import Kind
from mesh.model.l7.routes import PathKind, PathMatch, Respond, Route, RouteMatch
from mesh.model.l7.texts import quoted
from mesh.model.l7.translate.attached import age
from mesh.model.l7.translate.gateway import Backends, Filters, host_matches, in_order
from mesh.model.l7.translate.gateway_http import header_match
from mesh.model.l7.translate.targets import Finder
from mesh.model.l7.translate.virtual_service import DEFAULT_RETRY
from mesh.model.manifest import GRPCRoute
from mesh.model.manifest.gatewayapi.grpc import GRPCRouteMatch, GRPCRouteRule, MethodMatch

UNAVAILABLE = 503
"""What gRPC clients are told as UNAVAILABLE."""


def grpc_routes(routes: Iterable[GRPCRoute], finder: Finder) -> Translated[tuple[Route, ...]]:
    """`routes` are those of one audience."""
    return finder.notes.done(in_order(routes, lambda route: _ranked(route, finder)))


def _ranked(route: GRPCRoute, finder: Finder) -> Iterator[tuple[Any, Route]]:
    for number, rule in enumerate(route.spec.rules):
        made = _rule(route, rule, f"spec.rules[{number}]", finder)
        for order, match in enumerate(rule.matches or (GRPCRouteMatch(),)):
            method = match.method or MethodMatch()
            headers = tuple(map(header_match, match.headers))
            for host_rank, hosts in host_matches(route.spec.hostnames):
                rank = (
                    host_rank,
                    method.type != "Exact",
                    -len(method.service),
                    -len(method.method),
                    -len(match.headers),
                    age(route),
                    number,
                    order,
                )
                yield rank, replace(made, match=RouteMatch(_path(method), (*hosts, *headers)))


def _rule(route: GRPCRoute, rule: GRPCRouteRule, where: str, finder: Finder) -> Route:
    filtered = Filters(route, finder).read(rule.filters, where)
    name = ".".join((route.namespace, route.name, rule.name or where.removeprefix("spec.")))
    made = Route(RouteMatch(), Respond(UNAVAILABLE), name, filtered.request, filtered.response)
    if filtered.answer is not None:
        return replace(made, action=filtered.answer)
    backends = Backends(finder, UNAVAILABLE)
    forward = backends.read(route, rule.backend_refs, where)
    if isinstance(forward, Respond):
        return replace(made, action=forward)
    hashed = any(chosen.hashes for chosen in backends.chosen)
    return replace(
        made,
        action=replace(
            forward,
            authority=filtered.authority,
            mirrors=filtered.mirrors,
            retry=replace(DEFAULT_RETRY, elsewhere=not hashed),
            hashes=backends.chosen[0].hashes if finder.context.kind is Kind.GRPC else (),
        ),
    )


def _path(method: MethodMatch) -> PathMatch:
    """A call's path is /service/method."""
    service, name = method.service, method.method
    if method.type == "Exact" and service and name:
        return PathMatch(PathKind.EXACT, f"/{service}/{name}")
    if method.type == "Exact" and service:
        return PathMatch(PathKind.PREFIX, f"/{service}/")
    if not (service or name):
        return PathMatch()
    if method.type == "Exact":
        service, name = quoted(service), quoted(name)
    return PathMatch(PathKind.REGEX, f"/(?:{service or '[^/]+'})/(?:{name or '[^/]+'})")
