"""VirtualService: how requests to a host are routed.

Refused beyond single fields: a rule that does nothing or two things at once, hosts of one object that overlap, and what can never match
(a server name outside the hosts, a prefix redirect of a match without a prefix).
"""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.core import Object
from mesh.model.manifest.istio import NETWORKING_VERSIONS
from mesh.model.manifest.istio.actions import (
    CorsPolicy,
    Delegate,
    Destination,
    Headers,
    HTTPDirectResponse,
    HTTPFault,
    HTTPMirror,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRouteDestination,
    Percent,
)
from mesh.model.manifest.istio.matches import GATEWAYS, HTTPMatch, L4Match, TLSMatch
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import Integer, ListOf, Text
from mesh.model.manifest.status import IstioStatus, status
from mesh.model.manifest.words import ANY_HOST, DURATION, EXPORT, WEIGHT

MESH = "mesh"
MAX_ROUTES, MAX_MATCHES, MAX_DESTINATIONS = 4096, 1024, 1024
EXPORT_TO = ListOf(EXPORT, most=256)
EXPORTED_ALONE = Rule(lambda spec: len(spec.export_to) < 2 or "*" not in spec.export_to, "exportTo", "'*' alone: it is every namespace")


class Names:
    """Hosts to look names up in, wildcards among them."""

    def __init__(self, hosts: Iterable[str]) -> None:
        known = tuple(hosts)
        self._any = "*" in known
        self._exact = frozenset(host for host in known if not host.startswith("*"))
        self._wild = frozenset(host[1:] for host in known if host.startswith("*."))

    def contain(self, host: str, *, otherwise: bool = False) -> bool:
        """Whether all that `host` names is named here; `otherwise`: by another entry than itself. A wildcard may be asked for too."""
        if self._any and not (otherwise and host == "*"):
            return True
        if not otherwise and (host in self._exact or host.removeprefix("*") in self._wild):
            return True
        labels = host.removeprefix("*.").split(".")
        first = 1 if not host.startswith("*.") or otherwise else 0
        return any("." + ".".join(labels[index:]) in self._wild for index in range(first, len(labels)))


def overlapping(hosts: tuple[str, ...]) -> bool:
    names = Names(hosts)
    return any(names.contain(host, otherwise=True) for host in hosts)


