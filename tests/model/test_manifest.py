"""What manifests in the wild look like, and what becomes of them."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from mesh.model.manifest import AuthorizationPolicy, Deployment, Namespace, PeerAuthentication, Pod, Service, load_directory, parse
from mesh.model.manifest.record import Record, fields_of
from mesh.model.manifest.tree import documents, plain, read

FULL_POD = """
apiVersion: v1
kind: Pod
metadata:
  name: web-7d9c-abcde
  namespace: shop
  uid: 2f1e
  creationTimestamp: 2026-01-31T12:00:00Z
  labels: {app: web, pod-template-hash: 7d9c}
  annotations:
    ambient.istio.io/redirection: enabled
    note: "123"
  ownerReferences:
  - {apiVersion: apps/v1, kind: ReplicaSet, name: web-7d9c, uid: a1, controller: true, blockOwnerDeletion: true}
  managedFields: [{manager: kubectl, operation: Update}]
  resourceVersion: "77"
spec:
  nodeName: n1
  serviceAccountName: web
  serviceAccount: web
  priority: 0
  tolerations: [{key: a, operator: Exists}]
  volumes: [{name: data, emptyDir: {}}, {name: t, projected: {defaultMode: 0644}}]
  securityContext: {runAsUser: 1000}
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: nginx:1.27
    imagePullPolicy: IfNotPresent
    command: [nginx, -g, "daemon off;"]
    workingDir: /srv
    env: [{name: A, value: "1"}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    ports: [{containerPort: 80, name: http}, {containerPort: 53, protocol: UDP}]
    resources: {limits: {cpu: 500m, memory: 64Mi}}
    volumeMounts: [{name: data, mountPath: /data}]
    readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 2}
    livenessProbe: {tcpSocket: {port: 80}}
    startupProbe: {exec: {command: [test, -f, /ok]}, failureThreshold: 30}
    securityContext: {allowPrivilegeEscalation: false}
  initContainers: [{name: setup, command: ["true"]}]
status:
  phase: Running
  podIP: 10.0.0.5
  podIPs: [{ip: 10.0.0.5}, {ip: "fd00::5"}]
  conditions:
  - {type: Ready, status: "True", lastTransitionTime: 2026-01-31T12:00:01Z, lastProbeTime: null}
  containerStatuses: [{name: main, ready: true}]
  qosClass: Burstable
"""


def test_a_pod_as_an_api_server_shows_it() -> None:
    (pod,) = parse(FULL_POD, "f")
    assert isinstance(pod, Pod)
    assert pod.metadata.owner_references[0].name == "web-7d9c"
    assert pod.spec.account == "web"
    container = pod.spec.containers[0]
    assert [(port.name, port.container_port, port.protocol) for port in container.ports] == [("http", 80, "TCP"), ("", 53, "UDP")]
    assert container.readiness_probe is not None
    assert container.readiness_probe.http_get is not None
    assert container.readiness_probe.http_get.port == "http"
    assert pod.status.addresses == (ip_address("10.0.0.5"), ip_address("fd00::5"))
    assert pod.status.ready
    assert pod.spec.volumes[1]["projected"]["defaultMode"] == 0o644


def test_defaults() -> None:
    (pod, service, policy, peer) = parse(
        """
{apiVersion: v1, kind: Pod, metadata: {name: p, labels: null}, spec: {containers: [{name: c}]}, status: null}
---
{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 80}]}}
---
{apiVersion: security.istio.io/v1beta1, kind: AuthorizationPolicy, metadata: {name: a}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: a}, spec: {}}
""",
        "f",
    )
    assert isinstance(pod, Pod)
    assert (pod.namespace, pod.spec.account, pod.status.phase, pod.status.ready) == ("default", "default", "Pending", False)
    assert isinstance(service, Service)
    assert (service.spec.type, service.spec.headless, service.spec.addresses) == ("ClusterIP", False, ())
    assert (service.spec.ports[0].target_port, service.spec.ports[0].protocol) == (None, "TCP")
    assert isinstance(policy, AuthorizationPolicy)
    assert (policy.spec.action, policy.spec.rules, policy.spec.selector) == ("ALLOW", (), None)
    assert isinstance(peer, PeerAuthentication)
    assert peer.spec.mtls.mode == "UNSET"


@pytest.mark.parametrize(
    ("spec", "headless", "addresses"),
    [
        ("{clusterIP: None}", True, []),
        ("{clusterIP: ''}", False, []),
        ("{clusterIP: 10.96.0.1}", False, ["10.96.0.1"]),
        ("{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1']}", False, ["10.96.0.1", "fd00::1"]),
        ("{clusterIPs: ['fd00::1']}", False, ["fd00::1"]),
        ("{clusterIP: None, clusterIPs: [None]}", True, []),
    ],
)
def test_addresses_of_services(spec: str, headless: bool, addresses: list[str]) -> None:
    (service,) = parse(f"{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {spec}}}", "f")
    assert isinstance(service, Service)
    assert service.spec.headless is headless
    assert [str(ip) for ip in service.spec.addresses] == addresses


def test_lists_json_and_empty_documents() -> None:
    text = """\
