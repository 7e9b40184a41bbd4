"""Whether all that goes to a service passes the waypoint that it asks for, and who is behind it by address where it does not.

A policy for a service is enforced at its waypoint. Where clients get to what is behind the service without passing there, the pods behind
it have to be under the policy themselves. Most are found by the service's selector; those that it lists by address are found here.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from control.resolve.engine import Group, Read, query
from control.resolve.services import declared, holder
from control.resolve.tables import OBJECTS
from control.resolve.vips import automatic_addresses
from control.resolve.waypoints import USE_WAYPOINT, service_waypoint
from mesh.model.manifest import EndpointSlice, Key, Object, Service, ServiceEntry
from mesh.model.workload import IPAddress, NamespacedHostname

MANAGED_BY, CONTROLLER = "endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"


@query(23)
def bypass(read: Read, key: Key) -> str:
    """How clients get to what is behind a Service or ServiceEntry past a waypoint; "" where they do not."""
    use = read(service_waypoint, key)
    if use.waypoint is None:
        return f"{USE_WAYPOINT}={use.wanted.name}: {use.why}" if use.wanted is not None else "it asks for none"
    for name in read(declared, key):
        other = read(holder, name)
        if other is not None and other != key:
            return f"what {name.hostname} is, {other} says"
        if not _has_address(read, key, name):
            return f"{name.hostname} has no address of its own: clients go to what is behind it"
    return ""


def _has_address(read: Read, key: Key, name: NamespacedHostname) -> bool:
    entry = read(OBJECTS, key)
    if isinstance(entry, Service):
        return bool(entry.spec.addresses)
    return isinstance(entry, ServiceEntry) and bool(entry.spec.addresses or read(automatic_addresses, (name.namespace, name.hostname)))


def _slice_of(_: Key, entry: Object) -> Iterable[Key]:
    # Those that the controller makes are of Services with a selector: there is one for every Service, and nobody asks for them.
    if isinstance(entry, EndpointSlice) and entry.service and entry.labels.get(MANAGED_BY) != CONTROLLER:
        yield Key(Service.TYPE, entry.namespace, entry.service)


SLICES: Group[Key, Object | None, Key] = Group("slices by service", OBJECTS, _slice_of)


@query(24)
def listed_by(read: Read, key: Key) -> frozenset[IPAddress]:
    """The addresses that a Service's slices, or a ServiceEntry, list."""
    entry = read(OBJECTS, key)
    if isinstance(entry, ServiceEntry):
        return frozenset(endpoint.address for endpoint in entry.spec.endpoints if not isinstance(endpoint.address, str | None))
    if not isinstance(entry, Service) or entry.spec.selector:
        return frozenset()
    slices = (read(OBJECTS, found) for found in read(SLICES, key))
    texts = {text for made in slices if isinstance(made, EndpointSlice) for end in made.endpoints for text in end.addresses}
    return frozenset(found for found in map(ip_of, texts) if found is not None)


def ip_of(text: str) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