def _names_outside(spec: VirtualServiceSpec) -> bool:
    names = Names(spec.hosts)
    return any(not names.contain(sni) for rule in spec.tls for match in rule.match for sni in match.sni_hosts)


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRoute:
    """A rule: the first whose match holds decides. `timeout` in seconds, None for none."""

    name: str = item(Text(), "", about="A name for logs.")
    match: tuple[HTTPMatch, ...] = item(
        ListOf(Record(HTTPMatch), most=MAX_MATCHES), (), about="Requests that the rule is for, any of these; none for all."
    )
    route: tuple[HTTPRouteDestination, ...] = item(
        ListOf(Record(HTTPRouteDestination), most=MAX_DESTINATIONS), (), about="Where requests go, by weight."
    )
    redirect: HTTPRedirect | None = item(Record(HTTPRedirect), about="An answer that sends the client elsewhere.")
    direct_response: HTTPDirectResponse | None = item(Record(HTTPDirectResponse), about="An answer that is always the same.")
    delegate: Delegate | None = item(Record(Delegate), about="Another VirtualService whose rules follow below this match.")
    rewrite: HTTPRewrite | None = item(Record(HTTPRewrite), about="Changes of path and host on the way.")
    timeout: float | None = item(DURATION, about="How long the whole request may take, with all its tries; absent or 0s for ever.")
    retries: HTTPRetry | None = item(Record(HTTPRetry), about="When and how often a request is tried again.")
    fault: HTTPFault | None = item(Record(HTTPFault), about="Delays and errors that are put in on purpose.")
    mirror: Destination | None = item(Record(Destination), about="Where a copy of each request goes.")
    mirrors: tuple[HTTPMirror, ...] = item(ListOf(Record(HTTPMirror), most=16), (), about="Where copies of requests go.")
    mirror_percentage: Percent | None = item(Record(Percent), about="How many requests mirror copies; absent, all.")
    mirror_percent: int | None = item(Integer(0, 100), about="The old way to say mirrorPercentage.")
    mirror_percent_old: int | None = item(Integer(0, 100), name="mirror_percent", about="An old spelling of mirrorPercent.")
    cors_policy: CorsPolicy | None = item(Record(CorsPolicy), about="What browsers are told about requests of other origins.")
    headers: Headers = item(Record(Headers), Headers(), about="Header changes for every destination.")

    RULES = (
        Rule(
            lambda rule: (
                [bool(rule.route), *(part is not None for part in (rule.redirect, rule.direct_response, rule.delegate))].count(True) == 1
            ),
            "",
            "exactly one of route, redirect, directResponse and delegate",
            "[has(self.route) && size(self.route) > 0, has(self.redirect), has(self.directResponse), has(self.delegate)]"
            ".filter(x, x).size() == 1",
        ),
        Rule(
            lambda rule: (rule.redirect is None and rule.direct_response is None) or (rule.fault is None and rule.rewrite is None),
            "",
            "no fault and no rewrite beside redirect or directResponse",
            "!(has(self.redirect) || has(self.directResponse)) || !(has(self.fault) || has(self.rewrite))",
        ),
        Rule(
            lambda rule: rule.mirror is None or not rule.mirrors,
            "mirrors",
            "one of mirror and mirrors",
            "!(has(self.mirror) && has(self.mirrors) && size(self.mirrors) > 0)",
        ),
        Rule(
            lambda rule: len(rule.route) < 2 or any(entry.weight for entry in rule.route),
            "route",
            "a weight of 1 or more for at least one of several destinations",
        ),
        Rule(
            lambda rule: (
                (
                    rule.redirect is None
                    or not rule.redirect.prefix_rewrite
                    or all(match.uri and match.uri.prefix is not None for match in rule.match)
                )
                and not (rule.redirect is not None and rule.redirect.prefix_rewrite and not rule.match)
            ),
            "redirect",
            "prefixRewrite only where every match has a uri prefix",
        ),
    )

    @property
    def mirroring(self) -> tuple[tuple[Destination, float], ...]:
        """Where copies go, and how many of a hundred requests are copied, however it was written."""
        if self.mirror is None:
            return tuple((entry.destination, 100.0 if entry.percentage is None else entry.percentage.value) for entry in self.mirrors)
        old = self.mirror_percent if self.mirror_percent is not None else self.mirror_percent_old
        return (
            (self.mirror, self.mirror_percentage.value if self.mirror_percentage is not None else 100.0 if old is None else float(old)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class L4Destination:
    destination: Destination = item(Record(Destination), required=True, about="Where connections go.")
    weight: int = item(WEIGHT, 0, about="Its share of connections: the weight over the sum of all weights.")


L4_DESTINATIONS = ListOf(Record(L4Destination), 1, MAX_DESTINATIONS)
L4_WEIGHTS = Rule(
    lambda rule: len(rule.route) < 2 or any(entry.weight for entry in rule.route),
    "route",
    "a weight of 1 or more for at least one of several destinations",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSRoute:
    match: tuple[TLSMatch, ...] = item(
        ListOf(Record(TLSMatch), 1, MAX_MATCHES), required=True, about="Connections that the rule is for, any of these."
    )
    route: tuple[L4Destination, ...] = item(L4_DESTINATIONS, required=True, about="Where connections go, by weight.")

    RULES = (L4_WEIGHTS,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TCPRoute:
    match: tuple[L4Match, ...] = item(
        ListOf(Record(L4Match), most=MAX_MATCHES), (), about="Connections that the rule is for, any of these; none for all."
    )
    route: tuple[L4Destination, ...] = item(L4_DESTINATIONS, required=True, about="Where connections go, by weight.")

    RULES = (L4_WEIGHTS,)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualServiceSpec:
    hosts: tuple[str, ...] = item(
        ListOf(ANY_HOST, most=1024, distinct=True),
        (),
        about="The hosts whose requests are routed; none where another VirtualService delegates here.",
    )
    gateways: tuple[str, ...] = item(GATEWAYS, (), about="Where the rules count: gateways, and mesh for all clients inside; absent, mesh.")
    http: tuple[HTTPRoute, ...] = item(
        ListOf(Record(HTTPRoute), most=MAX_ROUTES), (), about="Rules for HTTP and gRPC, the first that matches counts."
    )
    tls: tuple[TLSRoute, ...] = item(
        ListOf(Record(TLSRoute), most=MAX_ROUTES), (), about="Rules for TLS that is passed on unopened, by server name."
    )
    tcp: tuple[TCPRoute, ...] = item(ListOf(Record(TCPRoute), most=MAX_ROUTES), (), about="Rules for everything else.")
    export_to: tuple[str, ...] = item(EXPORT_TO, (), about="Namespaces whose clients the rules are for: '.' its own, * all; absent, all.")

    RULES = (
        Rule(
            lambda spec: spec.http or spec.tls or spec.tcp,
            "http",
            "at least one rule under http, tls or tcp",
            "has(self.http) && size(self.http) > 0 || has(self.tls) && size(self.tls) > 0 || has(self.tcp) && size(self.tcp) > 0",
        ),
        Rule(
            lambda spec: spec.hosts or not (spec.gateways or spec.tls or spec.tcp),
            "hosts",
            "at least one host; or, for one that is delegated to, neither gateways nor tls nor tcp",
            "has(self.hosts) && size(self.hosts) > 0 || !(has(self.gateways) && size(self.gateways) > 0 || "
            "has(self.tls) && size(self.tls) > 0 || has(self.tcp) && size(self.tcp) > 0)",
        ),
        Rule(
            lambda spec: spec.hosts or all(rule.delegate is None for rule in spec.http), "http", "no delegate in one that is delegated to"
        ),
        Rule(
            lambda spec: "*" not in spec.hosts or (spec.gateways and MESH not in spec.gateways),
            "hosts",
            "'*' only with gateways, and without mesh among them",
            "!has(self.hosts) || !('*' in self.hosts) || has(self.gateways) && size(self.gateways) > 0 && !('mesh' in self.gateways)",
        ),
        Rule(lambda spec: not overlapping(spec.hosts), "hosts", "hosts of which none lies within another"),
        Rule(lambda spec: not _names_outside(spec), "tls", "sniHosts that lie within the hosts"),
        EXPORTED_ALONE,
    )

    @property
    def delegated(self) -> bool:
        """Its rules count only where another VirtualService delegates to it."""
        return not self.hosts

    @property
    def in_mesh(self) -> bool:
        return not self.delegated and (not self.gateways or MESH in self.gateways)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualService(Object):
    """Routes what clients send to a host: by path, header or weight to its versions, with retries, timeouts and faults."""

    KIND = "VirtualService"
    API_VERSIONS = NETWORKING_VERSIONS

    spec: VirtualServiceSpec = item(Record(VirtualServiceSpec), required=True, about="The hosts, and what becomes of requests to them.")
    status: Any = status(IstioStatus, "What became of the rules.")
