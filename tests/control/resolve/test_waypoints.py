"""Who is reached through a waypoint, and what becomes of policies that need one."""

from __future__ import annotations

import pytest

from control.resolve import Mesh
from mesh.model.workload import GatewayAddress, NamespacedHostname
from tests.control.objects import feed, namespace, pod, policy, resolved, service, told
from tests.control.test_policies import denied

ADDRESS = GatewayAddress(NamespacedHostname("shop", "wp.shop.svc.cluster.local"))
USE = "istio.io/use-waypoint: wp"
WP_SERVICE = service("wp", "clusterIP: 10.96.0.9, ports: [{port: 15008, name: mesh}]")
WEB = service("web", "clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]", f"labels: {{{USE}}}")
CAPTURED = "annotations: {ambient.istio.io/redirection: enabled}"
PODS = (pod("web", "10.0.0.1", meta=CAPTURED), pod("db", "10.0.0.2", labels="app: db", meta=CAPTURED))


def gateway(name: str = "wp", labels: str = "", routes: str = "", where: str = "shop", cls: str = "istio-waypoint", more: str = "") -> str:
    allowed = f", allowedRoutes: {{namespaces: {{{routes}}}}}" if routes else ""
    protocol = "HBONE" if cls == "istio-waypoint" else "HTTP"
    meta = f"{{name: {name}, namespace: {where}, labels: {{{labels}}}{more}}}"
    return (
        f"{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {meta}, "
        f"spec: {{gatewayClassName: {cls}, listeners: [{{name: mesh, port: 15008, protocol: {protocol}{allowed}}}]}}}}"
    )


def services_through(found: Mesh) -> set[str]:
    return {made.name for made in found.services.values() if made.waypoint == ADDRESS}


def workloads_through(found: Mesh) -> set[str]:
    return {made.name for made in found.workloads.values() if made.waypoint == ADDRESS}


def test_a_service_that_asks_for_a_waypoint_is_reached_through_it() -> None:
    found = resolved(gateway(), WP_SERVICE, WEB, *PODS)
    assert services_through(found) == {"web"}, "the waypoint's own Service is not"
    assert workloads_through(found) == set(), "it is for services"
    assert told(found) == []


def test_a_namespace_asks_for_all_that_is_in_it_except_what_says_otherwise() -> None:
    out = service("out", "ports: [{port: 80}]", "labels: {istio.io/use-waypoint: none}")
    found = resolved(
        gateway(labels="istio.io/waypoint-for: all"), WP_SERVICE, namespace("shop", USE), service("in", "ports: [{port: 80}]"), out, *PODS
    )
    assert services_through(found) == {"in"}
    assert workloads_through(found) == {"web", "db"}


def test_pods_outside_the_mesh_are_reached_directly() -> None:
    found = resolved(gateway(labels="istio.io/waypoint-for: workload"), WP_SERVICE, pod("web", labels=f"app: web, {USE}"))
    assert workloads_through(found) == set()


def test_a_waypoints_own_pods_are_reached_directly() -> None:
    own = pod("wp-1", labels=f"gateway.networking.k8s.io/gateway-name: wp, {USE}", meta=CAPTURED)
    assert workloads_through(resolved(gateway(labels="istio.io/waypoint-for: all"), WP_SERVICE, own)) == set()


NOT_USED = [
    # (objects beside the service that asks for it, what is said of it)
    ((), "there is no such waypoint"),
    ((gateway(),), "it is not ready: there is no Service shop/wp"),
    ((gateway(cls="other"), WP_SERVICE), "the Gateway is of class other, not istio-waypoint"),
    ((gateway(labels="istio.io/waypoint-for: workload"), WP_SERVICE), "it is not for a service (istio.io/waypoint-for)"),
    ((gateway(labels="istio.io/waypoint-for: none"), WP_SERVICE), "it is not for a service (istio.io/waypoint-for)"),
]


@pytest.mark.parametrize(("texts", "why"), NOT_USED, ids=[row[1] for row in NOT_USED])
def test_what_does_not_work_is_not_used_and_told(texts: tuple[str, ...], why: str) -> None:
    found = resolved(WEB, *texts)
    assert services_through(found) == set()
    (status,) = [status for status in told(found) if status.key.kind == "Service"]
    assert status.notes == (f"istio.io/use-waypoint=wp: {why}; traffic goes without one",)


def test_an_own_label_that_leads_nowhere_does_not_fall_back_to_the_namespaces() -> None:
    found = resolved(
        gateway(), WP_SERVICE, namespace("shop", USE), service("web", "ports: [{port: 80}]", "labels: {istio.io/use-waypoint: nope}")
    )
    assert services_through(found) == set()


