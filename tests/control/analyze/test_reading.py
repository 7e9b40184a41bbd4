"""What is found in single objects, in namespaces, pods and Services."""

from __future__ import annotations

import pytest

from control.analyze import Given, Options, analyze
from tests.control.analyze.manifests import (
    AMBIENT,
    MESH,
    PLAIN,
    SHOP,
    TUNNELS,
    Case,
    ap,
    cart,
    deployment,
    dr,
    found,
    found_in_cluster,
    given,
    pa,
    se,
    thing,
    vs,
)
from tests.control.objects import namespace, pod, service

EMPTY_ROUTE = "hosts: [cart], http: [{route: [{destination: {host: cart}}]}]"

CASES: dict[str, Case] = {
    # Reading
    "no YAML": (["kind: [", cart()], ["CV0001 error"]),
    "a key twice": (["{kind: Service, kind: Pod}"], ["CV0001 error"]),
    "a kind of an API of ours that there is not": (
        [thing("networking.istio.io/v1", "Sidekick", "s")],
        ["CV0002 error Sidekick shop/s kind"],
    ),
    "kinds of Istio's and the Gateway API's that are not read": (
        [
            thing("networking.istio.io/v1", "Sidecar", "s"),
            thing("networking.istio.io/v1alpha3", "EnvoyFilter", "e"),
            thing("extensions.istio.io/v1alpha1", "WasmPlugin", "w"),
            thing("gateway.networking.k8s.io/v1", "BackendTLSPolicy", "b"),
            thing("networking.istio.io/v1alpha3", "EnvoyFilter", "meant", meta="annotations: {culvert.dev/ignore: CV0004}"),
        ],
        [
            "CV0004 warning Sidecar shop/s kind",
            "CV0004 warning EnvoyFilter shop/e kind",
            "CV0004 warning WasmPlugin shop/w kind",
            "CV0004 warning BackendTLSPolicy shop/b kind",
        ],
    ),
    "kinds of theirs, of somebody else": ([thing("example.org/v1", "Sidecar", "s"), thing("example.org/v1", "WasmPlugin", "w")], []),
    "a kind that is misspelt": ([thing("v1", "Servce", "s")], ["CV0002 error Servce shop/s kind"]),
    "an API of Istio's that is misspelt": (
        [thing("security.istio.com/v1", "AuthorizationPolicy", "p")],
        ["CV0003 error AuthorizationPolicy shop/p apiVersion"],
    ),
    "an API whose letters are in another order": (
        [
            thing("networking.istoi.io/v1", "VirtualService", "v"),
            thing("gateway.network.k8s.io/v1", "HTTPRoute", "r"),
            thing("telemetri.isto.io/v1", "Telemetry", "t"),
        ],
        [
            "CV0003 error VirtualService.networking.istoi.io shop/v apiVersion",
            "CV0003 error HTTPRoute.gateway.network.k8s.io shop/r apiVersion",
            "CV0003 error Telemetry.telemetri.isto.io shop/t apiVersion",
        ],
    ),
    "kinds of ours in APIs of others": (
        [
            thing("networking.gke.io/v1", "Gateway", "g"),
            thing("gateway.example.org/v1", "VirtualService", "v"),
            thing("appmesh.k8s.aws/v1beta2", "VirtualService", "a"),
            thing("telemetry.cilium.io/v1", "Telemetry", "t"),
        ],
        [],
    ),
    "a version that is not served": (
        [thing("networking.istio.io/v9", "VirtualService", "v")],
        ["CV0003 error VirtualService shop/v apiVersion"],
    ),
    "a kind without a version": (["{kind: Service, metadata: {name: x}}"], ["CV0003 error Service default/x apiVersion"]),
    "kinds that have nothing to do with the mesh": (
        [
            thing("v1", "ConfigMap", "c"),
            thing("apps/v1", "StatefulSet", "s"),
            thing("networking.k8s.io/v1", "NetworkPolicy", "n"),
            thing("serving.knative.dev/v1", "Service", "k"),
            "{replicas: 3, image: {tag: v1}}",
        ],
        [],
    ),
    "a bad value": ([cart("{port: 99999}")], ["CV0010 error Service shop/cart spec.ports[0].port"]),
    "several bad values": (
        [cart("{port: 0, protocol: HTTP}")],
        ["CV0010 error Service shop/cart spec.ports[0].port", "CV0010 error Service shop/cart spec.ports[0].protocol"],
    ),
    "an unknown field": ([cart("{port: 80, targetport: 8080}")], ["CV0011 error Service shop/cart spec.ports[0].targetport"]),
    "a missing field": ([cart("{name: http}")], ["CV0012 error Service shop/cart spec.ports[0].port"]),
    "fields that do not go together": ([ap("p", "action: DENY")], ["CV0013 error AuthorizationPolicy shop/p spec.rules"]),
    "a name in a list twice": (
        [dr("d", "host: cart, subsets: [{name: a}, {name: a}]")],
        ["CV0013 error DestinationRule shop/d spec.subsets[1].name"],
    ),
    "two objects of one name": ([cart(), cart()], ["CV0020 error Service shop/cart metadata.name"]),
    "two objects of one name, one of them bad": (
        [cart(), cart("{port: 0}")],
        ["CV0010 error Service shop/cart spec.ports[0].port", "CV0020 error Service shop/cart metadata.name"],
    ),
    "one name in two kinds and in two namespaces": (
        [
            *MESH,
            dr("cart", "host: cart"),
            namespace("other", AMBIENT),
            service("cart", "ports: [{port: 80, name: http}]", "namespace: other"),
        ],
        [],
    ),
    "a field that does nothing": (
        [*MESH, dr("d", "host: cart, workloadSelector: {matchLabels: {app: web}}")],
        ["CV0030 warning DestinationRule shop/d spec.workloadSelector"],
    ),
    # Namespaces and pods
    "an unknown data plane mode": (
        [namespace("shop", "istio.io/dataplane-mode: ambiet")],
        ["CV0101 warning Namespace shop metadata.labels[istio.io/dataplane-mode]"],
    ),
    "an unknown data plane mode of pods": (
        [deployment("cart", labels="app: cart, istio.io/dataplane-mode: sidecar")],
        ["CV0101 warning Deployment shop/cart spec.template.metadata.labels[istio.io/dataplane-mode]"],
    ),
    "outside on purpose": ([namespace("shop", "istio.io/dataplane-mode: none"), deployment("cart")], []),
    "sidecars and ambient": (
        [namespace("shop", f"{AMBIENT}, istio-injection: enabled")],
        ["CV0102 warning Namespace shop metadata.labels[istio-injection]"],
    ),
    "ambient without sidecars": ([namespace("shop", f"{AMBIENT}, istio-injection: disabled")], []),
    "a sidecar in an ambient namespace": (
        [PLAIN, deployment("cart", labels="app: cart, sidecar.istio.io/inject: 'true'")],
        ["CV0103 warning Deployment shop/cart spec.template.metadata.labels[sidecar.istio.io/inject]"],
    ),
    "a pod with a sidecar that is labelled ambient": (
        [pod("p", labels=AMBIENT, meta="annotations: {sidecar.istio.io/status: '{}'}")],
        ["CV0103 warning Pod shop/p metadata.annotations[sidecar.istio.io/status]"],
    ),
    "a sidecar outside ambient": ([namespace("shop"), deployment("cart", labels="app: cart, sidecar.istio.io/inject: 'true'")], []),
    "the node's network in an ambient namespace": (
        [PLAIN, deployment("cart", spec="hostNetwork: true")],
        ["CV0104 info Deployment shop/cart spec.template.spec.hostNetwork"],
    ),
    "the node's network, said to be outside": (
        [PLAIN, deployment("cart", labels="app: cart, istio.io/dataplane-mode: none", spec="hostNetwork: true")],
        [],
    ),
    "a namespace that is not there": (
        [namespace("shop"), deployment("cart", "shpo"), deployment("web", "shpo"), pa("p", "", "istio-system"), deployment("x", "default")],
        ["CV0105 warning Deployment shpo/cart metadata.namespace"],
    ),
    "no namespaces at all": ([deployment("cart", "shpo")], []),
    # Services
    "a service that selects nothing": (
        [service("cart", "selector: {app: crat}, ports: [{port: 80}]"), deployment("cart")],
        ["CV0201 warning Service shop/cart spec.selector[app]"],
    ),
    "a service whose pods are not in the input": ([cart()], []),
    "a service whose pods a StatefulSet makes": (
        [
            cart(),
            deployment("web"),
            "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: cart, namespace: shop}, spec: {template: {metadata: {labels: "
            "{app: cart}}, spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}}}}",
        ],
        [],
    ),
    "a service whose pods a CronJob makes": (
        [
            PLAIN,
            cart(),
            "{apiVersion: batch/v1, kind: CronJob, metadata: {name: cart, namespace: shop}, "
            "spec: {jobTemplate: {spec: {template: {metadata: "
            "{labels: {app: cart}}, spec: {containers: [{name: c}]}}}}}}",
        ],
        [],
    ),
    "a service for WorkloadEntries": (
        [PLAIN, cart(), thing("networking.istio.io/v1", "WorkloadEntry", "vm", "address: 10.1.1.1, labels: {app: cart}")],
        [],
    ),
    "a service without a selector": ([PLAIN, service("cart", "ports: [{port: 80}]")], []),
    "a service of a gateway that somebody will run": (
        [PLAIN, service("edge", "selector: {gateway.networking.k8s.io/gateway-name: edge}, ports: [{port: 80}]")],
        [],
    ),
    "a named port that no pod has": (
        [cart("{port: 80, name: http, targetPort: web}"), deployment("cart")],
        ["CV0202 warning Service shop/cart spec.ports[0].targetPort"],
    ),
    "a named port that is there": ([cart("{port: 80, name: http, targetPort: http}"), deployment("cart")], []),
    "a number that no pod declares": (
        [cart("{port: 80, name: http, targetPort: 9090}"), deployment("cart")],
        ["CV0203 info Service shop/cart spec.ports[0].targetPort"],
    ),
    "a number where pods declare nothing": ([cart("{port: 80, name: http}"), deployment("cart", ports="[]")], []),
    "UDP is not carried": ([cart("{port: 53, name: dns, protocol: UDP, targetPort: dns}"), deployment("cart")], []),
    "a routed port that does not say what it speaks": (
        [SHOP, MESH[1], cart("{port: 80, name: web, targetPort: 8080}"), deployment("cart")],
        ["CV0204 info Service shop/cart spec.ports[0].name"],
    ),
    "a port that VirtualServices route": (
        [cart("{port: 80, targetPort: 8080}"), deployment("cart"), vs("v", EMPTY_ROUTE)],
        ["CV0204 info Service shop/cart spec.ports[0].name"],
    ),
    "a port that nobody routes": ([PLAIN, cart("{port: 80, name: web, targetPort: 8080}"), deployment("cart")], []),
    "a port with appProtocol": ([*MESH[:2], cart("{port: 80, appProtocol: http, targetPort: 8080}"), deployment("cart")], []),
    "two services with one address": (
        [
            service("a", "clusterIP: 10.0.0.9, ports: [{port: 80}]"),
            service("b", "clusterIP: 10.0.0.9, ports: [{port: 80}]"),
            service("c", "clusterIP: None, ports: [{port: 80}]"),
            service("d", "clusterIP: None, ports: [{port: 80}]"),
        ],
        ["CV0205 error Service shop/b spec.clusterIP"],
    ),
    "a ServiceEntry with the address of a Service": (
        [
            service("a", "clusterIP: 10.0.0.9, ports: [{port: 80}]"),
            se(
                "b",
                "hosts: [b.test], addresses: [10.0.0.9], resolution: STATIC, endpoints: [{address: 10.1.1.1}], "
                "ports: [{number: 80, name: http}]",
            ),
        ],
        ["CV0205 error ServiceEntry shop/b spec.addresses"],
    ),
}

