"""What becomes of pods and services: what tunnels are told of them."""

from __future__ import annotations

import pytest

from control.resolve import MeshSettings
from mesh.model.identity import Identity
from mesh.model.workload import (
    AppProtocol,
    Health,
    HealthPolicy,
    LbMode,
    LoadBalancing,
    NamespacedHostname,
    NetworkAddress,
    NetworkMode,
    Scope,
    TunnelProtocol,
    WorkloadType,
)
from tests.control.objects import ip, namespace, one, only, pod, resolved, service

WEB = NamespacedHostname("shop", "web.shop.svc.cluster.local")


def test_a_pod() -> None:
    workload = one(resolved(pod("web-1", "10.0.0.1")))
    assert workload.uid == "Kubernetes//Pod/shop/web-1"
    assert (workload.name, workload.namespace, workload.node, workload.cluster) == ("web-1", "shop", "n1", "Kubernetes")
    assert workload.addresses == (ip("10.0.0.1"),)
    assert workload.identity == Identity("cluster.local", "shop", "default")
    assert (workload.protocol, workload.health, workload.network_mode) == (TunnelProtocol.NONE, Health.HEALTHY, NetworkMode.STANDARD)


def test_settings_show_in_workloads_and_services() -> None:
    settings = MeshSettings(trust_domain="example.org", cluster="east", cluster_domain="k8s.local")
    found = resolved(pod("web-1"), service("web", "selector: {app: web}, ports: [{port: 80}]"), settings=settings)
    assert (one(found).uid, one(found).trust_domain) == ("east//Pod/shop/web-1", "example.org")
    assert list(one(found).services) == [NamespacedHostname("shop", "web.shop.svc.k8s.local")]
    assert found.identities() == {"n1": {Identity("example.org", "shop", "default")}}


@pytest.mark.parametrize(
    ("meta", "labels", "protocol", "native"),
    [
        ("annotations: {ambient.istio.io/redirection: enabled}", "", TunnelProtocol.HBONE, False),
        ("annotations: {ambient.istio.io/redirection: pending}", "", TunnelProtocol.NONE, False),
        ("", "networking.istio.io/tunnel: http", TunnelProtocol.HBONE, True),
        ("", "istio.io/dataplane-mode: ambient", TunnelProtocol.NONE, False),
    ],
)
def test_a_pod_speaks_hbone_when_it_is_said_to_be_captured(meta: str, labels: str, protocol: TunnelProtocol, native: bool) -> None:
    workload = one(resolved(pod("web-1", meta=meta, labels=labels)))
    assert (workload.protocol, workload.native_tunnel) == (protocol, native)


READY = '{type: Ready, status: "%s"}'


@pytest.mark.parametrize(
    ("status", "meta", "health"),
    [
        ("True", "", Health.HEALTHY),
        ("False", "", Health.UNHEALTHY),
        ("Unknown", "", Health.UNHEALTHY),
        ("True", 'deletionTimestamp: "2026-01-01T00:00:00Z"', Health.UNHEALTHY),
    ],
)
def test_health_is_readiness(status: str, meta: str, health: Health) -> None:
    text = pod("web-1", meta=meta, status=f"phase: Running, podIP: 10.0.0.1, conditions: [{READY % status}]")
    assert one(resolved(text)).health is health


def test_pods_without_address_and_finished_ones_are_no_workloads() -> None:
    found = resolved(pod("new", status="phase: Pending"), pod("done", status="phase: Succeeded, podIP: 10.0.0.1"))
    assert found.workloads == {}
    assert found.identities() == {"n1": {Identity("cluster.local", "shop", "default")}}, "a starting pod may have its certificate already"


def test_both_addresses_of_a_pod() -> None:
    text = pod("web-1", status='podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]')
    assert one(resolved(text)).addresses == (ip("10.0.0.1"), ip("fd00::1"))