# only a comment
---
---
{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}},
  {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}]}
]}
--- # a comment on the marker
apiVersion: v1
kind: Namespace
metadata:
  name: c
...
"""
    objects = parse(text, "f")
    assert [entry.name for entry in objects] == ["a", "b", "c"]
    assert [entry.where for entry in objects] == ["f:5", "f:6", "f:9"]


def test_one_bad_item_of_a_list_is_refused_alone() -> None:
    items = "[{apiVersion: v1, kind: Namespace, metadata: {name: a}}, {kind: X}, {apiVersion: v1, kind: Namespace, metadata: {name: b}}]"
    loaded = load_directory([("f", f"{{apiVersion: v1, kind: List, items: {items}}}")])
    assert [entry.name for entry in loaded.objects] == ["a", "b"]
    assert len(loaded.refused) == 1


def test_anchors_and_merges_are_followed() -> None:
    text = """\
apiVersion: v1
kind: Namespace
metadata:
  name: a
  labels: &base {x: "1", y: "2"}
  annotations: {<<: *base, y: "3"}
"""
    (namespace,) = parse(text, "f")
    assert isinstance(namespace, Namespace)
    assert dict(namespace.annotations) == {"x": "1", "y": "3"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("0644", 420),
        ("0o17", 15),
        ("0x1F", 31),
        ("-12", -12),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("12:30:45", "12:30:45"),
        ("2026-01-31", "2026-01-31"),
        ("1_000", "1_000"),
        ("089", "089"),
        ("y", "y"),
        ("'1'", "1"),
    ],
)
def test_plain_scalars_are_read_as_kubernetes_reads_them(text: str, value: object) -> None:
    (document,) = documents(f"a: {text}")
    found = plain(read(document, "f"))["a"]
    assert found == value
    assert type(found) is type(value)


def test_where_a_file_was_made_from_is_said() -> None:
    text = "{apiVersion: v1, kind: Namespace, metadata: {name: a, annotations: {culvert.dev/source: 'shop.yaml:12'}%s}}"
    (namespace,) = parse(text % "", "objects/a.yaml")
    assert (namespace.where, namespace.source) == ("objects/a.yaml:1", "shop.yaml:12")
    (refused,) = load_directory([("objects/a.yaml", text % ", x: y")]).refused
    assert refused.refusals[0].where == "shop.yaml:12 (objects/a.yaml:1)"
    assert refused.file == "objects/a.yaml"


def test_every_described_field_has_a_shape_that_says_what_it_takes() -> None:
    for kind in (Namespace, Pod, Deployment, Service, AuthorizationPolicy, PeerAuthentication):
        assert Record(kind).accepted.startswith("a mapping with ")
        assert all(entry.shape.accepted for entry in fields_of(kind))


def test_the_examples_are_accepted() -> None:
    root = Path(__file__).parents[2] / "examples"
    files = [(str(path), path.read_text()) for path in sorted(root.rglob("*.yaml"))]
    assert files
    for file in files:
        assert parse(file[1], file[0])
