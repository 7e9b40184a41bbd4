"""What is found in routes of the Gateway API, and in gateways of both APIs."""

from __future__ import annotations

import pytest

from tests.control.analyze.manifests import (
    AT_GATEWAY,
    BACK,
    EDGE,
    GATEWAY_API,
    IN,
    MESH,
    OTHER,
    PLAIN,
    PRICES,
    Case,
    found,
    found_in_cluster,
    gateway,
    http_route,
    istio_gateway,
    thing,
    to_service,
)


def grant(where: str, kind: str = "HTTPRoute", target: str = "Service") -> str:
    return thing(
        "gateway.networking.k8s.io/v1beta1",
        "ReferenceGrant",
        "grant",
        f"from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: shop}}], to: [{{group: '', kind: {target}}}]",
        where,
    )


def tls(name: str, secret: str, where: str = "") -> str:
    ref = f"{{name: {secret}{f', namespace: {where}' if where else ''}}}"
    return gateway(
        name, f"gatewayClassName: istio, listeners: [{{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{ref}]}}}}]"
    )


SECRET = thing("v1", "Secret", "shop-tls")

NOT_SERVED = "CV0614 info Gateway shop/in spec.gatewayClassName"
"""What is said of every Gateway of its API but waypoints: looked at in a test of its own."""

