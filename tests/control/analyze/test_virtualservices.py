"""What is found in VirtualServices: where they lead, the order of rules, hosts, gateways, delegates, and who goes by them."""

from __future__ import annotations

import pytest

from control.analyze import Options, analyze
from tests.control.analyze.manifests import (
    API,
    AT_GATEWAY,
    BACK,
    EDGE,
    GATEWAY_API,
    IN,
    MESH,
    OTHER,
    PLAIN,
    PRICES,
    RANDOM,
    SHOP,
    TUNNELS,
    V1,
    VERSIONED,
    Case,
    cart,
    deployment,
    dr,
    found,
    found_in_cluster,
    given,
    http_route,
    istio_gateway,
    se,
    thing,
    to,
    to_service,
    vs,
    waypoint,
)
from tests.control.objects import service

HOST = "spec.http[0].route[0].destination.host"

FULL = "cart.shop.svc.cluster.local"
HEADLESS = service("cart", "clusterIP: None, selector: {app: cart}, ports: [{port: 80, name: http, targetPort: 8080}]")
UNGIVEN = "hosts: [api.test], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]"
NO_ADDRESS = "labels: {networking.istio.io/enable-autoallocate-ip: 'false'}"
ROUTE = "http: [{route: [{destination: {host: cart}}]}]"


def rules(*matches: str) -> str:
    each = ", ".join(
        f"{{match: [{match}], route: [{{destination: {{host: cart}}}}]}}" if match else "{route: [{destination: {host: cart}}]}"
        for match in matches
    )
    return f"hosts: [cart], http: [{each}]"


