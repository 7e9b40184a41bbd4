"""What users wrote about a host, as a proxy of some namespace sees it.

Istio's rules: exportTo hides objects from other namespaces, except from waypoints, which look at VirtualServices of their own and of the
service's namespace only; of DestinationRules those of the proxy's namespace count, else of the service's, else of the root namespace, and
in each the exact host before the longest wildcard; of several for one host the oldest goes first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from control.resolve.engine import Group, Read, query
from control.resolve.l7.through import as_clients_see, through_waypoint
from control.resolve.l7.views import View, context
from control.resolve.services import DECLARED, EXPORT_ANNOTATION, described, holder
from control.resolve.tables import OBJECTS, SETTINGS
from mesh.model.l7.notes import Translated
from mesh.model.l7.profile import Kind
from mesh.model.l7.services import MeshService, Resolution
from mesh.model.l7.translate.delegates import visible
from mesh.model.l7.translate.destination_rule import MergedRule, merge
from mesh.model.l7.translate.targets import Reference, Target, qualified
from mesh.model.manifest import (
    DestinationRule,
    GRPCRoute,
    HTTPRoute,
    Key,
    Object,
    ReferenceGrant,
    Service,
    ServiceEntry,
    TCPRoute,
    TLSRoute,
    VirtualService,
)
from mesh.model.manifest.gatewayapi import GROUP
from mesh.model.workload import GatewayAddress, NamespacedHostname

O = TypeVar("O", bound=Object)  # noqa: E741 - an object, of whatever kind
ROUTES = (HTTPRoute, GRPCRoute, TLSRoute, TCPRoute)
EVERYWHERE = "*"


# Services by name.


def _hostnames(_: Key, names: tuple[NamespacedHostname, ...]) -> Iterable[str]:
    return {name.hostname for name in names}


HOSTS: Group[Key, tuple[NamespacedHostname, ...], str] = Group("hosts", DECLARED.source, _hostnames)
"""Objects by the hosts that they declare."""


@query(46)
def find_service(read: Read, arg: tuple[View, str]) -> NamespacedHostname | None:
    """The service that a host is to a proxy: its own namespace's first, then Kubernetes' own, then the oldest. To those beside clients, the
    first by namespace instead of the oldest: nodes' tunnels know no ages, and who has a proxy must not reach another service for that.
    """
    view, host = arg
    entries = [entry for entry in (read(OBJECTS, key) for key in read(HOSTS, host)) if entry is not None]
    seen = [entry for entry in entries if view.kind is Kind.WAYPOINT or visible(exported(entry), entry.namespace, view.namespace)]
    if not seen:
        return None
    last = _age if view.kind is Kind.WAYPOINT else _place
    best = min(seen, key=lambda entry: (entry.namespace != view.namespace, not isinstance(entry, Service), last(entry)))
    return NamespacedHostname(best.namespace, host)


def exported(entry: Object) -> tuple[str, ...]:
    """The namespaces that may see an object; none said: all."""
    if isinstance(entry, Service):
        return tuple(word.strip() for word in entry.annotations.get(EXPORT_ANNOTATION, "").split(",") if word.strip())
    return tuple(getattr(getattr(entry, "spec", None), "export_to", ()))


@query(47)
def mesh_service(read: Read, name: NamespacedHostname) -> MeshService | None:
    """A service with what only L7 asks about it."""
    made = read(described, name)
    key = read(holder, name)
    entry = read(OBJECTS, key) if key is not None else None
    if made is None:
        return None
    if isinstance(entry, ServiceEntry):
        names = {port.number: port.name for port in entry.spec.ports}
        return MeshService(made, Resolution(entry.spec.resolution), entry.spec.location == "MESH_EXTERNAL", names)
    assert isinstance(entry, Service)
    names = {port.port: port.name for port in entry.spec.ports if port.protocol == "TCP"}
    return MeshService(made, port_names=names, distribution=entry.spec.traffic_distribution)


# DestinationRules.


@query(10)
def rule_host(read: Read, key: Key) -> tuple[str, str] | None:
    """(the namespace of a DestinationRule, the host that it is for)"""
    rule = read(OBJECTS, key)
    if not isinstance(rule, DestinationRule):
        return None
    return rule.namespace, _qualified(read, rule.spec.host, rule.namespace)


OBJECTS.spawn(rule_host, lambda entry: isinstance(entry, DestinationRule))


def _rule_places(_: Key, found: tuple[str, str]) -> Iterable[tuple[str, str]]:
    namespace, host = found
    yield namespace, EVERYWHERE if host.startswith("*") else host


RULES: Group[Key, tuple[str, str] | None, tuple[str, str]] = Group("destination rules", rule_host, _rule_places)
"""DestinationRules by namespace and host; all those for wildcards under `*`."""


@query(48)
def destination_rule(read: Read, arg: tuple[View, NamespacedHostname]) -> Translated[MergedRule | None]:
    """What DestinationRules say of a service to a proxy."""
    view, name = arg
    for namespace in dict.fromkeys((view.namespace, name.namespace, read(SETTINGS, None).root_namespace)):
        exact = _rules(read, (namespace, name.hostname), view)
        if exact:
            return merge(exact)
        wild = [rule for rule in _rules(read, (namespace, EVERYWHERE), view) if covers(rule.spec.host, name.hostname)]
        if wild:
            longest = max(len(rule.spec.host) for rule in wild)
            return merge([rule for rule in wild if len(rule.spec.host) == longest])
    return merge(())


def _rules(read: Read, place: tuple[str, str], view: View) -> list[DestinationRule]:
    found = (read(OBJECTS, key) for key in read(RULES, place))
    rules = [rule for rule in found if isinstance(rule, DestinationRule) and visible(rule.spec.export_to, rule.namespace, view.namespace)]
    return oldest_first(rule for rule in rules if rule.spec.workload_selector is None)


@query(49)
def seen(read: Read, arg: tuple[View, NamespacedHostname]) -> Target | None:
    """A service as a proxy sees it; None: there is no such service. No DestinationRule counts for what is behind a waypoint, but there."""
    view, name = arg
    mesh = read(mesh_service, name)
    if mesh is None:
        return None
    if through_waypoint(view, mesh.service):
        return Target(as_clients_see(view, mesh, _family(read, mesh.service.waypoint)), through=True)
    return Target(mesh, read(destination_rule, (view.anywhere(), name)).value)


def _family(read: Read, gateway: GatewayAddress | None) -> int:
    """The IP version of a waypoint's own address, which is one that its mesh speaks."""
    destination = gateway.destination if gateway is not None else None
    mesh = read(mesh_service, destination) if isinstance(destination, NamespacedHostname) else None
    return mesh.service.vips[0].ip.version if mesh is not None and mesh.service.vips else 4


