"""Whose an address and a name are, to an Envoy beside a client and to gRPC: as to plain clients, by `mesh.model.state` and DNS."""

from __future__ import annotations

import re
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from control.resolve import Mesh
from control.resolve.l7.plans import LISTENER_TYPE, ROUTE_TYPE, Ref
from control.resolve.l7.views import View
from mesh.model.state import MeshState
from mesh.model.workload import Locality, NetworkAddress
from tests.control.objects import feed, ip, pod, resolved, service
from tests.control.resolve.l7 import CLIENT, WAYPOINT, WEB, Served, routes, rule
from tests.control.resolve.test_entries import entry
from tests.control.resolve.test_l7 import cluster
from tests.control.resolve.test_through import ATTACHED, BASE, GRPC, TUNNELS, VIP, WP, WP_POD, dialled
from tests.control.resolve.test_waypoints import CAPTURED, USE, gateway

PORTS = "ports: [{number: 80, name: http, protocol: HTTP}]"
POD = "resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {http: 8080}}]"


def of_others(host: str, addresses: str, name: str = "alias", where: str = "evil", more: str = "") -> str:
    return entry(name, f"hosts: ['{host}'], addresses: [{addresses}], {PORTS}, {POD}", f"namespace: {where}{more}")


def tables(found: Served, listener: str) -> list[str]:
    return re.findall(r"'routeConfigName': '([^']*)'", str(MessageToDict(found.get(LISTENER_TYPE, listener))))


def plain(mesh: Mesh, address: str, namespace: str) -> str:
    """The service that the tunnel of a plain client's node takes an address for."""
    state = MeshState()
    for one in mesh.services.values():
        state.upsert_service(one)
    found = state.service_at(NetworkAddress("", ip(address)), namespace)
    return found.hostname if found is not None else ""


@pytest.mark.parametrize("view", [CLIENT, TUNNELS], ids=["plain", "tunnels"])
@pytest.mark.parametrize("address", ["10.96.0.1", "10.96.0.7"])
@pytest.mark.parametrize(
    "others",
    [
        (of_others("alias.example.com", "10.96.0.1, 10.96.0.7"),),
        (of_others("alias.example.com", "10.96.0.7, 10.96.0.1"),),
        (of_others("a.example.com", "10.96.0.7", "a", "shop"), of_others("b.example.com", "10.96.0.7, 10.96.0.1", "b")),
        (of_others("b.example.com", "10.96.0.7", "b", "shop"), of_others("a.example.com", "10.96.0.7, 10.96.0.1", "a")),
        (of_others("b.example.com", "10.96.0.7", "b", "beta"), of_others("a.example.com", "10.96.0.7", "a", "zeta")),
    ],
)
def test_an_address_is_whose_it_is_to_plain_clients(others: tuple[str, ...], address: str, view: View) -> None:
    mesh = resolved(ATTACHED, *BASE, *others)
    owner, listening = plain(mesh, address, "shop"), Served(view, mesh=mesh)
    if owner:
        assert tables(listening, f"{address}_80") == [f"{owner}:80"]
    assert sorted(name for name in listening.names(LISTENER_TYPE) if name.startswith(address)) == [f"{address}_80"] * bool(owner)
    for name in listening.names(LISTENER_TYPE):
        more = [str(one.address.socket_address.address) for one in listening.get(LISTENER_TYPE, name).additional_addresses]
        assert not {f"{other}_80" for other in more} & listening.names(LISTENER_TYPE), "Envoy refuses an address that two listeners have"


def test_one_host_of_two_namespaces_is_whose_it_is_to_plain_clients() -> None:
    old = of_others("x.example.com", "192.0.2.7", "old", "zeta", ", creationTimestamp: '2020-01-01T00:00:00Z'")
    new = of_others("x.example.com", "192.0.2.7", "new", "beta", ", creationTimestamp: '2024-01-01T00:00:00Z'").replace(
        "10.0.0.1", "10.0.0.2"
    )
    mesh = resolved(WEB, *BASE, old, new)
    state = MeshState()
    for one in mesh.services.values():
        state.upsert_service(one)
    chosen = state.service_at(NetworkAddress("", ip("192.0.2.7")), "shop")
    assert chosen is not None
    assert chosen.namespace == "beta"
    assert dialled(mesh, cluster(host="x.example.com")) == ["10.0.0.2:8080"]


def domains(found: Served) -> dict[str, str]:
    """Virtual hosts of the HTTP proxy by domain."""
    return {domain: host.name for host in found.get(ROUTE_TYPE, "http_proxy").virtual_hosts for domain in host.domains}


@pytest.mark.parametrize("host", ["web.shop", "web"])
def test_nobody_takes_a_services_short_names(host: str) -> None:
    mesh = resolved(ATTACHED, *BASE, of_others(host, "192.0.2.7"))
    own = "web.shop.svc.cluster.local:80"
    assert {domains(Served(CLIENT, mesh=mesh))[name] for name in ("web.shop", "web.shop:80", own, "10.96.0.1")} == {own}
    assert grpc_table(mesh, f"{host}:80") == own


