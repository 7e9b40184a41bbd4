"""One port of one service: which of all that was written about it counts, and what becomes of it.

    HTTPRoutes and GRPCRoutes on the port  >  TLSRoutes  >  TCPRoutes  >  VirtualServices  >  nothing: to the service itself

What a port speaks decides which of them can count: HTTP is not routed by TCPRoutes, nor TCP by HTTPRoutes. A port that says nothing is
told by its first bytes; an HTTPRoute on it says that it is HTTP, a TCPRoute that it is not.

All of that is so for each audience by itself (`attached`). At a waypoint the routes of consumers come first, each for clients of its
namespace, and then what counts for everybody else, as if there were no consumers; what the port speaks is for everybody's routes to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.model.l7.chains import Traffic
from mesh.model.l7.names import route_table_name
from mesh.model.l7.notes import Notes, Problem, Translated
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.routes import Route, RouteTable, VirtualHost
from mesh.model.l7.services import Resolution, traffic_of
from mesh.model.l7.tcp import TcpRoute
from mesh.model.l7.translate import grpc, l4, virtual_service
from mesh.model.l7.translate.attached import AnyRoute, Audience, age, audiences
from mesh.model.l7.translate.backends import backend_hosts
from mesh.model.l7.translate.delegates import Delegates
from mesh.model.l7.translate.gateway import only_for
from mesh.model.l7.translate.gateway_grpc import grpc_routes
from mesh.model.l7.translate.gateway_http import http_routes
from mesh.model.l7.translate.targets import Finder, Reference, Target, Targets
from mesh.model.manifest import GRPCRoute, HTTPRoute, Key, TCPRoute, TLSRoute, VirtualService

ANY_DOMAIN = ("*",)
NO_DELEGATES: Delegates = MappingProxyType({})
NO_TARGETS: Targets = MappingProxyType({})
CARRIED_BY: Mapping[type[AnyRoute], frozenset[Traffic]] = {
    HTTPRoute: frozenset({Traffic.HTTP, Traffic.AUTO}),
    GRPCRoute: frozenset({Traffic.HTTP, Traffic.AUTO}),
    TLSRoute: frozenset({Traffic.TLS, Traffic.AUTO}),
    TCPRoute: frozenset({Traffic.TCP, Traffic.TLS, Traffic.AUTO}),
}
"""The ports that a kind of route is for."""


@dataclass(frozen=True, slots=True)
class Written:
    """What users wrote about a service. VirtualServices oldest first, those that name its host and that the proxy may see; routes of the
    Gateway API in any order. `targets` has the hosts that `hosts_of` tells of, as far as they exist; `granted` those of `references` that a
    ReferenceGrant allows.
    """

    virtual_services: tuple[VirtualService, ...] = ()
    http_routes: tuple[HTTPRoute, ...] = ()
    grpc_routes: tuple[GRPCRoute, ...] = ()
    tls_routes: tuple[TLSRoute, ...] = ()
    tcp_routes: tuple[TCPRoute, ...] = ()
    delegates: Delegates = field(default_factory=lambda: NO_DELEGATES)
    targets: Targets = field(default_factory=lambda: NO_TARGETS)
    granted: frozenset[Reference] = frozenset()

    @property
    def routes(self) -> tuple[AnyRoute, ...]:
        return (*self.http_routes, *self.grpc_routes, *self.tls_routes, *self.tcp_routes)


@dataclass(frozen=True, slots=True)
class PortRoutes:
    """`table` where HTTP is spoken, with one virtual host; `tcp` for everything else. `dynamic`: hosts are found by what requests name."""

    traffic: Traffic
    table: RouteTable | None
    tcp: tuple[TcpRoute, ...]
    dynamic: bool = False

    @property
    def by_claims(self) -> bool:
        """Some route looks at a token's claims."""
        return self.table is not None and any(route.match.claims for host in self.table.hosts for route in host.routes)


def hosts_of(written: Written, context: Context) -> frozenset[str]:
    """The hosts whose `Target` is needed, but for the service itself."""
    return backend_hosts(written.routes, context) | virtual_service.destinations(written.virtual_services, written.delegates, context)