CASES: dict[str, Case] = {
    # Where VirtualServices lead
    "a host that is there": ([*MESH, vs("v", to("host: cart"))], []),
    "a host that is not there": ([*MESH, vs("v", to("host: crat"))], [f"CV0501 error VirtualService shop/v {HOST}"]),
    "a host of a namespace that is not in the input": ([*MESH, vs("v", to("host: prices.other.svc.cluster.local"))], []),
    "a host of another namespace that is not there": (
        [*MESH, *PRICES, vs("v", to("host: price.other.svc.cluster.local"))],
        [f"CV0501 error VirtualService shop/v {HOST}"],
    ),
    "a name that is completed halfway": ([*MESH, vs("v", to("host: cart.shop"))], [f"CV0501 error VirtualService shop/v {HOST}"]),
    "an external host without a ServiceEntry": ([*MESH, vs("v", to("host: api.test"))], [f"CV0501 error VirtualService shop/v {HOST}"]),
    "an external host with a ServiceEntry": ([*MESH, API, vs("v", to("host: api.test, port: {number: 443}"))], []),
    "a host within a wildcard": (
        [
            *MESH,
            se("all", "hosts: ['*.test'], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http, protocol: HTTP}]"),
            vs("v", to("host: a.test, port: {number: 80}")),
        ],
        [],
    ),
    "an ExternalName": (
        [*MESH, service("ext", "type: ExternalName, externalName: api.test"), vs("v", to("host: ext"))],
        [f"CV0501 error VirtualService shop/v {HOST}"],
    ),
    "a VirtualService alone": ([vs("v", to("host: crat"))], []),
    "a mirror that is not there": (
        [*MESH, vs("v", "hosts: [cart], http: [{route: [{destination: {host: cart}}], mirror: {host: crat}}]")],
        ["CV0501 error VirtualService shop/v spec.http[0].mirror.host"],
    ),
    "a destination of no weight": (
        [
            *MESH,
            vs("v", "hosts: [cart], http: [{route: [{destination: {host: cart}, weight: 1}, {destination: {host: crat}, weight: 0}]}]"),
        ],
        [],
    ),
    "destinations of which none has a weight": (
        [*MESH, vs("v", "hosts: [cart], http: [{route: [{destination: {host: cart}}, {destination: {host: cart}}]}]")],
        ["CV0013 error VirtualService shop/v spec.http[0].route"],
    ),
    "tcp and tls lead somewhere too": (
        [
            *MESH[:2],
            cart("{port: 80, name: tcp, targetPort: 8080}"),
            MESH[3],
            vs("v", "hosts: [cart], tcp: [{route: [{destination: {host: crat}}]}]"),
        ],
        ["CV0501 error VirtualService shop/v spec.tcp[0].route[0].destination.host"],
    ),
    "a port that is not there": (
        [*MESH, vs("v", to("host: cart, port: {number: 8080}"))],
        ["CV0502 error VirtualService shop/v spec.http[0].route[0].destination.port.number"],
    ),
    "a subset that is there": ([*VERSIONED, V1, vs("v", to("host: cart, subset: v1"))], []),
    "a subset that nobody defines": (
        [*VERSIONED, V1, vs("v", to("host: cart, subset: v2"))],
        ["CV0503 error VirtualService shop/v spec.http[0].route[0].destination.subset"],
    ),
    "a subset without any rule": (
        [*MESH, vs("v", to("host: cart, subset: v1"))],
        ["CV0503 error VirtualService shop/v spec.http[0].route[0].destination.subset"],
    ),
    "a subset that is defined where nobody looks": (
        [
            *VERSIONED,
            OTHER,
            dr("d", "host: cart.shop.svc.cluster.local, subsets: [{name: v1, labels: {version: v1}}]", "other"),
            vs("v", to("host: cart, subset: v1")),
        ],
        [
            "CV0702 warning DestinationRule other/d metadata.namespace",
            "CV0503 error VirtualService shop/v spec.http[0].route[0].destination.subset",
        ],
    ),
    "a subset that the root namespace defines": (
        [
            *VERSIONED,
            dr("d", "host: cart.shop.svc.cluster.local, subsets: [{name: v1, labels: {version: v1}}]", "istio-system"),
            vs("v", to("host: cart, subset: v1")),
        ],
        [],
    ),
    "a service that is not exported": (
        [
            PLAIN,
            OTHER,
            cart(),
            deployment("cart"),
            service(
                "prices",
                "selector: {app: prices}, ports: [{port: 80, name: http, targetPort: 8080}]",
                "namespace: other, annotations: {networking.istio.io/exportTo: '.'}",
            ),
            deployment("prices", "other"),
            vs("v", to("host: prices.other.svc.cluster.local")),
        ],
        [f"CV0504 warning VirtualService shop/v {HOST}", "CV0512 warning VirtualService shop/v spec.hosts[0]"],
    ),
    "a waypoint sees what is not exported": (
        [
            *MESH,
            OTHER,
            service(
                "prices",
                "selector: {app: prices}, ports: [{port: 80, name: http, targetPort: 8080}]",
                "namespace: other, annotations: {networking.istio.io/exportTo: '.'}",
            ),
            deployment("prices", "other"),
            vs("v", to("host: prices.other.svc.cluster.local")),
        ],
        [],
    ),
    # The order of rules
    "a rule after one that takes everything": (
        [*MESH, vs("v", rules("", "{uri: {prefix: /a}}"))],
        ["CV0505 warning VirtualService shop/v spec.http[1]"],
    ),
    "a longer prefix after a shorter": (
        [*MESH, vs("v", rules("{uri: {prefix: /a}}", "{uri: {prefix: /a/b}}"))],
        ["CV0505 warning VirtualService shop/v spec.http[1]"],
    ),
    "a longer prefix before a shorter": ([*MESH, vs("v", rules("{uri: {prefix: /a/b}}", "{uri: {prefix: /a}}", ""))], []),
    "a prefix with a header before the same prefix": (
        [*MESH, vs("v", rules("{uri: {prefix: /a}, headers: {x: {exact: y}}}", "{uri: {prefix: /a}}"))],
        [],
    ),
    "a header after the same prefix without": (
        [*MESH, vs("v", rules("{uri: {prefix: /a}}", "{uri: {exact: /a/b}, headers: {x: {exact: y}}}"))],
        ["CV0505 warning VirtualService shop/v spec.http[1]"],
    ),
    "one of two matches is free": ([*MESH, vs("v", rules("{uri: {prefix: /a}}", "{uri: {prefix: /a/b}}, {uri: {prefix: /c}}"))], []),
    "letters of either case take more": ([*MESH, vs("v", rules("{uri: {exact: /a}}", "{uri: {exact: /a}, ignoreUriCase: true}"))], []),
    "another port": ([*MESH, vs("v", rules("{port: 80}", "{port: 81}"))], []),
    "another method": ([*MESH, vs("v", rules("{method: {exact: GET}}", "{method: {exact: POST}}", "{uri: {regex: '/a.*'}}"))], []),
    "tcp after tcp that takes everything": (
        [
            *MESH[:2],
            cart("{port: 80, name: tcp, targetPort: 8080}"),
            MESH[3],
            vs(
                "v",
                "hosts: [cart], tcp: [{route: [{destination: {host: cart}}]}, {match: [{port: 80}], route: [{destination: {host: cart}}]}]",
            ),
        ],
        ["CV0505 warning VirtualService shop/v spec.tcp[1]"],
    ),
    # Hosts and gateways of VirtualServices
    "a host that two are for": (
        [*MESH, vs("a", to("host: cart")), vs("b", to("host: cart"))],
        ["CV0506 warning VirtualService shop/b spec.hosts[0]"],
    ),
    "a host under two names": (
        [*MESH, vs("a", to("host: cart")), vs("b", to("host: cart", "cart.shop.svc.cluster.local"))],
        ["CV0506 warning VirtualService shop/b spec.hosts[0]"],
    ),
    "a host inside and at a gateway": (
        [*MESH, EDGE, vs("a", to("host: cart")), vs("b", f"gateways: [edge], hosts: [shop.test], {ROUTE}")],
        ["CV0614 info Gateway.networking.istio.io shop/edge metadata.name"],
    ),
    "a host at one gateway twice": (
        [
            *MESH,
            EDGE,
            vs("a", f"gateways: [edge], hosts: [shop.test], {ROUTE}"),
            vs("b", f"gateways: [shop/edge], hosts: [shop.test], {ROUTE}"),
        ],
        ["CV0614 info Gateway.networking.istio.io shop/edge metadata.name", "CV0506 warning VirtualService shop/b spec.hosts[0]"],
    ),
    "a gateway that is not there": (
        [*MESH, vs("v", f"gateways: [egde], hosts: [shop.test], {ROUTE}")],
        ["CV0507 error VirtualService shop/v spec.gateways[0]"],
    ),
    "a gateway of a match that is not there": (
        [*MESH, vs("v", "hosts: [cart], http: [{match: [{gateways: [mesh, egde]}], route: [{destination: {host: cart}}]}]")],
        ["CV0507 error VirtualService shop/v spec.http[0].match[0].gateways[1]"],
    ),
    "a gateway of a namespace that is not in the input": ([*MESH, vs("v", f"gateways: [infra/edge], hosts: [shop.test], {ROUTE}")], []),
    "a Gateway of the other API": (
        [*MESH, IN, vs("v", f"gateways: [in], hosts: [shop.test], {ROUTE}")],
        ["CV0614 info Gateway shop/in spec.gatewayClassName", "CV0507 error VirtualService shop/v spec.gateways[0]"],
    ),
    "a host that no server is for": (
        [*MESH, EDGE, vs("v", f"gateways: [edge], hosts: [shopp.test], {ROUTE}")],
        ["CV0614 info Gateway.networking.istio.io shop/edge metadata.name", "CV0515 warning VirtualService shop/v spec.hosts[0]"],
    ),
    "a host that is served for another namespace": (
        [
            *MESH,
            istio_gateway("edge", "servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [other/shop.test]}]"),
            vs("v", f"gateways: [edge], hosts: [shop.test], {ROUTE}"),
        ],
        ["CV0614 info Gateway.networking.istio.io shop/edge metadata.name", "CV0515 warning VirtualService shop/v spec.hosts[0]"],
    ),
    "a host within a wildcard that is served": (
        [
            *MESH,
            istio_gateway("edge", "servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['./*.test']}]"),
            vs("v", f"gateways: [edge], hosts: [shop.test], {ROUTE}"),
        ],
        ["CV0614 info Gateway.networking.istio.io shop/edge metadata.name"],
    ),
    "rules for a host that is not there": (
        [*MESH, vs("v", to("host: cart", "crat"))],
        ["CV0511 warning VirtualService shop/v spec.hosts[0]"],
    ),
    "rules for every host of a domain": ([*TUNNELS, vs("v", to("host: cart", "'*.shop.svc.cluster.local'"))], []),
    # Delegates
    "a delegate": (
        [*MESH, vs("root", "hosts: [cart], http: [{match: [{uri: {prefix: /a}}], delegate: {name: leaf}}]"), vs("leaf", ROUTE)],
        [],
    ),
    "a delegate that is not there": (
        [*MESH, vs("root", "hosts: [cart], http: [{delegate: {name: leef}}]"), vs("leaf", ROUTE)],
        ["CV0508 error VirtualService shop/root spec.http[0].delegate.name", "CV0510 info VirtualService shop/leaf spec.hosts"],
    ),
    "a delegate of a namespace that is not in the input": (
        [*MESH, vs("root", "hosts: [cart], http: [{delegate: {name: leaf, namespace: other}}]")],
        [],
    ),
    "a delegate with hosts": (
        [*MESH, vs("root", "hosts: [cart], http: [{delegate: {name: leaf}}]"), vs("leaf", f"hosts: [x.shop.svc.cluster.local], {ROUTE}")],
        ["CV0509 error VirtualService shop/root spec.http[0].delegate", "CV0511 warning VirtualService shop/leaf spec.hosts[0]"],
    ),
    "a delegate that matches outside": (
        [
            *MESH,
            vs("root", "hosts: [cart], http: [{match: [{uri: {prefix: /a}}], delegate: {name: leaf}}]"),
            vs("leaf", "http: [{match: [{uri: {prefix: /b}}], route: [{destination: {host: cart}}]}]"),
        ],
        ["CV0509 error VirtualService shop/leaf spec.http[0]"],
    ),
    "a delegate in files that do not say who delegates": ([vs("leaf", ROUTE)], []),
    # Who goes by rules
    "rules without a waypoint": ([*TUNNELS, vs("v", to("host: cart"))], ["CV0512 warning VirtualService shop/v spec.hosts[0]"]),
    "a rule of the Gateway API without a waypoint": (
        [*TUNNELS, http_route("r", f"{to_service()}, {BACK}")],
        ["CV0512 warning HTTPRoute shop/r spec.parentRefs[0]"],
    ),
    "a DestinationRule without a waypoint": (
        [*TUNNELS, dr("d", f"host: cart, {RANDOM}")],
        ["CV0512 warning DestinationRule shop/d spec.host"],
    ),
    "a DestinationRule that a gateway goes by": (
        [*TUNNELS, IN, http_route("r", f"{AT_GATEWAY}, {BACK}"), dr("d", f"host: cart, {RANDOM}")],
        ["CV0614 info Gateway shop/in spec.gatewayClassName"],
    ),
    "rules where the namespace's labels are not known": ([cart(), vs("v", to("host: cart"))], []),
    "rules for a service whose waypoint is missing are said once": (
        [SHOP, cart(), deployment("cart"), vs("v", to("host: cart"))],
        ["CV0301 error Namespace shop metadata.labels[istio.io/use-waypoint]"],
    ),
    "a VirtualService where the waypoint does not look": (
        [*MESH, OTHER, vs("v", to("host: cart.shop.svc.cluster.local", "cart.shop.svc.cluster.local"), "other")],
        ["CV0513 warning VirtualService other/v spec.hosts[0]"],
    ),
    "a VirtualService where clients look, past the waypoint": (
        [SHOP, waypoint(), HEADLESS, deployment("cart"), OTHER, vs("v", to(f"host: {FULL}", FULL), "other")],
        ["CV0512 warning VirtualService other/v spec.hosts[0]"],
    ),
    "rules for a service without an address": (
        [SHOP, waypoint(), HEADLESS, deployment("cart"), http_route("r", f"{to_service()}, {BACK}"), dr("d", f"host: cart, {RANDOM}")],
        ["CV0512 warning HTTPRoute shop/r spec.parentRefs[0]", "CV0512 warning DestinationRule shop/d spec.host"],
    ),
    "rules for a host without an address": (
        [*MESH, se("e", UNGIVEN, meta=NO_ADDRESS), dr("d", f"host: api.test, {RANDOM}")],
        ["CV0512 warning DestinationRule shop/d spec.host"],
    ),
    "rules for a host that is given one": ([*MESH, se("e", UNGIVEN), dr("d", f"host: api.test, {RANDOM}")], []),
    "a wildcard, which waypoints do not read": (
        [*MESH, vs("v", to("host: cart", "'*.shop.svc.cluster.local'"))],
        ["CV0513 warning VirtualService shop/v spec.hosts[0]"],
    ),
    "a VirtualService beside an HTTPRoute": (
        [*MESH, vs("v", to("host: cart")), http_route("r", f"{to_service()}, {BACK}")],
        ["CV0514 warning VirtualService shop/v spec.http"],
    ),
    "a GRPCRoute beside an HTTPRoute": (
        [*MESH, http_route("a", f"{to_service()}, {BACK}"), thing(GATEWAY_API, "GRPCRoute", "b", f"{to_service()}, {BACK}")],
        ["CV0514 warning GRPCRoute shop/b spec.parentRefs"],
    ),
    "a TCPRoute on a port of HTTP": (
        [*MESH, thing(GATEWAY_API, "TCPRoute", "t", f"{to_service()}, {BACK}")],
        ["CV0516 warning TCPRoute shop/t spec.parentRefs"],
    ),
    "a filter that cannot be done": (
        [
            *MESH,
            http_route(
                "r",
                f"{to_service()}, rules: [{{backendRefs: [{{name: cart, port: 80}}], filters: [{{type: ExtensionRef, "
                f"extensionRef: {{group: x.test, kind: Y, name: z}}}}]}}]",
            ),
        ],
        ["CV0030 warning HTTPRoute shop/r spec.rules[0].filters[0].extensionRef", "CV0517 error HTTPRoute shop/r spec.rules[0].filters[0]"],
    ),
}

