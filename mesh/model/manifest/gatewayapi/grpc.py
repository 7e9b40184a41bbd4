"""GRPCRoute: as HTTPRoute, by service and method. v1 and v1alpha2 are the same."""

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
from mesh.model.manifest.gatewayapi.filters import FILTERS_ONCE, MAX_FILTERS, GRPCFilter
from mesh.model.manifest.gatewayapi.http import HOSTNAMES, KINDS_OF_MATCH, MAX_ALL_MATCHES, MAX_MATCHES, MAX_RULES, HeaderMatch, few_matches
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import ListOf, Text
from mesh.model.manifest.status import RouteStatus, status
from mesh.model.manifest.words import expression

FILTERS = ListOf(Record(GRPCFilter), most=MAX_FILTERS)
_SERVICE = re.compile(r"\.?[A-Za-z_][A-Za-z_0-9]*(?:\.[A-Za-z_][A-Za-z_0-9]*)*")
_METHOD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


def _names(match: MethodMatch) -> bool:
    if match.type == "RegularExpression":
        return all(map(expression, filter(None, (match.service, match.method))))
    return all(not text or form.fullmatch(text) for text, form in ((match.service, _SERVICE), (match.method, _METHOD)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodMatch:
    """Empty: every one."""

    type: str = item(KINDS_OF_MATCH, "Exact", about="Whether the names, or RE2 expressions that they must match.")
    service: str = item(Text(longest=1024), "", about="The service with its package; absent, every one.")
    method: str = item(Text(longest=1024), "", about="The method; absent, every one.")

    RULES = (
        Rule(
            lambda match: match.service or match.method,
            "",
            "at least one of service and method",
            "has(self.service) && self.service != '' || has(self.method) && self.method != ''",
        ),
        Rule(
            _names,
            "",
            "names of gRPC; with RegularExpression, expressions that RE2 takes",
            "self.type == 'RegularExpression' || "
            '(!has(self.service) || self.service.matches(r"""^([.]?[A-Za-z_][A-Za-z_0-9]*([.][A-Za-z_][A-Za-z_0-9]*)*)?$""")) && '
            '(!has(self.method) || self.method.matches(r"""^([A-Za-z_][A-Za-z_0-9]*)?$"""))',
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPCRouteMatch:
    """All that it asks must hold."""

    method: MethodMatch | None = item(Record(MethodMatch), about="Service and method; absent, every one.")
    headers: tuple[HeaderMatch, ...] = item(
        ListOf(Record(HeaderMatch), most=16, unique="name"), (), about="Headers, all of which must match."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPCBackendRef(BackendRef):
    filters: tuple[GRPCFilter, ...] = item(FILTERS, (), about="What is done to requests that go there.")

    RULES = (PORT_OF_SERVICE, FILTERS_ONCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPCRouteRule:
    name: str = item(SECTION, "", about="A name, which no other rule has.")
    matches: tuple[GRPCRouteMatch, ...] = item(
        ListOf(Record(GRPCRouteMatch), most=MAX_MATCHES), (), about="Calls that the rule is for, any of these; none for all."
    )
    filters: tuple[GRPCFilter, ...] = item(FILTERS, (), about="What is done to them.")
    backend_refs: tuple[GRPCBackendRef, ...] = item(ListOf(Record(GRPCBackendRef), most=16), (), about="Where they go, by weight.")
    session_persistence: SessionPersistence | None = item(
        Record(SessionPersistence), about="Whether a client stays at one endpoint.", unsupported=NO_SESSIONS
    )

    RULES = (FILTERS_ONCE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPCRouteSpec(RouteSpec):
    hostnames: tuple[str, ...] = item(HOSTNAMES, (), about="Hosts that the route is for at a Gateway; none for every one of the listener.")
    rules: tuple[GRPCRouteRule, ...] = item(
        ListOf(Record(GRPCRouteRule), most=MAX_RULES), (), about="What becomes of calls; the most specific match counts."
    )

    RULES = (
        PARENTS_APART,
        Rule(few_matches, "rules", f"at most {MAX_ALL_MATCHES} matches in all rules together"),
        RULES_NAMED_ONCE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPCRoute(Object):
    """Routes gRPC calls by service, method and headers, from a Gateway or inside the mesh."""

    KIND = "GRPCRoute"
    API_VERSIONS = (f"{GROUP}/v1", f"{GROUP}/v1alpha2")

    spec: GRPCRouteSpec = item(Record(GRPCRouteSpec), required=True, about="What the route is attached to, and where calls go.")
    status: Any = status(RouteStatus, "What became of the route at each of its parents.")
