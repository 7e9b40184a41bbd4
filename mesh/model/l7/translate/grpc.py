"""What of a route a proxyless gRPC client can do. The rest is taken out, with a note; where that would let a request pass that the route
meant to stop or to send elsewhere, the route fails instead.

A client chooses by path and headers, splits by weight, tries again on gRPC statuses, bounds time, injects faults. It changes nothing in the
request, copies nothing, and looks at no query or token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mesh.model.l7.notes import Notes, Problem, Translated
from mesh.model.l7.routes import (
    NO_OPS,
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


def for_clients(routes: Iterable[Route], subject: Key) -> Translated[tuple[Route, ...]]:
    """`subject` is the service's; notes name the route in their field."""
    notes = Notes()
    found: list[Route] = []
    for route in routes:
        where = f"route {route.name or len(found)}"
        for path in _paths(route.match.path):
            made = _route(replace(route, match=replace(route.match, path=path)), subject, where, notes)
            if made is not None:
                found.append(made)
    return notes.done(tuple(found))


def _route(route: Route, subject: Key, where: str, notes: Notes) -> Route | None:
    match = _match(route.match, subject, where, notes)
    if match is None:
        return None
    action = route.action
    if not isinstance(action, Forward):
        what = "a redirect" if isinstance(action, Redirect) else "an answer of its own"
        notes.add(Problem.UNSUPPORTED, subject, where, f"gRPC clients cannot do {what}: calls fail with UNAVAILABLE")
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
        tuple(replace(one, request=NO_OPS, response=NO_OPS, authority="") for one in action.destinations),
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
        elif header.negated and header.text is not PRESENT and header.text.matches(""):
            # Absent counts as empty, which this takes; clients would see nothing to take.
            headers += [HeaderMatch(header.name), header]
        else:
            headers.append(header)
    return RouteMatch(match.path, tuple(headers))


def _paths(path: PathMatch) -> list[PathMatch]:
    """Whole segments are unknown to clients: the path itself, and what begins with it and a slash."""
    if path.kind is not PathKind.SEGMENTS:
        return [path]
    return [replace(path, kind=PathKind.EXACT), PathMatch(PathKind.PREFIX, f"{path.value}/", path.ignore_case)]


def _retry(retry: Retry | None) -> Retry | None:
    words = tuple(word for word in retry.on if word in RETRY_WORDS) if retry is not None else ()
    if retry is None or not retry.attempts or not words:
        return None
    return Retry(min(retry.attempts, MAX_ATTEMPTS), words, backoff=retry.backoff, elsewhere=False)
