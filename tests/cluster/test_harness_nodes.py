"""Two whole nodes: pods run on each and reach each other, clusters do not meet, and a run that was killed leaves nothing for long."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from culvert.playground.processes import ProcessId, alive, in_namespaces
from tests.cluster import images, janitor, nodes, ports, wiring
from tests.cluster.api import Object
from tests.cluster.nodes import Cluster
from tests.cluster.processes import Program, eventually

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
SERVE = "hostname >/tmp/index.html; httpd -f -p 80 -h /tmp"
# A cluster in a process of its own. Its id is the last part of its directory's name.
VICTIM = """
import sys
from tests.cluster import nodes
with nodes.running() as cluster:
    print(cluster.directory, flush=True)
    sys.stdin.read()
"""
# PORT CERTIFICATE KEY: refuses whatever it is asked about.
WEBHOOK = """
import http.server, json, ssl, sys
class Refuse(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        response = {"uid": asked["request"]["uid"], "allowed": False, "status": {"message": "not today"}}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.HTTPServer(("", int(sys.argv[1])), Refuse)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(*sys.argv[2:])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def container(command: str) -> Object:
    return {"name": "main", "image": images.BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", command]}


def pod(name: str, node: str, command: str = "sleep 1000") -> Object:
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container(command)]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def start_pods(cluster: Cluster, *pods: Object) -> str:
    """Their namespace, once all are ready."""
    namespace = cluster.server.make_namespace()
    for each in pods:
        cluster.server.api.post(f"/api/v1/namespaces/{namespace}/pods", each)
    cluster.server.kubectl("wait", "--for=condition=Ready", "pods", "--all", "-n", namespace, "--timeout=60s")
    return namespace


def processes_of(cluster_id: str) -> list[ProcessId]:
    """All that are in a network namespace of the cluster by name; pods have namespaces without a name on the machine."""
    return in_namespaces({path.stat().st_ino for path in janitor.NETNS.glob(f"cvt{cluster_id}-*")})


def test_pods_on_both_nodes_reach_each_other_and_the_api_server(cluster: Cluster) -> None:
    namespace = start_pods(cluster, pod("one", "node-1", SERVE), pod("two", "node-2", SERVE))
    pods = {item["metadata"]["name"]: item["status"] for item in cluster.server.api.items(f"/api/v1/namespaces/{namespace}/pods")}
    assert (pods["one"]["hostIP"], pods["two"]["hostIP"]) == ("10.97.0.1", "10.97.0.2")
    assert all(len(status["podIPs"]) == 2 for status in pods.values())
    for here, there in (("one", "two"), ("two", "one")):
        inside = ("exec", "-n", namespace, here, "--")
        for address in (entry["ip"] for entry in pods[there]["podIPs"]):
            url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
            assert cluster.server.kubectl(*inside, "timeout", "5", "wget", "-q", "-O-", url).strip() == there
        # The Service of the API server itself, by kube-proxy: it asks for TLS.
        assert "400 Bad Request" in cluster.server.kubectl(*inside, "timeout", "5", "wget", "-O-", "http://10.96.0.1:443/", check=False)


def test_a_service_and_a_deployment_over_both_nodes(cluster: Cluster) -> None:
    server = cluster.server
    namespace = server.make_namespace()
    app = {"app": "web"}
    selector = {"matchLabels": app}
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}
    template = {"metadata": {"labels": app}, "spec": {"containers": [container(SERVE)], "topologySpreadConstraints": [spread]}}
    metadata = {"name": "web", "namespace": namespace}
    deployment = {"replicas": 2, "selector": selector, "template": template}
    service = {"selector": app, "ports": [{"port": 80}]}
    server.apply(
        [
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment},
            {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        ]
    )
    server.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
    pods = server.api.items(f"/api/v1/namespaces/{namespace}/pods")
    assert {item["spec"]["nodeName"] for item in pods} == {"node-1", "node-2"}
    address = server.get(f"/api/v1/namespaces/{namespace}/services/web")["spec"]["clusterIP"]
    names = {item["metadata"]["name"] for item in pods}
    answered: set[str] = set()

    def both_answered() -> bool:
        answered.add(cluster.nodes[0].run("timeout", "5", "busybox", "wget", "-q", "-O-", f"http://{address}/", check=False).strip())
        return names <= answered

    eventually("both pods to answer for the Service", both_answered)
    assert answered - {""} == names


