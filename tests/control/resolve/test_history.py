"""Whatever came and went, the mesh is what the objects that are there make of it: the resolution remembers nothing it should not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.resolve import Mesh, MeshSettings
from control.resolve.l7.plans import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, Ref
from control.xds.store import Store
from control.xds.tunnels import TUNNEL_TYPES, tunnel_entries
from mesh.model.manifest import parse_file
from tests.control.objects import namespace, peer, pod, policy, service
from tests.control.resolve.l7 import CLIENT, WAYPOINT, Served, routes, rule, to
from tests.control.resolve.test_entries import entry, machine, slice_
from tests.control.resolve.test_l7 import GRANT, HTTP_ROUTE, PARENT
from tests.control.resolve.test_through import GRPC, TUNNELS, WP, WP_POD
from tests.control.resolve.test_waypoints import CAPTURED, gateway, tokens

USING = namespace("shop", "istio.io/use-waypoint: wp")
MESHED = pod("web-1", "10.0.0.1", meta=CAPTURED)
WEB = service("web", "clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: http}]")

# By place, what may stand there. Some are refused; some are of one name in two places.
PLACES: list[list[str]] = [
    [namespace("shop"), USING, namespace("shop", "istio.io/use-waypoint: nope")],
    [
        MESHED,
        pod("web-1", "10.0.0.1", labels="app: db"),
        pod("web-1", "10.0.0.9", status="phase: Succeeded"),
    ],
    [
        pod("web-2", "10.0.0.2"),
        pod("web-2", "10.0.0.2", labels="app: web, v: '2'", meta=CAPTURED),
        pod("web-2", "10.0.0.2", spec="hostNetwork: 1"),
    ],
    [pod("db-1", "10.0.0.3", labels="app: db"), pod("db-1", "10.0.0.3", labels="app: db, istio.io/use-waypoint: wp", meta=CAPTURED)],
    [
        WEB,
        service("web", "ports: [{port: 80}]"),
    ],
    [
        service("web", "selector: {app: web}, ports: [{port: 80}]"),
        service("all", "clusterIP: 10.96.0.2, selector: {app: db}, ports: [{port: 1}]", "labels: {istio.io/use-waypoint: none}"),
        service("all", "selector: {app: db}, ports: [{port: 1}]"),
    ],
    [
        WP,
        service("wp", "type: ExternalName, externalName: x.y"),
    ],
    [WP_POD, pod("wp-1", "10.0.0.7", labels="app: web")],
    [gateway(), gateway(labels="istio.io/waypoint-for: all"), gateway(cls="other"), gateway(labels="istio.io/waypoint-for: workload")],
    [
        policy("p", "selector: {matchLabels: {app: web}}, action: DENY, rules: [{}]"),
        policy("p", "rules: [{}]"),
        policy("p", "nope: 1"),
        "a: [",
    ],
    [policy("p", "action: DENY, rules: [{}]", "istio-system"), policy("q", "targetRefs: [{kind: Service, name: web}], rules: [{}]")],
    [peer("s", "mtls: {mode: STRICT}"), peer("s", "mtls: {mode: STRICT}", "istio-system"), peer("s", "mtls: {mode: X}")],
    [peer("t", "selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {'8080': {mode: PERMISSIVE}}"), tokens("")],
    [
        entry("db", "hosts: [db.x], ports: [{number: 1, name: a}], resolution: DNS"),
        entry(
            "db",
            "hosts: [web.shop.svc.cluster.local], ports: [{number: 1, name: a}], resolution: STATIC, workloadSelector: {labels: {app: db}}",
        ),
        entry("db", "hosts: [db.x], addresses: [10.1.0.1, 10.1.0.2], ports: [{number: 1, name: a}], resolution: NONE"),
    ],
    [
        entry(
            "d2",
            "hosts: [db.x, dc.x], ports: [{number: 2, name: a}], resolution: STATIC, endpoints: [{address: 1.0.0.2}, {address: 1.0.0.2}]",
        )
    ],
    [
        machine("vm", "address: 192.0.2.9, labels: {app: web}"),
        machine("vm", "address: h.x, labels: {app: db, networking.istio.io/tunnel: http}"),
    ],
    [
        slice_(
            "s",
            "web",
            "ports: [{port: 1}], endpoints: [{addresses: [192.0.2.5]}, {addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-1}}]",
        )
    ],
    [
        routes("web", "web", f"{{route: [{to('v1')}]}}"),
        routes("web", "web", f"{{route: [{to('v2')}]}}", where="other"),
        routes("web", "db.x", "x"),
        routes("web", "all", f"{{route: [{to('v1')}, {{destination: {{host: db.x}}}}]}}"),
    ],
    [
        rule("web", "web", "v1"),
        rule("web", "'*.local'", "v2", where="istio-system"),
        rule("web", "db.x", "", more=", trafficPolicy: {x: 1}"),
    ],
    [HTTP_ROUTE % ("r", "shop", PARENT, "{backendRefs: [{name: all, port: 1}]}"), HTTP_ROUTE % ("r", "shop", PARENT, "")],
    [
        HTTP_ROUTE % ("c", "client", PARENT, "{backendRefs: [{name: all, namespace: shop, port: 1}]}"),
        HTTP_ROUTE % ("c", "client", PARENT, "{backendRefs: [{name: web, namespace: shop, port: 80}]}"),
    ],
    [GRANT.replace("name: b", "name: all"), GRANT.replace("namespace: client", "namespace: other")],
    [
        policy("past", "targetRefs: [{kind: Service, name: all}], rules: [{}]"),
        policy("past", "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}], rules: [{}]"),
    ],
    [
        policy("l7", "targetRefs: [{kind: Service, name: web}], rules: [{to: [{operation: {paths: [/a]}}]}]"),
        policy("l7", f"{'targetRefs: []'}, x: 1"),
    ],
    ["{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}}"],
]

Edit = tuple[int, int]
# A service with a waypoint takes so much that edits from nothing hardly ever come to it.
THROUGH: list[Edit] = [
    (place, texts.index(text))
    for text in (USING, MESHED, WEB, WP, gateway(), WP_POD)
    for place, texts in enumerate(PLACES)
    if text in texts
]
edits = st.tuples(st.integers(0, len(PLACES) - 1), st.integers(-1, 3))


VIEWS = (CLIENT, TUNNELS, WAYPOINT)
WEB_CLUSTER, DB_CLUSTER = "outbound|80||web.shop.svc.cluster.local", "outbound|1||db.x"
CALLED = [
    *(Ref(GRPC, type_url, name) for type_url in (CLUSTER_TYPE, ENDPOINT_TYPE) for name in (WEB_CLUSTER, DB_CLUSTER)),
    *(Ref(GRPC, type_url, "web.shop.svc.cluster.local:80") for type_url in (LISTENER_TYPE, ROUTE_TYPE)),
]


def mesh_with_views() -> Mesh:
    mesh = Mesh(MeshSettings())
    for wanted in (*VIEWS, *CALLED):
        mesh.pin(wanted)
    return mesh


def view(mesh: Mesh) -> dict[str, Any]:
    return {
        "workloads": mesh.workloads,
        "services": mesh.services,
        "policies": mesh.policies,
        "statuses": mesh.statuses,
        "identities": mesh.identities(),
        "unenforceable": mesh.unenforceable,
        "resources": {one: mesh.resources_of(one) for one in (*VIEWS, GRPC)},
        "cells": {table.name: sorted(map(str, mesh.engine.args(table))) for table in mesh.engine.tables()},
    }


def put(mesh: Mesh, place: int, text: str) -> None:
    mesh.put("files", f"{place}.yaml", parse_file(text, f"{place}.yaml"))


def settle(mesh: Mesh, store: Store) -> None:
    changes = mesh.settle(mesh.take())
    mesh.publish(changes)
    store.apply(tunnel_entries(changes))
    assert mesh.engine.bugs == []


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.sampled_from([[], THROUGH]), st.lists(st.lists(edits, min_size=1, max_size=4), max_size=12))
def test_any_history_ends_where_a_fresh_start_does(beginning: list[Edit], history: list[list[Edit]]) -> None:
    mesh, store = mesh_with_views(), Store(TUNNEL_TYPES)
    now: dict[int, str] = {}
    for batch in [beginning, *history]:
        for place, choice in batch:
            texts = PLACES[place]
            now[place] = texts[choice] if 0 <= choice < len(texts) else ""
            put(mesh, place, now[place])
        settle(mesh, store)
    # An accepted version may stay in force for what is refused now: that is remembered on purpose. It is gone once the place was empty.
    for place in range(len(PLACES)):
        put(mesh, place, "")
    settle(mesh, store)
    assert (mesh.workloads, mesh.services, mesh.statuses, mesh.identities(), mesh.catalog.objects) == ({}, {}, {}, {}, {})
    for place, text in now.items():
        put(mesh, place, text)
    settle(mesh, store)
    fresh, other = mesh_with_views(), Store(TUNNEL_TYPES)
    for place, text in now.items():
        put(fresh, place, text)
    settle(fresh, other)
    assert view(mesh) == view(fresh)
    for type_url in TUNNEL_TYPES:
        versions = [{name: entry.version for name, entry in each.types[type_url].entries.items()} for each in (store, other)]
        assert versions[0] == versions[1]


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.sampled_from([[], THROUGH]), st.lists(edits, max_size=30))
def test_without_refusals_no_detour_is_needed(beginning: list[Edit], history: list[Edit]) -> None:
    mesh, store = mesh_with_views(), Store(TUNNEL_TYPES)
    settle(mesh, store)
    now: dict[int, str] = {}
    for place, choice in [*beginning, *history]:
        texts = PLACES[place]
        text = texts[choice] if 0 <= choice < len(texts) else ""
        trial = Mesh(MeshSettings())
        for other, known in {**now, place: text}.items():
            put(trial, other, known)
        trial.take()
        if trial.catalog.rejections:
            continue
        now[place] = text
        put(mesh, place, text)
        settle(mesh, store)
    fresh = mesh_with_views()
    for place, text in now.items():
        put(fresh, place, text)
    settle(fresh, Store(TUNNEL_TYPES))
    assert view(mesh) == view(fresh)


def test_histories_begin_with_a_waypoint() -> None:
    """Else nothing of what it is to clients would be in any of them."""
    mesh = mesh_with_views()
    for place, choice in THROUGH:
        put(mesh, place, PLACES[place][choice])
    settle(mesh, Store(TUNNEL_TYPES))
    assert Served(TUNNELS, mesh=mesh).addresses(WEB_CLUSTER) == ["tunnel 10.96.0.1:80 by 10.0.0.8:15008"]
    assert Served(CLIENT, mesh=mesh).addresses(WEB_CLUSTER) == ["10.96.0.1:80"]
