"""Which of what users wrote about a host counts for whom, and what is served of it."""

from __future__ import annotations

import pytest

from control.resolve import Mesh
from control.resolve.l7.backends import Backend, clusters
from control.resolve.l7.plans import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE
from control.resolve.l7.ports import guard
from control.resolve.l7.views import View
from mesh.model.l7.policies import deny_all
from mesh.model.l7.profile import Kind
from mesh.model.workload import Locality, NamespacedHostname
from tests.control.objects import feed, pod, policy, resolved, service
from tests.control.resolve.l7 import CLIENT, PODS, WAYPOINT, WEB, Served, routes, rule, to
from tests.control.resolve.test_entries import entry
from tests.control.resolve.test_waypoints import CAPTURED, WP_SERVICE, gateway

HOST = "web.shop.svc.cluster.local"
TABLE = f"{HOST}:80"


def cluster(subset: str = "", host: str = HOST, port: int = 80) -> str:
    return f"outbound|{port}|{subset}|{host}"


def test_an_envoy_beside_a_client_gets_every_service() -> None:
    found = Served(CLIENT, WEB, *PODS)
    assert found.names(CLUSTER_TYPE) == {cluster(), "PassthroughCluster", "BlackHoleCluster"}
    assert found.names(LISTENER_TYPE) == {"virtualOutbound", "http_proxy", "10.96.0.1_80"}
    assert found.names(ROUTE_TYPE) == {TABLE, "http_proxy"}
    assert found.clusters(TABLE) == [cluster()]
    assert found.addresses(cluster()) == ["10.0.0.1:8080", "10.0.0.2:8080"]


def test_a_waypoint_gets_what_is_attached_and_where_that_leads() -> None:
    attached = WEB.replace("namespace: shop", "namespace: shop, labels: {istio.io/use-waypoint: wp}")
    other = service("other", "selector: {app: other}, ports: [{port: 80, name: http}]")
    unrelated = service("unrelated", "ports: [{port: 80, name: http}]")
    found = Served(
        WAYPOINT,
        gateway(),
        WP_SERVICE,
        attached,
        other,
        unrelated,
        pod("web-1", "10.0.0.1", meta=CAPTURED),
        pod("other-1", "10.0.0.3", labels="app: other"),
        routes("web", "web", "{route: [{destination: {host: other}}]}"),
    )
    elsewhere = cluster(host="other.shop.svc.cluster.local")
    assert found.names(LISTENER_TYPE) == {"connect_terminate", "main_internal", "connect_originate", "connect_direct"}
    assert found.names(CLUSTER_TYPE) == {cluster(), elsewhere, "main_internal", "connect_originate", "BlackHoleCluster"}
    assert found.names(ROUTE_TYPE) == {TABLE, "connect_terminate"}
    assert found.addresses(cluster()) == ["tunnel 10.0.0.1:8080"], "it is in the mesh"
    assert found.addresses(elsewhere) == ["10.0.0.3:80"]


# VirtualServices.

TO_V1, TO_V2 = f"{{route: [{to('v1')}]}}", f"{{route: [{to('v2')}]}}"


def test_pods_behind_a_waypoint_are_chains_of_it_for_every_port() -> None:
    front = gateway(labels="istio.io/waypoint-for: workload")
    target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]"
    deny = policy("keep-out", f"{target}, action: DENY, rules: [{{to: [{{operation: {{paths: [/secret]}}}}]}}]")
    web = pod("web-1", "10.0.0.1", labels="app: web, istio.io/use-waypoint: wp", meta=CAPTURED)
    found = Served(WAYPOINT, front, WP_SERVICE, WEB, web, deny, pod("plain", "10.0.0.2"))
    name = "workload|Kubernetes//Pod/shop/web-1"
    assert name in found.names(CLUSTER_TYPE)
    assert name in found.names(ROUTE_TYPE)
    assert found.clusters(name) == [name]
    chains = [chain.name for chain in found.get(LISTENER_TYPE, "main_internal").filter_chains]
    assert [chain for chain in chains if "web-1" in chain] == ["Kubernetes//Pod/shop/web-1_8080", "Kubernetes//Pod/shop/web-1_0"]
    assert "/secret" in str(found.get(LISTENER_TYPE, "main_internal"))
    assert "plain" not in str(chains)
    feed(found.mesh, front, WP_SERVICE, WEB, pod("web-1", "10.0.0.1"))
    assert name not in found.names(CLUSTER_TYPE)


