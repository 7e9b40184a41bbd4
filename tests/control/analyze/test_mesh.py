"""What is found in waypoints, ServiceEntries and WorkloadEntries."""

from __future__ import annotations

import pytest

from control.analyze import Options, analyze
from tests.control.analyze.manifests import (
    AMBIENT,
    ISTIO,
    MESH,
    PLAIN,
    SHOP,
    TUNNELS,
    Case,
    cart,
    deployment,
    found,
    found_in_cluster,
    gateway,
    given,
    in_cluster,
    se,
    thing,
    vs,
    waypoint,
)
from tests.control.objects import namespace, pod, service

USES = "labels: {istio.io/use-waypoint: wp}"
FIELD = "metadata.labels[istio.io/use-waypoint]"
OTHER = namespace("other", AMBIENT)
STATIC = "hosts: [db.test], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}]"
EXTERNAL = "hosts: [api.test], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]"


def entry(name: str, spec: str = "address: 10.1.1.1, labels: {app: db}", meta: str = "") -> str:
    return thing(ISTIO, "WorkloadEntry", name, spec, "shop", meta)


CASES: dict[str, Case] = {
    "a mesh with a waypoint": (MESH, []),
    "a mesh of tunnels alone": (TUNNELS, []),
    # Waypoints
    "a namespace asks for a waypoint that is not there": ([SHOP], [f"CV0301 error Namespace shop {FIELD}"]),
    "a service asks for one that is not there": (
        [PLAIN, cart(meta=USES), deployment("cart")],
        [f"CV0301 error Service shop/cart {FIELD}"],
    ),
    "a service asks for one in files that say nothing of gateways": ([cart(meta=USES), deployment("cart")], []),
    "a pod asks for one that is not there": (
        [PLAIN, deployment("cart", labels="app: cart, istio.io/use-waypoint: wp")],
        ["CV0301 error Deployment shop/cart spec.template.metadata.labels[istio.io/use-waypoint]"],
    ),
    "a waypoint in another namespace that is not in the input": (
        [
            PLAIN,
            cart(meta="namespace: shop, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra}"),
            deployment("cart"),
        ],
        [],
    ),
    "none asks for nothing": ([PLAIN, cart(meta="labels: {istio.io/use-waypoint: none}"), deployment("cart")], []),
    "a Gateway of another class": (
        [SHOP, gateway("wp", "gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]")],
        [f"CV0302 error Namespace shop {FIELD}", "CV0614 info Gateway shop/wp spec.gatewayClassName"],
    ),
    "a waypoint that does not let the namespace in": (
        [
            PLAIN,
            OTHER,
            waypoint(where="other"),
            cart(meta="namespace: shop, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: other}"),
            deployment("cart"),
        ],
        [f"CV0304 error Service shop/cart {FIELD}"],
    ),
    "a waypoint that lets every namespace in": (
        [
            PLAIN,
            OTHER,
            waypoint(where="other", routes="namespaces: {from: All}"),
            cart(meta="namespace: shop, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: other}"),
            deployment("cart"),
        ],
        [],
    ),
    "a waypoint that selects namespaces whose labels are not known": (
        [
            waypoint(where="other", routes="namespaces: {from: Selector, selector: {matchLabels: {team: shop}}}"),
            cart(meta="namespace: shop, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: other}"),
        ],
        [],
    ),
    "a service asks for a waypoint of workloads": (
        [PLAIN, waypoint(meta="labels: {istio.io/waypoint-for: workload}"), cart(meta=USES), deployment("cart")],
        [f"CV0305 warning Service shop/cart {FIELD}"],
    ),
    "a pod asks for a waypoint of services": (
        [PLAIN, waypoint(), deployment("cart", labels="app: cart, istio.io/use-waypoint: wp")],
        ["CV0305 warning Deployment shop/cart spec.template.metadata.labels[istio.io/use-waypoint]"],
    ),
    "a waypoint for all": (
        [
            PLAIN,
            waypoint(meta="labels: {istio.io/waypoint-for: all}"),
            cart(meta=USES),
            deployment("cart", labels="app: cart, istio.io/use-waypoint: wp"),
        ],
        [],
    ),
    "a waypoint for something unknown": (
        [SHOP, waypoint(meta="labels: {istio.io/waypoint-for: services}"), cart(), deployment("cart")],
        [
            "CV0303 warning Namespace shop metadata.labels[istio.io/use-waypoint]",
            "CV0306 warning Gateway shop/wp metadata.labels[istio.io/waypoint-for]",
        ],
    ),
    "a waypoint of a namespace outside the mesh": (
        [namespace("shop", "istio.io/use-waypoint: wp"), waypoint()],
        [f"CV0307 warning Namespace shop {FIELD}"],
    ),
    "a namespace of which only some pods are in the mesh": (
        [
            namespace("shop", "istio.io/use-waypoint: wp"),
            waypoint(),
            deployment("cart", labels=f"app: cart, {AMBIENT}"),
        ],
        [],
    ),
    "a pod outside the mesh asks for a waypoint": (
        [
            namespace("shop"),
            waypoint(meta="labels: {istio.io/waypoint-for: all}"),
            deployment("cart", labels="app: cart, istio.io/use-waypoint: wp"),
        ],
        ["CV0307 warning Deployment shop/cart spec.template.metadata.labels[istio.io/use-waypoint]"],
    ),
    "a service outside the mesh may have a waypoint": ([namespace("shop"), waypoint(), cart(meta=USES), deployment("cart")], []),
    "a waypoint that nobody uses": ([PLAIN, waypoint(), cart(), deployment("cart")], ["CV0308 info Gateway shop/wp metadata.name"]),
    "a waypoint that others may use": ([PLAIN, waypoint(routes="namespaces: {from: All}")], []),
    "a waypoint of which nobody's labels are here": ([waypoint()], []),
    "a waypoint for none": ([PLAIN, waypoint(meta="labels: {istio.io/waypoint-for: none}")], []),
    # ServiceEntries
    "two ServiceEntries for one host": (
        [se("a", EXTERNAL), se("b", EXTERNAL)],
        ["CV0401 warning ServiceEntry shop/b spec.hosts[0]"],
    ),
    "two ServiceEntries for one host in two namespaces": (
        [se("a", EXTERNAL), se("b", EXTERNAL, "other")],
        ["CV0401 warning ServiceEntry other/b spec.hosts[0]"],
    ),
    "two of which nobody sees both": ([se("a", f"{EXTERNAL}, exportTo: ['.']"), se("b", f"{EXTERNAL}, exportTo: ['.']", "other")], []),
    "endpoints for a Service": (
        [
            PLAIN,
            cart("{port: 80, name: http}"),
            deployment("cart", ports="[]"),
            se(
                "more",
                "hosts: [cart.shop.svc.cluster.local], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http}], "
                "endpoints: [{address: 10.1.1.1}]",
            ),
        ],
        [],
    ),
    "a Service and a ServiceEntry with other ports": (
        [
            PLAIN,
            cart("{port: 80, name: http}"),
            deployment("cart", ports="[]"),
            se(
                "more",
                "hosts: [cart.shop.svc.cluster.local], resolution: STATIC, ports: [{number: 81, name: http}], "
                "endpoints: [{address: 10.1.1.1}]",
            ),
        ],
        ["CV0401 warning ServiceEntry shop/more spec.hosts[0]"],
    ),
    "static without endpoints": ([se("db", STATIC)], ["CV0402 warning ServiceEntry shop/db spec.resolution"]),
    "static with endpoints": ([se("db", f"{STATIC}, endpoints: [{{address: 10.1.1.1}}]")], []),
    "by DNS without endpoints": ([se("api", EXTERNAL)], []),
    "nothing leads to it": (
        [PLAIN, se("api", "hosts: [api.test], ports: [{number: 443, name: tls, protocol: TLS}]")],
        ["CV0403 warning ServiceEntry shop/api spec.hosts[0]"],
    ),
    "a wildcard without a waypoint": (
        [PLAIN, se("api", "hosts: ['*.test'], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http, protocol: HTTP}]")],
        ["CV0403 warning ServiceEntry shop/api spec.hosts[0]"],
    ),
    "a wildcard with a waypoint": (
        [SHOP, waypoint(), se("api", "hosts: ['*.test'], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http, protocol: HTTP}]")],
        [],
    ),
    "a wildcard in a namespace of which nothing is known": (
        [se("api", "hosts: ['*.test'], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http, protocol: HTTP}]")],
        [],
    ),
    "a block of addresses": ([PLAIN, se("net", "hosts: [net.test], addresses: [10.9.0.0/16], ports: [{number: 80, name: tcp}]")], []),
    "a ServiceEntry that selects nothing": (
        [se("db", f"{STATIC}, workloadSelector: {{labels: {{app: dbs}}}}"), deployment("db")],
        ["CV0404 warning ServiceEntry shop/db spec.workloadSelector.labels[app]"],
    ),
    "a ServiceEntry that selects entries": ([se("db", f"{STATIC}, workloadSelector: {{labels: {{app: db}}}}"), entry("vm")], []),
    "an entry that nothing selects": ([PLAIN, cart(), deployment("cart"), entry("vm")], ["CV0405 info WorkloadEntry shop/vm spec.labels"]),
    "an entry in a namespace of which nothing is known": ([entry("vm")], []),
}

