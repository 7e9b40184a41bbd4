"""Routes that lead around policies.

A waypoint judges a request by the policies of the service that it was addressed to, then forwards it by that service's routes, straight to
endpoints. What a route sends to another service meets no policy that targets that one, nor those of its waypoint.

    fronts(route or VirtualService) = the services that it is for       spawns
    leads(service) = the other services that its routes lead to
    around(policy) = sentences for its status
"""

from __future__ import annotations

from collections.abc import Iterator

from control.resolve.engine import Group, Read, query
from control.resolve.l7.listens import ATTACHED
from control.resolve.l7.lookup import HOSTS, ROUTES, find_service, mesh_service, virtual_hosts
from control.resolve.l7.ports import Port, clusters_in, routes_of
from control.resolve.l7.views import View
from control.resolve.policies import ADDRESSED
from control.resolve.services import declared, holder
from control.resolve.tables import OBJECTS
from control.resolve.waypoints import Waypoint, service_waypoint, waypoints
from mesh.model.l7.names import parse_cluster_name
from mesh.model.l7.profile import Kind
from mesh.model.manifest import AuthorizationPolicy, Gateway, Key, RequestAuthentication, VirtualService
from mesh.model.workload import NamespacedHostname

MOST = 5
"""How many routed services are named in a status."""


@query(49)
def fronts(read: Read, key: Key) -> tuple[NamespacedHostname, ...]:
    entry = read(OBJECTS, key)
    if isinstance(entry, VirtualService):
        hosts = read(virtual_hosts, key)
        return tuple(sorted({NamespacedHostname(found.namespace, host) for host in hosts for found in read(HOSTS, host)}))
    if isinstance(entry, ROUTES):
        parents = {Key(ref.kind, ref.namespace or entry.namespace, ref.name) for ref in entry.spec.parent_refs if ref.kind in ADDRESSED}
        return tuple(sorted({name for parent in parents for name in read(declared, parent)}))
    return ()


OBJECTS.spawn(fronts, lambda entry: isinstance(entry, (VirtualService, *ROUTES)))


@query(72)
def leads(read: Read, name: NamespacedHostname) -> frozenset[NamespacedHostname]:
    """Also those that only get copies."""
    through, mesh = _waypoint(read, name), read(mesh_service, name)
    if through is None or mesh is None:
        return frozenset()
    view = View(Kind.WAYPOINT, through.key.namespace, through.key.name)
    found = set()
    for port in mesh.service.ports:
        made = read(routes_of, Port(view, name, port.port))
        for cluster in clusters_in(made.value.table, made.value.tcp) if made is not None else ():
            parsed = parse_cluster_name(cluster)
            other = read(find_service, (view, parsed.host)) if parsed is not None else None
            if other is not None and other != name:
                found.add(other)
    return frozenset(found)


ROUTED: Group[Key, tuple[NamespacedHostname, ...], NamespacedHostname] = Group(
    "routed services", fronts, lambda _, names: names, spawns=leads
)
LED_TO: Group[NamespacedHostname, frozenset[NamespacedHostname], NamespacedHostname] = Group("led to", leads, lambda _, names: names)
"""Services by those that their routes lead to."""


@query(74)
def around(read: Read, key: Key) -> tuple[str, ...]:
    """Which requests a policy is not asked about, though they come to what it targets."""
    policy = read(OBJECTS, key)
    if not isinstance(policy, (AuthorizationPolicy, RequestAuthentication)):
        return ()
    found = sorted({pair for target in policy.spec.targets for pair in _past(read, Key(target.kind, policy.namespace, target.name))})
    said = [f"what routes of {front.hostname} send to {name.hostname} does not go by it" for front, name in found[:MOST]]
    return (*said, *([f"and {len(found) - MOST} more"] if len(found) > MOST else []))


def _past(read: Read, target: Key) -> Iterator[tuple[NamespacedHostname, NamespacedHostname]]:
    """(whose routes, where to). Policies of a class of gateways are every waypoint's, so that nothing leads around them."""
    if target.kind in ADDRESSED and _waypoint_of(read, target) is not None:
        for name in read(declared, target):
            for front in read(LED_TO, name):
                yield front, name
    elif target.kind == Gateway.KIND:
        through = read(waypoints, target)
        destination = through.address.destination if isinstance(through, Waypoint) else None
        for name in read(ATTACHED, destination) if isinstance(destination, NamespacedHostname) else ():
            for front in read(LED_TO, name):
                if _waypoint(read, front) != through:
                    yield front, name


def _waypoint(read: Read, name: NamespacedHostname) -> Waypoint | None:
    key = read(holder, name)
    return _waypoint_of(read, key) if key is not None else None


def _waypoint_of(read: Read, key: Key) -> Waypoint | None:
    return read(service_waypoint, key).waypoint