CASES: dict[str, Case] = {
    # Routes of the Gateway API
    "a route to a service": ([*MESH, http_route("r", f"{to_service()}, {BACK}")], []),
    "a parent that is not there": (
        [*MESH, http_route("r", f"{to_service('crat')}, {BACK}")],
        ["CV0601 error HTTPRoute shop/r spec.parentRefs[0].name"],
    ),
    "a Gateway that is not there": (
        [*MESH, http_route("r", f"{AT_GATEWAY}, {BACK}")],
        ["CV0601 error HTTPRoute shop/r spec.parentRefs[0].name"],
    ),
    "a Gateway that is not in the input": ([http_route("r", f"{AT_GATEWAY}, {BACK}")], []),
    "a Service without its group": (
        [*MESH, http_route("r", f"parentRefs: [{{kind: Service, name: cart}}], {BACK}")],
        ["CV0601 error HTTPRoute shop/r spec.parentRefs[0].kind"],
    ),
    "a port of the parent that is not there": (
        [*MESH, http_route("r", f"{to_service('cart', 'port: 8080')}, {BACK}")],
        ["CV0602 error HTTPRoute shop/r spec.parentRefs[0].port"],
    ),
    "a section of the parent that is not there": (
        [*MESH, http_route("r", f"{to_service('cart', 'sectionName: htpp')}, {BACK}")],
        ["CV0602 error HTTPRoute shop/r spec.parentRefs[0].sectionName"],
    ),
    "a listener that is not there": (
        [*MESH, IN, http_route("r", f"parentRefs: [{{name: in, sectionName: https}}], {BACK}")],
        ["CV0602 error HTTPRoute shop/r spec.parentRefs[0].sectionName"],
    ),
    "a route at a Gateway": ([*MESH, IN, http_route("r", f"{AT_GATEWAY}, {BACK}")], []),
    "a route of another namespace than the Gateway's": (
        [
            *MESH,
            OTHER,
            gateway("in", "gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]", "other"),
            http_route("r", f"parentRefs: [{{name: in, namespace: other}}], {BACK}"),
        ],
        ["CV0603 error HTTPRoute shop/r spec.parentRefs[0].name"],
    ),
    "a route of a kind that the listener does not take": (
        [*MESH, IN, thing(GATEWAY_API, "TCPRoute", "t", f"{AT_GATEWAY}, {BACK}")],
        ["CV0603 error TCPRoute shop/t spec.parentRefs[0].name"],
    ),
    "a hostname that the listener is not for": (
        [
            *MESH,
            gateway("in", "gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP, hostname: '*.shop.test'}]"),
            http_route("r", f"{AT_GATEWAY}, hostnames: [shop.test], {BACK}"),
        ],
        ["CV0603 error HTTPRoute shop/r spec.parentRefs[0].name"],
    ),
    "a hostname within the listener's": (
        [
            *MESH,
            gateway("in", "gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP, hostname: '*.shop.test'}]"),
            http_route("r", f"{AT_GATEWAY}, hostnames: [a.shop.test], {BACK}"),
        ],
        [],
    ),
    "a route at a waypoint": (
        [*MESH, http_route("r", f"parentRefs: [{{name: wp}}], {BACK}")],
        ["CV0603 error HTTPRoute shop/r spec.parentRefs[0].name"],
    ),
    "a backend of another namespace": (
        [*MESH, *PRICES, IN, http_route("r", f"{AT_GATEWAY}, rules: [{{backendRefs: [{{name: prices, namespace: other, port: 80}}]}}]")],
        ["CV0604 error HTTPRoute shop/r spec.rules[0].backendRefs[0].namespace"],
    ),
    "a backend of another namespace that is granted": (
        [
            *MESH,
            *PRICES,
            IN,
            grant("other"),
            http_route("r", f"{AT_GATEWAY}, rules: [{{backendRefs: [{{name: prices, namespace: other, port: 80}}]}}]"),
        ],
        [],
    ),
    "a backend of another namespace inside the mesh": (
        [*MESH, *PRICES, http_route("r", f"{to_service()}, rules: [{{backendRefs: [{{name: prices, namespace: other, port: 80}}]}}]")],
        ["CV0604 error HTTPRoute shop/r spec.rules[0].backendRefs[0].namespace"],
    ),
    "a hostname of another namespace inside the mesh": (
        [
            *MESH,
            *PRICES,
            http_route(
                "r",
                f"{to_service()}, rules: [{{backendRefs: [{{group: networking.istio.io, kind: Hostname, "
                "name: prices.other.svc.cluster.local, port: 80}]}]",
            ),
        ],
        ["CV0604 error HTTPRoute shop/r spec.rules[0].backendRefs[0].name"],
    ),
    "a backend of another namespace inside the mesh that is granted": (
        [
            *MESH,
            *PRICES,
            grant("other"),
            http_route("r", f"{to_service()}, rules: [{{backendRefs: [{{name: prices, namespace: other, port: 80}}]}}]"),
        ],
        [],
    ),
    "a consumer's route to the service itself": (
        [
            *MESH,
            *PRICES,
            http_route(
                "r",
                f"{to_service('cart', 'namespace: shop')}, rules: [{{backendRefs: [{{name: cart, namespace: shop, port: 80}}]}}]",
                "other",
            ),
        ],
        ["CV0605 info HTTPRoute other/r spec.parentRefs[0].namespace"],
    ),
    "a consumer's route": (
        [
            *MESH,
            *PRICES,
            http_route("r", f"{to_service('cart', 'namespace: shop')}, rules: [{{backendRefs: [{{name: prices, port: 80}}]}}]", "other"),
        ],
        ["CV0605 info HTTPRoute other/r spec.parentRefs[0].namespace"],
    ),
    "backends without weight": (
        [*MESH, http_route("r", f"{to_service()}, rules: [{{backendRefs: [{{name: cart, port: 80, weight: 0}}]}}]")],
        ["CV0606 error HTTPRoute shop/r spec.rules[0].backendRefs"],
    ),
    "a rule without backends": (
        [*MESH, http_route("r", f"{to_service()}, rules: [{{matches: [{{path: {{value: /a}}}}]}}]")],
        ["CV0606 error HTTPRoute shop/r spec.rules[0]"],
    ),
    "a redirect needs no backend": (
        [
            *MESH,
            http_route("r", f"{to_service()}, rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: a.test}}}}]}}]"),
        ],
        [],
    ),
    "a backend that is not there": (
        [*MESH, http_route("r", f"{to_service()}, rules: [{{backendRefs: [{{name: crat, port: 80}}]}}]")],
        ["CV0501 error HTTPRoute shop/r spec.rules[0].backendRefs[0].name"],
    ),
    "a port of a backend that is not there": (
        [*MESH, http_route("r", f"{to_service()}, rules: [{{backendRefs: [{{name: cart, port: 8080}}]}}]")],
        ["CV0502 error HTTPRoute shop/r spec.rules[0].backendRefs[0].port"],
    ),
    "a backend that is no service": (
        [*MESH, http_route("r", f"{to_service()}, rules: [{{backendRefs: [{{group: x.test, kind: Bucket, name: b}}]}}]")],
        ["CV0517 error HTTPRoute shop/r spec.rules[0].backendRefs[0]", "CV0607 error HTTPRoute shop/r spec.rules[0].backendRefs[0].kind"],
    ),
    "a route that is attached to nothing": ([*MESH, http_route("r", BACK)], ["CV0608 warning HTTPRoute shop/r spec.parentRefs"]),
    "the same match twice": (
        [
            *MESH,
            http_route(
                "r",
                f"{to_service()}, rules: [{{matches: [{{path: {{value: /a}}}}], backendRefs: [{{name: cart, port: 80}}]}}, "
                "{matches: [{path: {value: /a/}}], backendRefs: [{name: cart, port: 80}]}]",
            ),
        ],
        ["CV0505 warning HTTPRoute shop/r spec.rules[1]"],
    ),
    "a wider match before a narrower one, which counts all the same": (
        [
            *MESH,
            http_route(
                "r",
                f"{to_service()}, rules: [{{backendRefs: [{{name: cart, port: 80}}]}}, {{matches: [{{path: {{value: /a}}}}], "
                "backendRefs: [{name: cart, port: 80}]}]",
            ),
        ],
        [],
    ),
    "two routes with one match": (
        [*MESH, http_route("a", f"{to_service()}, {BACK}"), http_route("b", f"{to_service()}, {BACK}")],
        ["CV0505 warning HTTPRoute shop/b spec.rules[0]"],
    ),
    "two routes with one match for different hosts": (
        [
            *MESH,
            IN,
            http_route("a", f"{AT_GATEWAY}, hostnames: [a.test], {BACK}"),
            http_route("b", f"{AT_GATEWAY}, hostnames: [b.test], {BACK}"),
        ],
        [],
    ),
    # Gateways
    "a class that is not there": (
        [
            thing(GATEWAY_API, "GatewayClass", "istio", "controllerName: istio.io/gateway-controller", ""),
            gateway("in", "gatewayClassName: isto, listeners: [{name: http, port: 80, protocol: HTTP}]"),
        ],
        ["CV0610 error Gateway shop/in spec.gatewayClassName"],
    ),
    "a class where the input has none": ([IN], []),
    "two protocols on one port": (
        [gateway("in", "gatewayClassName: istio, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: TCP}]")],
        ["CV0611 error Gateway shop/in spec.listeners[1].protocol"],
    ),
    "two hosts on one port": (
        [
            gateway(
                "in",
                "gatewayClassName: istio, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, "
                "protocol: HTTP, hostname: a.test}]",
            )
        ],
        [],
    ),
    "TLS twice for one host": (
        [
            gateway(
                "in",
                "gatewayClassName: istio, listeners: [{name: a, port: 443, protocol: HTTPS, hostname: a.test, "
                "tls: {certificateRefs: [{name: a}]}}, "
                "{name: b, port: 443, protocol: TLS, hostname: a.test, tls: {mode: Passthrough}}]",
            )
        ],
        ["CV0611 error Gateway shop/in spec.listeners[1].hostname"],
    ),
    "two of Istio's gateways on one port": (
        [
            EDGE,
            istio_gateway("also", "selector: {app: edge}, servers: [{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}]"),
            istio_gateway("apart", "selector: {app: apart}, servers: [{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}]"),
        ],
        [
            "CV0611 error Gateway.networking.istio.io shop/edge spec.servers[0].port.protocol",
            "CV0614 info Gateway.networking.istio.io shop/edge metadata.name",
            "CV0614 info Gateway.networking.istio.io shop/also metadata.name",
            "CV0614 info Gateway.networking.istio.io shop/apart metadata.name",
        ],
    ),
    "a certificate that is not there": (
        [SECRET, tls("in", "shop-tsl")],
        ["CV0612 error Gateway shop/in spec.listeners[0].tls.certificateRefs[0].name"],
    ),
    "a certificate that is there": ([SECRET, tls("in", "shop-tls")], []),
    "a certificate that will be made": (
        [thing("cert-manager.io/v1", "Certificate", "c", "secretName: shop-tls"), tls("in", "shop-tls")],
        [],
    ),
    "a certificate where no Secrets are in the input": ([tls("in", "shop-tls")], []),
    "a certificate of another namespace": (
        [PLAIN, OTHER, tls("in", "shop-tls", "other")],
        ["CV0604 error Gateway shop/in spec.listeners[0].tls.certificateRefs[0].namespace"],
    ),
    "a certificate of another namespace that is granted": (
        [PLAIN, OTHER, grant("other", "Gateway", "Secret"), tls("in", "shop-tls", "other")],
        [],
    ),
    "a certificate of Istio's gateway": (
        [
            SECRET,
            istio_gateway(
                "edge",
                "servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, "
                "credentialName: shop-tsl}}]",
            ),
        ],
        [
            "CV0612 error Gateway.networking.istio.io shop/edge spec.servers[0].tls.credentialName",
            "CV0614 info Gateway.networking.istio.io shop/edge metadata.name",
        ],
    ),
}