def test_a_pod_of_the_nodes_network() -> None:
    assert one(resolved(pod("n", spec="hostNetwork: true"))).network_mode is NetworkMode.HOST_NETWORK


OWNER = "ownerReferences: [{kind: %s, name: %s}]"


@pytest.mark.parametrize(
    ("meta", "labels", "kind", "name"),
    [
        ("", "", WorkloadType.POD, "web-1"),
        (OWNER % ("ReplicaSet", "web-7d9c"), "pod-template-hash: 7d9c", WorkloadType.DEPLOYMENT, "web"),
        (OWNER % ("ReplicaSet", "web-7d9c"), "", WorkloadType.DEPLOYMENT, "web-7d9c"),
        (OWNER % ("Deployment", "web"), "", WorkloadType.DEPLOYMENT, "web"),
        (OWNER % ("Job", "backup"), "", WorkloadType.JOB, "backup"),
        (OWNER % ("Job", "backup-29012345"), "", WorkloadType.CRONJOB, "backup"),
        (OWNER % ("StatefulSet", "db"), "", WorkloadType.POD, "db"),
        (
            "ownerReferences: [{kind: X, name: x}, {kind: Deployment, name: web, controller: true}]",
            "",
            WorkloadType.DEPLOYMENT,
            "web",
        ),
    ],
)
def test_owners(meta: str, labels: str, kind: WorkloadType, name: str) -> None:
    workload = one(resolved(pod("web-1", meta=meta, labels=labels)))
    assert (workload.workload_type, workload.workload_name) == (kind, name)


@pytest.mark.parametrize(
    ("labels", "name", "revision"),
    [
        ("", "web-1", "latest"),
        ("app: shop, version: v2", "shop", "v2"),
        ("app: a, app.kubernetes.io/name: b, version: v1, app.kubernetes.io/version: v2", "b", "v2"),
        ("app.kubernetes.io/name: b, service.istio.io/canonical-name: c, service.istio.io/canonical-revision: v3", "c", "v3"),
    ],
)
def test_canonical_names(labels: str, name: str, revision: str) -> None:
    workload = one(resolved(pod("web-1", labels=labels)))
    assert (workload.canonical_name, workload.canonical_revision) == (name, revision)


def test_a_service_and_its_endpoints() -> None:
    found = resolved(
        service(
            "web", "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], selector: {app: web}, ports: [{port: 80, targetPort: 8080}]"
        ),
        pod("web-1", "10.0.0.1"),
        pod("db-1", "10.0.0.2", labels="app: db"),
        pod("web-2", "10.0.0.3", meta="namespace: other"),
    )
    entry = only(found)
    assert (entry.key, entry.name, entry.canonical) == (WEB, "web", True)
    assert entry.vips == (NetworkAddress("", ip("10.96.0.1")), NetworkAddress("", ip("fd00::1")))
    assert [(port.port, port.target) for port in entry.ports] == [(80, 8080)]
    assert {workload.name: dict(workload.services) for workload in found.workloads.values()} == {
        "web-1": {WEB: {80: 8080}},
        "db-1": {},
        "web-2": {},
    }


PORTS = [
    # (ports of the service, (port, target) of the service, {port: target} of the pod)
    ("[{port: 80}]", [(80, 80)], {80: 80}),
    ("[{port: 80, targetPort: 8080}]", [(80, 8080)], {80: 8080}),
    ("[{port: 80, targetPort: http}]", [(80, 0)], {80: 8080}),
    ("[{port: 80, targetPort: nope}]", [(80, 0)], {}),
    ("[{port: 53, protocol: UDP}]", [], {}),
    ("[{port: 53, targetPort: dns}]", [(53, 0)], {}),
    ("[{port: 53, name: u, protocol: UDP}, {port: 53, name: t, targetPort: 5353}]", [(53, 5353)], {53: 5353}),
]


