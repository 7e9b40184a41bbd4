"""What others read of the running cluster: objects for the control plane, pod files for the agents. Pure: facts in, documents out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from culvert.playground.addresses import node_wire_addresses
from culvert.playground.layout import netns_path
from culvert.playground.pod import Pod
from culvert.playground.records import PodRecord
from culvert.playground.services import ServiceSpec
from mesh.model.enrolment import REDIRECTION_ANNOTATION
from mesh.model.manifest.core import SOURCE_ANNOTATION

TEMPLATE_HASH_LABEL = "pod-template-hash"


def pod_labels(pod: Pod) -> dict[str, str]:
    labels = dict(pod.spec.labels)
    if pod.record.owner:
        labels[TEMPLATE_HASH_LABEL] = pod.record.revision
    return labels


def pod_object(pod: Pod, nodes: tuple[str, ...], redirection: str, overlay: Mapping[str, str | None]) -> dict[str, Any]:
    """The Pod as an API server would show it. `redirection` is what the agent says of it; `overlay` are labels set on the pod itself."""
    record = pod.record
    host = [str(address) for address in node_wire_addresses(nodes.index(record.node) + 1)]
    annotations = {**pod.spec.annotations, SOURCE_ANNOTATION: record.source}
    if redirection:
        annotations[REDIRECTION_ANNOTATION] = redirection
    metadata: dict[str, Any] = {
        "name": record.name,
        "namespace": record.namespace,
        "uid": record.uid,
        "labels": merged(pod_labels(pod), overlay),
        "annotations": annotations,
        "creationTimestamp": timestamp(record.created),
    }
    if record.owner:
        # As on Kubernetes a Deployment's pods belong to a ReplicaSet, whose name ends in the template's hash.
        owner = f"{record.owner.partition('/')[2]}-{record.revision}"
        metadata["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "controller": True}]
    if record.deleting:
        metadata["deletionTimestamp"] = timestamp(record.created)
    spec = {**_mapping(record.template.get("spec")), "nodeName": record.node, "serviceAccountName": pod.spec.service_account}
    spec.pop("serviceAccount", None)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec,
        "status": {
            "phase": pod.phase,
            "podIP": record.addresses[0],
            "podIPs": [{"ip": address} for address in record.addresses],
            "hostIP": host[0],
            "hostIPs": [{"ip": address} for address in host],
            "conditions": [{"type": "Ready", "status": "True" if pod.ready else "False"}],
        },
    }


def agent_record(pod: Pod, namespace_labels: Mapping[str, str], overlay: Mapping[str, str | None]) -> dict[str, Any]:
    """The file that the node's agent reads about a pod."""
    record = pod.record
    return {
        "uid": record.uid,
        "name": record.name,
        "namespace": record.namespace,
        "serviceAccount": pod.spec.service_account,
        "netns": str(netns_path(record.netns)),
        "labels": merged(pod_labels(pod), overlay),
        "annotations": dict(pod.spec.annotations),
        "namespaceLabels": dict(namespace_labels),
        "hostNetwork": False,
        "phase": pod.phase if pod.phase in ("Succeeded", "Failed") else "Running",
        "ips": list(record.addresses),
    }


def service_object(body: Mapping[str, Any], service: ServiceSpec, addresses: tuple[str, ...]) -> dict[str, Any]:
    """The Service with the addresses that it got."""
    spec = dict(_mapping(body.get("spec")))
    if service.headless:
        spec["clusterIP"] = "None"
    elif addresses:
        spec["clusterIP"] = addresses[0]
        spec["clusterIPs"] = list(addresses)
        spec["ipFamilies"] = ["IPv6" if ":" in address else "IPv4" for address in addresses]
    return {**body, "spec": spec}


def merged(labels: Mapping[str, str], overlay: Mapping[str, str | None]) -> dict[str, str]:
    """Labels after changes: a value sets, None removes."""
    return {key: value for key, value in {**labels, **overlay}.items() if value is not None}


def agent_file(record: PodRecord) -> str:
    return f"{record.uid}.json"


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
