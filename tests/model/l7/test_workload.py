"""A workload that is addressed by itself."""

from __future__ import annotations

from ipaddress import ip_address

from mesh.model.codec.envoy import clusters, endpoints
from mesh.model.l7.clusters import Discovery
from mesh.model.l7.endpoints import Tunnel
from mesh.model.l7.profile import Kind, Profile
from mesh.model.l7.routes import Destination, Forward, Retry
from mesh.model.l7.tcp import TcpDestination
from mesh.model.l7.translate import workload
from mesh.model.workload import SocketAddress, TunnelProtocol, Workload

POD = Workload("c//Pod/shop/a", "a", "shop", (ip_address("10.0.0.1"),), protocol=TunnelProtocol.HBONE, service_account="s")
NAME = "workload|c//Pod/shop/a"


def test_in_the_mesh() -> None:
    found = workload.cluster(POD)
    assert (found.name, found.discovery) == (NAME, Discovery.STATIC)
    assert found.endpoints is not None
    (endpoint,) = found.endpoints.groups[0].endpoints
    assert (endpoint.address, endpoint.tunnel) == (
        SocketAddress(ip_address("10.0.0.1"), 0),
        Tunnel(("spiffe://cluster.local/ns/shop/sa/s",)),
    )
    made = clusters.cluster(found, Profile(Kind.WAYPOINT))
    assert [entry.name for entry in made.transport_socket_matches] == ["tunnel", "plain"]
    address = endpoints.assignment(found.endpoints).endpoints[0].lb_endpoints[0].endpoint.address
    assert address.envoy_internal_address.server_listener_name == "connect_direct"


def test_outside_the_mesh() -> None:
    plain = Workload(POD.uid, "a", "shop", POD.addresses)
    assert workload.cluster(plain).discovery is Discovery.ORIGINAL


def test_nothing_to_choose() -> None:
    table = workload.route_table(POD)
    assert table.name == NAME
    (route,) = table.hosts[0].routes
    assert route.match.takes_all
    assert route.action == Forward((Destination(NAME),), retry=Retry(0))
    assert [entry.destinations for entry in workload.tcp_routes(POD)] == [(TcpDestination(NAME),)]