@pytest.mark.parametrize(("ports", "of_service", "of_pod"), PORTS, ids=[row[0] for row in PORTS])
def test_ports(ports: str, of_service: list[tuple[int, int]], of_pod: dict[int, int]) -> None:
    found = resolved(service("web", f"selector: {{app: web}}, ports: {ports}"), pod("web-1"))
    assert [(port.port, port.target) for port in only(found).ports] == of_service
    assert one(found).services[WEB] == of_pod


@pytest.mark.parametrize(
    ("port", "protocol"),
    [
        ("{port: 80, name: http}", AppProtocol.HTTP11),
        ("{port: 80, name: http2-x}", AppProtocol.HTTP2),
        ("{port: 80, name: grpc-web}", AppProtocol.GRPC),
        ("{port: 80, name: tcp-db}", AppProtocol.TCP),
        ("{port: 80, name: web}", AppProtocol.UNKNOWN),
        ("{port: 80, name: http, appProtocol: grpc}", AppProtocol.GRPC),
        ("{port: 80, name: http, appProtocol: kubernetes.io/h2c}", AppProtocol.HTTP2),
        ("{port: 80, name: http, appProtocol: my.own/thing}", AppProtocol.UNKNOWN),
    ],
)
def test_protocols(port: str, protocol: AppProtocol) -> None:
    assert only(resolved(service("web", f"ports: [{port}]"))).ports[0].protocol is protocol


@pytest.mark.parametrize(
    ("spec", "balancing"),
    [
        ("type: ClusterIP", None),
        ("internalTrafficPolicy: Local", LoadBalancing((Scope.NODE,), LbMode.STRICT)),
        ("trafficDistribution: PreferClose", LoadBalancing((Scope.NETWORK, Scope.REGION, Scope.ZONE), LbMode.FAILOVER)),
        (
            "trafficDistribution: PreferSameNode",
            LoadBalancing((Scope.NETWORK, Scope.REGION, Scope.ZONE, Scope.SUBZONE, Scope.NODE), LbMode.FAILOVER),
        ),
        ("publishNotReadyAddresses: true", LoadBalancing(health=HealthPolicy.ALLOW_ALL)),
        (
            "publishNotReadyAddresses: true, internalTrafficPolicy: Local",
            LoadBalancing((Scope.NODE,), LbMode.STRICT, HealthPolicy.ALLOW_ALL),
        ),
    ],
)
def test_balancing(spec: str, balancing: LoadBalancing | None) -> None:
    assert only(resolved(service("web", f"{spec}, ports: [{{port: 80}}]"))).load_balancing == balancing


def test_headless_services_have_endpoints_but_no_address() -> None:
    found = resolved(service("web", "clusterIP: None, selector: {app: web}, ports: [{port: 80}]"), pod("web-1"))
    assert only(found).vips == ()
    assert WEB in one(found).services


def test_external_names_are_left_out_and_no_selector_selects_nothing() -> None:
    assert resolved(service("x", "type: ExternalName, externalName: example.org")).services == {}
    assert one(resolved(service("web", "ports: [{port: 80}]"), pod("web-1"))).services == {}


def test_identities_are_by_node() -> None:
    found = resolved(
        pod("a", "10.0.0.1", spec="serviceAccountName: alice"),
        pod("b", "10.0.0.2", spec="serviceAccountName: bob").replace("n1", "n2"),
    )
    assert found.identities() == {
        "n1": {Identity("cluster.local", "shop", "alice")},
        "n2": {Identity("cluster.local", "shop", "bob")},
    }


def test_a_waypoint_that_is_asked_for_and_not_there_is_told() -> None:
    found = resolved(namespace("shop", "istio.io/use-waypoint: wp"), namespace("other", "istio.io/use-waypoint: none"))
    (status,) = found.statuses.values()
    assert (status.subject, status.where) == ("Namespace shop", "0.yaml:1")
    assert status.notes == ("istio.io/use-waypoint=wp: there is no such waypoint; traffic goes without one",)
