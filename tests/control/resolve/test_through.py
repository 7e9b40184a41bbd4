"""A service with a waypoint, to clients that we configure: its address, and nothing of what its waypoint does."""

from __future__ import annotations

from typing import Any

import pytest

from control.resolve import Mesh
from control.resolve.l7.plans import CLUSTER_TYPE, ENDPOINT_TYPE, ROUTE_TYPE, Ref
from control.resolve.l7.views import View
from mesh.model.l7.profile import Kind
from tests.control.objects import conditions, feed, pod, resolved, service
from tests.control.resolve.l7 import CLIENT, MESSAGES, PODS, WAYPOINT, WEB, Served, routes, rule, to
from tests.control.resolve.test_entries import entry
from tests.control.resolve.test_l7 import HTTP_ROUTE, PARENT, TABLE, TO_V1, cluster
from tests.control.resolve.test_waypoints import CAPTURED, USE, gateway

TUNNELS = CLIENT._replace(tunnels=True)
GRPC = View(Kind.GRPC, "shop")
WP_LABEL = "gateway.networking.k8s.io/gateway-name: wp"
WP = service("wp", f"clusterIP: 10.96.0.9, selector: {{{WP_LABEL}}}, ports: [{{port: 15008, name: mesh}}]")
WP_POD = pod("wp-1", "10.0.0.8", labels=WP_LABEL, spec="serviceAccountName: guard")
SECOND = pod("wp-2", "10.0.0.7", labels=WP_LABEL, spec="serviceAccountName: guard")
MESHED = (pod("web-1", "10.0.0.1", labels="app: web, version: v1", meta=CAPTURED), PODS[1])
ATTACHED = WEB.replace("namespace: shop", f"namespace: shop, labels: {{{USE}}}")
BASE = (gateway(), WP, WP_POD, SECOND, *MESHED)
VIP = "10.96.0.1:80"
THROUGH = [f"tunnel {VIP} by 10.0.0.8:15008", f"tunnel {VIP} by 10.0.0.7:15008"]
OTHER = service("other", "clusterIP: 10.96.0.2, selector: {app: other}, ports: [{port: 80, name: http}]")
LEADING = routes("other", "other", f"{{route: [{to('v1')}, {to('undefined')}], mirror: {{host: web, subset: v2}}}}")
OTHER_TABLE = "other.shop.svc.cluster.local:80"
STRICT = ", trafficPolicy: {tls: {mode: SIMPLE}, outlierDetection: {}, loadBalancer: {consistentHash: {useSourceIp: true}}}"


def of_grpc(mesh: Mesh, type_url: str, name: str) -> Any:
    ref = Ref(GRPC, type_url, name)
    if ref not in mesh.resources_of(GRPC):
        mesh.pin(ref)
        mesh.publish(mesh.settle(mesh.take()))
    return MESSAGES[type_url].FromString(mesh.resources_of(GRPC)[ref].body)


def dialled(mesh: Mesh, name: str) -> list[str]:
    """Where a gRPC client connects to."""
    groups = of_grpc(mesh, ENDPOINT_TYPE, name).endpoints
    found = [one.endpoint.address.socket_address for group in groups for one in group.lb_endpoints]
    return [f"{address.address}:{address.port_value}" for address in found]


def test_its_address_is_where_clients_go() -> None:
    mesh = resolved(ATTACHED, *BASE)
    assert Served(CLIENT, mesh=mesh).addresses(cluster()) == [VIP]
    assert Served(TUNNELS, mesh=mesh).addresses(cluster()) == THROUGH
    assert dialled(mesh, cluster()) == [VIP]
    assert Served(WAYPOINT, mesh=mesh).addresses(cluster()) == ["tunnel 10.0.0.1:8080", "10.0.0.2:8080"], "who is behind it, it knows"


def test_a_tunnel_goes_to_the_waypoint_and_asks_it_for_the_address() -> None:
    made = Served(TUNNELS, ATTACHED, *BASE).get(ENDPOINT_TYPE, cluster())
    described = [one.metadata.filter_metadata for group in made.endpoints for one in group.lb_endpoints]
    assert [dict(one["envoy.filters.listener.original_dst"]) for one in described] == [
        {"local": VIP, "waypoint": f"10.0.0.{number}:15008"} for number in (8, 7)
    ]
    assert [dict(one["culvert"]) for one in described] == [{"identities": "spiffe://cluster.local/ns/shop/sa/guard"}] * 2


