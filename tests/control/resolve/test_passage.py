"""Policies for services whose traffic does not all pass their waypoint: whoever is behind them is under the policy then."""

from __future__ import annotations

import pytest

from control.resolve.l7.plans import LISTENER_TYPE
from tests.control.objects import SECURITY, feed, namespace, pod, policy, resolved, service
from tests.control.resolve.l7 import WAYPOINT, Served
from tests.control.resolve.test_entries import entry, machine, slice_
from tests.control.resolve.test_waypoints import CAPTURED, USE, WP_SERVICE, gateway
from tests.control.test_policies import denied

DENY = "action: DENY, rules: [{}]"
OF_GATEWAY = "group: gateway.networking.k8s.io, kind"
AT_WP = "labels: {istio.io/use-waypoint: wp}"
HTTP = "ports: [{number: 80, name: http, protocol: HTTP}]"
WEB = service("web", "clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, name: http}]", AT_WP)
PODS = (pod("web-1", "10.0.0.1", meta=CAPTURED), pod("db-1", "10.0.0.2", labels="app: db", meta=CAPTURED))
THERE = (gateway(), WP_SERVICE)


def at(kind: str, name: str, rest: str = DENY, *, group: str = "networking.istio.io", where: str = "shop") -> str:
    return policy("p", f"targetRefs: [{{group: {group}, kind: {kind}, name: {name}}}], {rest}", where)


def to_service(name: str) -> str:
    return policy("p", f"targetRefs: [{{kind: Service, name: {name}}}], {DENY}")


HEADLESS = service("web", "clusterIP: None, selector: {app: web}, ports: [{port: 80, name: http}]", AT_WP)
LISTED = "ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-1}}]"
OF_DB = f"{HTTP}, resolution: STATIC, workloadSelector: {{labels: {{app: db}}}}"
STATIC = entry("se", f"hosts: [x.y], {HTTP}, resolution: STATIC, endpoints: [{{address: 10.0.0.1}}]")