IN_CLUSTER: dict[str, Case] = {
    "a waypoint that is not ready": (
        [namespace("shop", "istio.io/use-waypoint: wp, istio.io/dataplane-mode: ambient"), waypoint()],
        [f"CV0303 warning Namespace shop {FIELD}"],
    ),
    "a waypoint that is ready": (
        [
            namespace("shop", "istio.io/use-waypoint: wp, istio.io/dataplane-mode: ambient"),
            waypoint(),
            service("wp", "selector: {gateway.networking.k8s.io/gateway-name: wp}, ports: [{port: 15008, name: mesh}]"),
            pod(
                "wp-1",
                labels="gateway.networking.k8s.io/gateway-name: wp, istio.io/dataplane-mode: none",
            ),
        ],
        [],
    ),
    "a waypoint that nobody uses": ([waypoint(routes="namespaces: {from: All}")], ["CV0308 info Gateway shop/wp metadata.name"]),
}


@pytest.mark.parametrize("case", CASES)
def test_finds(case: str) -> None:
    texts, expected = CASES[case]
    assert found(*texts) == expected


@pytest.mark.parametrize("case", IN_CLUSTER)
def test_finds_in_a_cluster(case: str) -> None:
    texts, expected = IN_CLUSTER[case]
    assert found_in_cluster(*texts) == expected


