"""HTTPRoute: how HTTP requests to a Gateway's listener, or in a mesh to a Service, are routed. v1 and v1beta1 are the same."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.core import Object
from mesh.model.manifest.gatewayapi import GROUP
from mesh.model.manifest.gatewayapi.common import (
    NO_SESSIONS,
    PARENTS_APART,
    PORT_OF_SERVICE,
    RULES_NAMED_ONCE,
    SECTION,
    BackendRef,
    RouteSpec,
    SessionPersistence,
)
from mesh.model.manifest.gatewayapi.filters import FILTERS_ONCE, HEADER_VALUE, MAX_FILTERS, NOT_BOTH, HTTPFilter
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import Choice, Integer, ListOf, Text
from mesh.model.manifest.status import RouteStatus, status
from mesh.model.manifest.words import GATEWAY_DURATION, HEADER_NAME, HOSTNAME, METHODS, TOKEN, expression

MAX_RULES, MAX_MATCHES, MAX_ALL_MATCHES = 16, 64, 128
KINDS_OF_MATCH = Choice(("Exact", "RegularExpression"))
FILTERS = ListOf(Record(HTTPFilter), most=MAX_FILTERS)
HOSTNAMES = ListOf(HOSTNAME, most=16)

# RFC 3986 §3.3, but no empty or dotted segments: whatever reads the path would make another one of them first.
_PATH = re.compile(r"/(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*")
_NEVER = re.compile(r"//|/\.\.?/|/\.\.?$|%2[fF]")


def _path(match: PathMatch) -> bool:
    if match.type == "RegularExpression":
        return expression(match.value)
    return bool(_PATH.fullmatch(match.value)) and not _NEVER.search(match.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMatch:
    """A prefix is of whole segments: /foo takes /foo/bar, and not /foobar."""

    type: str = item(
        Choice(("Exact", "PathPrefix", "RegularExpression")),
        "PathPrefix",
        about="Whether the whole path, its first segments, or an RE2 expression.",
    )
    value: str = item(Text(longest=1024), "/", about="The path, prefix or expression.")

    RULES = (
        Rule(
            _path,
            "value",
            "a path from '/', without empty or dotted segments and without %2F; with RegularExpression, an expression that RE2 takes",
            'self.type == \'RegularExpression\' || self.value.matches(r"""^/([-A-Za-z0-9/._~!$&\'()*+,;=:@]|%[0-9a-fA-F]{2})*$""") && '
            '!self.value.matches(r"""//|/[.][.]?/|/[.][.]?$|%2[fF]""")',
        ),
    )


def _expression(match: HeaderMatch | QueryMatch) -> bool:
    return match.type == "Exact" or expression(match.value)