CASES = {
    # what it is: (objects beside the pods, who is denied, what is said of it)
    "a host that a Service has": (
        (*THERE, WEB, entry("se", f"hosts: [web.shop.svc.cluster.local], {OF_DB}", AT_WP), at("ServiceEntry", "se")),
        {"db-1"},
        "needs a waypoint for ServiceEntry se (what web.shop.svc.cluster.local is, Service shop/web says)",
    ),
    "a host that another ServiceEntry has": (
        (*THERE, entry("a", f"hosts: [x.y], {OF_DB}", AT_WP), entry("b", f"hosts: [x.y], {OF_DB}", AT_WP), at("ServiceEntry", "b")),
        {"db-1"},
        "needs a waypoint for ServiceEntry b (what x.y is, ServiceEntry shop/a says)",
    ),
    "a service without an address": (
        (*THERE, HEADLESS, to_service("web")),
        {"web-1"},
        "needs a waypoint for Service web (web.shop.svc.cluster.local has no address of its own",
    ),
    "a service with an address": ((*THERE, WEB, to_service("web")), set(), ""),
    "a Service that selects nothing": (
        (service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"), slice_("s", "web", LISTED), to_service("web")),
        {"web-1", "s"},
        "needs a waypoint for Service web (it asks for none)",
    ),
    "a Service that selects nothing, with a waypoint": (
        (*THERE, service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]", AT_WP), slice_("s", "web", LISTED), to_service("web")),
        set(),
        "",
    ),
    "a ServiceEntry that lists addresses": ((STATIC, at("ServiceEntry", "se")), {"web-1"}, "needs a waypoint for ServiceEntry se"),
    "a machine at an address that is listed": (
        (machine("vm", "address: 10.0.0.9"), STATIC.replace("10.0.0.1", "10.0.0.9"), at("ServiceEntry", "se")),
        {"vm"},
        "needs a waypoint for ServiceEntry se",
    ),
    "a class, from where none is a target": (
        (*THERE, WEB, at("GatewayClass", "istio-waypoint", group="gateway.networking.k8s.io")),
        {"web-1", "db-1"},
        "a GatewayClass is a target in the root namespace only: the policy is on every pod of namespace shop",
    ),
    "a class that is none": (
        (*THERE, WEB, at("GatewayClass", "istio-waypiont", group="gateway.networking.k8s.io", where="istio-system")),
        set(),
        "no waypoint is of class istio-waypiont, but of istio-waypoint: the policy covers nothing of it",
    ),
    "a waypoint that is for what there is not": (
        (
            gateway(labels="istio.io/waypoint-for: services"),
            WP_SERVICE,
            namespace("shop", USE),
            at("Gateway", "wp", group="gateway.networking.k8s.io"),
        ),
        {"web-1", "db-1"},
        "needs the waypoint wp: its label istio.io/waypoint-for is services; accepted: all, service, workload, none",
    ),
    "a waypoint that takes nothing": (
        (
            gateway(labels="istio.io/waypoint-for: none"),
            WP_SERVICE,
            namespace("shop", USE),
            at("Gateway", "wp", group="gateway.networking.k8s.io"),
        ),
        set(),
        "the waypoint wp takes nothing: the policy covers nothing of it",
    ),
    "a class, refused, from where none is a target": (
        (*THERE, WEB, at("GatewayClass", "istio-waypoint", "nope: 1", group="gateway.networking.k8s.io")),
        {"web-1", "db-1"},
        "",
    ),
}


@pytest.mark.parametrize(("texts", "expected", "note"), CASES.values(), ids=CASES)
def test_who_is_denied_and_what_is_said(texts: tuple[str, ...], expected: set[str], note: str) -> None:
    found = resolved(*PODS, *texts)
    assert denied(found) == expected
    notes = [said for key, status in found.statuses.items() if key.kind == "AuthorizationPolicy" for said in status.notes]
    assert [said[: len(note)] for said in notes] == ([note] if note else [])


def test_slices_come_and_go() -> None:
    selects_nothing = service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]")
    served = Served(WAYPOINT, *PODS, selects_nothing, to_service("web"))
    assert denied(served.mesh) == set()
    feed(served.mesh, *PODS, selects_nothing, to_service("web"), slice_("s", "web", LISTED))
    assert denied(served.mesh) == {"web-1", "s"}
    feed(served.mesh, *PODS, selects_nothing, to_service("web"), slice_("s", "web", LISTED.replace("0.1", "0.2")))
    assert denied(served.mesh) == {"db-1", "s"}
    feed(served.mesh, *PODS, selects_nothing, "", slice_("s", "web", LISTED))
    assert denied(served.mesh) == set()


EGRESS = entry("ext", "hosts: [api.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS", AT_WP)
TOKENS = (
    f"{{{SECURITY}, kind: RequestAuthentication, metadata: {{name: r, namespace: shop, annotations: {{istio.io/dry-run: 'true'}}}}, "
    "spec: {targetRefs: [{kind: Service, name: web}], nope: 1}}"
)
REFUSED = {
    # what it is: (the refused policy, whether waypoints of the namespace let nobody pass)
    "of a target": (to_service("web").replace(DENY, "nope: 1"), True),
    "of another target": (to_service("other").replace(DENY, "nope: 1"), False),
    "of another namespace": (at("ServiceEntry", "ext", "nope: 1", where="other"), False),
    "whose targets cannot be read": (policy("p", f"targetRefs: [{{kind: ServiceEntry, nme: ext}}], {DENY}"), True),
    "whose namespace cannot be read": (to_service("web").replace(DENY, "nope: 1").replace("namespace: shop", "namespace: 5"), True),
    "that cannot be read at all": ("kind: AuthorizationPolicy\nmetadata: {name: [", True),
    "of tokens, which have no dry run": (TOKENS, True),
    "that is a dry run": (policy("p", "targetRefs: [{kind: Service, name: web}], nope: 1", annotations="istio.io/dry-run: 'true'"), False),
    "of mutual TLS": (f"{{{SECURITY}, kind: PeerAuthentication, metadata: {{name: p, namespace: 5}}}}", False),
}


@pytest.mark.parametrize(("text", "closed"), REFUSED.values(), ids=REFUSED)
def test_what_was_refused_denies_at_waypoints_too(text: str, closed: bool) -> None:
    served = Served(WAYPOINT, *PODS, *THERE, WEB, EGRESS, text)
    listener = str(served.get(LISTENER_TYPE, "main_internal"))
    assert ("envoy.filters.http.rbac" in listener or "envoy.filters.network.rbac" in listener) == closed
