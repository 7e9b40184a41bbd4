"""What is found in DestinationRules."""

from __future__ import annotations

import pytest

from control.analyze import Options, analyze
from tests.control.analyze.manifests import (
    API,
    MESH,
    OTHER,
    PLAIN,
    RANDOM,
    SHOP,
    V1,
    VERSIONED,
    Case,
    cart,
    deployment,
    dr,
    found,
    given,
    pa,
    se,
    waypoint,
)
from tests.control.objects import namespace

CASES: dict[str, Case] = {
    # DestinationRules
    "a rule for a host that is not there": (
        [*MESH, dr("d", f"host: crat, {RANDOM}")],
        ["CV0701 warning DestinationRule shop/d spec.host"],
    ),
    "a rule for a host of a namespace that is not in the input": (
        [dr("d", f"host: cart.other.svc.cluster.local, {RANDOM}")],
        [],
    ),
    "a rule for a domain": ([*MESH, dr("d", f"host: '*.shop.svc.cluster.local', {RANDOM}")], []),
    "a rule in a foreign namespace": (
        [*MESH, OTHER, dr("d", f"host: cart.shop.svc.cluster.local, {RANDOM}", "other")],
        ["CV0702 warning DestinationRule other/d metadata.namespace"],
    ),
    "a rule that is hidden from the waypoint": (
        [
            PLAIN,
            OTHER,
            waypoint(where="other", routes="namespaces: {from: All}"),
            cart(meta="namespace: shop, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: other}"),
            deployment("cart"),
            dr("d", f"host: cart, {RANDOM}, exportTo: [.]"),
        ],
        ["CV0702 warning DestinationRule shop/d spec.exportTo"],
    ),
    "a rule in the waypoint's namespace": (
        [
            PLAIN,
            OTHER,
            waypoint(where="other", routes="namespaces: {from: All}"),
            cart(meta="namespace: shop, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: other}"),
            deployment("cart"),
            dr("d", f"host: cart.shop.svc.cluster.local, {RANDOM}", "other"),
        ],
        [],
    ),
    "a subset without endpoints": ([*MESH, V1], ["CV0703 warning DestinationRule shop/d spec.subsets[0].labels[version]"]),
    "a subset with endpoints": ([*VERSIONED, V1], []),
    "a subset of a service whose pods are not here": ([cart(), V1], []),
    "a subset of a ServiceEntry": (
        [
            SHOP,
            waypoint(),
            se(
                "db",
                "hosts: [db.test], resolution: STATIC, ports: [{number: 80, name: http}], endpoints: [{address: 10.1.1.1, "
                "labels: {v: '1'}}]",
            ),
            dr("d", "host: db.test, subsets: [{name: one, labels: {v: '1'}}, {name: two, labels: {v: '2'}}]"),
        ],
        ["CV0703 warning DestinationRule shop/d spec.subsets[1].labels[v]"],
    ),
    "two rules that disagree": (
        [
            *VERSIONED,
            dr("a", f"host: cart, {RANDOM}"),
            dr("b", "host: cart, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"),
        ],
        ["CV0704 warning DestinationRule shop/b spec.trafficPolicy"],
    ),
    "two rules that agree": (
        [
            *VERSIONED,
            V1,
            dr("e", "host: cart, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v1}}]"),
        ],
        [],
    ),
    "two rules with one subset": (
        [*VERSIONED, V1, dr("e", "host: cart, subsets: [{name: all}, {name: v1}]")],
        ["CV0704 warning DestinationRule shop/e spec.subsets[1]"],
    ),
    "DISABLE in the mesh": (
        [*MESH, dr("d", "host: cart, trafficPolicy: {tls: {mode: DISABLE}}")],
        ["CV0705 warning DestinationRule shop/d spec.trafficPolicy.tls.mode"],
    ),
    "DISABLE outside the mesh": ([*MESH, API, dr("d", "host: api.test, trafficPolicy: {tls: {mode: DISABLE}}")], []),
    "ISTIO_MUTUAL in the mesh": ([*MESH, dr("d", "host: cart, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")], []),
    "ISTIO_MUTUAL outside the mesh": (
        [*MESH, API, dr("d", "host: api.test, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")],
        ["CV0706 warning DestinationRule shop/d spec.trafficPolicy.tls.mode"],
    ),
    "ISTIO_MUTUAL to pods that are not enrolled": (
        [
            namespace("shop", "istio.io/use-waypoint: wp"),
            waypoint(),
            cart(),
            deployment("cart"),
            dr("d", "host: cart, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"),
        ],
        [
            "CV0307 warning Namespace shop metadata.labels[istio.io/use-waypoint]",
            "CV0706 warning DestinationRule shop/d spec.trafficPolicy.tls.mode",
        ],
    ),
    "TLS to a port of HTTP": (
        [*MESH, dr("d", "host: cart, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]}")],
        ["CV0707 warning DestinationRule shop/d spec.trafficPolicy.portLevelSettings[0].tls.mode"],
    ),
    "TLS to a port of HTTPS": (
        [
            *MESH[:2],
            cart("{port: 443, name: https, targetPort: 8080}"),
            MESH[3],
            dr("d", "host: cart, trafficPolicy: {tls: {mode: SIMPLE}}"),
        ],
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_finds(case: str) -> None:
    texts, expected = CASES[case]
    assert found(*texts) == expected


def test_strict_is_named_where_disable_meets_it() -> None:
    texts = *MESH, pa("strict", "mtls: {mode: STRICT}"), dr("d", "host: cart, trafficPolicy: {tls: {mode: DISABLE}}")
    (finding,) = analyze(given(*texts), Options()).findings
    assert "PeerAuthentication STRICT demands it" in finding.message