def test_what_a_node_writes_stays_on_the_node(cluster: Cluster) -> None:
    one, two = cluster.nodes
    paths = ("/opt/cni/bin/probe", "/run/probe", "/etc/made-by-a-node")
    for path in paths:
        one.run("sh", "-c", f"echo mine >{path}")
    assert one.run("hostname").strip() == "node-1"
    for path in paths:
        assert one.run("cat", path).strip() == "mine"
        assert not Path(path).exists()
        assert two.run("sh", "-c", f"test -e {path} || echo absent").strip() == "absent"


def test_a_kubelet_may_speak_for_its_own_node_only(cluster: Cluster) -> None:
    config = cluster.server.kubeconfig_for_user("system:node:node-1", "system:nodes")
    label = ("label", "--overwrite", "node")
    cluster.server.kubectl(*label, "node-1", "test=yes", kubeconfig=config)
    refused = cluster.server.kubectl(*label, "node-2", "test=yes", kubeconfig=config, check=False)
    assert 'nodes "node-2" is forbidden' in refused


def test_two_clusters_do_not_meet_and_a_killed_one_is_swept_away(cluster: Cluster) -> None:
    namespace = start_pods(cluster, pod("witness", "node-1"))
    victim = subprocess.Popen([sys.executable, "-c", VICTIM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert victim.stdout is not None
        directory = victim.stdout.readline().strip()
        assert directory, "the other cluster did not start"
        cluster_id = directory.rpartition("-")[2]
        running = processes_of(cluster_id)
        assert len(running) >= 10
        assert janitor.sweep() == [], "the owner is alive"
        assert all(alive(process) for process in running)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    eventually("the kernel to end what the victim started", lambda: not any(alive(process) for process in running))
    assert {line.split()[0] for line in janitor.remains(cluster_id)} >= {"record", "namespace", "link", "cgroup", "directory"}
    assert janitor.sweep() == [cluster_id]
    assert janitor.remains(cluster_id) == []
    assert janitor.sweep() == []
    # And nothing of ours was hurt.
    assert "Running" in cluster.server.kubectl("get", "pod", "witness", "-n", namespace)
    assert janitor.remains(cluster.directory.name.rpartition("-")[2]) != []


def test_the_api_server_calls_a_webhook_by_its_service() -> None:
    with nodes.running(0) as control:
        server = control.server
        certificate, key = server.pki.server("webhook", [], ["hook.default.svc"])
        port = ports.take()
        command = [*control.inside_hub(), sys.executable, "-c", WEBHOOK, str(port.number)]
        webhook = Program("webhook", [*command, certificate, key], control.directory / "webhook.log")
        webhook.start()
        try:
            server.apply(webhook_objects(wiring.HUB_ADDRESS, port.number, server.ca.read_bytes()))

            def asked() -> bool:
                said = server.kubectl("create", "configmap", "any", "--dry-run=server", "-n", "default", check=False)
                return 'admission webhook "hook.culvert.dev" denied the request: not today' in said

            eventually("the webhook to be asked", asked)
        finally:
            webhook.stop()
            port.release()


def webhook_objects(address: str, port: int, ca: bytes) -> list[Object]:
    """A Service without pods, and a webhook behind it that is asked about ConfigMaps."""
    metadata = {"name": "hook", "namespace": "default"}
    endpoints = {"addressType": "IPv4", "ports": [{"port": port}], "endpoints": [{"addresses": [address]}]}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    hook = {
        "name": "hook.culvert.dev",
        "clientConfig": {"service": {**metadata, "port": 443}, "caBundle": base64.b64encode(ca).decode()},
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    slice_metadata = {**metadata, "labels": {"kubernetes.io/service-name": "hook"}}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 443, "targetPort": port}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice_metadata, **endpoints},
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "hook"},
            "webhooks": [hook],
        },
    ]


def test_a_cluster_that_ended_in_order_leaves_nothing() -> None:
    with nodes.running(1) as single:
        cluster_id = single.directory.name.rpartition("-")[2]
        start_pods(single, pod("alone", "node-1"))
        running = processes_of(cluster_id)
    assert janitor.remains(cluster_id) == []
    assert not any(alive(process) for process in running)