EXPORTS = [
    # (exportTo, namespace of the VirtualService, it counts for a client in shop)
    ("", "shop", True),
    ("", "other", True),
    (", exportTo: ['.']", "shop", True),
    (", exportTo: ['.']", "other", False),
    (", exportTo: [shop]", "other", True),
    (", exportTo: [third]", "other", False),
]


@pytest.mark.parametrize(("export", "where", "counts"), EXPORTS)
def test_virtual_services_count_where_they_are_exported_to(export: str, where: str, counts: bool) -> None:
    written = routes("web", HOST, f"{{route: [{to('v1', HOST)}]}}", where=where, more=export)
    found = Served(CLIENT, WEB, rule("web", "web"), written, *PODS)
    assert found.clusters(TABLE) == [cluster("v1") if counts else cluster()]


def test_the_most_specific_host_counts_and_the_oldest_goes_first() -> None:
    wide = routes("wide", "'*.svc.cluster.local'", f"{{route: [{to('v1', HOST)}]}}")
    wider = routes("wider", "'*.local'", f"{{route: [{to('v2', HOST)}]}}")
    found = Served(CLIENT, WEB, rule("web", "web"), wider, wide, *PODS)
    assert found.clusters(TABLE) == [cluster("v1")]
    match = "{match: [{uri: {prefix: /a}}], "
    young = routes("a", "web", f"{match}route: [{to('v1')}]}}", meta=', creationTimestamp: "2026-02-01T00:00:00Z"')
    old = routes("b", "web", f"{match}route: [{to('v2')}]}}", meta=', creationTimestamp: "2026-01-01T00:00:00Z"')
    feed(found.mesh, WEB, rule("web", "web"), young, old, *PODS)
    assert found.clusters(TABLE) == [cluster("v2"), cluster("v1")]


def test_a_waypoint_sees_those_of_its_own_and_the_services_namespace() -> None:
    attached = WEB.replace("namespace: shop", "namespace: shop, labels: {istio.io/use-waypoint: wp}")
    base = (gateway(), WP_SERVICE, attached, rule("web", "web"), *PODS)
    elsewhere = routes("web", HOST, f"{{route: [{to('v1', HOST)}]}}", where="other")
    assert Served(WAYPOINT, *base, elsewhere).clusters(TABLE) == [cluster()]
    hidden = routes("web", "web", TO_V1, more=", exportTo: [third]")
    assert Served(WAYPOINT, *base, hidden).clusters(TABLE) == [cluster("v1")]
    wild = routes("web", "'*.local'", f"{{route: [{to('v1', HOST)}]}}")
    assert Served(WAYPOINT, *base, wild).clusters(TABLE) == [cluster()], "a waypoint's services are named in full"


def test_delegates_are_looked_up() -> None:
    root = routes("root", "web", "{match: [{uri: {prefix: /a}}], delegate: {name: leaf, namespace: other}}")
    leaf = routes("leaf", "", f"{{match: [{{uri: {{prefix: /a/b}}}}], route: [{to('v2', HOST)}]}}", where="other").replace(
        "hosts: [], ", ""
    )
    found = Served(CLIENT, WEB, rule("web", "web"), root, leaf, *PODS)
    assert found.clusters(TABLE) == [cluster("v2")]
    feed(found.mesh, WEB, rule("web", "web"), root, "", *PODS)
    assert found.clusters(TABLE) == []


# DestinationRules.


