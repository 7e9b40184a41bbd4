"""Who is who, from a playground's own records: pods, their nodes and namespaces, which are enrolled, and what policy says of plaintext."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml

from culvert.playground.addresses import CONTROL_HOST, node_wire_addresses, wire_addresses
from culvert.playground.layout import Layout
from culvert.playground.network import UPLINK
from culvert.playground.spec import recorded_name
from culvert.verify.findings import Pod, World
from culvert.verify.modes import GROUP, mode_of
from mesh.model.errors import CulvertError
from mesh.model.workload import IPAddress


class CannotVerify(CulvertError):  # noqa: N818 - reads as what happened
    """There is nothing to verify, or no means to: exit code 2, which is neither proved nor disproved."""


@dataclass(frozen=True, slots=True)
class Node:
    """`netns` is the name of its namespace; `uplink` the link to capture on."""

    name: str
    netns: str
    addresses: tuple[IPAddress, IPAddress]
    uplink: str = UPLINK


@dataclass(frozen=True, slots=True)
class Cluster:
    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]
    world: World


def read_cluster(state: Path) -> Cluster:
    """The running playground in this state directory. Raises CannotVerify."""
    layout = Layout(recorded_name(state), state)
    try:
        names = json.loads(layout.spec.read_text())["nodes"]
        documents = [_load(path) for path in sorted(layout.objects.glob("*.yaml"))]
        records = [json.loads(path.read_text()) for path in sorted(layout.pods.glob("*.json"))]
    except FileNotFoundError as error:
        raise CannotVerify(f"no playground in {state} ({error.filename} is missing): start one with `culvert up`") from error
    nodes = tuple(Node(name, layout.node(name), node_wire_addresses(number)) for number, name in enumerate(names, 1))
    policies = [document for document in documents if _is(document, "PeerAuthentication", GROUP)]
    labels = {_key(document): document["metadata"].get("labels") or {} for document in documents if _is(document, "Pod", "")}
    pods = tuple(
        Pod(
            namespace=record["namespace"],
            name=record["name"],
            node=record["node"],
            enrolled=_redirection(layout, record) == "enabled",
            addresses=tuple(ip_address(text) for text in record["addresses"]),
            netns=record["netns"],
            mode=mode_of(record["namespace"], labels.get((record["namespace"], record["name"]), {}), policies),
        )
        for record in records
        if record.get("made") and not record.get("deleting")
    )
    infrastructure: dict[IPAddress, str] = dict.fromkeys(wire_addresses(CONTROL_HOST), "control plane")
    infrastructure |= {address: node.name for node in nodes for address in node.addresses}
    return Cluster(nodes, pods, World({address: pod for pod in pods for address in pod.addresses}, infrastructure))


def _redirection(layout: Layout, record: Mapping[str, Any]) -> str:
    try:
        return (layout.redirection(str(record["node"])) / str(record["uid"])).read_text().strip()
    except FileNotFoundError:
        return ""


def _load(path: Path) -> dict[str, Any]:
    value = yaml.load(path.read_text(), yaml.CSafeLoader)
    return value if isinstance(value, dict) else {}


def _is(document: Mapping[str, Any], kind: str, group: str) -> bool:
    return document.get("kind") == kind and str(document.get("apiVersion")).rpartition("/")[0] == group


def _key(document: Mapping[str, Any]) -> tuple[str, str]:
    metadata = document["metadata"]
    return metadata.get("namespace", "default"), metadata["name"]