IN_CLUSTER: dict[str, Case] = {
    "a pod that should be in the mesh": ([PLAIN, pod("p")], ["CV0106 warning Pod shop/p metadata"]),
    "a pod that is in the mesh": ([PLAIN, pod("p", meta="annotations: {ambient.istio.io/redirection: enabled}")], []),
    "a pod that has ended": ([PLAIN, pod("p", status="phase: Succeeded")], []),
    "a service without pods": ([cart()], ["CV0201 warning Service shop/cart spec.selector"]),
}


@pytest.mark.parametrize("case", CASES)
def test_finds(case: str) -> None:
    texts, expected = CASES[case]
    assert found(*texts) == expected


@pytest.mark.parametrize("case", IN_CLUSTER)
def test_finds_in_a_cluster(case: str) -> None:
    texts, expected = IN_CLUSTER[case]
    assert found_in_cluster(*texts) == expected


def test_a_refused_policy_says_what_it_denies_meanwhile() -> None:
    (finding,) = analyze(
        given(ap("p", "selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {principal: [x]}}]}]")), Options()
    ).findings
    assert finding.message == (
        "there is no field principal here; until the object is accepted, all traffic is denied to the pods of namespace shop with app=cart"
    )
    assert finding.hint == "did you mean principals?"


@pytest.mark.parametrize(
    ("selector", "labels", "field", "hint"),
    [
        ("app: crat", "app: cart", "spec.selector[app]", "did you mean app=cart, as Deployment shop/cart has?"),
        ("apps: cart", "app: cart", "spec.selector[apps]", "did you mean app=cart, as Deployment shop/cart has?"),
        (
            "app: cart, tier: web",
            "app: cart, tier: front",
            "spec.selector[tier]",
            "did you mean tier=front, as Deployment shop/cart has?",
        ),
        ("app: cart, tier: web", "app: cart", "spec.selector[tier]", "Deployment shop/cart has all of them but tier"),
        ("name: shop", "app: cart", "spec.selector", "compare it with the labels of Deployment shop/cart"),
    ],
)
def test_a_selector_that_selects_nothing_is_compared_with_what_runs(selector: str, labels: str, field: str, hint: str) -> None:
    texts = PLAIN, service("cart", f"selector: {{{selector}}}, ports: [{{port: 80}}]"), deployment("cart", labels=labels)
    (finding,) = analyze(given(*texts), Options()).findings
    assert (finding.field, finding.hint) == (field, hint)


