"""What HTTPRoute and GRPCRoute have in common: hostnames, filters and backends → parts of routes.

A backend that is none gets its share of requests all the same, and they are answered with an error; so are all where every backend is
none. A filter that cannot be done answers every request of its rule with 500, as the Gateway API demands, instead of letting them pass
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from mesh.model.l7.notes import Problem
from mesh.model.l7.routes import (
    MILLION,
    NO_CLUSTER,
    NO_OPS,
    Cors,
    Destination,
    Forward,
    HeaderMatch,
    HeaderOps,
    Mirror,
    PathRewrite,
    Redirect,
    Respond,
    RewriteKind,
    Route,
    RouteMatch,
)
from mesh.model.l7.texts import PRESENT, TextMatch, exact, quoted, regex, unsafe
from mesh.model.l7.translate.attached import R
from mesh.model.l7.translate.backends import chosen_backend
from mesh.model.l7.translate.headers import Author, modified
from mesh.model.l7.translate.targets import Chosen, Finder
from mesh.model.l7.translate.virtual_service import DEFAULT_PORTS, redirect_port
from mesh.model.manifest import GRPCRoute, HTTPRoute
from mesh.model.manifest.gatewayapi.filters import Cors as ManifestCors
from mesh.model.manifest.gatewayapi.filters import GRPCFilter, HeaderModifier, HTTPFilter, PathModifier
from mesh.model.manifest.gatewayapi.filters import Mirror as ManifestMirror
from mesh.model.manifest.gatewayapi.filters import Redirect as ManifestRedirect
from mesh.model.manifest.gatewayapi.grpc import GRPCBackendRef
from mesh.model.manifest.gatewayapi.http import HTTPBackendRef

AnyFilter = HTTPFilter | GRPCFilter
BROKEN = Respond(500)
SIMPLE_METHODS = ("GET", "HEAD", "POST")


def in_order(routes: Iterable[R], ranked: Callable[[R], Iterable[tuple[Any, Route]]]) -> tuple[Route, ...]:
    """`ranked` tells a route's rules with what they are sorted by."""
    return tuple(made for _, made in sorted((entry for route in routes for entry in ranked(route)), key=lambda entry: entry[0]))


def only_for(namespace: str, routes: Iterable[Route]) -> Iterator[Route]:
    """For clients of a namespace. Those of their requests that match nothing get 404, and never go by what others wrote."""
    for route in routes:
        yield replace(route, match=replace(route.match, source_namespace=namespace))
    yield Route(RouteMatch(source_namespace=namespace), Respond(404))


@dataclass(frozen=True, slots=True)
class Filtered:
    """What a list of filters comes to. `answer` takes the place of forwarding."""

    request: HeaderOps = NO_OPS
    response: HeaderOps = NO_OPS
    authority: str = ""
    path: PathRewrite | None = None
    mirrors: tuple[Mirror, ...] = ()
    cors: Cors | None = None
    answer: Redirect | Respond | None = None


@dataclass(slots=True)
class Filters:
    """Reads the filters of one rule."""

    route: HTTPRoute | GRPCRoute
    finder: Finder
    found: Filtered = field(default_factory=Filtered)

    def read(self, filters: Sequence[AnyFilter], where: str) -> Filtered:
        for index, entry in enumerate(filters):
            self._one(entry, Author(self.route.key, f"{where}.filters[{index}]", self.finder.notes))
        return self.found

    def _one(self, entry: AnyFilter, author: Author) -> None:
        if entry.request_header_modifier is not None:
            ops, authority = _modified(entry.request_header_modifier, author)
            self.found = replace(self.found, request=ops, authority=self.found.authority or authority)
        elif entry.response_header_modifier is not None:
            self.found = replace(self.found, response=_modified(entry.response_header_modifier, author)[0])
        elif entry.request_mirror is not None:
            self._mirror(entry.request_mirror, author)
        elif isinstance(entry, HTTPFilter) and entry.request_redirect is not None:
            self.found = replace(self.found, answer=self._redirect(entry.request_redirect, author))
        elif isinstance(entry, HTTPFilter) and entry.url_rewrite is not None:
            rewrite = entry.url_rewrite
            path = path_rewrite(rewrite.path)
            if path is not None and unsafe(path.value):
                self._broken(author, "a line break or NUL can be no part of a path")
            self.found = replace(self.found, path=path, authority=rewrite.hostname or self.found.authority)
        elif isinstance(entry, HTTPFilter) and entry.cors is not None:
            self.found = replace(self.found, cors=_cors(entry.cors))
        else:
            self._broken(author, f"the filter {entry.type} cannot be done")

    def _broken(self, author: Author, why: str) -> None:
        author.note(Problem.UNSUPPORTED, f"{why}: requests are answered 500")
        self.found = replace(self.found, answer=BROKEN)

    def _mirror(self, mirror: ManifestMirror, author: Author) -> None:
        share = round(mirror.share * MILLION / 100)
        where = f"{author.field}.requestMirror.backendRef"
        chosen = chosen_backend(self.route, mirror.backend_ref, self.finder, where, "no copy is made")
        if chosen is not None and chosen.known and share:
            self.found = replace(self.found, mirrors=(*self.found.mirrors, Mirror(chosen.cluster, share)))

    def _redirect(self, found: ManifestRedirect, author: Author) -> Redirect | Respond:
        path = path_rewrite(found.path)
        if path is not None and unsafe(path.value):
            author.note(Problem.UNSUPPORTED, "a line break or NUL can be no part of a path: requests are answered 500")
            return BROKEN
        addressed = self.finder.port
        wanted = found.port or (DEFAULT_PORTS[found.scheme] if found.scheme else addressed)
        return Redirect(
            found.scheme, found.hostname, redirect_port(wanted, found.scheme, found.hostname, addressed), path, found.status_code
        )