ADMITS = [
    ("", False),
    ("from: Same", False),
    ("from: None", False),
    ("from: All", True),
    ("from: Selector, selector: {matchLabels: {team: a}}", True),
    ("from: Selector, selector: {matchLabels: {team: b}}", False),
    ("from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [a, c]}]}", True),
]


@pytest.mark.parametrize(("routes", "admitted"), ADMITS)
def test_another_namespace_must_be_let_in(routes: str, admitted: bool) -> None:
    labels = f"labels: {{{USE}, istio.io/use-waypoint-namespace: shop}}"
    other = service("web", "ports: [{port: 80}]", f"namespace: other, {labels}")
    found = resolved(gateway(routes=routes), WP_SERVICE, namespace("other", "team: a"), other)
    assert services_through(found) == ({"web"} if admitted else set())


def test_a_waypoint_comes_and_goes() -> None:
    found = resolved(WEB, WP_SERVICE)
    feed(found, WEB, WP_SERVICE, gateway())
    assert services_through(found) == {"web"}
    feed(found, WEB, "", gateway())
    assert services_through(found) == set()


TARGET = "targetRefs: [{kind: Service, name: web}]"
POLICIES = [
    # (objects beside the pods and the service web, which asks for wp; who is denied)
    ((policy("p", f"{TARGET}, action: DENY, rules: [{{}}]"),), {"web"}),
    ((policy("p", f"{TARGET}, action: DENY, rules: [{{}}]"), gateway(), WP_SERVICE), set()),
    ((policy("p", f"{TARGET}, action: CUSTOM, provider: {{name: x}}, rules: [{{}}]"), gateway(), WP_SERVICE), set()),
    ((policy("p", "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: wp}], rules: [{}]"),), {"web"}),
    ((policy("p", "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: wp}], rules: [{}]"), gateway(), WP_SERVICE), set()),
    (
        (
            policy(
                "p",
                "targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}], rules: [{}]",
                "istio-system",
            ),
            gateway(),
            WP_SERVICE,
        ),
        set(),
    ),
    ((policy("p", f"{TARGET}, nope: 1"), gateway(), WP_SERVICE), set()),
    # tokens are looked at by waypoints
    (("RA", TARGET), {"web"}),
    (("RA", TARGET, gateway(), WP_SERVICE), set()),
    (("RA", "selector: {matchLabels: {app: db}}", gateway(), WP_SERVICE), {"db"}),
    (("RA", "", gateway(), WP_SERVICE), {"web", "db"}),
]


def tokens(spec: str) -> str:
    rules = "jwtRules: [{issuer: me, jwks: '{\"keys\": []}'}]"
    return (
        "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: r, namespace: shop}, "
        f"spec: {{{', '.join(filter(None, [spec, rules]))}}}}}"
    )


@pytest.mark.parametrize(("texts", "expected"), POLICIES, ids=[" + ".join(row[0])[:160] for row in POLICIES])
def test_whom_a_policy_denies_for_want_of_a_waypoint(texts: tuple[str, ...], expected: set[str]) -> None:
    if texts[0] == "RA":
        texts = (tokens(texts[1]), *texts[2:])
    assert denied(resolved(WEB, *PODS, *texts)) == expected


def test_what_is_not_enforced_is_said() -> None:
    found = resolved(
        WEB, *PODS, policy("p", f"{TARGET}, rules: [{{}}]"), policy("q", "targetRefs: [{kind: Service, name: nope}], rules: [{}]")
    )
    notes = {str(key): status.notes for key, status in found.statuses.items()}
    assert notes["AuthorizationPolicy shop/p"] == (
        "needs a waypoint for Service web (istio.io/use-waypoint=wp: there is no such waypoint): the pods behind it are denied",
    )
    assert notes["AuthorizationPolicy shop/q"] == ("there is no Service shop/nope: the policy covers nothing of it",)


def test_a_namespace_that_may_not_use_a_waypoint_is_told_and_its_policies_deny() -> None:
    labels = f"{USE}, istio.io/use-waypoint-namespace: shop"
    target = "targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}], rules: [{}]"
    found = resolved(
        gateway(),
        WP_SERVICE,
        namespace("other", labels),
        service("web", "selector: {app: web}, ports: [{port: 80}]", "namespace: other"),
        pod("theirs", "10.0.0.3", meta="namespace: other"),
        policy("p", target, "istio-system"),
    )
    assert denied(found) == {"theirs"}
    notes = [note for status in found.statuses.values() for note in status.notes]
    assert "istio.io/use-waypoint=wp: it lets no other namespace in; traffic goes without one" in notes
