"""What the control plane and the agents read of a running pod."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from culvert.playground.addresses import pod_addresses
from culvert.playground.documents import dump
from culvert.playground.pod import Pod, PodDeps
from culvert.playground.publish import agent_record, merged, pod_object, service_object
from culvert.playground.readiness import readiness
from culvert.playground.records import PodRecord, load_records
from culvert.playground.services import ServiceSpec
from mesh.model.manifest import parse
from mesh.model.manifest.pods import Pod as PodObject
from mesh.model.manifest.services import Service as ServiceObject

TEMPLATE = {
    "metadata": {"labels": {"app": "web"}, "annotations": {"note": "x"}},
    "spec": {"serviceAccount": "clerk", "containers": [{"name": "main", "image": "any", "command": ["true"]}]},
}


def record(**changes: Any) -> PodRecord:
    values: dict[str, Any] = {
        "uid": "u-1",
        "namespace": "shop",
        "name": "web-abc-xyz",
        "node": "node-2",
        "addresses": tuple(str(address) for address in pod_addresses(2, 5)),
        "netns": "t-node-2-web-abc-xyz.shop",
        "owner": "Deployment/web",
        "revision": "abc",
        "source": "/srv/web.yaml:3",
        "template": TEMPLATE,
        "created": 1700000000.0,
    }
    return PodRecord(**{**values, **changes})


def pod(**changes: Any) -> Pod:
    return Pod(record(**changes), cast(PodDeps, None))


def test_a_pod_as_the_meshs_own_parser_reads_it() -> None:
    text = dump(pod_object(pod(), ("node-1", "node-2"), "enabled", {"extra": "1"}))
    (found,) = parse(text, "pod.yaml")
    assert isinstance(found, PodObject)
    assert found.metadata.labels == {"app": "web", "pod-template-hash": "abc", "extra": "1"}
    assert found.metadata.annotations["ambient.istio.io/redirection"] == "enabled"
    assert found.metadata.owner_references[0].name == "web-abc"
    assert (found.spec.node_name, found.spec.account) == ("node-2", "clerk")
    assert [str(address) for address in found.status.addresses] == ["10.244.2.5", "fd00:10:244:2::5"]
    assert not found.status.ready


def test_a_bare_pod_has_no_owner_and_one_that_ends_says_so() -> None:
    body = pod_object(pod(owner="", deleting=True), ("node-1", "node-2"), "", {})
    assert "ownerReferences" not in body["metadata"]
    assert "pod-template-hash" not in body["metadata"]["labels"]
    assert body["metadata"]["deletionTimestamp"] == "2023-11-14T22:13:20Z"
    assert "ambient.istio.io/redirection" not in body["metadata"]["annotations"]


def test_the_agents_file() -> None:
    assert agent_record(pod(), {"istio.io/dataplane-mode": "ambient"}, {"app": None}) == {
        "uid": "u-1",
        "name": "web-abc-xyz",
        "namespace": "shop",
        "serviceAccount": "clerk",
        "netns": "/run/netns/t-node-2-web-abc-xyz.shop",
        "labels": {"pod-template-hash": "abc"},
        "annotations": {"note": "x"},
        "namespaceLabels": {"istio.io/dataplane-mode": "ambient"},
        "hostNetwork": False,
        "phase": "Running",
        "ips": ["10.244.2.5", "fd00:10:244:2::5"],
    }


def test_a_service_with_the_addresses_it_got() -> None:
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}}
    spec = ServiceSpec("shop", "web", families=(4, 6))
    (found,) = parse(dump(service_object(body, spec, ("10.96.1.1", "fd00:10:96::101"))), "service.yaml")
    assert isinstance(found, ServiceObject)
    assert [str(address) for address in found.spec.addresses] == ["10.96.1.1", "fd00:10:96::101"]
    headless = service_object(body, ServiceSpec("shop", "web", headless=True), ())
    assert headless["spec"]["clusterIP"] == "None"


def test_labels_after_changes() -> None:
    assert merged({"a": "1", "b": "2"}, {"a": None, "c": "3"}) == {"b": "2", "c": "3"}


def test_records_go_to_disk_and_back_and_bad_ones_are_dropped(tmp_path: Path) -> None:
    record(made=True).save(tmp_path)
    (tmp_path / "half.json").write_text("{")
    (tmp_path / "old.json").write_text('{"uid": "x"}')
    record(name="refused", template={"spec": {}}).save(tmp_path)
    assert list(load_records(tmp_path)) == [record(made=True)]
    assert [path.name for path in tmp_path.iterdir()] == ["shop.web-abc-xyz.json"]


@pytest.mark.parametrize(
    ("changes", "waiting"),
    [
        ({}, []),
        ({"ready": False, "reason": "Running", "detail": "readiness probe: HTTP 503"}, ["pod shop/p: Running: readiness probe: HTTP 503"]),
        ({"ready": False, "phase": "Succeeded"}, []),
        ({"meshWanted": True}, ["pod shop/p: to enter the mesh"]),
        ({"meshWanted": True, "mesh": "pending: no tunnel"}, ["pod shop/p: to enter the mesh: pending: no tunnel"]),
        ({"meshWanted": True, "mesh": "enabled"}, []),
        ({"mesh": "enabled"}, ["pod shop/p: to leave the mesh: enabled"]),
    ],
)
def test_readiness_of_a_pod(changes: dict[str, Any], waiting: list[str]) -> None:
    shown = {"namespace": "shop", "name": "p", "node": "n", "phase": "Running", "ready": True, "reason": "Running", "detail": ""}
    shown |= {"mesh": "", "meshWanted": False, **changes}
    status = {"processes": [], "pods": [shown], "deployments": [], "services": [], "nodes": [], "problems": {}}
    found = readiness(status)
    assert (list(found.waiting_for), found.done) == (waiting, not waiting)


def test_readiness_of_the_rest() -> None:
    status = {
        "processes": [{"name": "control", "ready": False, "detail": "", "state": "Waiting"}],
        "pods": [],
        "deployments": [{"namespace": "a", "name": "b", "ready": 1, "replicas": 2, "total": 2, "updated": 2}],
        "services": [],
        "nodes": [],
        "problems": {"Service a/c": "no address"},
    }
    assert list(readiness(status).waiting_for) == [
        "control: Waiting",
        "deployment a/b: 1 of 2 ready, 2 up to date",
        "Service a/c: no address",
    ]
