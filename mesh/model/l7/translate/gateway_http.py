"""HTTPRoutes on one service port → routes, the most specific first.

Order: hostname (precise before wildcard, longer first), Exact path, longest PathPrefix, then expressions; with a method before without;
more headers; more query parameters; the older object, then its name; the order within it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from mesh.model.l7.notes import Translated
from mesh.model.l7.profile import Kind
from mesh.model.l7.routes import (
    Forward,
    HeaderMatch,
    PathKind,
    PathMatch,
    QueryMatch,
    Respond,
    Retry,
    Route,
    RouteMatch,
)
from mesh.model.l7.texts import TextMatch, exact, regex
from mesh.model.l7.translate.attached import age
from mesh.model.l7.translate.gateway import Backends, Filters, host_matches, in_order
from mesh.model.l7.translate.targets import Finder
from mesh.model.l7.translate.virtual_service import DEFAULT_RETRY, RETRY_ON, STATUS_CODES
from mesh.model.manifest import HTTPRoute
from mesh.model.manifest.gatewayapi.http import HeaderMatch as ManifestHeader
from mesh.model.manifest.gatewayapi.http import HTTPRouteMatch, HTTPRouteRule
from mesh.model.manifest.gatewayapi.http import PathMatch as ManifestPath
from mesh.model.manifest.gatewayapi.http import QueryMatch as ManifestQuery

RANKS = {PathKind.EXACT: 0, PathKind.SEGMENTS: 1, PathKind.PREFIX: 1, PathKind.REGEX: 2}


def http_routes(routes: Iterable[HTTPRoute], finder: Finder) -> Translated[tuple[Route, ...]]:
    """`routes` are those of one audience."""
    return finder.notes.done(in_order(routes, lambda route: _ranked(route, finder)))


def _ranked(route: HTTPRoute, finder: Finder) -> Iterator[tuple[Any, Route]]:
    for number, rule in enumerate(route.spec.rules):
        made = _rule(route, rule, f"spec.rules[{number}]", finder)
        for order, match in enumerate(rule.matches or (HTTPRouteMatch(),)):
            wanted = route_match(match)
            for host_rank, hosts in host_matches(route.spec.hostnames):
                path = wanted.path
                rank = (
                    host_rank,
                    RANKS[path.kind],
                    -len(path.value.rstrip("/")),
                    not match.method,
                    -len(match.headers),
                    -len(match.query_params),
                    age(route),
                    number,
                    order,
                )
                yield rank, replace(made, match=replace(wanted, headers=(*hosts, *wanted.headers)))


def _rule(route: HTTPRoute, rule: HTTPRouteRule, where: str, finder: Finder) -> Route:
    """All but the match."""
    filtered = Filters(route, finder).read(rule.filters, where)
    name = ".".join((route.namespace, route.name, rule.name or where.removeprefix("spec.")))
    made = Route(RouteMatch(), Respond(500), name, filtered.request, filtered.response)
    if filtered.answer is not None:
        return replace(made, action=filtered.answer)
    backends = Backends(finder)
    forward = backends.read(route, rule.backend_refs, where)
    if isinstance(forward, Respond):
        return replace(made, action=forward)
    request, backend = (rule.timeouts.request, rule.timeouts.backend_request) if rule.timeouts is not None else (None, None)
    if filtered.authority:
        forward = replace(forward, destinations=tuple(replace(entry, authority="") for entry in forward.destinations))
    forward = replace(
        forward,
        path=filtered.path,
        authority=filtered.authority,
        mirrors=filtered.mirrors,
        timeout=timedelta(seconds=request) if request else None,
        retry=_retry(rule, backend, any(chosen.hashes for chosen in backends.chosen)),
        hashes=backends.chosen[0].hashes if finder.context.kind is Kind.GRPC else (),
    )
    return replace(made, action=_bounded(forward, backend), cors=filtered.cors)


def _retry(rule: HTTPRouteRule, per_try: float | None, hashed: bool) -> Retry:
    found = rule.retry
    made = replace(DEFAULT_RETRY, elsewhere=not hashed, per_try=timedelta(seconds=per_try) if per_try else None)
    if found is None:
        return made
    if found.attempts == 0:
        return Retry(0)
    return replace(
        made,
        attempts=made.attempts if found.attempts is None else found.attempts,
        on=tuple(dict.fromkeys((*RETRY_ON, STATUS_CODES))),
        codes=found.codes,
        backoff=timedelta(seconds=found.backoff) if found.backoff else None,
    )


def _bounded(forward: Forward, per_try: float | None) -> Forward:
    """Where nothing is tried again, the bound of one try is that of the request."""
    if not per_try or (forward.retry is not None and forward.retry.attempts):
        return forward
    limit = timedelta(seconds=per_try)
    return replace(forward, timeout=limit if forward.timeout is None else min(limit, forward.timeout))


def route_match(match: HTTPRouteMatch) -> RouteMatch:
    headers = [HeaderMatch(":method", exact(match.method))] if match.method else []
    headers += [header_match(entry) for entry in match.headers]
    return RouteMatch(_path(match.path), tuple(headers), tuple(QueryMatch(entry.name, _text(entry)) for entry in match.query_params))


def header_match(entry: ManifestHeader) -> HeaderMatch:
    return HeaderMatch(entry.name, _text(entry))


def _text(entry: ManifestHeader | ManifestQuery) -> TextMatch:
    return exact(entry.value) if entry.type == "Exact" else regex(entry.value)


def _path(found: ManifestPath) -> PathMatch:
    if found.type == "Exact":
        return PathMatch(PathKind.EXACT, found.value)
    if found.type == "RegularExpression":
        return PathMatch(PathKind.REGEX, found.value)
    value = found.value.rstrip("/")
    return PathMatch(PathKind.SEGMENTS, value) if value else PathMatch()