def test_what_the_mesh_does_not_read_is_counted_by_kind() -> None:
    analysis = analyze(given(thing("v1", "ConfigMap", "a"), thing("v1", "ConfigMap", "b"), "{replicas: 3}", cart()), Options())
    assert analysis.unread == (("ConfigMap", 2), ("document without a kind", 1))
    assert analysis.objects == 4


def test_what_could_not_be_looked_up_is_said() -> None:
    assert analyze(given(cart()), Options()).unchecked == (("workloads", "shop"),)
    assert analyze(given(*TUNNELS), Options()).unchecked == ()


BAD = "app: crat"


@pytest.mark.parametrize(
    ("annotation", "left"),
    [
        ("CV0201", []),
        ("CV0011, CV0201", []),
        ("CV0011", ["CV0201"]),
        ("", ["CV0201"]),
    ],
)
def test_an_object_can_ask_not_to_be_told(annotation: str, left: list[str]) -> None:
    wrong = service("cart", "selector: {app: crat}, ports: [{port: 80}]", f"annotations: {{culvert.dev/ignore: '{annotation}'}}")
    analysis = analyze(given(wrong, deployment("cart")), Options())
    assert [finding.code.name for finding in analysis.findings] == left
    assert analysis.suppressed == 1 - len(left)


def test_an_object_that_was_refused_can_ask_too() -> None:
    wrong = cart("{port: 80, targetport: 1}", "annotations: {culvert.dev/ignore: CV0011}")
    assert analyze(given(wrong), Options()).suppressed == 1


def test_codes_can_be_ignored_and_namespaces_chosen() -> None:
    texts = cart("{port: 0}"), service("x", "ports: [{port: 0}]", "namespace: other")
    assert len(found(*texts)) == 2
    assert found(*texts, options=Options(namespace="other")) == ["CV0010 error Service other/x spec.ports[0].port"]
    assert found(*texts, options=Options(ignored=frozenset({"CV0010"}))) == []


def test_the_place_of_a_refusal_is_the_parsers() -> None:
    made = Given()
    made.file("a.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  ports:\n  - port: 80\n    nmae: x\n")
    (finding,) = analyze(made, Options()).findings
    assert (finding.where, finding.at, finding.field) == ("a.yaml:1", "a.yaml:8", "spec.ports[0].nmae")
