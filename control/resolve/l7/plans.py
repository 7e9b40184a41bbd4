"""Which resources a view needs, and each of them in its wire form.

    plan(view) = {what its listeners, routes, clusters and endpoints are called}         spawns
    resources[ref] = the bytes of one of them, what it needs before it, what it makes a client ask for

A waypoint needs what is attached to it, and where its routes lead; an Envoy beside a client every service that its namespace may see. A
gRPC client asks for single names, which are pinned while it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from control.resolve.engine import Group, Read, query
from control.resolve.l7.backends import Backend, assignments, clusters, placed
from control.resolve.l7.direct import direct_chains, directly
from control.resolve.l7.listens import closed_networks, listeners, named, ports_of, virtual_hosts
from control.resolve.l7.ports import Port, chain, clusters_in, guard, routes_of
from control.resolve.l7.views import View, profile
from mesh.model.codec.envoy import client, grpc, parts, routes, terminate, waypoint
from mesh.model.codec.envoy import clusters as envoy_clusters
from mesh.model.codec.envoy import endpoints as envoy_endpoints
from mesh.model.l7.chains import Chain
from mesh.model.l7.clusters import Cluster, Discovery
from mesh.model.l7.endpoints import Assignment, Endpoint, HostPort, LocalityGroup
from mesh.model.l7.names import (
    BLACK_HOLE,
    CONNECT_DIRECT,
    CONNECT_ORIGINATE,
    CONNECT_TERMINATE,
    HTTP_PROXY,
    MAIN_INTERNAL,
    PASSTHROUGH,
    VIRTUAL_OUTBOUND,
    cluster_name,
    parse_cluster_name,
    route_table_name,
)
from mesh.model.l7.profile import Kind
from mesh.model.l7.routes import RouteTable
from mesh.model.l7.translate import workload as direct
from mesh.model.workload import SocketAddress

PREFIX = "type.googleapis.com/envoy.config."
CLUSTER_TYPE, ENDPOINT_TYPE = f"{PREFIX}cluster.v3.Cluster", f"{PREFIX}endpoint.v3.ClusterLoadAssignment"
LISTENER_TYPE, ROUTE_TYPE = f"{PREFIX}listener.v3.Listener", f"{PREFIX}route.v3.RouteConfiguration"
SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type's name


class Ref(NamedTuple):
    """A resource of a view."""

    view: View
    type_url: str
    name: str


@dataclass(frozen=True, slots=True)
class Resource:
    """`needs` and `follows` as in `control.xds.store.Entry`: what comes before it, and what it makes a client ask for, by type and name."""

    body: bytes
    needs: tuple[tuple[str, str], ...] = ()
    follows: tuple[tuple[str, str], ...] = ()


# Which there are.


@query(73)
def tables(read: Read, view: View) -> Mapping[str, Port]:
    """The port that each route table is of."""
    return MappingProxyType({route_table_name(port.service.hostname, port.number): port for port in read(ports_of, view)})


@query(76)
def plan(read: Read, view: View) -> frozenset[tuple[str, str]]:
    """The types and names of all resources of a view."""
    found: set[tuple[str, str]] = set()
    wanted: set[str] = set()
    bare = view.anywhere()
    for port in read(ports_of, bare):
        routes_made = read(routes_of, port)
        if routes_made is None:
            continue
        if routes_made.value.table is not None:
            found.add((ROUTE_TYPE, routes_made.value.table.name))
        wanted.add(cluster_name(port.service.hostname, port.number))
        wanted |= clusters_in(routes_made.value.table, routes_made.value.tcp)
        for fetched in read(guard, (bare, port.service)).clusters:
            found.add((CLUSTER_TYPE, fetched.name))
    for name in wanted:
        made = read(clusters, Backend(view.unplaced(), name))
        if made is not None:
            found.add((CLUSTER_TYPE, name))
            if made.value.discovery is Discovery.EDS:
                found.add((ENDPOINT_TYPE, name))
    if view.kind is Kind.WAYPOINT:
        found |= {(LISTENER_TYPE, name) for name in (CONNECT_TERMINATE, MAIN_INTERNAL, CONNECT_ORIGINATE, CONNECT_DIRECT)}
        found |= {(CLUSTER_TYPE, name) for name in (MAIN_INTERNAL, CONNECT_ORIGINATE, BLACK_HOLE)}
        found.add((ROUTE_TYPE, CONNECT_TERMINATE))
        found |= {(type_url, name) for name in read(directly, bare) for type_url in (CLUSTER_TYPE, ROUTE_TYPE)}
    else:
        found |= {(LISTENER_TYPE, name) for name in (VIRTUAL_OUTBOUND, HTTP_PROXY, *read(listeners, bare))}
        found |= {(CLUSTER_TYPE, name) for name in (PASSTHROUGH, BLACK_HOLE)}
        found.add((ROUTE_TYPE, HTTP_PROXY))
        if view.tunnels:
            found |= {(LISTENER_TYPE, CONNECT_ORIGINATE), (CLUSTER_TYPE, CONNECT_ORIGINATE)}
    return frozenset(found)


# The resources.


@query(80)
def resources(read: Read, ref: Ref) -> Resource | None:
    """None where there is none of this name."""
    make = (GRPC if ref.view.kind is Kind.GRPC else ENVOY).get(ref.type_url)
    return make(read, ref.view, ref.name) if make is not None else None


PLANNED: Group[View, frozenset[tuple[str, str]], Ref] = Group(
    "planned resources", plan, lambda view, found: [Ref(view, *entry) for entry in found], spawns=resources
)


def _cluster(read: Read, view: View, name: str) -> Resource | None:
    seen = profile(read, view)
    fixed: Mapping[str, Callable[[], Any]] = {
        CONNECT_ORIGINATE: lambda: envoy_clusters.connect_originate(seen),
        MAIN_INTERNAL: envoy_clusters.main_internal,
        PASSTHROUGH: envoy_clusters.passthrough,
        BLACK_HOLE: envoy_clusters.black_hole,
    }
    if name in fixed:
        return Resource(parts.serialized(fixed[name]()))
    made = _found_cluster(read, view, name)
    if made is None and (workload := read(directly, view.anywhere()).get(name)) is not None:
        made = direct.cluster(workload)
    if made is None:
        return None
    follows = ((ENDPOINT_TYPE, name),) if made.discovery is Discovery.EDS else ()
    return Resource(parts.serialized(envoy_clusters.cluster(made, seen)), follows=follows)


def _found_cluster(read: Read, view: View, name: str) -> Cluster | None:
    made = read(clusters, Backend(view.unplaced(), name))
    if made is not None:
        return made.value
    for service in {port.service for port in read(ports_of, view.anywhere())}:
        for fetched in read(guard, (view.anywhere(), service)).clusters:
            if fetched.name == name:
                return fetched
    return None


def _assignment(read: Read, view: View, name: str) -> Resource | None:
    backend = Backend(view if read(placed, Backend(view.unplaced(), name)) else view.unplaced(), name)
    made = read(assignments, backend)
    tunnels = view.kind is Kind.WAYPOINT or view.tunnels
    return Resource(parts.serialized(envoy_endpoints.assignment(made, tunnels=tunnels))) if made is not None else None


def _routes(read: Read, view: View, name: str) -> Resource | None:
    bare = view.anywhere()
    workload = read(directly, bare).get(name)
    if workload is not None:
        table = direct.route_table(workload)
        return _of_table(table, clusters_in(table, ()))
    if name == CONNECT_TERMINATE:
        table = terminate.route_table(_waypoint_chains(read, bare))
        return Resource(parts.serialized(table), ((CLUSTER_TYPE, MAIN_INTERNAL),))
    if name == HTTP_PROXY:
        found = list(virtual_hosts(read, bare))
        # A service's own cluster is not waited for: if that is new, so is the service, and others need not wait for it.
        needed = {name for host, own in found for name in clusters_in(RouteTable(HTTP_PROXY, (host,)), ()) if name != own}
        return _of_table(RouteTable(HTTP_PROXY, tuple(host for host, _ in found)), needed)
    port = read(tables, bare).get(name)
    made = read(routes_of, port) if port is not None else None
    if made is None or made.value.table is None:
        return None
    return _of_table(made.value.table, clusters_in(made.value.table, ()))


def _of_table(table: RouteTable, needed: Iterable[str]) -> Resource:
    return Resource(parts.serialized(routes.route_table(table)), tuple((CLUSTER_TYPE, name) for name in sorted(needed)))


def _listener(read: Read, view: View, name: str) -> Resource | None:
    seen = profile(read, view)
    if view.kind is Kind.WAYPOINT:
        if name == CONNECT_TERMINATE:
            return Resource(parts.serialized(terminate.listener(seen)), follows=((ROUTE_TYPE, CONNECT_TERMINATE),))
        if name == MAIN_INTERNAL:
            chains = _waypoint_chains(read, view.anywhere())
            return Resource(parts.serialized(waypoint.main_internal(chains, seen)), follows=_tables(chains))
    if name == CONNECT_ORIGINATE:
        return Resource(parts.serialized(waypoint.connect_originate()))
    if name == CONNECT_DIRECT:
        return Resource(parts.serialized(waypoint.connect_direct()))
    if name == VIRTUAL_OUTBOUND:
        closed = read(closed_networks, None) if view.tunnels else ()
        return Resource(parts.serialized(client.virtual_outbound(seen, view.ports[0], closed)))
    if name == HTTP_PROXY:
        return Resource(parts.serialized(client.http_proxy(seen, view.ports[1])), follows=((ROUTE_TYPE, HTTP_PROXY),))
    listened = read(listeners, view.anywhere()).get(name)
    if listened is None:
        return None
    chains = _chains(read, listened.ports)
    if listened.addresses:
        made = client.listener(replace(chains[0], addresses=listened.addresses), seen)
    else:
        made = client.network_listener(chains[0].port, chains, seen, read(closed_networks, None) if view.tunnels else ())
    return Resource(parts.serialized(made), follows=_tables(chains))


def _chains(read: Read, ports: Iterable[Port]) -> list[Chain]:
    return [made for made in (read(chain, port) for port in ports) if made is not None]


def _waypoint_chains(read: Read, view: View) -> list[Chain]:
    return [*_chains(read, read(ports_of, view)), *read(direct_chains, view)]


def _tables(chains: Iterable[Chain]) -> tuple[tuple[str, str], ...]:
    return tuple((ROUTE_TYPE, name) for name in sorted({made.table for made in chains if made.table}))


# gRPC's clients ask for single names: host:port, and what follows from that.


def _grpc_port(read: Read, view: View, name: str) -> Port | None:
    """What `xds:///name` means: a host's full name, or a Service's shorter ones as in DNS."""
    host, colon, number = name.rpartition(":")
    if not colon or not number.isdecimal() or len(number) > 5:
        return None
    found = named(read, view.anywhere(), host)
    return Port(view.anywhere(), found, int(number)) if found is not None else None


def _grpc_table(read: Read, view: View, name: str) -> RouteTable | None:
    port = _grpc_port(read, view, name)
    made = read(routes_of, port) if port is not None else None
    return made.value.table if made is not None else None


def _grpc_listener(read: Read, view: View, name: str) -> Resource | None:
    table = _grpc_table(read, view, name)
    return Resource(parts.serialized(grpc.listener(name, table.name))) if table is not None else None


def _grpc_routes(read: Read, view: View, name: str) -> Resource | None:
    table = _grpc_table(read, view, name)
    slack = grpc.SLACK_OF_C_CORE if view.c_core else grpc.NO_SLACK
    return Resource(parts.serialized(grpc.route_table(table, slack=slack))) if table is not None else None


def _grpc_cluster(read: Read, view: View, name: str) -> Resource | None:
    """A route may lead where there is nothing: a cluster without endpoints, so that calls fail at once. A client would wait for one that is
    not there for 15 seconds.
    """
    if name == BLACK_HOLE:
        return Resource(parts.serialized(grpc.black_hole()[0]))
    parsed = parse_cluster_name(name)
    if parsed is None:
        return None
    made = read(clusters, Backend(view.anywhere(), name))
    return Resource(parts.serialized(grpc.cluster(_looked_up(made.value) if made is not None else Cluster(name, parsed.host, parsed.port))))


def _looked_up(cluster: Cluster) -> Cluster:
    """Clients resolve one name for a cluster, where all of it is behind that; among addresses they take none."""
    named = next((endpoint for endpoint in _endpoints(cluster.endpoints) if isinstance(endpoint.address, HostPort)), None)
    if cluster.endpoints is None or named is None or any(map(_numeric, _endpoints(cluster.endpoints))):
        return replace(cluster, discovery=Discovery.EDS)
    return replace(cluster, discovery=Discovery.DNS_ONE, endpoints=Assignment(cluster.name, (LocalityGroup((named,)),)))


def _grpc_assignment(read: Read, view: View, name: str) -> Resource | None:
    if name == BLACK_HOLE:
        return Resource(parts.serialized(grpc.black_hole()[1]))
    backend = Backend(view if read(placed, Backend(view.anywhere(), name)) else view.anywhere(), name)
    made = read(assignments, backend)
    if made is None and parse_cluster_name(name) is None:
        return None
    made = made or Assignment(name)
    groups = tuple(replace(group, endpoints=tuple(filter(_numeric, group.endpoints))) for group in made.groups)
    return Resource(parts.serialized(grpc.assignment(Assignment(name, tuple(group for group in groups if group.endpoints)))))


def _endpoints(made: Assignment | None) -> Iterator[Endpoint]:
    for group in made.groups if made is not None else ():
        yield from group.endpoints


def _numeric(endpoint: Endpoint) -> bool:
    return isinstance(endpoint.address, SocketAddress)


Make = Callable[[Read, View, str], Resource | None]
ENVOY: Mapping[str, Make] = {CLUSTER_TYPE: _cluster, ENDPOINT_TYPE: _assignment, LISTENER_TYPE: _listener, ROUTE_TYPE: _routes}
GRPC: Mapping[str, Make] = {
    CLUSTER_TYPE: _grpc_cluster,
    ENDPOINT_TYPE: _grpc_assignment,
    LISTENER_TYPE: _grpc_listener,
    ROUTE_TYPE: _grpc_routes,
}
