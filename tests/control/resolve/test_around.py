"""Policies that a waypoint never asks, since a route leads to what they target from another service."""

from __future__ import annotations

import pytest

from control.resolve import Mesh
from tests.control.objects import feed, policy, resolved, service
from tests.control.resolve.l7 import routes
from tests.control.resolve.test_waypoints import USE, WP_SERVICE, gateway

HTTP = "ports: [{port: 80, name: http}]"
WEB = service("web", f"clusterIP: 10.96.0.1, {HTTP}", f"labels: {{{USE}}}")
VAULT = service("vault", f"clusterIP: 10.96.5.1, {HTTP}", f"namespace: secure, labels: {{{USE}}}")
OTHERS = (gateway(where="secure"), service("wp", "clusterIP: 10.96.5.9, ports: [{port: 15008, name: mesh}]", "namespace: secure"), VAULT)
MESH = (gateway(), WP_SERVICE, WEB, *OTHERS)
DENY = policy("deny", "targetRefs: [{kind: Service, name: vault}], action: DENY, rules: [{}]", "secure")
OF_GATEWAY = policy(
    "deny", "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}], action: DENY, rules: [{}]", "secure"
)
OF_CLASS = policy(
    "deny",
    "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}], action: DENY, rules: [{}]",
    "istio-system",
)
TO_VAULT = routes("r", "web", "{route: [{destination: {host: vault.secure.svc.cluster.local}}]}")
COPIES = routes("r", "web", "{route: [{destination: {host: web}}], mirrors: [{destination: {host: vault.secure.svc.cluster.local}}]}")
TO_ITSELF = routes("r", "vault", "{route: [{destination: {host: vault}}]}", where="secure")
BEHIND_THE_SAME = (
    service("front", f"clusterIP: 10.96.5.2, {HTTP}", f"namespace: secure, labels: {{{USE}}}"),
    routes("r", "front", "{route: [{destination: {host: vault}}]}", where="secure"),
)
AROUND = "what routes of web.shop.svc.cluster.local send to vault.secure.svc.cluster.local does not go by it"


def enforced(mesh: Mesh) -> tuple[str, str, str]:
    """What the policy's status says of its effect."""
    (status,) = (status for key, status in mesh.statuses.items() if key.kind == "AuthorizationPolicy")
    assert status.wanted is not None
    (found,) = (one for one in status.wanted.conditions if one.type == "Enforced")
    return found.status, found.reason, found.message


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ((DENY,), "Waypoint"),
        ((DENY, TO_VAULT), "Bypassed"),
        ((DENY, COPIES), "Bypassed"),
        ((DENY, TO_ITSELF), "Waypoint"),
        ((DENY, *BEHIND_THE_SAME), "Bypassed"),
        ((OF_GATEWAY, TO_VAULT), "Bypassed"),
        ((OF_GATEWAY, *BEHIND_THE_SAME), "Waypoint"),
        ((OF_CLASS, TO_VAULT), "Waypoint"),
    ],
    ids=["no route", "a route", "copies", "to itself", "of its waypoint", "a gateway", "within the gateway", "every gateway"],
)
def test_a_policy_that_a_route_leads_around_says_so(more: tuple[str, ...], reason: str) -> None:
    found = enforced(resolved(*MESH, *more))
    assert found[:2] == (str(reason == "Waypoint"), reason)


def test_it_follows_the_routes() -> None:
    mesh = resolved(*MESH, DENY, TO_VAULT)
    assert enforced(mesh) == ("False", "Bypassed", AROUND)
    feed(mesh, *MESH, DENY)
    assert enforced(mesh) == ("True", "Waypoint", "")
    feed(mesh, *MESH, DENY, TO_VAULT)
    assert enforced(mesh) == ("False", "Bypassed", AROUND)
    feed(mesh, gateway(), WP_SERVICE, service("web", HTTP), *OTHERS, DENY, TO_VAULT)
    assert enforced(mesh) == ("True", "Waypoint", ""), "nothing routes what is sent to web any more"


def test_a_gateway_api_route_needs_a_grant_to_lead_around() -> None:
    ref = "parentRefs: [{group: '', kind: Service, name: web}]"
    route = (
        f"{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: shop}}, "
        f"spec: {{{ref}, rules: [{{backendRefs: [{{name: vault, namespace: secure, port: 80}}]}}]}}}}"
    )
    grant = (
        "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, namespace: secure}, "
        "spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}}"
    )
    mesh = resolved(*MESH, DENY, route)
    assert enforced(mesh) == ("True", "Waypoint", "")
    feed(mesh, *MESH, DENY, route, grant)
    assert enforced(mesh) == ("False", "Bypassed", AROUND)