def path_rewrite(found: PathModifier | None) -> PathRewrite | None:
    if found is None:
        return None
    if found.type == "ReplaceFullPath":
        return PathRewrite(RewriteKind.FULL, found.replace_full_path or "/")
    return PathRewrite(RewriteKind.SEGMENTS, found.replace_prefix_match or "/")


def _modified(found: HeaderModifier, author: Author) -> tuple[HeaderOps, str]:
    return modified(
        {entry.name: entry.value for entry in found.set}, {entry.name: entry.value for entry in found.add}, found.remove, author
    )


def _cors(found: ManifestCors) -> Cors:
    """Simple methods are always allowed; an origin may have a wildcard for its leading labels."""
    return Cors(
        origins=tuple(map(_origin, found.allow_origins)),
        methods=found.allow_methods if "*" in found.allow_methods else tuple(dict.fromkeys((*SIMPLE_METHODS, *found.allow_methods))),
        headers=found.allow_headers,
        expose=found.expose_headers,
        max_age=timedelta(seconds=found.max_age),
        credentials=found.allow_credentials,
    )


def _origin(origin: str) -> TextMatch:
    if origin == "*":
        return PRESENT
    return regex(quoted(origin).replace(r"\*", r"[^/:]+")) if "*" in origin else exact(origin)


# Backends


@dataclass(slots=True)
class Backends:
    """`missing`: what a share without a backend is answered."""

    finder: Finder
    missing: int = 500
    chosen: list[Chosen] = field(default_factory=list)

    def read(self, route: HTTPRoute | GRPCRoute, backends: Sequence[HTTPBackendRef | GRPCBackendRef], where: str) -> Forward | Respond:
        found = [self._one(route, entry, f"{where}.backendRefs[{index}]") for index, entry in enumerate(backends) if entry.weight]
        if not any(entry.cluster != NO_CLUSTER for entry in found):
            return Respond(self.missing)
        if len(found) == 1:
            found = [replace(found[0], weight=1)]
        return Forward(tuple(found), missing_status=self.missing)

    def _one(self, route: HTTPRoute | GRPCRoute, backend: HTTPBackendRef | GRPCBackendRef, where: str) -> Destination:
        nothing = Destination(NO_CLUSTER, backend.weight)
        author = Author(route.key, where, self.finder.notes)
        chosen = chosen_backend(route, backend, self.finder, where, f"its share is answered {self.missing}")
        if chosen is None or not chosen.known:
            return nothing
        filtered = Filters(route, self.finder).read(backend.filters, where)
        if filtered.answer is not None or filtered.path is not None or filtered.mirrors or filtered.cors is not None:
            author.note(Problem.UNSUPPORTED, f"a backend's filters can only change headers and host: its share is answered {self.missing}")
            return nothing
        self.chosen.append(chosen)
        return Destination(chosen.cluster, backend.weight, filtered.request, filtered.response, filtered.authority)


# Hostnames


HostMatch = tuple[tuple[int, int], tuple[HeaderMatch, ...]]


def host_matches(hostnames: Iterable[str]) -> list[HostMatch]:
    """For each hostname, its rank (lower goes first) and what it asks of the request's authority. Without any, one that takes all."""
    found: list[HostMatch] = [
        ((int(name.startswith("*")), -len(name)), (HeaderMatch(":authority", _authority(name)),)) for name in hostnames
    ]
    return found or [((2, 0), ())]


def _authority(hostname: str) -> TextMatch:
    """In letters of either case, with or without a port."""
    name = rf"[^:]+{quoted(hostname[1:])}" if hostname.startswith("*") else quoted(hostname)
    return regex(rf"(?i){name}(?::[0-9]+)?")
