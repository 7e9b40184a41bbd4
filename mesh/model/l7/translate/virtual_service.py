"""VirtualServices → HTTP routes of one service port, in their order: the oldest object's rules first, each rule's matches in turn.

What is no test of a request is decided here: ports, gateways, and which client it is for. A rule that takes everything ends the list;
what follows can never be reached and is left out. Without any rule for HTTP everything goes to the service; with some of which none
matches, a request is answered 404.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from mesh.model.l7.notes import Notes, Problem, Translated
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.routes import (
    ClaimMatch,
    Cors,
    Destination,
    Fault,
    Forward,
    HeaderMatch,
    Mirror,
    PathKind,
    PathMatch,
    PathRewrite,
    QueryMatch,
    Redirect,
    Respond,
    Retry,
    RewriteKind,
    Route,
    RouteMatch,
)
from mesh.model.l7.texts import PRESENT, TextKind, TextMatch, unsafe
from mesh.model.l7.translate.delegates import Delegates, Written, expanded
from mesh.model.l7.translate.headers import Author, changes
from mesh.model.l7.translate.targets import Chosen, Finder, Target, Targets, qualified
from mesh.model.manifest import Key, VirtualService
from mesh.model.manifest.istio.actions import GRPC_CODES, CorsPolicy, HTTPFault, HTTPRedirect, HTTPRetry, HTTPRewrite
from mesh.model.manifest.istio.matches import HTTPMatch, StringMatch, UriMatch, ValueMatch
from mesh.model.manifest.istio.virtualservice import MESH

NOBODY = Key("", "", "")
CLAIMS = "@request.auth.claims"
STATUS_CODES = "retriable-status-codes"
RETRY_ON = ("connect-failure", "refused-stream", "unavailable", "cancelled", STATUS_CODES)
DEFAULT_RETRY = Retry(2, RETRY_ON)
PER_PERCENT = 10_000
DEFAULT_PORTS = {"http": 80, "https": 443}


def http_routes(
    services: Sequence[VirtualService], frontend: Target, port: int, context: Context, targets: Targets, delegates: Delegates
) -> Translated[tuple[Route, ...]]:
    """`services`, oldest first, are those that name the frontend's host and that the proxy may see. `targets` has the hosts that
    `destinations` tells of, as far as they exist.
    """
    notes = Notes()
    finder = Finder(targets, port, context, notes)
    rules = list(expanded(services, delegates, notes))
    if not any(service.spec.http for service in services):
        return notes.done((default_route(frontend, port, context),))
    found: list[Route] = []
    ended: Written | None = None
    for written in rules:
        if ended is not None:
            notes.add(Problem.UNREACHABLE, written.subject, written.field, f"{ended.field} of {ended.subject} takes everything before it")
            continue
        for match, field in _matches(written, port, context, notes):
            route = _Rule(written, finder, frontend, port).route(match, field)
            found.append(route)
            if route.match.takes_all:
                ended = written
                break
    return notes.done(tuple(found))


def destinations(services: Sequence[VirtualService], delegates: Delegates, context: Context) -> frozenset[str]:
    """The hosts that these send traffic to, also by TLS and TCP rules."""
    found: set[str] = set()
    for written in expanded(services, delegates, Notes()):
        hosts = [entry.destination.host for entry in written.rule.route]
        hosts += [destination.host for destination, _ in written.rule.mirroring]
        found.update(qualified(host, written.owner, context) for host in hosts)
    for service in services:
        entries = [entry for l4 in (service.spec.tls, service.spec.tcp) for rule in l4 for entry in rule.route]
        found.update(qualified(entry.destination.host, service.namespace, context) for entry in entries)
    return frozenset(found)


def default_route(frontend: Target, port: int, context: Context) -> Route:
    """To the service itself, with the retries that are everybody's, where nobody after us has them."""
    chosen = Finder({frontend.mesh.host: frontend}, port, context, Notes()).find(frontend.mesh.host, "", port, NOBODY, "")
    retry = Retry(0) if frontend.through else replace(DEFAULT_RETRY, elsewhere=not chosen.hashes)
    hashes = chosen.hashes if context.kind is Kind.GRPC else ()
    return Route(RouteMatch(), Forward((Destination(chosen.cluster),), retry=retry, hashes=hashes), name="default")


def counts(in_mesh: bool, gateways: tuple[str, ...]) -> bool:
    """Whether a match is for traffic inside the mesh: its own gateways say, else those of its VirtualService."""
    return MESH in gateways if gateways else in_mesh


def for_client(labels: Mapping[str, str], namespace: str, context: Context) -> bool:
    """A waypoint serves every client: what is for clients with some label is for none there."""
    if namespace and namespace != context.namespace:
        return False
    if context.kind is Kind.WAYPOINT:
        return not labels
    return all(context.labels.get(key) == value for key, value in labels.items())