def test_without_a_ready_pod_of_the_waypoint_tunnels_lead_nowhere() -> None:
    unready = pod("wp-1", labels=WP_LABEL, status='phase: Running, podIPs: [{ip: "10.0.0.8"}]')
    found = Served(TUNNELS, ATTACHED, gateway(), WP, unready, *MESHED)
    assert found.addresses(cluster()) == []
    feed(found.mesh, ATTACHED, gateway(), WP, SECOND, *MESHED)
    assert found.addresses(cluster()) == THROUGH[1:]


def test_where_the_address_is_an_envoys_own_only_a_tunnel_leads_out() -> None:
    mesh = resolved(ATTACHED, *BASE)
    assert Served(CLIENT._replace(bind=True), mesh=mesh).addresses(cluster()) == []
    assert Served(TUNNELS._replace(bind=True), mesh=mesh).addresses(cluster()) == THROUGH


WRITTEN = [
    (routes("web", "web", f"{{fault: {{abort: {{httpStatus: 500, percentage: {{value: 100}}}}}}, route: [{to('v1')}]}}"),),
    (routes("web", "'*.local'", TO_V1, where="other"),),
    (HTTP_ROUTE % ("r", "shop", PARENT, "{backendRefs: [{name: other, port: 80}]}"),),
    (HTTP_ROUTE % ("r", "shop", PARENT, "{backendRefs: [{name: web, port: 80}]}"), routes("web", "web", TO_V1)),
]


@pytest.mark.parametrize("written", WRITTEN)
def test_what_is_written_about_it_is_its_waypoints_to_do(written: tuple[str, ...]) -> None:
    own = rule("web", "web", more=STRICT)
    mesh = resolved(ATTACHED, OTHER, *BASE, own, *written)
    found = Served(CLIENT, mesh=mesh)
    assert found.clusters(TABLE) == [cluster()]
    (route,) = found.get(ROUTE_TYPE, TABLE).virtual_hosts[0].routes
    assert not route.typed_per_filter_config
    assert route.route.retry_policy.num_retries.value == 0, "it tries again"
    made = found.get(CLUSTER_TYPE, cluster())
    assert not made.HasField("outlier_detection")
    assert all(one.transport_socket.name != "envoy.transport_sockets.tls" for one in made.transport_socket_matches)
    assert "hash_policy" not in str(made)
    assert not of_grpc(mesh, CLUSTER_TYPE, cluster()).HasField("outlier_detection")
    (plain,) = of_grpc(mesh, ROUTE_TYPE, TABLE).virtual_hosts[0].routes
    assert (plain.route.cluster, plain.route.HasField("retry_policy")) == (cluster(), False)
    feed(mesh, WEB, OTHER, *BASE, own, *written)
    assert (found.clusters(TABLE), found.get(CLUSTER_TYPE, cluster()).HasField("outlier_detection")) != ([cluster()], False)


def test_routes_of_others_end_at_its_address_whatever_subset_they_name() -> None:
    mesh = resolved(ATTACHED, OTHER, *BASE, rule("web", "web"), LEADING)
    names = [cluster(subset) for subset in ("v1", "undefined", "v2")]
    for view, there in ((CLIENT, [VIP]), (TUNNELS, THROUGH)):
        found = Served(view, mesh=mesh)
        assert found.clusters(OTHER_TABLE) == [f"{names[0]}=1 {names[1]}=1"]
        assert [found.addresses(name) for name in names] == [there] * 3
    assert [dialled(mesh, name) for name in names] == [[VIP]] * 3
    assert conditions(mesh, "VirtualService shop/other")["ResolvedRefs"] == ("True", "ResolvedRefs")
    (status,) = [status for key, status in mesh.statuses.items() if str(key) == "VirtualService shop/other"]
    assert [note.partition(": ")[0] for note in status.notes] == [
        *(f"spec.http[0].route[{index}].destination.subset" for index in (0, 1)),
        "spec.http[0].mirror.subset",
    ], "the choice that is not made is told"