@query(50)
def target(read: Read, arg: tuple[View, str]) -> Target | None:
    """What a host is to routes of a proxy; None: there is no such service."""
    name = read(find_service, arg)
    return read(seen, (arg[0], name)) if name is not None else None


# VirtualServices.


@query(10)
def virtual_hosts(read: Read, key: Key) -> tuple[str, ...]:
    """The hosts that a VirtualService is for; none where others delegate to it."""
    entry = read(OBJECTS, key)
    if not isinstance(entry, VirtualService):
        return ()
    return tuple(_qualified(read, host, entry.namespace) for host in entry.spec.hosts)


OBJECTS.spawn(virtual_hosts, lambda entry: isinstance(entry, VirtualService))
VIRTUAL: Group[Key, tuple[str, ...], str] = Group(
    "virtual services", virtual_hosts, lambda _, hosts: {EVERYWHERE if host.startswith("*") else host for host in hosts}
)
"""VirtualServices by host; all those for wildcards under `*`."""


@query(48)
def virtual_services(read: Read, arg: tuple[View, NamespacedHostname]) -> tuple[VirtualService, ...]:
    """Those that say where traffic of a proxy for a service goes, oldest first."""
    view, name = arg
    exact = _virtual(read, name.hostname, view, name)
    if exact or view.kind is Kind.WAYPOINT:
        return tuple(exact)
    best: dict[int, list[VirtualService]] = {}
    for entry in _virtual(read, EVERYWHERE, view, name):
        lengths = [len(host) for host in read(virtual_hosts, entry.key) if host.startswith("*") and covers(host, name.hostname)]
        if lengths:
            best.setdefault(max(lengths), []).append(entry)
    return tuple(best[max(best)]) if best else ()


def _virtual(read: Read, host: str, view: View, name: NamespacedHostname) -> list[VirtualService]:
    found = [entry for entry in (read(OBJECTS, key) for key in read(VIRTUAL, host)) if isinstance(entry, VirtualService)]
    if view.kind is Kind.WAYPOINT:
        return oldest_first(entry for entry in found if entry.namespace in (view.namespace, name.namespace))
    return oldest_first(entry for entry in found if visible(entry.spec.export_to, entry.namespace, view.namespace))


# Routes of the Gateway API.


def _parents(_: Key, route: Object) -> Iterable[tuple[str, str, str]]:
    if isinstance(route, ROUTES):
        for ref in route.spec.parent_refs:
            yield ref.kind, ref.namespace or route.namespace, ref.name


PARENTS: Group[Key, Object | None, tuple[str, str, str]] = Group("routes by parent", OBJECTS, _parents)


@query(48)
def attached_routes(read: Read, name: NamespacedHostname) -> tuple[HTTPRoute | GRPCRoute | TLSRoute | TCPRoute, ...]:
    """Those whose parent is a service."""
    key = read(holder, name)
    if key is None:
        return ()
    parent = (key.kind, key.namespace, key.name)
    found = (read(OBJECTS, route) for route in sorted(read(PARENTS, parent)))
    return tuple(route for route in found if isinstance(route, ROUTES))


def _granting(_: Key, entry: Object) -> Iterable[tuple[str, str, str]]:
    if isinstance(entry, ReferenceGrant):
        for one in entry.spec.from_:
            yield one.kind, one.namespace, entry.namespace


GRANTS: Group[Key, Object | None, tuple[str, str, str]] = Group("grants", OBJECTS, _granting)
"""ReferenceGrants by the kind and namespace of who may refer, and the namespace that they are of."""


@query(47)
def granted(read: Read, reference: Reference) -> bool:
    """Whether a ReferenceGrant lets routes refer to a Service of another namespace."""
    source, target = (GROUP, reference.kind, reference.namespace), ("", "Service", reference.service)
    found = (read(OBJECTS, key) for key in read(GRANTS, (reference.kind, reference.namespace, reference.of)))
    return any(isinstance(entry, ReferenceGrant) and entry.spec.allows(source, target) for entry in found)


# Common.


def covers(pattern: str, host: str) -> bool:
    """Whether a host is one of those that `*` or `*.domain` stands for."""
    return host.endswith(pattern[1:]) and (len(host) > len(pattern) - 1 or pattern == "*")


def oldest_first(found: Iterable[O]) -> list[O]:
    return sorted(found, key=_age)


def _age(entry: Object) -> tuple[str, str, str]:
    return (entry.metadata.creation_timestamp or "~", *_place(entry))


def _place(entry: Object) -> tuple[str, str]:
    return (entry.namespace, entry.name)


def _qualified(read: Read, host: str, namespace: str) -> str:
    return qualified(host, namespace, context(read, View(Kind.CLIENT, namespace)))