def _matches(written: Written, port: int, context: Context, notes: Notes) -> Iterator[tuple[HTTPMatch | None, str]]:
    """The matches that can hold for this port and proxy, with where each is written."""
    if not written.rule.match:
        if counts(written.in_mesh, ()):
            yield None, written.field
        return
    for index, match in enumerate(written.rule.match):
        field = f"{written.field}.match[{index}]"
        if not counts(written.in_mesh, match.gateways) or match.port not in (None, port):
            continue
        if not for_client(match.source_labels, match.source_namespace, context):
            continue
        if match.uri is not None and match.uri.exact == "":
            notes.add(Problem.UNREACHABLE, written.subject, f"{field}.uri.exact", "no path is empty")
            continue
        yield match, field


class _Rule:
    """One rule, for one of its matches."""

    def __init__(self, written: Written, finder: Finder, frontend: Target, port: int) -> None:
        self._written = written
        self._rule = written.rule
        self._finder = finder
        self._notes = finder.notes
        self._context = finder.context
        self._frontend = frontend
        self._port = port

    def route(self, match: HTTPMatch | None, field: str) -> Route:
        rule, written = self._rule, self._written
        author = Author(written.subject, f"{written.field}.headers", self._notes)
        request, authority = changes(rule.headers.request, author.at("request"))
        response, _ = changes(rule.headers.response, author.at("response"))
        name = ".".join(filter(None, (rule.name, match.name if match is not None else "")))
        wanted = route_match(match)
        made = Route(wanted, Respond(503), name, request, response)
        if rule.redirect is not None:
            return replace(made, action=self._redirect(rule.redirect))
        if rule.direct_response is not None:
            body = rule.direct_response.body
            content = b"" if body is None else body.bytes if body.bytes is not None else (body.string or "").encode()
            return replace(made, action=Respond(rule.direct_response.status, content))
        return replace(
            made,
            action=self._forward(wanted.path, authority),
            fault=_fault(rule.fault) if rule.fault is not None else None,
            cors=_cors(rule.cors_policy) if rule.cors_policy is not None else None,
        )

    def _forward(self, path: PathMatch, authority: str) -> Forward | Respond:
        rule, context = self._rule, self._context
        found: list[Destination] = []
        chosen: list[Chosen] = []
        several = len(rule.route) > 1
        for index, entry in enumerate(rule.route):
            if several and not entry.weight:
                continue
            field = f"{self._written.field}.route[{index}]"
            host = qualified(entry.destination.host, self._written.owner, context)
            port = entry.destination.port.number if entry.destination.port is not None else None
            one = self._finder.find(host, entry.destination.subset, port, self._written.subject, f"{field}.destination")
            author = Author(self._written.subject, f"{field}.headers", self._notes)
            request, own = changes(entry.headers.request, author.at("request"))
            response, _ = changes(entry.headers.response, author.at("response"))
            found.append(Destination(one.cluster, entry.weight if several else 1, request, response, own))
            chosen.append(one)
        rewrite = rule.rewrite or HTTPRewrite()
        authority = rewrite.authority or authority
        if unsafe(authority, rewrite.uri, rewrite.uri_regex_rewrite.rewrite if rewrite.uri_regex_rewrite is not None else ""):
            return self._unusable("rewrite")
        if authority:
            found = [replace(entry, authority="") for entry in found]
        hashed = any(one.hashes for one in chosen)
        return Forward(
            destinations=tuple(found),
            path=_rewrite(rewrite, path),
            authority=authority,
            timeout=timedelta(seconds=rule.timeout) if rule.timeout else None,
            retry=retry(rule.retries, hashed),
            mirrors=self._mirrors(),
            hashes=chosen[0].hashes if context.kind is Kind.GRPC else (),
        )

    def _mirrors(self) -> tuple[Mirror, ...]:
        found: list[Mirror] = []
        for index, (destination, share) in enumerate(self._rule.mirroring):
            if share:
                field = f"{self._written.field}.mirror" if self._rule.mirror is not None else f"{self._written.field}.mirrors[{index}]"
                host = qualified(destination.host, self._written.owner, self._context)
                port = destination.port.number if destination.port is not None else None
                chosen = self._finder.find(host, destination.subset, port, self._written.subject, field)
                found.append(Mirror(chosen.cluster, round(share * PER_PERCENT)))
        return tuple(found)

    def _redirect(self, found: HTTPRedirect) -> Redirect | Respond:
        if unsafe(found.uri, found.prefix_rewrite, found.authority):
            return self._unusable("redirect")
        path = None
        if found.uri:
            path = PathRewrite(RewriteKind.FULL, found.uri)
        elif found.prefix_rewrite:
            path = PathRewrite(RewriteKind.PREFIX, found.prefix_rewrite)
        wanted = found.port
        if found.derive_port == "FROM_PROTOCOL_DEFAULT":
            wanted = DEFAULT_PORTS[found.scheme or "http"]
        return Redirect(
            found.scheme, found.authority, redirect_port(wanted, found.scheme, found.authority, self._port), path, found.redirect_code
        )

    def _unusable(self, field: str) -> Respond:
        message = "a line break or NUL can be no part of a URL: requests are answered 500"
        self._notes.add(Problem.UNSUPPORTED, self._written.subject, f"{self._written.field}.{field}", message)
        return Respond(500)


