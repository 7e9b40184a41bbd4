"""One port of one service: which of all that was written about it counts, and what becomes of it.

    HTTPRoutes and GRPCRoutes on the port  >  TLSRoutes  >  TCPRoutes  >  VirtualServices  >  nothing: to the service itself

What a port speaks decides which of them can count: HTTP is not routed by TCPRoutes, nor TCP by HTTPRoutes. A port that says nothing is
told by its first bytes; an HTTPRoute on it says that it is HTTP, a TCPRoute that it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from mesh.model.l7.translate.attached import AnyRoute, age, attached, audiences, backend_hosts
from mesh.model.l7.translate.delegates import Delegates
from mesh.model.l7.translate.gateway_grpc import grpc_routes
from mesh.model.l7.translate.gateway_http import http_routes
from mesh.model.l7.translate.targets import Finder, Target, Targets
from mesh.model.manifest import GRPCRoute, HTTPRoute, Key, TCPRoute, TLSRoute, VirtualService

ANY_DOMAIN = ("*",)
NO_DELEGATES: Delegates = MappingProxyType({})
NO_TARGETS: Targets = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Written:
    """What users wrote about a service. VirtualServices oldest first, those that name its host and that the proxy may see; routes of the
    Gateway API in any order. `targets` has the hosts that `hosts_of` tells of, as far as they exist.
    """

    virtual_services: tuple[VirtualService, ...] = ()
    http_routes: tuple[HTTPRoute, ...] = ()
    grpc_routes: tuple[GRPCRoute, ...] = ()
    tls_routes: tuple[TLSRoute, ...] = ()
    tcp_routes: tuple[TCPRoute, ...] = ()
    delegates: Delegates = field(default_factory=lambda: NO_DELEGATES)
    targets: Targets = field(default_factory=lambda: NO_TARGETS)


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
    routes: tuple[AnyRoute, ...] = (*written.http_routes, *written.grpc_routes, *written.tls_routes, *written.tcp_routes)
    return backend_hosts(routes, context) | virtual_service.destinations(written.virtual_services, written.delegates, context)


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
    finder = Finder(targets, port, context, notes)
    traffic = _traffic(frontend, port, written, traffic_of(entry.protocol), notes)
    table: RouteTable | None = None
    dynamic = frontend.mesh.resolution is Resolution.DYNAMIC_DNS
    if dynamic and domains == ANY_DOMAIN:
        domains = (frontend.mesh.host, f"{frontend.mesh.host}:{port}")
    if traffic in (Traffic.HTTP, Traffic.AUTO):
        routes = _http(frontend, port, written, finder)
        if context.kind is Kind.GRPC:
            fitted = grpc.for_clients(routes, Key("Service", frontend.mesh.service.namespace, frontend.mesh.service.name))
            notes.extend(fitted.notes)
            routes = fitted.value
        table = RouteTable(route_table_name(frontend.mesh.host, port), (VirtualHost(frontend.mesh.host, domains, routes),))
    tcp = _l4(frontend, port, written, traffic, finder) if traffic is not Traffic.HTTP else ()
    return notes.done(PortRoutes(traffic, table, tcp, dynamic))


def _traffic(frontend: Target, port: int, written: Written, declared: Traffic, notes: Notes) -> Traffic:
    """What is spoken on the port, as far as routes tell; and what of them is in vain."""
    mesh = frontend.mesh
    requests: tuple[AnyRoute, ...] = (*written.http_routes, *written.grpc_routes)
    of_http = [route for route in requests if attached(route, mesh, port)]
    of_tls: list[AnyRoute] = [route for route in written.tls_routes if attached(route, mesh, port)]
    of_tcp: list[AnyRoute] = [route for route in written.tcp_routes if attached(route, mesh, port)]
    found = declared
    if declared is Traffic.AUTO:
        found = Traffic.HTTP if of_http else Traffic.TLS if of_tls else Traffic.TCP if of_tcp else Traffic.AUTO
    in_vain: Mapping[Traffic, tuple[list[AnyRoute], ...]] = {
        Traffic.HTTP: (of_tls, of_tcp),
        Traffic.TLS: (of_http, of_tcp if of_tls else []),
        Traffic.TCP: (of_http, of_tls),
        Traffic.AUTO: (),
    }
    for routes in in_vain[found]:
        for route in routes:
            message = f"port {port} of {mesh.host} carries {found.value.upper()}, which this is not for"
            if found is Traffic.TLS and isinstance(route, TCPRoute):
                message = f"TLSRoutes are on port {port} of {mesh.host}, and go first"
            notes.add(Problem.NO_EFFECT, route.key, "spec.parentRefs", message)
    return found


def _http(frontend: Target, port: int, written: Written, finder: Finder) -> tuple[Route, ...]:
    http = audiences(written.http_routes, frontend.mesh, port, finder.context)
    rpc = audiences(written.grpc_routes, frontend.mesh, port, finder.context)
    if http and rpc:
        oldest_http = min(age(route) for group in http for route in group.routes)
        oldest_rpc = min(age(route) for group in rpc for route in group.routes)
        losers: list[HTTPRoute | GRPCRoute] = []
        if oldest_http <= oldest_rpc:
            losers += [route for group in rpc for route in group.routes]
            rpc = ()
        else:
            losers += [route for group in http for route in group.routes]
            http = ()
        for route in losers:
            message = f"HTTPRoutes and GRPCRoutes do not go together on port {port} of {frontend.mesh.host}: the kind of the oldest counts"
            finder.notes.add(Problem.CONFLICT, route.key, "spec.parentRefs", message)
    if http or rpc:
        for service in written.virtual_services:
            if service.spec.http:
                message = f"routes of the Gateway API are on port {port} of {frontend.mesh.host}, and count instead"
                finder.notes.add(Problem.CONFLICT, service.key, "spec.http", message)
        return (http_routes(http, finder) if http else grpc_routes(rpc, finder)).value
    made = virtual_service.http_routes(written.virtual_services, frontend, port, finder.context, finder.targets, written.delegates)
    finder.notes.extend(made.notes)
    return made.value


def _l4(frontend: Target, port: int, written: Written, traffic: Traffic, finder: Finder) -> tuple[TcpRoute, ...]:
    if traffic is Traffic.TLS:
        found = l4.gateway_tls(audiences(written.tls_routes, frontend.mesh, port, finder.context), frontend, finder).value
        if found:
            return found
    if traffic is not Traffic.AUTO:
        found = l4.gateway_tcp(audiences(written.tcp_routes, frontend.mesh, port, finder.context), frontend, finder).value
        if found:
            return found
    return l4.virtual_services(written.virtual_services, frontend, finder, tls=traffic is Traffic.TLS).value
