"""The control plane, whole, on a real API server: what people see of it with kubectl, and what it serves when things are gone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import apiserver, replicas
from tests.cluster.apiserver import ApiServer
from tests.cluster.kubernetes import CRDS, crd, establish, make_pod, retry, run_pod
from tests.cluster.processes import eventually
from tests.cluster.replicas import Replica, bundle_of, holder, install_webhook

pytestmark = pytest.mark.cluster

POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: NAMESPACE}
spec:
  rules: [{to: [{operation: {methods: [GET]}}]}]
"""
BROKEN = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: broken, namespace: NAMESPACE}
spec:
  hosts: [web]
  http: [{match: [{uri: {regex: "a(b"}}], route: [{destination: {host: web}}]}]
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NAMESPACE}
spec: {selector: {app: x}, ports: [{port: 80, targetPort: 8080, name: http}]}
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: NAMESPACE}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules: [{backendRefs: [{name: BACKEND, port: 80}]}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With our CRDs, and the control plane's account."""
    with apiserver.running(tmp_path_factory.mktemp("control")) as running:
        establish(running, *(crd(path.stem) for path in sorted(CRDS.glob("*.yaml"))))
        replicas.install(running)
        yield running


@pytest.fixture(scope="module")
def replica(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replicas.running(tmp_path_factory.mktemp("replica"), server) as (one,):
        yield one


def conditions(server: ApiServer, path: str) -> dict[str, dict[str, Any]]:
    return {one["type"]: one for one in server.get(path).get("status", {}).get("conditions", [])}


def test_people_can_wait_for_conditions(server: ApiServer, replica: Replica) -> None:
    name = server.make_namespace()
    server.apply((SERVICE + "---" + ROUTE.replace("BACKEND", "web") + "---" + POLICY).replace("NAMESPACE", name))
    server.kubectl("wait", "-n", name, "--for=condition=Accepted", "authorizationpolicy/readers", "--timeout=20s")
    # No waypoint is there for the method that it speaks of.
    server.kubectl("wait", "-n", name, "--for=condition=Enforced=False", "authorizationpolicy/readers", "--timeout=20s")
    enforced = conditions(server, f"/apis/security.istio.io/v1/namespaces/{name}/authorizationpolicies/readers")["Enforced"]
    assert enforced["reason"] == "NeedsWaypoint"
    accepted = "--for=jsonpath={.status.parents[0].conditions[?(@.type=='Accepted')].status}=True"
    server.kubectl("wait", "-n", name, accepted, "httproute/web", "--timeout=20s")
    parent = server.get(f"/apis/gateway.networking.k8s.io/v1/namespaces/{name}/httproutes/web")["status"]["parents"][0]
    assert parent["controllerName"] == "culvert.dev/control"
    assert {one["type"]: (one["status"], one["observedGeneration"]) for one in parent["conditions"]} == {
        "Accepted": ("True", 1),
        "ResolvedRefs": ("True", 1),
        "Enforced": ("False", 1),
    }
    server.apply(ROUTE.replace("BACKEND", "nobody").replace("NAMESPACE", name))
    unresolved = "--for=jsonpath={.status.parents[0].conditions[?(@.type=='ResolvedRefs')].status}=False"
    server.kubectl("wait", "-n", name, unresolved, "httproute/web", "--timeout=20s")


def test_a_waypoint_makes_it_enforced(server: ApiServer, replica: Replica) -> None:
    name = server.make_namespace(labels={"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "waypoint"})
    server.apply(
        (SERVICE + "---" + POLICY.replace("spec:", "spec:\n  targetRefs: [{kind: Service, group: '', name: web}]")).replace(
            "NAMESPACE", name
        )
    )
    server.kubectl("wait", "-n", name, "--for=condition=Enforced=False", "authorizationpolicy/readers", "--timeout=20s")
    gateway = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: waypoint, namespace: {name}}}
spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: waypoint, namespace: {name}, labels: {{gateway.networking.k8s.io/gateway-name: waypoint}}}}
spec: {{selector: {{gateway.networking.k8s.io/gateway-name: waypoint}}, ports: [{{port: 15008, name: mesh}}]}}
"""
    server.apply(gateway)
    server.make_account(name, "waypoint")
    labels = {"gateway.networking.k8s.io/gateway-name": "waypoint"}
    spec = {"nodeName": "n1", "serviceAccountName": "waypoint", "containers": [{"name": "c", "image": "x"}]}
    server.api.post(f"/api/v1/namespaces/{name}/pods", {"metadata": {"name": "waypoint", "labels": labels}, "spec": spec})
    run_pod(server, name, "waypoint", "10.244.9.9")
    server.kubectl("wait", "-n", name, "--for=condition=Enforced", "authorizationpolicy/readers", "--timeout=20s")
    server.kubectl("wait", "-n", name, "--for=condition=Programmed", "gateway/waypoint", "--timeout=20s")


def test_what_is_refused_says_so_and_the_last_good_version_stays(server: ApiServer, replica: Replica) -> None:
    name = server.make_namespace()
    good = BROKEN.replace("a(b", "a.*b").replace("NAMESPACE", name)
    server.apply(SERVICE.replace("NAMESPACE", name) + "---" + good)
    server.kubectl("wait", "-n", name, "--for=condition=Accepted", "virtualservice/broken", "--timeout=20s")
    server.apply(BROKEN.replace("NAMESPACE", name))
    server.kubectl("wait", "-n", name, "--for=condition=Accepted=False", "virtualservice/broken", "--timeout=20s")
    accepted = conditions(server, f"/apis/networking.istio.io/v1/namespaces/{name}/virtualservices/broken")["Accepted"]
    assert accepted["observedGeneration"] == 2
    assert "spec.http[0].match[0].uri.regex" in accepted["message"]
    assert "the last accepted version stays in force" in accepted["message"]
    eventually("an event", lambda: "Refused" in server.kubectl("describe", "-n", name, "virtualservice/broken"), 20)
    server.apply(good)
    server.kubectl("wait", "-n", name, "--for=condition=Accepted", "virtualservice/broken", "--timeout=20s")


def test_the_api_server_asks_before_it_stores(server: ApiServer, replica: Replica) -> None:
    name = server.make_namespace()
    install_webhook(server, replica)
    try:
        eventually("the webhook's CA bundle", lambda: bundle_of(server) == replica.roots, 40)
        good = BROKEN.replace("a(b", "a.*b").replace("NAMESPACE", name)
        retry(lambda: server.apply(good))
        answer = server.apply(BROKEN.replace("NAMESPACE", name), check=False)
        assert 'admission webhook "validation.culvert.dev" denied the request' in answer
        assert "spec.http[0].match[0].uri.regex" in answer
        assert "accepted: " in answer
        # What is not ours is not asked about, and what is ours cannot be changed while nobody can be asked.
        server.apply(SERVICE.replace("NAMESPACE", name))
        replica.program.stop(signal.SIGTERM)
        assert "failed calling webhook" in server.apply(good.replace("a.*b", "c"), check=False)
        server.apply(SERVICE.replace("NAMESPACE", name).replace("port: 80", "port: 81"))
    finally:
        server.kubectl("delete", "validatingwebhookconfiguration", "culvert-control")
        if not replica.program.running:
            replica.start()


def test_the_leader_is_killed_and_statuses_go_on(private_server: ApiServer, tmp_path: Path) -> None:
    server = private_server
    establish(server, crd("authorizationpolicies.security.istio.io"))
    replicas.install(server)
    name = server.make_namespace()
    with replicas.running(tmp_path, server, "first", "second") as pair:
        leader = eventually("a leader", lambda: next((one for one in pair if holder(server).startswith(one.name)), None), 40)
        (other,) = (one for one in pair if one is not leader)
        server.apply(POLICY.replace("NAMESPACE", name))
        server.kubectl("wait", "-n", name, "--for=condition=Accepted", "authorizationpolicy/readers", "--timeout=20s")
        before = server.get(f"/apis/security.istio.io/v1/namespaces/{name}/authorizationpolicies/readers")["metadata"]["resourceVersion"]
        leader.program.kill()
        eventually("the other to lead", lambda: holder(server).startswith(other.name), 40)
        server.apply(POLICY.replace("NAMESPACE", name).replace("readers", "writers"))
        server.kubectl("wait", "-n", name, "--for=condition=Accepted", "authorizationpolicy/writers", "--timeout=20s")
        after = server.get(f"/apis/security.istio.io/v1/namespaces/{name}/authorizationpolicies/readers")["metadata"]["resourceVersion"]
        assert before == after, "a new leader does not write again what is there"
        assert pair[0].roots == pair[1].roots, "replicas share their CA"


def test_without_an_api_server_it_serves_what_it_heard_last(tmp_path: Path, private_server: ApiServer) -> None:
    server = private_server
    establish(server, crd("authorizationpolicies.security.istio.io"))
    replicas.install(server)
    name = server.make_namespace(labels={"istio.io/dataplane-mode": "ambient"})
    make_pod(server, name, "web")
    run_pod(server, name, "web", "10.244.1.5")
    with replicas.running(tmp_path, server) as (replica,):
        eventually("the pod", lambda: f"{name}/web" in replica.workloads())
        eventually("it to be kept", lambda: replica.kept > 5 and "culvert_keep_waiting 0.0" in replica.metrics())
        roots = replica.roots
        server.stop()
        eventually("it to know", lambda: "s old" in replica.readiness(), 40)
        assert f"{name}/web" in replica.workloads()
        replica.program.kill()
        replica.start()
        assert "what is served may be" in replica.readiness()
        assert "s old" in replica.readiness()
        assert f"{name}/web" in replica.workloads()
        assert replica.roots == roots
        server.start()
        eventually("it to be up to date", lambda: replica.readiness() == "ready\n", 60)
