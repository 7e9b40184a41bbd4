"""A workload that is addressed by itself, through a waypoint: its own cluster, and nothing to choose.

No VirtualService, route or DestinationRule counts for it; policies and telemetry do. Its tunnel is asked for the port that the client asked
for. A pod that has no tunnel is connected to plainly.
"""

from __future__ import annotations

from mesh.model.l7.clusters import Cluster, Discovery, HttpVersion
from mesh.model.l7.endpoints import Assignment, Endpoint, LocalityGroup, Tunnel
from mesh.model.l7.names import workload_cluster_name
from mesh.model.l7.routes import Destination, Forward, Retry, Route, RouteMatch, RouteTable, VirtualHost
from mesh.model.l7.tcp import TcpDestination, TcpRoute
from mesh.model.l7.translate.balancing import described
from mesh.model.workload import SocketAddress, TunnelProtocol, Workload


def cluster(workload: Workload) -> Cluster:
    """For a workload with an address."""
    name = workload_cluster_name(workload.uid)
    if workload.protocol is not TunnelProtocol.HBONE:
        return Cluster(name, workload.name, 0, workload.namespace, discovery=Discovery.ORIGINAL, http=HttpVersion.CLIENT)
    tunnel = Tunnel((str(workload.identity),))
    endpoint = Endpoint(SocketAddress(workload.addresses[0], 0), tunnel=tunnel, workload=described(workload))
    endpoints = Assignment(name, (LocalityGroup((endpoint,), workload.locality),))
    return Cluster(name, workload.name, 0, workload.namespace, discovery=Discovery.STATIC, endpoints=endpoints, http=HttpVersion.CLIENT)


def route_table(workload: Workload) -> RouteTable:
    """Nothing is tried again: there is nowhere else to try."""
    name = workload_cluster_name(workload.uid)
    route = Route(RouteMatch(), Forward((Destination(name),), retry=Retry(0)), name="direct")
    return RouteTable(name, (VirtualHost(workload.name, ("*",), (route,)),))


def tcp_routes(workload: Workload) -> tuple[TcpRoute, ...]:
    return (TcpRoute((TcpDestination(workload_cluster_name(workload.uid)),), name="direct"),)