def redirect_port(wanted: int | None, scheme: str, authority: str, addressed: int) -> int | None:
    """None leaves the port out where that says the same: it is the scheme's own, and nothing else will bring one in."""
    if wanted is not None and wanted == DEFAULT_PORTS[scheme or "http"] and (authority or addressed == DEFAULT_PORTS["http"]):
        return None
    return wanted


# Matches


def route_match(match: HTTPMatch | None) -> RouteMatch:
    if match is None:
        return RouteMatch()
    headers: list[HeaderMatch] = []
    claims: list[ClaimMatch] = []
    for name, asked in ((":scheme", match.scheme), (":method", match.method), (":authority", match.authority)):
        if asked is not None:
            headers.append(HeaderMatch(name, text_match(asked)))
    for values, negated in ((match.headers, False), (match.without_headers, True)):
        for name, value in sorted(values.items()):
            if name.startswith(CLAIMS):
                claims.append(ClaimMatch(claim_path(name), text_match(value), negated))
            else:
                headers.append(HeaderMatch(name, text_match(value), negated))
    query = tuple(QueryMatch(name, text_match(value)) for name, value in sorted(match.query_params.items()))
    return RouteMatch(_path(match), tuple(headers), query, tuple(claims))


def text_match(found: StringMatch | UriMatch | ValueMatch) -> TextMatch:
    if isinstance(found, ValueMatch) and found.present:
        return PRESENT
    if found.exact is not None:
        return TextMatch(TextKind.EXACT, found.exact)
    if found.prefix is not None:
        return TextMatch(TextKind.PREFIX, found.prefix)
    return TextMatch(TextKind.REGEX, found.regex or "")


def claim_path(name: str) -> tuple[str, ...]:
    """`@request.auth.claims[a][b]`, or the older `@request.auth.claims.a.b`."""
    rest = name.removeprefix(CLAIMS)
    return tuple(re.findall(r"\[([^\]]+)\]", rest)) if rest.startswith("[") else tuple(rest.lstrip(".").split("."))


def _path(match: HTTPMatch) -> PathMatch:
    uri = match.uri
    if uri is None:
        return PathMatch()
    if uri.exact is not None:
        return PathMatch(PathKind.EXACT, uri.exact, match.ignore_uri_case)
    if uri.prefix is not None:
        return PathMatch(PathKind.PREFIX, uri.prefix or "/", match.ignore_uri_case and uri.prefix not in ("", "/"))
    return PathMatch(PathKind.REGEX, uri.regex or "")


# What else is done


def _rewrite(found: HTTPRewrite, path: PathMatch) -> PathRewrite | None:
    if found.uri_regex_rewrite is not None:
        return PathRewrite(RewriteKind.REGEX, found.uri_regex_rewrite.rewrite, found.uri_regex_rewrite.match)
    if not found.uri:
        return None
    return PathRewrite(RewriteKind.PREFIX if path.kind is PathKind.PREFIX else RewriteKind.FULL, found.uri)


def retry(found: HTTPRetry | None, hashed: bool) -> Retry:
    """`hashed`: the endpoint is chosen by a hash, which a try elsewhere would betray."""
    if found is None:
        return replace(DEFAULT_RETRY, elsewhere=not hashed)
    if not found.attempts:
        return Retry(0)
    codes = tuple(int(word) for word in found.retry_on if word.isdecimal())
    words = tuple(word for word in found.retry_on if not word.isdecimal())
    if codes and STATUS_CODES not in words:
        words = (*words, STATUS_CODES)
    return Retry(
        attempts=found.attempts,
        on=words or RETRY_ON,
        codes=codes,
        per_try=timedelta(seconds=found.per_try_timeout) if found.per_try_timeout else None,
        backoff=timedelta(seconds=found.backoff) if found.backoff else None,
        elsewhere=found.retry_ignore_previous_hosts and not hashed,
        spread=bool(found.retry_remote_localities),
    )


def _fault(found: HTTPFault) -> Fault:
    """A share that nobody gave is 0, as in Istio: such a fault never happens."""
    delay, abort = found.delay, found.abort
    return Fault(
        delay=timedelta(seconds=delay.fixed_delay) if delay is not None and delay.fixed_delay is not None else None,
        delay_share=round(delay.share * PER_PERCENT) if delay is not None else 0,
        abort_status=abort.http_status if abort is not None else None,
        abort_grpc=GRPC_CODES.index(abort.grpc_status) if abort is not None and abort.grpc_status else None,
        abort_share=round(abort.share * PER_PERCENT) if abort is not None else 0,
    )


def _cors(found: CorsPolicy) -> Cors:
    return Cors(
        origins=tuple(text_match(origin) for origin in found.origins),
        methods=found.allow_methods,
        headers=found.allow_headers,
        expose=found.expose_headers,
        max_age=timedelta(seconds=found.max_age) if found.max_age is not None else None,
        credentials=bool(found.allow_credentials),
        forward_unmatched=found.unmatched_preflights != "IGNORE",
    )
