"""TCP and TLS routes of one service port: TLSRoutes and TCPRoutes attached to the service, or what its VirtualServices say under tls and
tcp.

TLSRoutes go before TCPRoutes, and either before VirtualServices. Where TLSRoutes are attached and none has the server name, the connection
is closed; VirtualServices that have no rule for a connection leave it to the service itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.model.l7.clusters import Pool
from mesh.model.l7.names import BLACK_HOLE
from mesh.model.l7.notes import Problem, Translated
from mesh.model.l7.profile import Kind
from mesh.model.l7.tcp import TcpDestination, TcpRoute
from mesh.model.l7.translate.backends import chosen_backend
from mesh.model.l7.translate.destination_rule import effective, pool_of
from mesh.model.l7.translate.targets import Finder, Target, qualified
from mesh.model.l7.translate.virtual_service import NOBODY, counts, for_client
from mesh.model.manifest import TCPRoute, TLSRoute, VirtualService
from mesh.model.manifest.gatewayapi.l4 import L4RouteRule
from mesh.model.manifest.istio.matches import L4Match, TLSMatch
from mesh.model.manifest.istio.virtualservice import L4Destination


def gateway_tls(routes: Iterable[TLSRoute], frontend: Target, finder: Finder) -> Translated[tuple[TcpRoute, ...]]:
    """By server name, the longest first. Of two routes for one name the older counts. `routes`, oldest first, are those of one audience."""
    found: dict[str, TcpRoute] = {}
    for route in routes:
        destinations = _backends(route, route.spec.rules[0], finder)
        name = f"{route.namespace}.{route.name}"
        for hostname in route.spec.hostnames or ("",):
            names = (hostname,) if hostname else ()
            made = _timed(TcpRoute(destinations, names, name), frontend, finder)
            if found.setdefault(hostname, made) is not made:
                message = f"{found[hostname].name}, which is older, has the server name {hostname or '*'}"
                finder.notes.add(Problem.CONFLICT, route.key, "spec.hostnames", message)
    ordered = sorted(found, key=lambda name: (name == "", name.startswith("*"), -len(name), name))
    return finder.notes.done(tuple(found[name] for name in ordered))


def gateway_tcp(routes: Iterable[TCPRoute], frontend: Target, finder: Finder) -> Translated[tuple[TcpRoute, ...]]:
    """The oldest takes every connection. `routes` as above."""
    found: list[TcpRoute] = []
    for route in routes:
        if found:
            finder.notes.add(Problem.CONFLICT, route.key, "spec.parentRefs", f"{found[0].name}, which is older, takes every connection")
            continue
        destinations = _backends(route, route.spec.rules[0], finder)
        found.append(_timed(TcpRoute(destinations, name=f"{route.namespace}.{route.name}"), frontend, finder))
    return finder.notes.done(tuple(found))


def virtual_services(
    services: Sequence[VirtualService], frontend: Target, finder: Finder, *, tls: bool
) -> Translated[tuple[TcpRoute, ...]]:
    """`tls`: the port carries it, so that there are server names to look at. What no rule takes goes to the service."""
    found: list[TcpRoute] = []
    for service in services if tls else ():
        for index, rule in enumerate(service.spec.tls):
            for match in rule.match:
                names = _server_names(match, frontend, finder)
                if names and _takes(match, service, frontend, finder):
                    found.append(TcpRoute(_destinations(rule.route, service, f"spec.tls[{index}]", finder), names))
    ended = False
    for service in services:
        for index, plain in enumerate(service.spec.tcp):
            field = f"spec.tcp[{index}]"
            taken = _takes_any(plain.match, service, frontend, finder)
            if taken and ended:
                finder.notes.add(Problem.UNREACHABLE, service.key, field, "a rule before it takes every connection")
            elif taken:
                found.append(TcpRoute(_destinations(plain.route, service, field, finder)))
                ended = True
    if not ended:
        chosen = finder.find(frontend.mesh.host, "", finder.port, NOBODY, "")
        found.append(TcpRoute((TcpDestination(chosen.cluster),)))
    return finder.notes.done(tuple(_timed(route, frontend, finder) for route in found))


def _backends(route: TLSRoute | TCPRoute, rule: L4RouteRule, finder: Finder) -> tuple[TcpDestination, ...]:
    """Connections for one that is none are closed, and so are all where there is none."""
    found: list[TcpDestination] = []
    for index, backend in enumerate(rule.backend_refs):
        where = f"spec.rules[0].backendRefs[{index}]"
        if backend.weight:
            chosen = chosen_backend(route, backend, finder, where, "connections that it would get are closed")
            found.append(TcpDestination(chosen.cluster if chosen is not None else BLACK_HOLE, backend.weight))
    return tuple(found)


def _destinations(entries: Sequence[L4Destination], service: VirtualService, field: str, finder: Finder) -> tuple[TcpDestination, ...]:
    found: list[TcpDestination] = []
    for index, entry in enumerate(entries):
        if len(entries) > 1 and not entry.weight:
            continue
        destination = entry.destination
        host = qualified(destination.host, service.namespace, finder.context)
        port = destination.port.number if destination.port is not None else None
        chosen = finder.find(host, destination.subset, port, service.key, f"{field}.route[{index}].destination")
        found.append(TcpDestination(chosen.cluster, entry.weight if len(entries) > 1 else 1))
    return tuple(found)


def _server_names(match: TLSMatch, frontend: Target, finder: Finder) -> tuple[str, ...]:
    """A waypoint looks at server names only where they are the service's own."""
    if finder.context.kind is Kind.WAYPOINT and match.sni_hosts != (frontend.mesh.host,):
        return ()
    return match.sni_hosts


def _takes_any(matches: Sequence[L4Match], service: VirtualService, frontend: Target, finder: Finder) -> bool:
    if not matches:
        return counts(service.spec.in_mesh, ())
    return any(_takes(match, service, frontend, finder) for match in matches)


def _takes(match: L4Match | TLSMatch, service: VirtualService, frontend: Target, finder: Finder) -> bool:
    """All that these can ask is known before there is a connection."""
    return (
        counts(service.spec.in_mesh, match.gateways)
        and match.port in (None, finder.port)
        and for_client(match.source_labels, match.source_namespace, finder.context)
        and (not match.destination_subnets or _addressed(match, frontend))
    )


def _addressed(match: L4Match | TLSMatch, frontend: Target) -> bool:
    service = frontend.mesh.service
    asked = match.destination_subnets
    return any(vip.ip in network for vip in service.vips for network in asked) or any(
        own.version == network.version and own.subnet_of(network)  # type: ignore[arg-type]
        for _, own in service.vip_networks
        for network in asked
    )


def _timed(route: TcpRoute, frontend: Target, finder: Finder) -> TcpRoute:
    """With the limits of the service's own DestinationRule."""
    pool: Pool = pool_of(effective(frontend.rule, finder.port, ""))
    return TcpRoute(route.destinations, route.server_names, route.name, pool.tcp_idle, pool.longest)
