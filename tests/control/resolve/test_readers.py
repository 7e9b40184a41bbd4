"""Statuses of what is written about services, against what proxies are served: who goes by it, and what is said of that."""

from __future__ import annotations

import pytest

from control.resolve import Mesh
from control.resolve.l7.plans import LISTENER_TYPE, Ref
from control.resolve.l7.views import View
from mesh.model.l7.profile import Kind
from tests.control.objects import feed, resolved, service
from tests.control.resolve.l7 import WAYPOINT, WEB, Served, routes, rule
from tests.control.resolve.test_entries import entry
from tests.control.resolve.test_l7 import HTTP_ROUTE
from tests.control.resolve.test_through import ATTACHED, BASE
from tests.control.resolve.test_waypoints import USE, gateway

HOST, EXT = "web.shop.svc.cluster.local", "ext.example.com"
VIP = "10.96.0.1"
INFRA = View(Kind.WAYPOINT, "infra", "wp", tunnels=True)
CLIENTS = ("shop", "client", "istio-system")
"""Namespaces that Envoys beside clients are in."""

BEHIND = (ATTACHED, *BASE)
HEADLESS = (ATTACHED.replace(f"clusterIP: {VIP}", "clusterIP: None"), *BASE)
BARE = (WEB, *BASE)
NOT_READY = (ATTACHED, *BASE[2:])
FAR = (
    ATTACHED.replace(USE, f"{USE}, istio.io/use-waypoint-namespace: infra"),
    gateway(where="infra", routes="from: All"),
    service("wp", "clusterIP: 10.96.0.9, ports: [{port: 15008, name: mesh}]", "namespace: infra"),
    *BASE[3:],
)
PORTS = "ports: [{number: 80, name: http, protocol: HTTP}]"
LISTED = f"hosts: [{EXT}], {PORTS}, resolution: STATIC, endpoints: [{{address: 198.51.100.1}}]"
GIVEN = (entry("ext", f"{LISTED}, addresses: [{VIP}]", f"labels: {{{USE}}}"), *BASE)
UNGIVEN = (entry("ext", LISTED, f"labels: {{{USE}, networking.istio.io/enable-autoallocate-ip: 'false'}}"), *BASE)
TWICE = (*BEHIND, entry("web", f"hosts: [{HOST}], {PORTS}, resolution: STATIC, addresses: [192.0.2.1]", f"labels: {{{USE}}}"))
UNEXPORTED = (
    FAR[0].replace("namespace: shop, labels", "namespace: shop, annotations: {networking.istio.io/exportTo: .}, labels"),
    *FAR[1:],
)
OWN = ", exportTo: ['.']"
SOME = ", workloadSelector: {matchLabels: {app: x}}"
WILD = "'*.shop.svc.cluster.local'"
OF_WEB = "kind: Service, group: '', name: web"
OF_EXT = "kind: ServiceEntry, group: networking.istio.io, name: ext"


def vs(where: str = "shop", hosts: str = HOST, more: str = "") -> str:
    return routes("mine", hosts, "{directResponse: {status: 418}}", where=where, more=more)


def dr(where: str = "shop", host: str = HOST, more: str = "", name: str = "mine") -> str:
    return rule(name, host, "", where=where, more=f", trafficPolicy: {{outlierDetection: {{}}}}{more}")


def route(where: str = "shop", parent: str = OF_WEB, name: str = "mine") -> str:
    header = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: y}]}}]"
    return HTTP_ROUTE % (name, where, f"{{{parent}, namespace: shop}}", f"{{{header}}}")


def tcp(where: str = "shop") -> str:
    made = HTTP_ROUTE.replace("HTTPRoute", "TCPRoute").replace("/v1,", "/v1alpha2,")
    return made % ("mine", where, f"{{{OF_WEB}, namespace: shop}}", "{backendRefs: [{name: wp, namespace: shop, port: 15008}]}")


