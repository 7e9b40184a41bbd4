"""What is no pod and no Service of Kubernetes: ServiceEntries, WorkloadEntries, EndpointSlices, the addresses that are handed out."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from control.resolve import Mesh
from control.resolve.vips import PLACES, V4_BLOCK
from mesh.model.workload import (
    AppProtocol,
    Health,
    LbMode,
    LoadBalancing,
    Locality,
    NamespacedHostname,
    NetworkMode,
    TunnelProtocol,
    Visibility,
    Workload,
)
from tests.control.objects import feed, ip, one, only, pod, policy, resolved, service

NETWORKING = "apiVersion: networking.istio.io/v1"
HOST = NamespacedHostname("shop", "db.example.com")


def entry(name: str, spec: str, meta: str = "") -> str:
    where = "" if "namespace:" in meta else "namespace: shop"
    return f"{{{NETWORKING}, kind: ServiceEntry, metadata: {{name: {name}, {', '.join(filter(None, [where, meta]))}}}, spec: {{{spec}}}}}"


def machine(name: str, spec: str, meta: str = "") -> str:
    return (
        f"{{{NETWORKING}, kind: WorkloadEntry, metadata: {{name: {name}, {', '.join(filter(None, ['namespace: shop', meta]))}}}, "
        f"spec: {{{spec}}}}}"
    )


def slice_(name: str, service_name: str, rest: str) -> str:
    meta = f"{{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {service_name}}}}}"
    return f"{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {meta}, addressType: IPv4, {rest}}}"


PORTS = "ports: [{number: 3306, name: tcp, protocol: TCP, targetPort: 13306}, {number: 80, name: web, protocol: HTTP}]"
STATIC = f"hosts: [db.example.com], {PORTS}, resolution: STATIC"


def by_name(found: Mesh) -> dict[str, Workload]:
    return {workload.name: workload for workload in found.workloads.values()}


def test_a_service_entry_with_endpoints() -> None:
    found = resolved(
        entry(
            "db",
            f"{STATIC}, addresses: [10.1.1.1, 10.2.0.0/16], location: MESH_EXTERNAL, subjectAltNames: ['spiffe://x/ns/a/sa/b'], endpoints: "
            "[{address: 192.0.2.1, locality: eu/a/1, weight: 3, serviceAccount: db}, {address: 192.0.2.2, ports: {tcp: 3307}}]",
        )
    )
    made = only(found)
    assert (made.key, made.name, made.canonical) == (HOST, "db", False)
    assert [vip.ip for vip in made.vips] == [ip("10.1.1.1")]
    assert made.vip_networks == (("", ip_network("10.2.0.0/16")),)
    assert [(port.port, port.target, port.protocol) for port in made.ports] == [
        (3306, 13306, AppProtocol.TCP),
        (80, 80, AppProtocol.HTTP11),
    ]
    assert (made.subject_alt_names, made.load_balancing) == (("spiffe://x/ns/a/sa/b",), None)
    first, second = found.workloads.values()
    assert first.uid == "Kubernetes/networking.istio.io/ServiceEntry/shop/db/192.0.2.1"
    assert (first.addresses, first.capacity, first.locality) == ((ip("192.0.2.1"),), 3, Locality("eu", "a", "1"))
    assert (first.service_account, first.protocol, first.policies) == ("db", TunnelProtocol.NONE, ())
    assert dict(first.services) == {HOST: {3306: 13306, 80: 80}}
    assert dict(second.services) == {HOST: {3306: 3307, 80: 80}}


def test_endpoints_of_one_address_are_several() -> None:
    found = resolved(
        entry("db", f"{STATIC}, endpoints: [{{address: 127.0.0.1, ports: {{web: 81}}}}, {{address: 127.0.0.1, ports: {{web: 82}}}}]")
    )
    base = "Kubernetes/networking.istio.io/ServiceEntry/shop/db/127.0.0.1"
    assert {uid: dict(workload.services)[HOST][80] for uid, workload in found.workloads.items()} == {base: 81, f"{base}/2": 82}


@pytest.mark.parametrize("resolution", ["DNS", "DNS_ROUND_ROBIN"])
def test_names_that_are_looked_up(resolution: str) -> None:
    found = resolved(entry("db", f"hosts: [db.example.com], {PORTS}, resolution: {resolution}"))
    assert (one(found).hostname, one(found).addresses) == ("db.example.com", ())
    found = resolved(entry("db", f"hosts: [db.example.com], {PORTS}, resolution: {resolution}, endpoints: [{{address: real.example.net}}]"))
    assert one(found).hostname == "real.example.net"
    assert list(one(found).services) == [HOST]


def test_none_passes_as_it_is_addressed() -> None:
    found = resolved(entry("net", f"hosts: [net.example.com], {PORTS}, resolution: NONE, addresses: [10.3.0.0/24]"))
    assert only(found).load_balancing == LoadBalancing(mode=LbMode.PASSTHROUGH)
    assert found.workloads == {}
    assert resolved(entry("net", f"hosts: [net.example.com], {PORTS}, resolution: NONE")).services == {}, "nothing leads there"


@pytest.mark.parametrize(
    ("export", "visibility"),
    [("", Visibility.PUBLIC), ("['*']", Visibility.PUBLIC), ("['.']", Visibility.NAMESPACE), ("['other']", Visibility.PUBLIC)],
)
def test_visibility(export: str, visibility: Visibility) -> None:
    more = f", exportTo: {export}" if export else ""
    assert only(resolved(entry("db", f"{STATIC}, endpoints: [{{address: 192.0.2.1}}]{more}"))).visibility is visibility


def test_a_selector_finds_pods_and_machines() -> None:
    found = resolved(
        entry("db", f"{STATIC}, workloadSelector: {{labels: {{app: db}}}}"),
        pod("db-1", "10.0.0.1", labels="app: db"),
        pod("web-1", "10.0.0.2", labels="app: web"),
        machine("vm", "address: 192.0.2.9, labels: {app: db}, ports: {tcp: 3399}, serviceAccount: db"),
        service("db", "selector: {app: db}, ports: [{port: 1, name: tcp, targetPort: 2}]"),
    )
    kubernetes = NamespacedHostname("shop", "db.shop.svc.cluster.local")
    assert dict(by_name(found)["db-1"].services) == {HOST: {3306: 13306, 80: 80}, kubernetes: {1: 2}}
    assert dict(by_name(found)["web-1"].services) == {}
    vm = by_name(found)["vm"]
    assert vm.uid == "Kubernetes/networking.istio.io/WorkloadEntry/shop/vm"
    assert (vm.addresses, vm.service_account, vm.protocol) == ((ip("192.0.2.9"),), "db", TunnelProtocol.NONE)
    assert dict(vm.services) == {HOST: {3306: 3399, 80: 80}, kubernetes: {1: 3399}}


def test_a_machine_with_a_tunnel_of_its_own_is_under_policies() -> None:
    found = resolved(
        machine("vm", "address: 192.0.2.9, labels: {app: db, networking.istio.io/tunnel: http}"),
        policy("p", "selector: {matchLabels: {app: db}}, action: DENY, rules: [{}]"),
    )
    assert (one(found).protocol, one(found).native_tunnel, one(found).policies) == (TunnelProtocol.HBONE, True, ("shop/p",))


def test_sockets_are_no_endpoints() -> None:
    assert resolved(machine("vm", "address: 'unix:///run/x'")).workloads == {}


def test_the_older_of_two_holds_a_name_and_a_service_before_both() -> None:
    old, young = 'creationTimestamp: "2026-01-01T00:00:00Z"', 'creationTimestamp: "2026-02-01T00:00:00Z"'
    first = entry("b", f"{STATIC}, addresses: [10.1.1.1], endpoints: [{{address: 192.0.2.1}}]", old)
    second = entry("a", f"{STATIC}, addresses: [10.1.1.2], endpoints: [{{address: 192.0.2.2}}]", young)
    found = resolved(first, second)
    assert only(found).name == "b"
    assert len(found.workloads) == 2, "the endpoints of both are the name's"
    feed(found, second)
    assert only(found).name == "a"
    name = "hosts: [web.shop.svc.cluster.local], ports: [{number: 80, name: http}], addresses: [10.1.1.1], resolution: STATIC"
    found = resolved(entry("web", name, old), service("web", "clusterIP: 10.96.0.1, ports: [{port: 81}]"))
    assert (only(found).canonical, [port.port for port in only(found).ports]) == (True, [81])


# Addresses that are handed out.


def addresses(found: Mesh) -> dict[str, list[str]]:
    return {made.hostname: [str(vip.ip) for vip in made.vips] for made in found.services.values()}


def test_names_without_address_are_given_one_of_each_family() -> None:
    found = addresses(resolved(entry("db", f"{STATIC}, endpoints: [{{address: 192.0.2.1}}]")))["db.example.com"]
    assert [ip_address(text).version for text in found] == [4, 6]
    assert ip_address(found[0]) in ip_network("240.240.0.0/16")
    assert ip_address(found[1]) in ip_network("2001:2::/48")


@pytest.mark.parametrize(
    ("spec", "meta"),
    [
        (f"{STATIC}, endpoints: [{{address: 192.0.2.1}}]", "labels: {networking.istio.io/enable-autoallocate-ip: 'false'}"),
        (f"hosts: ['*.example.com'], {PORTS}, resolution: STATIC, endpoints: [{{address: 192.0.2.1}}]", ""),
        (f"hosts: ['*.example.com'], {PORTS}, resolution: NONE", ""),
    ],
)
def test_who_is_given_none(spec: str, meta: str) -> None:
    assert addresses(resolved(entry("db", spec, meta))) == {}


def test_addresses_do_not_depend_on_order_and_do_not_move() -> None:
    texts = [entry(f"e{index}", f"hosts: [h{index}.example.com], {PORTS}, resolution: DNS") for index in range(20)]
    found = resolved(*texts)
    before = addresses(found)
    assert addresses(resolved(*reversed(texts))) == before
    feed(found, *texts[5:])
    assert addresses(found) == {host: vips for host, vips in before.items() if int(host[1:].partition(".")[0]) >= 5}


def test_where_two_names_meet_the_older_keeps_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.resolve.vips._hash", lambda name: PLACES)
    ages = ["2026-03-01", "2026-01-01", "2026-02-01"]
    texts = [
        entry(f"e{index}", f"hosts: [h{index}.example.com], {PORTS}, resolution: DNS", f'creationTimestamp: "{age}T00:00:00Z"')
        for index, age in enumerate(ages)
    ]
    found = {host: int(ip_address(vips[0])) - V4_BLOCK for host, vips in addresses(resolved(*texts)).items()}
    assert found == {"h1.example.com": PLACES, "h2.example.com": 1, "h0.example.com": 2}


# EndpointSlices.

BARE = service("ext", "clusterIP: 10.96.0.7, ports: [{port: 443, name: https}, {port: 80, name: http}]")


def test_slices_of_a_service_without_selector_are_its_endpoints() -> None:
    found = resolved(
        BARE,
        "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: a}}}",
        slice_(
            "ext-1",
            "ext",
            "ports: [{name: https, port: 8443}], endpoints: [{addresses: [192.0.2.1], nodeName: n1}, "
            "{addresses: [192.0.2.2], conditions: {ready: false}, zone: b}, "
            "{addresses: [192.0.2.3], conditions: {ready: true, terminating: true}}]",
        ),
    )
    first, second, third = found.workloads.values()
    assert first.uid == "Kubernetes/discovery.k8s.io/EndpointSlice/shop/ext-1/192.0.2.1"
    assert dict(first.services) == {NamespacedHostname("shop", "ext.shop.svc.cluster.local"): {443: 8443}}
    assert (first.node, first.locality, first.network_mode) == ("n1", Locality("eu", "a"), NetworkMode.HOST_NETWORK)
    assert [entry.health for entry in (first, second, third)] == [Health.HEALTHY, Health.UNHEALTHY, Health.UNHEALTHY]
    assert second.locality == Locality("", "b")


def test_slices_of_a_service_with_selector_say_nothing_new() -> None:
    rest = "ports: [{name: http, port: 80}], endpoints: [{addresses: [10.0.0.1]}]"
    found = resolved(service("web", "selector: {app: web}, ports: [{port: 80, name: http}]"), slice_("web-1", "web", rest))
    assert found.workloads == {}
    assert resolved(slice_("lost-1", "nobody", rest)).workloads == {}


def test_an_endpoint_that_is_a_pod_is_who_the_pod_is() -> None:
    captured = "annotations: {ambient.istio.io/redirection: enabled}"
    found = resolved(
        BARE,
        pod("web-1", "10.0.0.1", meta=captured, spec="serviceAccountName: web"),
        policy("p", "selector: {matchLabels: {app: web}}, action: DENY, rules: [{}]"),
        slice_(
            "ext-1", "ext", "ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-1}}]"
        ),
    )
    made = found.workloads["Kubernetes/discovery.k8s.io/EndpointSlice/shop/ext-1/10.0.0.1"]
    assert (made.protocol, made.service_account, made.policies) == (TunnelProtocol.HBONE, "web", ("shop/p",))


def test_pods_are_where_their_node_is() -> None:
    found = resolved(pod("web-1"), "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}}")
    assert one(found).locality == Locality("", "a")
    feed(found, pod("web-1"), "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: b}}}")
    assert one(found).locality == Locality("", "b")
