"""One port of one service, as a proxy takes its traffic: where requests go, and at a waypoint who may make them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from control.catalog import Rejection, Subject
from control.resolve.engine import Group, Read, query
from control.resolve.l7.lookup import attached_routes, granted, mesh_service, seen, target, virtual_services
from control.resolve.l7.views import View, context
from control.resolve.policies import GATEWAY_CLASS
from control.resolve.services import holder
from control.resolve.tables import OBJECTS, REJECTIONS, SETTINGS
from mesh.model.l7.chains import OPEN, Chain, Guard
from mesh.model.l7.clusters import Cluster
from mesh.model.l7.notes import Note, Translated
from mesh.model.l7.profile import Kind
from mesh.model.l7.routes import Forward, RouteTable
from mesh.model.l7.tcp import TcpRoute
from mesh.model.l7.telemetry import NO_TELEMETRY
from mesh.model.l7.telemetry import Telemetry as Merged
from mesh.model.l7.translate import authorization, delegates, telemetry, tokens
from mesh.model.l7.translate.backends import references
from mesh.model.l7.translate.ports import PortRoutes, Written, hosts_of, port_routes
from mesh.model.l7.translate.targets import Target
from mesh.model.manifest import (
    AuthorizationPolicy,
    Gateway,
    GRPCRoute,
    HTTPRoute,
    Key,
    Object,
    PeerAuthentication,
    RequestAuthentication,
    TCPRoute,
    Telemetry,
    TLSRoute,
    VirtualService,
)
from mesh.model.manifest.gatewayapi.gateways import WAYPOINT_CLASS
from mesh.model.workload import NamespacedHostname

O = TypeVar("O", bound=Object)  # noqa: E741 - an object, of whatever kind


class Port(NamedTuple):
    """One port of one service, for one view."""

    view: View
    service: NamespacedHostname
    number: int


# Where requests go.


@query(66)
def written(read: Read, arg: tuple[View, NamespacedHostname]) -> Written:
    """Everything that users wrote about a service, with the services that it leads to. What its waypoint does, nobody does before it."""
    view, name = arg
    own = read(seen, arg)
    if own is not None and own.through:
        return Written()
    around = context(read, view)
    services = read(virtual_services, arg)
    routes = read(attached_routes, name)
    leaves = {}
    for namespace, leaf in sorted(delegates.wanted(services)):
        entry = read(OBJECTS, Key(VirtualService.TYPE, namespace, leaf))
        if isinstance(entry, VirtualService):
            leaves[namespace, leaf] = entry
    found = Written(
        virtual_services=services,
        http_routes=tuple(route for route in routes if isinstance(route, HTTPRoute)),
        grpc_routes=tuple(route for route in routes if isinstance(route, GRPCRoute)),
        tls_routes=tuple(route for route in routes if isinstance(route, TLSRoute)),
        tcp_routes=tuple(route for route in routes if isinstance(route, TCPRoute)),
        delegates=MappingProxyType(leaves),
    )
    targets: dict[str, Target] = {}
    for host in sorted(hosts_of(found, around)):
        made = read(target, (view, host))
        if made is not None:
            targets[host] = made
    allowed = frozenset(wanted for wanted in references(routes, around) if read(granted, wanted))
    return replace(found, targets=MappingProxyType(targets), granted=allowed)


@query(67)
def routes_of(read: Read, port: Port) -> Translated[PortRoutes] | None:
    """None where the service has no such port."""
    frontend = read(seen, (port.view, port.service))
    if frontend is None or frontend.mesh.port(port.number) is None:
        return None
    return port_routes(frontend, port.number, read(written, (port.view, port.service)), context(read, port.view))


def clusters_in(table: RouteTable | None, tcp: Iterable[TcpRoute]) -> set[str]:
    """The clusters that routes lead to."""
    found = {destination.cluster for route in tcp for destination in route.destinations}
    for host in table.hosts if table is not None else ():
        for route in host.routes:
            if isinstance(route.action, Forward):
                found |= {destination.cluster for destination in route.action.destinations}
                found |= {mirror.cluster for mirror in route.action.mirrors}
    return found


# Who may make them. Only at waypoints.

Place = tuple[str, str, str]
"""Kind, namespace and name of what a policy targets. Kind and name are empty for policies of a whole namespace, all three for those of the
whole mesh."""
EVERYWHERE: Place = ("", "", "")


def _targeted(_: Key, entry: Object) -> Iterable[Place]:
    if isinstance(entry, (AuthorizationPolicy, RequestAuthentication, Telemetry)):
        for ref in entry.spec.targets:
            yield ref.kind, entry.namespace, ref.name
        if isinstance(entry, Telemetry) and not entry.spec.targets and entry.spec.selector is None:
            yield "", entry.namespace, ""


TARGETED: Group[Key, Object | None, Place] = Group("objects by target", OBJECTS, _targeted)


def _unreadable(_: Subject, rejection: Rejection) -> Iterable[Place]:
    """What refused policies may be about at waypoints: those without targets only where it is the targets that could not be read."""
    if rejection.kept:
        return
    for entry in rejection.refused:
        if not entry.policy or entry.kind == PeerAuthentication.KIND or (entry.dry_run and entry.kind == AuthorizationPolicy.KIND):
            continue
        if entry.namespace is None:
            yield EVERYWHERE
        elif entry.selector is None:
            yield "", entry.namespace, ""
        for ref in entry.targets:
            yield ref.kind, entry.namespace or "", ref.name


UNREADABLE: Group[Subject, Rejection | None, Place] = Group("refused policies by target", REJECTIONS, _unreadable)


@dataclass(frozen=True, slots=True)
class Guarded:
    """What stands before a service at a waypoint. `clusters` are where proxies fetch keys."""

    guard: Guard = OPEN
    telemetry: Merged = NO_TELEMETRY
    clusters: tuple[Cluster, ...] = ()
    notes: tuple[Note, ...] = ()


NOT_GUARDED = Guarded()


def _closed(_: Read, arg: tuple[View, NamespacedHostname | None]) -> Guarded:
    """Where we fail to make out who may pass, nobody may."""
    denied = authorization.enforced((), (), [Key(AuthorizationPolicy.TYPE, arg[0].namespace, "bug")]).value
    return Guarded(Guard(denied.http, denied.tcp))


@query(67, rescue=_closed)
def guard(read: Read, arg: tuple[View, NamespacedHostname | None]) -> Guarded:
    """Before a service; None: before workloads that are addressed by themselves."""
    view, name = arg
    if view.kind is not Kind.WAYPOINT:
        return NOT_GUARDED
    settings = read(SETTINGS, None)
    key = read(holder, name) if name is not None else None
    places = [(GATEWAY_CLASS, settings.root_namespace, WAYPOINT_CLASS), (Gateway.KIND, view.namespace, view.gateway)]
    if key is not None:
        places.append((key.kind, key.namespace, key.name))
    wide = {settings.root_namespace, view.namespace, key.namespace if key is not None else view.namespace}
    doubtful = [*places, EVERYWHERE, *(("", namespace, "") for namespace in sorted(wide))]
    unreadable = {_name(subject) for place in doubtful for subject in read(UNREADABLE, place)}
    policies = _objects(read, places, AuthorizationPolicy)
    enforced = authorization.enforced(policies, (settings.trust_domain,), sorted(unreadable))
    requests = _objects(read, places, RequestAuthentication)
    hosts = {host for host in map(_key_host, _uris(requests)) if host}
    known = {host: made for host, made in ((host, read(target, (view, host))) for host in sorted(hosts)) if made is not None}
    found = tokens.tokens(requests, known, {})
    levels = [
        ("", settings.root_namespace, ""),
        *([("", view.namespace, "")] if view.namespace != settings.root_namespace else []),
        *places,
    ]
    logged = telemetry.merged(_levels(read, levels), telemetry.BUILT_IN, view.kind, NO_TELEMETRY)
    return Guarded(
        Guard(enforced.value.http, enforced.value.tcp, found.value.rules),
        logged.value,
        found.value.clusters,
        (*enforced.notes, *found.notes, *logged.notes),
    )


def _objects(read: Read, places: Iterable[Place], cls: type[O]) -> list[O]:
    """Objects of a kind that target any of these, each once, by name."""
    keys = sorted({key for place in places for key in read(TARGETED, place) if key.kind == cls.TYPE})
    found = (read(OBJECTS, key) for key in keys)
    return [entry for entry in found if isinstance(entry, cls)]


def _levels(read: Read, places: Iterable[Place]) -> list[Telemetry]:
    """The widest first; of one level the oldest last, so that it wins."""
    found: list[Telemetry] = []
    for place in places:
        level = _objects(read, [place], Telemetry)
        found += sorted(level, key=lambda entry: (entry.metadata.creation_timestamp or "~", entry.name), reverse=True)
    return found


def _name(subject: Subject) -> Key:
    return subject if isinstance(subject, Key) else Key("", "", subject.name)


def _uris(requests: Iterable[RequestAuthentication]) -> Iterable[str]:
    return (rule.key_set_uri for entry in requests for rule in entry.spec.jwt_rules if rule.key_set_uri)


def _key_host(uri: str) -> str:
    return uri.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0]


@query(70)
def chain(read: Read, port: Port) -> Chain | None:
    """A service's port as a listener takes it. None where the service has no such port."""
    mesh = read(mesh_service, port.service)
    found = read(routes_of, port)
    if mesh is None or found is None:
        return None
    routes = found.value
    before = read(guard, (port.view, port.service))
    return Chain(
        host=port.service.hostname,
        port=port.number,
        traffic=routes.traffic,
        addresses=tuple(vip.ip for vip in mesh.service.vips),
        networks=tuple(network for _, network in mesh.service.vip_networks),
        table=routes.table.name if routes.table is not None else "",
        tcp=routes.tcp,
        guard=before.guard,
        telemetry=before.telemetry,
        claims=routes.by_claims,
        dynamic=routes.dynamic,
    )