@pytest.mark.parametrize(
    ("where", "kind", "reason"),
    [
        ("shop", "VirtualService", "Waypoint"),
        ("client", "VirtualService", "OtherNamespace"),
        ("istio-system", "VirtualService", "OtherNamespace"),
        ("shop", "DestinationRule", "Waypoint"),
        ("client", "DestinationRule", "OtherNamespace"),
        ("istio-system", "DestinationRule", "Waypoint"),
    ],
)
def test_what_only_clients_would_go_by_says_that_nobody_does(where: str, kind: str, reason: str) -> None:
    full = "web.shop.svc.cluster.local"
    written = (
        routes("mine", full, f"{{route: [{{destination: {{host: {full}}}}}]}}", where=where)
        if kind == "VirtualService"
        else rule("mine", full, where=where)
    )
    mesh = resolved(ATTACHED, *BASE, written)
    assert conditions(mesh, f"{kind} {where}/mine")["Enforced"] == (str(reason == "Waypoint"), reason)
    feed(mesh, WEB, *BASE, written)
    assert conditions(mesh, f"{kind} {where}/mine")["Enforced"] == ("False", "NeedsWaypoint")


def test_a_waypoint_comes_and_goes() -> None:
    found = Served(CLIENT, WEB, OTHER, *BASE, rule("web", "web"), LEADING)
    tunnels = Served(TUNNELS, mesh=found.mesh)
    plain = ["10.0.0.1:8080", "10.0.0.2:8080"]
    for _ in range(2):
        assert found.addresses(cluster()) == plain
        assert found.addresses(cluster("v1")) == plain[:1]
        assert tunnels.addresses(cluster()) == ["tunnel 10.0.0.1:8080", "10.0.0.2:8080"]
        assert cluster("undefined") not in found.names(CLUSTER_TYPE)
        feed(found.mesh, ATTACHED, OTHER, *BASE, rule("web", "web"), LEADING)
        assert found.addresses(cluster()) == found.addresses(cluster("v1")) == found.addresses(cluster("undefined")) == [VIP]
        assert tunnels.addresses(cluster()) == tunnels.addresses(cluster("v1")) == THROUGH
        feed(found.mesh, WEB, OTHER, *BASE, rule("web", "web"), LEADING)


def test_one_without_an_address_is_looked_up_as_ever() -> None:
    headless = ATTACHED.replace("clusterIP: 10.96.0.1", "clusterIP: None")
    mesh = resolved(headless, *BASE, rule("web", "web"), routes("web", "web", TO_V1))
    assert Served(CLIENT, mesh=mesh).clusters(TABLE) == [cluster("v1")]
    assert Served(CLIENT, mesh=mesh).addresses(cluster("v1")) == ["10.0.0.1:8080"]
    assert Served(TUNNELS, mesh=mesh).addresses(cluster("v1")) == ["tunnel 10.0.0.1:8080"]


def test_pods_that_are_looked_up_may_have_a_waypoint_of_their_own() -> None:
    headless = WEB.replace("clusterIP: 10.96.0.1", "clusterIP: None")
    meshed = pod("web-1", "10.0.0.1", labels=f"app: web, {USE}", meta=CAPTURED)
    base = (headless, gateway(labels="istio.io/waypoint-for: workload"), WP, meshed, PODS[1])
    mesh = resolved(*base, WP_POD)
    tunnels = Served(TUNNELS, mesh=mesh)
    assert tunnels.addresses(cluster()) == ["tunnel 10.0.0.1:8080 by 10.0.0.8:15008", "10.0.0.2:8080"]
    assert Served(CLIENT, mesh=mesh).addresses(cluster()) == ["10.0.0.1:8080", "10.0.0.2:8080"], "its node's tunnel knows"
    feed(mesh, *base)
    assert tunnels.addresses(cluster()) == ["10.0.0.2:8080"], "around a waypoint that is not there leads nothing"
    feed(mesh, WEB, *base[1:], WP_POD)
    assert tunnels.addresses(cluster()) == ["tunnel 10.0.0.1:8080", "10.0.0.2:8080"], "who asks for the Service does not ask for its pods"