CASES: dict[str, tuple[tuple[str, ...], str, set[str], str]] = {
    # name: (the mesh, what is written about it, who goes by it, the reason of the condition)
    "a waypoint": (BEHIND, vs(), {"waypoint"}, "Waypoint"),
    "a waypoint, from a client's namespace": (BEHIND, vs("client"), set(), "OtherNamespace"),
    "a waypoint, which does not look at exportTo": (FAR, vs(more=OWN), {"waypoint"}, "Waypoint"),
    "a waypoint that reads what clients do not see": (UNEXPORTED, vs("infra"), {"waypoint"}, "Waypoint"),
    "a waypoint, a wildcard": (BEHIND, vs(hosts=WILD), {*CLIENTS}, "Unsupported"),  # on the way to the waypoint itself
    "headless, a wildcard": (HEADLESS, vs(hosts=WILD), {*CLIENTS}, "Unsupported"),
    "a waypoint, a route beside": ((*BEHIND, route(name="other")), vs(), set(), "Conflict"),
    "headless": (HEADLESS, vs(), {*CLIENTS}, "NeedsWaypoint"),
    "headless, from a client's namespace": (HEADLESS, vs("client"), {*CLIENTS}, "NeedsWaypoint"),
    "headless, for that namespace alone": (HEADLESS, vs("client", more=OWN), {"client"}, "NeedsWaypoint"),
    "headless, for another namespace alone": (HEADLESS, vs("shop", more=", exportTo: [client]"), {"client"}, "NeedsWaypoint"),
    "no waypoint": (BARE, vs("client"), {*CLIENTS}, "NeedsWaypoint"),
    "a waypoint that is not ready": (NOT_READY, vs("client"), {*CLIENTS}, "NeedsWaypoint"),
    "an entry": (GIVEN, vs(hosts=EXT), {"waypoint"}, "Waypoint"),
    "an entry without an address": (UNGIVEN, vs("client", EXT), {*CLIENTS}, "NeedsWaypoint"),
    "rule: a waypoint": (BEHIND, dr(), {"waypoint"}, "Waypoint"),
    "rule: a waypoint, from a client's namespace": (BEHIND, dr("client"), set(), "OtherNamespace"),
    "rule: a waypoint, of the root": (BEHIND, dr("istio-system"), {"waypoint"}, "Waypoint"),
    "rule: a waypoint, of the root for itself": (BEHIND, dr("istio-system", more=OWN), set(), "OtherNamespace"),
    "rule: a waypoint elsewhere": (FAR, dr(), {"waypoint"}, "Waypoint"),
    "rule: a waypoint elsewhere, hidden from it": (FAR, dr(more=OWN), set(), "OtherNamespace"),
    "rule: a waypoint, for some clients": (BEHIND, dr(more=SOME), set(), "Unsupported"),
    "rule: a waypoint, a nearer one": ((*BEHIND, dr(name="nearer")), dr("istio-system"), set(), "Conflict"),
    "rule: a waypoint, an older one": ((*BEHIND, dr(name="earlier")), dr(), set(), "Conflict"),
    "rule: headless": (HEADLESS, dr(), {*CLIENTS}, "NeedsWaypoint"),
    "rule: headless, from a client's namespace": (HEADLESS, dr("client"), {"client"}, "NeedsWaypoint"),
    "rule: headless, from there for others": (HEADLESS, dr("client", more=", exportTo: [shop]"), set(), "OtherNamespace"),
    "rule: headless, for some clients": (HEADLESS, dr(more=SOME), set(), "Unsupported"),
    "rule: no waypoint": (BARE, dr("client"), {"client"}, "NeedsWaypoint"),
    "rule: an entry without an address": (UNGIVEN, dr("client", EXT), {"client"}, "NeedsWaypoint"),
    "route: a waypoint": (BEHIND, route(), {"waypoint"}, "Waypoint"),
    "route: a waypoint, from a client's namespace": (BEHIND, route("client"), {"waypoint"}, "Waypoint"),
    "route: headless": (HEADLESS, route(), {*CLIENTS}, "NeedsWaypoint"),
    "route: headless, from a client's namespace": (HEADLESS, route("client"), {"client"}, "NeedsWaypoint"),
    "route: no waypoint": (BARE, route(), {*CLIENTS}, "NeedsWaypoint"),
    "route: an entry": (GIVEN, route(parent=OF_EXT), {"waypoint"}, "Waypoint"),
    "route: an entry without an address": (UNGIVEN, route(parent=OF_EXT), {*CLIENTS}, "NeedsWaypoint"),
    "route: of connections, where requests are": (BEHIND, tcp(), set(), "Unsupported"),
}


def effects(mesh: Mesh, before: Mesh) -> set[str]:
    """Who is served something else than before. A waypoint counts where something leads to the service through it."""
    found = {name for name in CLIENTS if _served(mesh, View(Kind.CLIENT, name)) != _served(before, View(Kind.CLIENT, name))}
    for view in (WAYPOINT, INFRA):
        made = _served(mesh, view)
        leads = any(VIP.encode() in body for ref, body in made.items() if ref.type_url == LISTENER_TYPE)
        if leads and made != _served(before, view):
            found.add("waypoint")
    return found


def _served(mesh: Mesh, view: View) -> dict[Ref, bytes]:
    return {ref: made.body for ref, made in Served(view, mesh=mesh).mesh.resources_of(view).items()}


def enforced(mesh: Mesh) -> tuple[str, str, str]:
    """What is said of the object that is called `mine`."""
    (status,) = (status for key, status in mesh.statuses.items() if key.name == "mine")
    assert status.wanted is not None
    every = [*status.wanted.conditions, *(one for parent in status.wanted.parents or () for one in parent.conditions)]
    (found,) = (one for one in every if one.type == "Enforced")
    return found.status, found.reason, found.message


@pytest.mark.parametrize(("texts", "mine", "who", "reason"), CASES.values(), ids=CASES)
def test_what_is_said_is_what_happens(texts: tuple[str, ...], mine: str, who: set[str], reason: str) -> None:
    mesh = resolved(*texts, mine)
    assert effects(mesh, resolved(*texts)) == who
    status, why, message = enforced(mesh)
    assert (why, status == "True") == (reason, who == {"waypoint"})
    assert status == "True" or message


def test_who_is_named_by_another_is_no_parent() -> None:
    mesh = resolved(*TWICE, route(parent=OF_EXT.replace("ext", "web")))
    (status,) = (status for key, status in mesh.statuses.items() if key.name == "mine")
    assert status.wanted is not None
    (parent,) = status.wanted.parents or ()
    (found,) = parent.conditions
    assert (found.type, found.status, found.reason) == ("Accepted", "False", "NoMatchingParent")
    assert found.message == f"what {HOST} is, Service shop/web says"
    assert effects(mesh, resolved(*TWICE)) == set()


def test_it_follows_the_address_and_the_namespace() -> None:
    mesh = resolved(*HEADLESS, vs("client"))
    for _ in range(2):
        assert enforced(mesh)[1] == "NeedsWaypoint"
        feed(mesh, *BEHIND, vs("client"))
        assert enforced(mesh)[1] == "OtherNamespace"
        feed(mesh, *BEHIND, vs())
        assert enforced(mesh)[1] == "Waypoint"
        feed(mesh, *HEADLESS, vs("client"))
