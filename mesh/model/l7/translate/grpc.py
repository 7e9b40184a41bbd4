"""What of a route a proxyless gRPC client can do. The rest is taken out, with a note; where that would let a request pass that the route
meant to stop or to send elsewhere, the route fails instead.

A client chooses by path and headers, splits by weight, tries again on gRPC statuses, bounds time, injects faults. It changes nothing in the
request, copies nothing, and looks at no query or token.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from mesh.model.l7.names import BLACK_HOLE
from mesh.model.l7.notes import Notes, Problem, Translated
from mesh.model.l7.routes import (
    NO_CLUSTER,
    NO_OPS,
    Destination,
    Forward,
    HashKind,
    HeaderMatch,
    PathKind,
    PathMatch,
    Redirect,
    Retry,
    Route,
    RouteMatch,
)
from mesh.model.l7.texts import PRESENT
from mesh.model.manifest import Key

RETRY_WORDS = ("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable")
MAX_ATTEMPTS = 4
"""Tries after the first; more is taken for this by every client."""
SHORTEST_BACKOFF = timedelta(milliseconds=25)
"""gRPC's own default. With one of a millisecond a call of the C core was seen to wait for its next try for ever."""
MAX_SPLITS = 4
"""Headers that must not match, of one route: each doubles it."""


def for_clients(routes: Iterable[Route], subject: Key) -> Translated[tuple[Route, ...]]:
    """`subject` is the service's; notes name the route in their field."""
    notes = Notes()
    found: list[Route] = []
    for index, route in enumerate(routes):
        where = f"route {route.name or index}"
        match = _match(route.match, subject, where, notes)
        if match is not None:
            made = _route(route, subject, where, notes)
            found += [replace(made, match=RouteMatch(path, headers)) for path in _paths(match.path) for headers in _headers(match.headers)]
    return notes.done(tuple(found))


def _route(route: Route, subject: Key, where: str, notes: Notes) -> Route:
    """All but the match."""
    match = route.match
    action = route.action
    if not isinstance(action, Forward):
        what = "a redirect" if isinstance(action, Redirect) else "an answer of its own"
        notes.add(Problem.UNSUPPORTED, subject, where, f"gRPC clients cannot do {what}: calls fail")
        return Route(match, action, route.name)
    lost = [
        word
        for word, there in (
            ("header changes", route.request != NO_OPS or route.response != NO_OPS),
            ("header changes of destinations", any(one.request != NO_OPS or one.response != NO_OPS for one in action.destinations)),
            ("rewrites", action.path is not None or action.authority or any(one.authority for one in action.destinations)),
            ("mirroring", bool(action.mirrors)),
            ("CORS", route.cors is not None),
            ("hashes of other things than headers", any(one.kind is not HashKind.HEADER for one in action.hashes)),
        )
        if there
    ]
    if lost:
        notes.add(Problem.UNSUPPORTED, subject, where, f"gRPC clients do not do this, and calls go without it: {', '.join(lost)}")
    forward = Forward(
        tuple(Destination(BLACK_HOLE if one.cluster == NO_CLUSTER else one.cluster, one.weight) for one in action.destinations),
        timeout=action.timeout,
        retry=_retry(action.retry),
        hashes=tuple(one for one in action.hashes if one.kind is HashKind.HEADER),
        missing_status=action.missing_status,
    )
    return Route(match, forward, route.name, fault=route.fault)


def _match(match: RouteMatch, subject: Key, where: str, notes: Notes) -> RouteMatch | None:
    """None where no call can match, as far as a client can tell."""
    unknown = [word for word, there in (("query parameters", match.query), ("claims", match.claims)) if there]
    if unknown:
        notes.add(Problem.UNSUPPORTED, subject, where, f"gRPC clients do not look at {' and '.join(unknown)}: this never matches")
        return None
    headers: list[HeaderMatch] = []
    for header in match.headers:
        if header.name in (":method", ":scheme"):
            constant = {":method": "POST", ":scheme": "http"}[header.name]
            if header.text.matches(constant) == header.negated:
                return None
        elif header.name == ":authority":
            notes.add(Problem.UNSUPPORTED, subject, where, "gRPC clients do not match the authority of a call: this never matches")
            return None
        else:
            headers.append(header)
    if sum(map(_passes_absent, headers)) > MAX_SPLITS:
        notes.add(Problem.UNSUPPORTED, subject, where, f"more than {MAX_SPLITS} headers that must not match: this never matches")
        return None
    return RouteMatch(match.path, tuple(headers))


def _passes_absent(header: HeaderMatch) -> bool:
    """Whether a call without the header passes a check that clients would fail: to them what is not there never matches."""
    return header.negated and header.text != PRESENT and not header.text.matches("")


def _headers(headers: tuple[HeaderMatch, ...]) -> list[tuple[HeaderMatch, ...]]:
    """The same as alternatives that clients understand: not there, or there and not matching."""
    choices = [[HeaderMatch(one.name, negated=True), one] if _passes_absent(one) else [one] for one in headers]
    return list(itertools.product(*choices))


def _paths(path: PathMatch) -> list[PathMatch]:
    """Whole segments are unknown to clients: the path itself, and what begins with it and a slash."""
    if path.kind is not PathKind.SEGMENTS:
        return [path]
    return [replace(path, kind=PathKind.EXACT), PathMatch(PathKind.PREFIX, f"{path.value}/", path.ignore_case)]


def _retry(retry: Retry | None) -> Retry | None:
    words = tuple(word for word in retry.on if word in RETRY_WORDS) if retry is not None else ()
    if retry is None or not retry.attempts or not words:
        return None
    backoff = max(retry.backoff, SHORTEST_BACKOFF) if retry.backoff is not None else None
    return Retry(min(retry.attempts, MAX_ATTEMPTS), words, backoff=backoff, elsewhere=False)