@pytest.mark.parametrize(
    ("texts", "hint"),
    [
        ([waypoint("wpp")], "did you mean wpp?"),
        ([waypoint(where="infra")], "there is one in infra: label it istio.io/use-waypoint-namespace=infra as well"),
        ([waypoint("entrance")], "waypoints of shop: entrance"),
        ([], "create a Gateway wp with gatewayClassName: istio-waypoint in shop"),
    ],
)
def test_a_missing_waypoint_is_looked_for_nearby(texts: list[str], hint: str) -> None:
    findings = analyze(given(SHOP, *texts), Options()).findings
    assert next(finding.hint for finding in findings if finding.code.name == "CV0301") == hint


def test_the_older_of_two_hosts_counts() -> None:
    old = se("z", EXTERNAL, meta="creationTimestamp: '2026-01-01T00:00:00Z'")
    new = se("a", EXTERNAL, meta="creationTimestamp: '2026-02-01T00:00:00Z'")
    (finding,) = analyze(in_cluster(new, old), Options()).findings
    assert (finding.subject, finding.related) == ("ServiceEntry shop/a", (("ServiceEntry shop/z", "object 1"),))


def test_a_route_to_a_waypoint_of_another_namespace_is_no_business_of_ours() -> None:
    assert found(*MESH, vs("v", "hosts: [cart], http: [{route: [{destination: {host: x.elsewhere.svc.cluster.local}}]}]")) == []