def lookups(*rules: str, client: str = "client") -> set[str]:
    """The subsets that exist for a client of that namespace."""
    mesh = resolved(WEB, *PODS, *rules)
    backends = {name: Backend(View(Kind.CLIENT, client), cluster(name)) for name in ("v1", "v2", "v3")}
    for backend in backends.values():
        mesh.engine.pin(clusters, backend)
    mesh.settle(mesh.take())
    return {name for name, backend in backends.items() if mesh.engine.value(clusters, backend) is not None}


OWN, THEIRS, ROOT = (rule("r", HOST, subset, where=where) for subset, where in (("v1", "client"), ("v2", "shop"), ("v3", "istio-system")))
WILD = rule("w", "*.shop.svc.cluster.local", "v3", where="client")


@pytest.mark.parametrize(
    ("rules", "subsets"),
    [
        ((OWN, THEIRS, ROOT), {"v1"}),
        ((THEIRS, ROOT), {"v2"}),
        ((ROOT,), {"v3"}),
        ((WILD, OWN), {"v1"}),
        ((WILD, THEIRS), {"v3"}),
        ((rule("a", HOST, "v1", where="client"), rule("b", HOST, "v2", where="client")), {"v1", "v2"}),
        ((rule("a", HOST, "v1", where="shop", more=", exportTo: ['.']"), ROOT), {"v3"}),
        ((rule("a", HOST, "v1", where="elsewhere"),), set()),
    ],
)
def test_where_destination_rules_are_looked_up(rules: tuple[str, ...], subsets: set[str]) -> None:
    assert lookups(*rules) == subsets


def test_subsets_choose_endpoints_by_their_labels() -> None:
    found = Served(CLIENT, WEB, rule("web", "web"), routes("web", "web", f"{TO_V2}"), *PODS)
    assert found.addresses(cluster("v2")) == ["10.0.0.2:8080"]
    listed = "endpoints: [{address: 192.0.2.1, labels: {version: v1}}, {address: 192.0.2.2, labels: {version: v2}}]"
    external = entry("ext", f"hosts: [ext.example.com], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, {listed}")
    found = Served(
        CLIENT,
        external,
        rule("ext", "ext.example.com"),
        routes("ext", "ext.example.com", f"{{route: [{to('v2', 'ext.example.com')}]}}"),
    )
    assert found.addresses(cluster("v2", "ext.example.com")) == ["192.0.2.2:80"]


def test_names_that_are_looked_up_are_a_part_of_their_cluster() -> None:
    found = Served(CLIENT, entry("ext", "hosts: [ext.example.com], ports: [{number: 80, name: http}], resolution: DNS"))
    name = cluster(host="ext.example.com")
    made = found.get(CLUSTER_TYPE, name)
    assert made.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address == "ext.example.com"
    assert name not in found.names(ENDPOINT_TYPE)


def test_places_matter_only_where_a_rule_says_so() -> None:
    place = "topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: "
    nodes = [f"{{apiVersion: v1, kind: Node, metadata: {{name: n{zone}, labels: {{{place}{zone}}}}}}}" for zone in "ab"]
    pods = (PODS[0].replace("n1", "na"), PODS[1].replace("n1", "nb"))
    outlier = ", trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}"
    near = CLIENT._replace(locality=Locality("eu", "b"))
    plain = Served(near, WEB, *pods, *nodes)
    assert len({group.priority for group in plain.get(ENDPOINT_TYPE, cluster()).endpoints}) == 1
    found = Served(near, WEB, *pods, *nodes, rule("web", "web", "", more=outlier))
    priorities = {group.locality.zone: group.priority for group in found.get(ENDPOINT_TYPE, cluster()).endpoints}
    assert priorities == {"b": 0, "a": 1}


# Routes of the Gateway API.

HTTP_ROUTE = (
    "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: %s, namespace: %s}, "
    "spec: {parentRefs: [%s], rules: [%s]}}"
)
PARENT = "{group: '', kind: Service, name: web, namespace: shop}"