GOOD_EXPRESSION = Rule(_expression, "value", "with RegularExpression, an expression that RE2 takes")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderMatch:
    """`name` in lower case."""

    type: str = item(KINDS_OF_MATCH, "Exact", about="Whether the whole value, or an RE2 expression that it must match.")
    name: str = item(HEADER_NAME, required=True, about="The header's name, in letters of either case.")
    value: str = item(HEADER_VALUE, required=True, about="The value or expression.")

    RULES = (GOOD_EXPRESSION,)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryMatch:
    type: str = item(KINDS_OF_MATCH, "Exact", about="Whether the whole value, or an RE2 expression that it must match.")
    name: str = item(
        Text(TOKEN, "a name of up to 256 letters, digits and !#$%&'*+-.^_`|~", 256), required=True, about="The query parameter's name."
    )
    value: str = item(Text(r"(?s).+", "a value of up to 1024 characters", 1024), required=True, about="The value or expression.")

    RULES = (GOOD_EXPRESSION,)


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRouteMatch:
    """All that it asks must hold."""

    path: PathMatch = item(Record(PathMatch), PathMatch(), about="The path; absent, every one.")
    headers: tuple[HeaderMatch, ...] = item(
        ListOf(Record(HeaderMatch), most=16, unique="name"), (), about="Headers, all of which must match."
    )
    query_params: tuple[QueryMatch, ...] = item(
        ListOf(Record(QueryMatch), most=16, unique="name"), (), about="Query parameters, all of which must match."
    )
    method: str = item(Choice(METHODS), "", about="The method; absent, every one.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds; 0 for none, None where nothing is said."""

    request: float | None = item(GATEWAY_DURATION, about="How long the whole request may take, with all its tries; 0s for ever.")
    backend_request: float | None = item(GATEWAY_DURATION, about="How long one try may take; 0s for ever.")

    RULES = (
        Rule(
            lambda timeouts: not timeouts.request or timeouts.backend_request is None or timeouts.backend_request <= timeouts.request,
            "backendRequest",
            "no more than request",
            "!(has(self.request) && has(self.backendRequest)) || duration(self.request) == duration('0s') || "
            "duration(self.backendRequest) <= duration(self.request)",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """`backoff` in seconds."""

    codes: tuple[int, ...] = item(ListOf(Integer(400, 599), most=200), (), about="Status codes that are tried again.")
    attempts: int | None = item(Integer(0, 2**31 - 1), about="How often a failed request is tried again.")
    backoff: float | None = item(GATEWAY_DURATION, about="The wait before the first further try.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPBackendRef(BackendRef):
    filters: tuple[HTTPFilter, ...] = item(FILTERS, (), about="What is done to requests that go there.")

    RULES = (PORT_OF_SERVICE, FILTERS_ONCE, NOT_BOTH)


def _redirects(rule: HTTPRouteRule) -> bool:
    return any(entry.type == "RequestRedirect" for entry in rule.filters)


def _prefixes_replaced(rule: HTTPRouteRule) -> bool:
    """Whether some filter replaces the prefix that matched."""
    every = (*rule.filters, *(entry for backend in rule.backend_refs for entry in backend.filters))
    paths = (part.path for entry in every for part in (entry.request_redirect, entry.url_rewrite) if part is not None)
    return any(path is not None and path.type == "ReplacePrefixMatch" for path in paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRouteRule:
    name: str = item(SECTION, "", about="A name, which no other rule has.")
    matches: tuple[HTTPRouteMatch, ...] = item(
        ListOf(Record(HTTPRouteMatch), most=MAX_MATCHES), (), about="Requests that the rule is for, any of these; none for all."
    )
    filters: tuple[HTTPFilter, ...] = item(FILTERS, (), about="What is done to them.")
    backend_refs: tuple[HTTPBackendRef, ...] = item(ListOf(Record(HTTPBackendRef), most=16), (), about="Where they go, by weight.")
    timeouts: Timeouts | None = item(Record(Timeouts), about="How long they may take.")
    retry: Retry | None = item(Record(Retry), about="When and how often they are tried again.")
    session_persistence: SessionPersistence | None = item(
        Record(SessionPersistence), about="Whether a client stays at one endpoint.", unsupported=NO_SESSIONS
    )

    RULES = (
        Rule(
            lambda rule: not (_redirects(rule) and rule.backend_refs),
            "backendRefs",
            "no backendRefs beside RequestRedirect",
            "!has(self.filters) || !self.filters.exists(one, one.type == 'RequestRedirect') || "
            "!has(self.backendRefs) || size(self.backendRefs) == 0",
        ),
        FILTERS_ONCE,
        NOT_BOTH,
        Rule(
            lambda rule: not _prefixes_replaced(rule) or (rule.matches and all(match.path.type == "PathPrefix" for match in rule.matches)),
            "filters",
            "ReplacePrefixMatch only where every match has a path of the type PathPrefix",
        ),
    )


def few_matches(spec: Any) -> bool:
    return sum(len(rule.matches) for rule in spec.rules) <= MAX_ALL_MATCHES


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRouteSpec(RouteSpec):
    hostnames: tuple[str, ...] = item(HOSTNAMES, (), about="Hosts that the route is for at a Gateway; none for every one of the listener.")
    rules: tuple[HTTPRouteRule, ...] = item(
        ListOf(Record(HTTPRouteRule), 1, MAX_RULES),
        (HTTPRouteRule(matches=(HTTPRouteMatch(),)),),
        about="What becomes of requests; the most specific match counts.",
    )

    RULES = (
        PARENTS_APART,
        Rule(few_matches, "rules", f"at most {MAX_ALL_MATCHES} matches in all rules together"),
        RULES_NAMED_ONCE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRoute(Object):
    """Routes HTTP requests by host, path, headers, query and method, from a Gateway or inside the mesh."""

    KIND = "HTTPRoute"
    API_VERSIONS = (f"{GROUP}/v1", f"{GROUP}/v1beta1")

    spec: HTTPRouteSpec = item(Record(HTTPRouteSpec), required=True, about="What the route is attached to, and where requests go.")
    status: Any = status(RouteStatus, "What became of the route at each of its parents.")
