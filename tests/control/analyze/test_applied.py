"""Files over a cluster: what would be, against what is."""

from __future__ import annotations

from control.analyze import Analysis, Options, changed
from tests.control.analyze.manifests import PLAIN, SHOP, account, ap, cart, deployment, given, in_cluster, said, vs, waypoint
from tests.control.objects import pod, service

IN_MESH = "annotations: {ambient.istio.io/redirection: enabled}"
CART_POD = pod("cart-1", labels="app: cart", meta=IN_MESH)
WORKS = (PLAIN, cart(), CART_POD)
WRONG = service("web", "selector: {app: web}, ports: [{port: 80}]")


def applied(files: list[str], cluster: list[str]) -> Analysis:
    return changed(given(*files), in_cluster(*cluster), Options())


def test_what_is_wrong_already_elsewhere_is_not_told() -> None:
    assert said(applied([account("x")], [*WORKS, WRONG])) == []


def test_what_is_wrong_in_an_object_of_the_files_is_told_even_if_it_was() -> None:
    assert said(applied([WRONG], [*WORKS, WRONG])) == ["CV0201 warning Service shop/web spec.selector"]


def test_what_breaks_elsewhere_is_told() -> None:
    moved = service("cart", "selector: {app: carts}, ports: [{port: 8080, name: http}]")
    route = vs("v", "hosts: [cart], http: [{route: [{destination: {host: cart, port: {number: 80}}}]}]")
    analysis = applied([moved], [SHOP, waypoint(), service("wp", "ports: [{port: 15008}]"), cart(), CART_POD, route])
    assert said(analysis) == [
        "CV0201 warning Service shop/cart spec.selector[app]",
        "CV0502 error VirtualService shop/v spec.http[0].route[0].destination.port.number",
    ]
    assert analysis.mended == ()
    assert analysis.objects == 1


def test_what_is_mended_is_told() -> None:
    analysis = applied([cart()], [PLAIN, service("cart", "selector: {app: crat}, ports: [{port: 80, name: http}]"), CART_POD])
    assert said(analysis) == []
    assert [(finding.code.name, finding.subject) for finding in analysis.mended] == [("CV0201", "Service shop/cart")]


def test_a_deployment_takes_the_place_of_its_running_pods() -> None:
    owned = (
        "annotations: {ambient.istio.io/redirection: enabled}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: cart-abc, "
        "uid: '1', controller: true}]"
    )
    running = pod("cart-abc-1", labels="app: cart, pod-template-hash: abc", meta=owned)
    renamed = deployment("cart", labels="app: carts")
    assert said(applied([renamed], [PLAIN, cart(), running])) == ["CV0201 warning Service shop/cart spec.selector[app]"]
    assert said(applied([deployment("other", labels="app: carts")], [PLAIN, cart(), running])) == []


def test_an_object_that_would_be_refused_is_told_and_the_one_in_the_cluster_does_not_count_beside_it() -> None:
    broken = ap("p", "selector: {matchLabels: {app: cart}}, rules: [{to: [{operation: {port: ['8080']}}]}]")
    good = ap("p", "selector: {matchLabels: {app: cart}}, rules: [{to: [{operation: {ports: ['8080']}}]}]")
    assert said(applied([broken], [*WORKS, good])) == ["CV0011 error AuthorizationPolicy shop/p spec.rules[0].to[0].operation.port"]


def test_a_cluster_answers_what_files_alone_do_not() -> None:
    assert said(applied([vs("v", "hosts: [crat], http: [{route: [{destination: {host: crat}}]}]")], [*WORKS])) == [
        "CV0501 error VirtualService shop/v spec.http[0].route[0].destination.host",
        "CV0511 warning VirtualService shop/v spec.hosts[0]",
    ]


def test_what_was_refused_in_the_cluster_is_told_of_a_cluster() -> None:
    broken = ap("p", "action: DENY")
    analysis = applied([account("x")], [*WORKS, broken])
    assert said(analysis) == []
    assert said(applied([broken], [*WORKS])) == ["CV0013 error AuthorizationPolicy shop/p spec.rules"]