def port_routes(
    frontend: Target, port: int, written: Written, context: Context, domains: tuple[str, ...] = ANY_DOMAIN
) -> Translated[PortRoutes]:
    """`domains` are those of the virtual host; a proxy that chose the service by its address needs none. A service that is found by what
    requests name is for its own names only.
    """
    entry = frontend.mesh.port(port)
    assert entry is not None
    notes = Notes()
    targets: Targets = {**written.targets, frontend.mesh.host: frontend}
    finder = Finder(targets, port, context, notes, frontend.mesh.host, written.granted)
    groups = audiences(written.routes, frontend.mesh, port, context)
    traffic = _traffic(groups, traffic_of(entry.protocol))
    for group in groups:
        _in_vain(group, traffic, frontend, port, notes)
    table: RouteTable | None = None
    dynamic = frontend.mesh.resolution is Resolution.DYNAMIC_DNS
    if dynamic and domains == ANY_DOMAIN:
        domains = (frontend.mesh.host, f"{frontend.mesh.host}:{port}")
    if traffic in (Traffic.HTTP, Traffic.AUTO):
        routes = _http(groups, frontend, port, written, finder)
        if context.kind is Kind.GRPC:
            fitted = grpc.for_clients(routes, Key("Service", frontend.mesh.service.namespace, frontend.mesh.service.name))
            notes.extend(fitted.notes)
            routes = fitted.value
        table = RouteTable(route_table_name(frontend.mesh.host, port), (VirtualHost(frontend.mesh.host, domains, routes),))
    tcp = _l4(groups, frontend, written, traffic, finder) if traffic is not Traffic.HTTP else ()
    return notes.done(PortRoutes(traffic, table, tcp, dynamic))


def _traffic(groups: Sequence[Audience], declared: Traffic) -> Traffic:
    """What is spoken on the port, as far as routes tell. Those of consumers say nothing where others are served too."""
    if declared is not Traffic.AUTO:
        return declared
    for group in groups:
        if group.every and not group.namespace:
            return Traffic.HTTP if group.requests else Traffic.TLS if group.tls else Traffic.TCP
    return Traffic.AUTO


def _in_vain(group: Audience, traffic: Traffic, frontend: Target, port: int, notes: Notes) -> None:
    """Says which routes have no effect on a port that carries `traffic`."""
    where = f"port {port} of {frontend.mesh.host}"
    for route in group.every:
        of_requests = isinstance(route, (HTTPRoute, GRPCRoute))
        message = ""
        if traffic not in CARRIED_BY[type(route)]:
            message = f"{where} carries {traffic.value.upper()}, which this is not for"
        elif group.namespace and not of_requests:
            message = f"a waypoint cannot tell the connections of {group.namespace} from others: the route has no effect there"
        elif traffic is Traffic.TLS and group.tls and isinstance(route, TCPRoute):
            message = f"TLSRoutes are on {where}, and go first"
        if message:
            notes.add(Problem.NO_EFFECT, route.key, "spec.parentRefs", message)


def _http(groups: Sequence[Audience], frontend: Target, port: int, written: Written, finder: Finder) -> tuple[Route, ...]:
    found: list[Route] = []
    for group in groups:
        if group.requests and group.namespace:
            found += only_for(group.namespace, _of_requests(group, frontend, port, finder))
        elif group.requests:
            for service in written.virtual_services:
                if service.spec.http:
                    message = f"routes of the Gateway API are on port {port} of {frontend.mesh.host}, and count instead"
                    finder.notes.add(Problem.CONFLICT, service.key, "spec.http", message)
            return (*found, *_of_requests(group, frontend, port, finder))
    made = virtual_service.http_routes(written.virtual_services, frontend, port, finder.context, finder.targets, written.delegates)
    finder.notes.extend(made.notes)
    return (*found, *made.value)


def _of_requests(group: Audience, frontend: Target, port: int, finder: Finder) -> tuple[Route, ...]:
    """Of one kind: that of the oldest."""
    kind = type(min(group.requests, key=age))
    for route in group.requests:
        if not isinstance(route, kind):
            message = f"HTTPRoutes and GRPCRoutes do not go together on port {port} of {frontend.mesh.host}: the kind of the oldest counts"
            finder.notes.add(Problem.CONFLICT, route.key, "spec.parentRefs", message)
    return (http_routes(group.http, finder) if kind is HTTPRoute else grpc_routes(group.grpc, finder)).value


def _l4(groups: Sequence[Audience], frontend: Target, written: Written, traffic: Traffic, finder: Finder) -> tuple[TcpRoute, ...]:
    for group in groups:
        if group.namespace:
            continue
        if traffic is Traffic.TLS and group.tls:
            return l4.gateway_tls(group.tls, frontend, finder).value
        if traffic is not Traffic.AUTO and group.tcp:
            return l4.gateway_tcp(group.tcp, frontend, finder).value
    return l4.virtual_services(written.virtual_services, frontend, finder, tls=traffic is Traffic.TLS).value