IN_CLUSTER: dict[str, Case] = {
    "a VirtualService for nobody": (
        [vs("v", to("host: crat", "crat"))],
        [f"CV0501 error VirtualService shop/v {HOST}", "CV0511 warning VirtualService shop/v spec.hosts[0]"],
    ),
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
    ("host", "hint"),
    [
        ("crat", "did you mean cart.shop.svc.cluster.local?"),
        ("cart.shop", "did you mean cart.shop.svc.cluster.local?"),
        ("cart.shop.svc", "did you mean cart.shop.svc.cluster.local?"),
        ("prices", "did you mean prices.other.svc.cluster.local?"),
        ("pricess.other.svc.cluster.local", "did you mean prices.other.svc.cluster.local?"),
        ("ap.test", "did you mean api.test?"),
        ("www.example.org", "make it known by a ServiceEntry"),
        ("nothing", "services of shop: cart"),
    ],
)
def test_what_was_meant_by_a_host(host: str, hint: str) -> None:
    (finding,) = analyze(given(*MESH, *PRICES, API, vs("v", to(f"host: {host}"))), Options()).findings
    assert (finding.code.name, finding.hint) == ("CV0501", hint)


def test_a_target_port_in_the_place_of_a_port_is_recognised() -> None:
    (finding,) = analyze(given(*MESH, vs("v", to("host: cart, port: {number: 8080}"))), Options()).findings
    assert finding.hint == "pods have the port 8080; the Service's is 80"


@pytest.mark.parametrize(
    ("first", "second", "subject", "why"),
    [
        ("", "", "VirtualService shop/b", "by its name, since neither is known to be older"),
        ("2026-02-02T00:00:00Z", "2026-01-01T00:00:00Z", "VirtualService shop/a", "since it is older"),
    ],
)
def test_of_two_for_one_host_it_is_said_which_counts_first_and_why(first: str, second: str, subject: str, why: str) -> None:
    a, b = (
        vs(name, rules("{uri: {prefix: /}}"), meta=f"creationTimestamp: '{at}'" if at else "") for name, at in (("a", first), ("b", second))
    )
    findings = analyze(given(*MESH, a, b), Options()).findings
    (finding,) = [finding for finding in findings if finding.code.name == "CV0506"]
    assert finding.subject == subject
    assert finding.message.endswith(f"its rules come first, {why}, and spec.http[0] of it takes everything")