def grpc_table(mesh: Mesh, name: str) -> str:
    ref = Ref(GRPC, LISTENER_TYPE, name)
    mesh.pin(ref)
    mesh.publish(mesh.settle(mesh.take()))
    body: Any = mesh.resources_of(GRPC)[ref].body
    return next(iter(re.findall(rb"[a-z0-9.]+:80", body.replace(name.encode(), b"", 1)))).decode()


def test_an_address_of_others_is_no_domain_of_the_proxy() -> None:
    mesh = resolved(ATTACHED, *BASE, of_others("alias.example.com", "10.96.0.1"))
    assert domains(Served(CLIENT, mesh=mesh))["10.96.0.1"] == "web.shop.svc.cluster.local:80"
    feed(mesh, *BASE, of_others("alias.example.com", "10.96.0.1"))
    assert domains(Served(CLIENT, mesh=mesh))["10.96.0.1"] == "alias.example.com:80"


# What an Envoy that tunnels must not pass on as it is.


def closed(found: Served, listener: str = "virtualOutbound") -> list[str]:
    chains = [chain for chain in found.get(LISTENER_TYPE, listener).filter_chains if chain.name.startswith("BlackHole")]
    return sorted(f"{one.address_prefix}/{one.prefix_len.value}" for chain in chains for one in chain.filter_chain_match.prefix_ranges)


def test_a_tunnel_of_its_own_passes_nothing_to_what_has_a_waypoint() -> None:
    hidden = ATTACHED.replace("namespace: shop,", "namespace: shop, annotations: {networking.istio.io/exportTo: third},", 1)
    far = entry("far", f"hosts: [far.example.com], addresses: ['192.0.2.0/24', '2001:db8::7'], {PORTS}, {POD}", f"labels: {{{USE}}}")
    mesh = resolved(hidden, *BASE, far)
    tunnels = Served(TUNNELS, mesh=mesh)
    assert "10.96.0.1_80" not in tunnels.names(LISTENER_TYPE)
    assert closed(tunnels) == ["10.96.0.1/32", "192.0.2.0/24", "2001:db8::7/128"]
    assert closed(Served(CLIENT, mesh=mesh)) == [], "the tunnel of its node knows"
    asked = str(MessageToDict(tunnels.get(LISTENER_TYPE, "0.0.0.0_80").filter_chain_matcher))
    assert asked.count("BlackHole") >= 3
    assert "far.example.com" in asked, "a network's other ports, too"
    feed(mesh, WEB, *BASE)
    assert closed(tunnels) == []


# Which address clients go to.


def test_the_family_that_the_waypoint_has_is_gone_to() -> None:
    both = ATTACHED.replace("clusterIP: 10.96.0.1", "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00:96::1'], ipFamilies: [IPv4, IPv6]")
    mesh = resolved(both, *BASE)
    assert Served(CLIENT, mesh=mesh).addresses(cluster()) == [VIP]
    feed(mesh, both, gateway(), WP.replace("10.96.0.9", "'fd00:96::9'"), *BASE[2:])
    assert Served(CLIENT, mesh=mesh).addresses(cluster()) == ["fd00:96::1:80"]


def test_pods_that_count_before_they_are_ready_count_for_tunnels_too() -> None:
    unready = pod("wp-1", labels="gateway.networking.k8s.io/gateway-name: wp", status='phase: Running, podIPs: [{ip: "10.0.0.8"}]')
    anyone = WP.replace("clusterIP", "publishNotReadyAddresses: true, clusterIP")
    mesh = resolved(ATTACHED, gateway(), anyone, unready, *BASE[4:])
    assert Served(TUNNELS, mesh=mesh).addresses(cluster()) == [f"tunnel {VIP} by 10.0.0.8:15008"]


@pytest.mark.parametrize("more", ["", ", trafficPolicy: {outlierDetection: {}}"], ids=["anywhere", "placed"])
def test_a_waypoint_is_on_nobodys_way_to_itself(more: str) -> None:
    front = service("front", "clusterIP: 10.96.0.3, selector: {app: front}, ports: [{port: 80, name: http}]", f"labels: {{{USE}}}")
    meshed = pod("web-1", "10.0.0.1", labels=f"app: web, version: v1, {USE}", meta=CAPTURED)
    base = (front, WEB.replace("clusterIP: 10.96.0.1", "clusterIP: None"), gateway(labels="istio.io/waypoint-for: all"), WP, WP_POD, meshed)
    leading = routes("front", "front", "{route: [{destination: {host: web, port: {number: 80}}}]}")
    view = WAYPOINT._replace(locality=Locality("eu", "a", "1"))
    mesh = resolved(*base, leading, rule("web", "web", more=more))
    assert Served(view, mesh=mesh).addresses(cluster()) == ["tunnel 10.0.0.1:8080"]
    assert Served(TUNNELS, mesh=mesh).addresses(cluster()) == ["tunnel 10.0.0.1:8080 by 10.0.0.8:15008"], "others go by it"
