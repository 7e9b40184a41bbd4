"""Envoy as a waypoint, end to end, by what our control plane serves it in both variants of ADS: routes, policies, and its identity (SDS)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop import envoy, tended
from tests.interop.tended import Tended, ask, identity

pytestmark = [
    pytest.mark.interop,
    pytest.mark.netns,
    pytest.mark.skipif(envoy.binary() is None, reason="Envoy is not installed: make envoy"),
]

ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - {match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: web, subset: v2}}]}
  - {match: [{uri: {prefix: /teapot}}], directResponse: {status: 418}}
  - {route: [{destination: {host: web, subset: v1}}]}
---
"""
POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-writing, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {methods: [DELETE], paths: ["/books/*"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: private, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: web}]
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/other]}}], to: [{operation: {paths: ["/private*"]}}]}]
---
"""


@pytest.fixture(scope="module", params=[True, False], ids=["delta", "state of the world"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tended]:
    files = {"routes": ROUTES, "policies": POLICIES}
    with tended.running(tmp_path_factory.mktemp("tended"), files, delta=request.param) as made:
        yield made


def test_requests_are_judged_and_routed(mesh: Tended) -> None:
    mesh.server.requests.clear()
    with mesh.client("client") as client, mesh.client("other") as other:
        assert ask(client, "/books/1").server == "v1"
        assert ask(client, "/books/1", end_user="jason").server == "v2"
        assert ask(client, "/teapot").status == 418
        assert [ask(client, path, "DELETE").status for path in ("/books/1", "/shelves/1")] == [403, 200]
        assert [ask(one, "/private/1").status for one in (client, other)] == [200, 403]
        assert ask(other, "/books/1").server == "v1"
        assert client.tunnel.peer_identity == identity("waypoint")
    assert {peer for peer, _ in mesh.server.requests} == {identity("waypoint")}