IN_CLUSTER: dict[str, Case] = {
    "a Gateway that nobody listens for": (
        [istio_gateway("edge", "selector: {app: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]")],
        [
            "CV0613 warning Gateway.networking.istio.io shop/edge spec.selector",
            "CV0614 info Gateway.networking.istio.io shop/edge metadata.name",
        ],
    ),
    "a class that is not there": ([IN], ["CV0610 error Gateway shop/in spec.gatewayClassName"]),
}


@pytest.mark.parametrize("case", CASES)
def test_finds(case: str) -> None:
    texts, expected = CASES[case]
    assert [line for line in found(*texts) if not line.startswith("CV0614 info Gateway ")] == expected


def test_what_gateways_let_in_is_not_our_business() -> None:
    """Whether the input has their class or not; a waypoint's is the one that we serve."""
    of_istio = thing(GATEWAY_API, "GatewayClass", "istio", "controllerName: istio.io/gateway-controller", "")
    for texts in ([IN], [IN, of_istio]):
        assert found(*texts) == [NOT_SERVED]
    assert found_in_cluster(IN, of_istio) == [NOT_SERVED]
    misspelt = gateway("wp", "gatewayClassName: istio-waypiont, listeners: [{name: mesh, port: 15008, protocol: HBONE}]")
    assert found(misspelt) == ["CV0610 error Gateway shop/wp spec.gatewayClassName"]


@pytest.mark.parametrize("case", IN_CLUSTER)
def test_finds_in_a_cluster(case: str) -> None:
    texts, expected = IN_CLUSTER[case]
    assert found_in_cluster(*texts) == expected