GRANT = (
    "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: shop}, "
    "spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: client}], to: [{group: '', kind: Service, name: b}]}}"
)


def test_routes_of_the_service_and_of_its_consumers() -> None:
    backend = "{backendRefs: [{name: %s, port: 80, namespace: shop}]}"
    services = [service(name, "selector: {app: x}, ports: [{port: 80, name: http}]") for name in ("a", "b")]
    producer = HTTP_ROUTE % ("p", "shop", PARENT, backend % "a")
    consumer = HTTP_ROUTE % ("c", "client", PARENT, backend % "b")
    mesh = resolved(WEB, *services, producer, consumer, GRANT, *PODS)
    for namespace, name in (("shop", "a"), ("client", "b"), ("third", "a")):
        found = Served(View(Kind.CLIENT, namespace), mesh=mesh)
        assert found.clusters(TABLE) == [cluster(host=f"{name}.shop.svc.cluster.local")]


def test_a_consumers_route_leaves_the_producers_to_everybody_else_at_a_waypoint() -> None:
    attached = WEB.replace("namespace: shop", "namespace: shop, labels: {istio.io/use-waypoint: wp}")
    other = service("other", "selector: {app: x}, ports: [{port: 80, name: http}]")
    consumer = HTTP_ROUTE % ("c", "client", PARENT, "{backendRefs: [{name: web, port: 80, namespace: shop}]}")
    mine = routes("mine", "web", "{route: [{destination: {host: other}}]}")
    found = Served(WAYPOINT, gateway(), WP_SERVICE, attached, other, mine, consumer, *PODS)
    assert found.clusters(TABLE) == [cluster(), "-", cluster(host="other.shop.svc.cluster.local")]
    statuses = found.mesh.statuses
    assert {str(key): value.notes for key, value in statuses.items() if key.kind in ("HTTPRoute", "VirtualService")} == {
        "HTTPRoute client/c": (),
        "VirtualService shop/mine": (),
    }


def refs_of(mesh: Mesh, name: str) -> tuple[str, str]:
    """What the status of an HTTPRoute says of its references."""
    (status,) = (status for key, status in mesh.statuses.items() if (key.kind, key.name) == ("HTTPRoute", name))
    assert status.wanted is not None
    assert status.wanted.parents is not None
    (found,) = (one for one in status.wanted.parents[0].conditions if one.type == "ResolvedRefs")
    return found.status, found.reason


def test_a_grant_that_comes_or_goes_changes_the_routes_that_it_is_for() -> None:
    services = [service(name, "selector: {app: x}, ports: [{port: 80, name: http}]") for name in ("a", "b")]
    own = [
        service(f"self-{name}", "clusterIP: 10.96.1.1, ports: [{port: 80, name: http}]", "namespace: client").replace(
            "10.96.1.1", f"10.96.1.{index}"
        )
        for index, name in enumerate(("a", "b"), 1)
    ]
    lead = [
        HTTP_ROUTE
        % (
            name,
            "client",
            f"{{group: '', kind: Service, name: self-{name}}}",
            f"{{backendRefs: [{{name: {name}, port: 80, namespace: shop}}]}}",
        )
        for name in ("a", "b")
    ]
    many = [service(f"s{index}", "ports: [{port: 80, name: http}]") for index in range(50)]
    view = View(Kind.CLIENT, "client")
    everything = (*services, *own, *lead, *many)
    found = Served(view, *everything, "")
    tables = {name: f"self-{name}.client.svc.cluster.local:80" for name in ("a", "b")}
    for name in ("a", "b"):
        assert found.get(ROUTE_TYPE, tables[name]).virtual_hosts[0].routes[0].direct_response.status == 500
        assert refs_of(found.mesh, name) == ("False", "RefNotPermitted")
    before = found.mesh.engine.computed
    feed(found.mesh, *everything, GRANT)
    assert found.clusters(tables["b"]) == [cluster(host="b.shop.svc.cluster.local")]
    assert refs_of(found.mesh, "b") == ("True", "ResolvedRefs")
    assert found.get(ROUTE_TYPE, tables["a"]).virtual_hosts[0].routes[0].direct_response.status == 500
    assert refs_of(found.mesh, "a") == ("False", "RefNotPermitted")
    assert found.mesh.engine.computed - before < 20
    feed(found.mesh, *everything, "")
    assert found.get(ROUTE_TYPE, tables["b"]).virtual_hosts[0].routes[0].direct_response.status == 500
    assert refs_of(found.mesh, "b") == ("False", "RefNotPermitted")


