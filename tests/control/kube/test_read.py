"""JSON of an API server to objects: what is read, what is shared, what is kept, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control.kube.errors import Garbled
from control.sources.kubernetes import wire
from control.sources.kubernetes.kinds import CORE_KINDS, Kind
from control.sources.kubernetes.read import Reader, Reading, number
from mesh.model.manifest import EndpointSlice, Namespace, Node, Parsed, Pod, Service, ServiceAccount, parse_object

READER = Reader(parse_object, 100_000)
POLICIES = Kind("security.istio.io", "v1", "authorizationpolicies", "AuthorizationPolicy", "AuthorizationPolicy")
FULL_POD: dict[str, Any] = {
    "metadata": {
        "name": "web-1",
        "namespace": "shop",
        "uid": "u-1",
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-31T12:00:00Z",
        "labels": {"app": "web", "pod-template-hash": "abc"},
        "annotations": {"ambient.istio.io/redirection": "enabled", "kubectl.kubernetes.io/last-applied-configuration": "x" * 1000},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-abc", "uid": "u-0", "controller": True}],
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
    },
    "spec": {
        "nodeName": "n1",
        "serviceAccountName": "web",
        "hostNetwork": True,
        "volumes": [{"name": "v"}],
        "initContainers": [
            {"name": "setup", "ports": [{"containerPort": 1}]},
            {"name": "proxy", "restartPolicy": "Always", "ports": [{"containerPort": 9090, "name": "metrics"}]},
        ],
        "containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}]}],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False", "lastProbeTime": None}],
        "containerStatuses": [{"name": "c"}],
    },
}


def read(resource: str, value: dict[str, Any], known: bytes = b"") -> Reading:
    raw = json.dumps(value).encode()
    return READER.read(CORE_KINDS.get(resource, POLICIES), wire.head.decode(raw).metadata, raw, known)


def made(reading: Reading) -> Any:
    assert reading.parsed is not None
    assert reading.parsed.refused == ()
    return reading.parsed.objects[0]


def test_a_pod() -> None:
    pod = made(read("pods", FULL_POD))
    assert isinstance(pod, Pod)
    assert (pod.where, str(pod.key)) == ("pods/shop/web-1", "Pod shop/web-1")
    assert dict(pod.labels) == {"app": "web", "pod-template-hash": "abc"}
    assert dict(pod.annotations) == {"ambient.istio.io/redirection": "enabled"}
    assert [str(ip) for ip in pod.status.addresses] == ["10.0.0.1", "fd00::1"]
    assert (pod.spec.account, pod.spec.node_name, pod.spec.host_network, pod.status.ready) == ("web", "n1", True, False)
    assert [(one.name, [port.container_port for port in one.ports]) for one in (*pod.spec.init_containers, *pod.spec.containers)] == [
        ("proxy", [9090]),
        ("c", [8080]),
    ]
    assert [(owner.kind, owner.name, owner.controller) for owner in pod.metadata.owner_references] == [("ReplicaSet", "web-abc", True)]
    assert pod.metadata.creation_timestamp == "2026-01-31T12:00:00Z"


def test_pods_of_one_deployment_share_what_is_the_same() -> None:
    one = made(read("pods", FULL_POD))
    two = made(read("pods", {**FULL_POD, "metadata": {**FULL_POD["metadata"], "name": "web-2", "uid": "u-2"}}))
    assert one.labels is two.labels
    assert one.annotations is two.annotations
    assert one.spec.containers is two.spec.containers
    assert one.metadata.owner_references is two.metadata.owner_references
    assert one.status.conditions[0] is two.status.conditions[0]


def test_what_says_nothing_to_us_is_no_change() -> None:
    before = read("pods", FULL_POD)
    for path, value in (
        (("metadata", "resourceVersion"), "8"),
        (("metadata", "managedFields"), []),
        (("metadata", "annotations"), {"ambient.istio.io/redirection": "enabled", "other": "x"}),
        (("spec", "volumes"), []),
        (("status", "containerStatuses"), [{"restartCount": 3}]),
    ):
        after = read("pods", {**FULL_POD, path[0]: {**FULL_POD[path[0]], path[1]: value}}, before.digest)
        assert after.parsed is None, path
    changed = read("pods", {**FULL_POD, "status": {**FULL_POD["status"], "phase": "Failed"}}, before.digest)
    assert made(changed).status.phase == "Failed"


def test_a_pod_without_an_address_yet() -> None:
    pod = made(read("pods", {"metadata": {"name": "a", "namespace": "shop"}, "spec": {"containers": [{"name": "c"}]}, "status": {}}))
    assert pod.status.addresses == ()
    assert pod.status.phase == "Pending"


@pytest.mark.parametrize("resource", ["namespaces", "nodes", "serviceaccounts"])
def test_objects_that_are_little_more_than_metadata(resource: str) -> None:
    found = made(read(resource, {"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"anything": [1]}, "status": {"images": []}}))
    assert isinstance(found, {"namespaces": Namespace, "nodes": Node, "serviceaccounts": ServiceAccount}[resource])
    assert dict(found.labels) == {"x": "y"}


def test_a_service() -> None:
    spec = {
        "type": "ClusterIP",
        "clusterIP": "10.96.0.5",
        "clusterIPs": ["10.96.0.5", "fd00::5"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "RequireDualStack",
        "selector": {"app": "web"},
        "internalTrafficPolicy": "Local",
        "trafficDistribution": "PreferClose",
        "ports": [{"name": "http", "port": 80, "targetPort": "web", "appProtocol": "http"}, {"name": "x", "port": 81, "targetPort": 8081}],
    }
    found = made(read("services", {"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}))
    assert isinstance(found, Service)
    assert [str(ip) for ip in found.spec.addresses] == ["10.96.0.5", "fd00::5"]
    assert [(port.port, port.target_port, port.app_protocol) for port in found.spec.ports] == [(80, "web", "http"), (81, 8081, "")]
    assert (found.spec.internal_traffic_policy, found.spec.traffic_distribution) == ("Local", "PreferClose")


def test_a_headless_service() -> None:
    found = made(read("services", {"metadata": {"name": "db", "namespace": "shop"}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}}))
    assert found.spec.headless


def test_an_endpoint_slice() -> None:
    value = {
        "metadata": {"name": "web-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.0.0.1"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": "n1",
                "zone": "z",
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": "web-1", "uid": "u-1"},
            },
            {"addresses": ["10.0.0.2"], "conditions": {}},
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "", "port": None}],
    }
    found = made(read("endpointslices.discovery.k8s.io", value))
    assert isinstance(found, EndpointSlice)
    assert [(one.addresses, one.conditions.ready, one.node_name) for one in found.endpoints] == [
        (("10.0.0.1",), True, "n1"),
        (("10.0.0.2",), None, ""),
    ]
    assert found.endpoints[0].target_ref is not None
    assert found.endpoints[0].target_ref.name == "web-1"
    assert made(read("endpointslices.discovery.k8s.io", {**value, "endpoints": None, "ports": None})).endpoints == ()


def test_our_kinds_go_through_the_strict_parser() -> None:
    value = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "3", "generation": 2, "managedFields": [{}]},
        "spec": {"action": "DENY", "rules": [{}]},
        "status": {"conditions": [{"type": "Accepted"}]},
    }
    reading = read("", value)
    assert made(reading).spec.action == "DENY"
    assert reading.live is not None
    assert (reading.live.generation, reading.live.resource_version, reading.live.uid) == (2, "3", "u")
    assert reading.live.status == {"conditions": [{"type": "Accepted"}]}
    assert b"status" not in reading.kept
    bad = read("", {**value, "spec": {"action": "DENY", "rulez": [{}]}})
    assert bad.parsed is not None
    (refused,) = bad.parsed.refused
    assert refused.refusals[0].field == "spec.rulez"
    assert refused.policy


def test_a_bug_of_the_parser_refuses_one_object() -> None:
    def parse(value: object, origin: str) -> Parsed:
        raise KeyError("oops")

    reader = Reader(parse, 100_000)
    raw = b'{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "a", "namespace": "shop"}}'
    parsed = reader.read(POLICIES, wire.head.decode(raw).metadata, raw).parsed
    assert parsed is not None
    (refused,) = parsed.refused
    assert (refused.policy, refused.namespace, refused.selector) == (True, "shop", None)
    assert "bug" in refused.refusals[0].value


@pytest.mark.parametrize(
    ("resource", "value", "field"),
    [
        ("pods", {"spec": 3}, ""),
        ("pods", {"spec": {"containers": [{"name": 3}]}}, ""),
        ("pods", {"spec": {}, "status": {"podIPs": [{"ip": "here"}]}}, "status.podIPs"),
        ("services", {"spec": {"clusterIP": "x"}}, "spec.clusterIP"),
        ("services", {"spec": {"selector": {"k" * 400: "v"}}}, f"labels[{'k' * 317}]"),
        ("namespaces", {"spec": {"x": "y" * 200_000}}, ""),
    ],
)
def test_what_no_api_server_gives_is_refused_whole(resource: str, value: dict[str, Any], field: str) -> None:
    reading = read(resource, {"metadata": {"name": "a", "namespace": "shop"}, **value})
    assert reading.parsed is not None
    assert reading.parsed.objects == ()
    (refused,) = reading.parsed.refused
    assert (refused.name, refused.refusals[0].field) == ("a", field)


@pytest.mark.parametrize("resource", ["pods", "namespaces"])
def test_what_is_kept_reads_as_it_was(resource: str) -> None:
    before = read(resource, FULL_POD)
    kind, after = READER.restore(before.origin, before.kept)
    assert kind == CORE_KINDS[resource]
    assert after.parsed == before.parsed
    assert after.digest == before.digest


def test_what_is_kept_of_ours_reads_as_it_was_and_so_does_what_was_refused() -> None:
    value = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "a", "namespace": "shop", "uid": "u"},
    }
    for spec in ({"action": "DENY", "rules": [{}]}, {"action": "NONSENSE"}, {"note": "x" * 200_000}):
        before = read("", {**value, "spec": spec})
        kind, after = READER.restore(before.origin, before.kept)
        assert (kind, after.parsed, after.digest) == (POLICIES, before.parsed, before.digest)


@pytest.mark.parametrize("kept", [b"", b"{", b"!{}", b"[]", b'{"apiVersion": "v1"}'])
def test_what_cannot_have_been_kept_is_not_guessed_at(kept: bytes) -> None:
    with pytest.raises(Garbled):
        READER.restore("authorizationpolicies.security.istio.io/shop/a", kept)


@pytest.mark.parametrize(("version", "expected"), [("12", 12), ("", 0), ("v12", 0), ("-1", 0), ("²", 0), ("9" * 30, 0)])
def test_versions_that_are_numbers(version: str, expected: int) -> None:
    assert number(version) == expected