def test_names_that_only_requests_tell_have_no_address_either() -> None:
    spec = "hosts: ['*.example.com'], location: MESH_EXTERNAL, ports: [{number: 80, name: http, protocol: HTTP}], resolution: DYNAMIC_DNS"
    found = Served(CLIENT, entry("ext", spec, f"labels: {{{USE}}}"), *BASE)
    assert found.get(CLUSTER_TYPE, cluster(host="*.example.com")).cluster_type.name == "envoy.clusters.dynamic_forward_proxy"


def test_pods_that_nothing_leads_to_any_more_cost_clients_nothing() -> None:
    found = Served(CLIENT, ATTACHED, *BASE)
    before = found.mesh.engine.computed
    changes = feed(found.mesh, ATTACHED, *BASE[:-1], MESHED[1].replace("10.0.0.2", "10.0.0.99"))
    assert not changes.l7
    assert found.mesh.engine.computed - before < 8


# ServiceEntries, by what clients would do to find who is behind them.

HOST, WILD = "ext.example.com", "*.example.com"
LISTED = "resolution: STATIC, endpoints: [{address: 198.51.100.1}]"
ENTRIES = [
    # (host, addresses, resolution, where clients go; None: where each connection was meant to go)
    (HOST, "192.0.2.5", "resolution: DNS", "192.0.2.5"),
    (HOST, "192.0.2.5", "resolution: DNS_ROUND_ROBIN", "192.0.2.5"),
    (HOST, "'2001:db8::5', 192.0.2.5", LISTED, "192.0.2.5"),
    (HOST, "'2001:db8::5'", "resolution: DNS", "2001:db8::5"),
    (HOST, "192.0.2.0/24", LISTED, None),
    (WILD, "192.0.2.5", LISTED, "192.0.2.5"),
    (HOST, "192.0.2.5", "resolution: NONE", "192.0.2.5"),
    (HOST, "192.0.2.5, 192.0.2.6", "resolution: NONE", None),
    (WILD, "192.0.2.0/24", "resolution: NONE", None),
]


@pytest.mark.parametrize(("host", "addresses", "resolution", "there"), ENTRIES)
def test_service_entries(host: str, addresses: str, resolution: str, there: str | None) -> None:
    ports = "ports: [{number: 80, name: http, protocol: HTTP}]"
    made = entry("ext", f"hosts: ['{host}'], {ports}, addresses: [{addresses}], {resolution}", f"labels: {{{USE}}}")
    name, mesh = cluster(host=host), resolved(made, *BASE)
    found, tunnels = Served(CLIENT, mesh=mesh), Served(TUNNELS, mesh=mesh)
    how = found.get(CLUSTER_TYPE, name)
    assert (how.HasField("cluster_type"), how.HasField("load_assignment")) == (False, False)
    if there is None:
        assert how.type == how.ORIGINAL_DST
        assert (tunnels.addresses(name), dialled(mesh, name)) == ([], []), "past no waypoint"
    else:
        address = f"[{there}]" if ":" in there else there
        assert found.addresses(name) == dialled(mesh, name) == [f"{there}:80"]
        assert tunnels.addresses(name) == [f"tunnel {address}:80 by 10.0.0.{number}:15008" for number in (8, 7)]


def test_a_name_that_was_given_an_address_is_looked_up_by_its_waypoint_alone() -> None:
    made = entry("ext", f"hosts: [{HOST}], ports: [{{number: 80, name: http}}], resolution: DNS", f"labels: {{{USE}}}")
    found = Served(CLIENT, made, *BASE)
    (address,) = found.addresses(cluster(host=HOST))
    assert address.startswith("240.240.")
    feed(found.mesh, made.replace(USE, f"{USE}, networking.istio.io/enable-autoallocate-ip: 'false'"), *BASE)
    assert found.get(CLUSTER_TYPE, cluster(host=HOST)).type == MESSAGES[CLUSTER_TYPE].STRICT_DNS, "without one, as ever"