# Who may pass.


def guarded(*texts: str) -> str:
    attached = WEB.replace("namespace: shop", "namespace: shop, labels: {istio.io/use-waypoint: wp}")
    found = Served(WAYPOINT, gateway(), WP_SERVICE, attached, *PODS, *texts)
    return str(found.get(LISTENER_TYPE, "main_internal"))


TARGET = "targetRefs: [{kind: Service, name: web}]"
GATEWAY_TARGET = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]"
CLASS_TARGET = "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]"


@pytest.mark.parametrize(
    "text",
    [
        policy("unmistakable", f"{TARGET}, action: DENY, rules: [{{to: [{{operation: {{paths: [/secret]}}}}]}}]"),
        policy("unmistakable", f"{GATEWAY_TARGET}, action: DENY, rules: [{{to: [{{operation: {{paths: [/secret]}}}}]}}]"),
        policy("unmistakable", f"{CLASS_TARGET}, action: DENY, rules: [{{to: [{{operation: {{paths: [/secret]}}}}]}}]", "istio-system"),
    ],
)
def test_policies_for_a_target_stand_before_it(text: str) -> None:
    found = guarded(text)
    assert "unmistakable" in found
    assert "/secret" in found


def test_policies_for_pods_are_their_tunnels_business() -> None:
    assert "unmistakable" not in guarded(policy("unmistakable", "action: DENY, rules: [{}]"))


def test_a_refused_policy_for_a_target_denies_at_its_waypoint() -> None:
    attached = WEB.replace("namespace: shop", "namespace: shop, labels: {istio.io/use-waypoint: wp}")
    found = Served(WAYPOINT, gateway(), WP_SERVICE, attached, *PODS, policy("unmistakable", f"{TARGET}, nope: 1"))
    before = found.mesh.engine.value(guard, (WAYPOINT.anywhere(), NamespacedHostname("shop", HOST)))
    assert before is not None
    assert before.guard.http == before.guard.tcp == (deny_all("unmistakable", "shop"),)


def test_what_users_remove_is_gone() -> None:
    found = Served(CLIENT, WEB, rule("web", "web"), routes("web", "web", TO_V1), *PODS)
    assert cluster("v1") in found.names(CLUSTER_TYPE)
    feed(found.mesh, WEB, rule("web", "web"), "", *PODS)
    assert cluster("v1") not in found.names(CLUSTER_TYPE)
    feed(found.mesh)
    assert found.names(CLUSTER_TYPE) == {"PassthroughCluster", "BlackHoleCluster"}
    found.mesh.unpin(CLIENT)
    found.mesh.settle(found.mesh.take())
    assert found.mesh.resources_of(CLIENT) == {}
    assert {table.name for table in found.mesh.engine.tables()} <= {"settings", "strict"}


def test_one_pod_costs_what_follows_from_it() -> None:
    many = [service(f"s{index}", f"selector: {{app: s{index}}}, ports: [{{port: 80, name: http}}]") for index in range(50)]
    found = Served(CLIENT, WEB, *PODS, *many)
    before = found.mesh.engine.computed
    feed(found.mesh, WEB, PODS[0], PODS[1].replace("10.0.0.2", "10.0.0.9"), *many)
    assert found.addresses(cluster()) == ["10.0.0.1:8080", "10.0.0.9:8080"]
    assert found.mesh.engine.computed - before < 10
