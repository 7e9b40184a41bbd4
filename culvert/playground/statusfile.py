"""What the supervisor tells the CLI: one JSON document, written after every pass that changed something. Pure."""

from __future__ import annotations

from typing import Any

from culvert.playground.addresses import gateways, node_wire_addresses, pod_ranges
from culvert.playground.cluster import Cluster
from culvert.playground.keeper import Keeper, KeeperState
from culvert.playground.meshprocess import MeshProcess
from culvert.playground.pod import Pod


def status(cluster: Cluster) -> dict[str, Any]:
    """`observed` is the generation of applied objects that all the rest reflects."""
    return {
        "observed": cluster.observed,
        "mesh": cluster.spec.mesh,
        "nodes": [_node(cluster, number, node) for number, node in enumerate(cluster.spec.nodes, 1)],
        "processes": [_process(process) for process in cluster.mesh],
        "pods": [_pod(pod) for _, pod in sorted(cluster.podset.pods.items())],
        "services": _services(cluster),
        "deployments": _deployments(cluster),
        "refused": [
            {"where": item.where, "subject": item.subject, "field": item.field, "value": item.value, "accepted": item.accepted}
            for item in cluster.wanted.refusals
        ],
        "problems": dict(cluster.problems),
        "unusableNames": list(cluster.names.unusable),
    }


def _node(cluster: Cluster, number: int, node: str) -> dict[str, Any]:
    pods = [pod for pod in cluster.podset.pods.values() if pod.record.node == node]
    return {
        "name": node,
        "addresses": [str(address) for address in node_wire_addresses(number)],
        "gateways": [str(address) for address in gateways(number)],
        "podRanges": [str(network) for network in pod_ranges(number)],
        "pods": len(pods),
        "netns": cluster.layout.node(node),
        "instance": cluster.layout.instance(node),
    }


def _process(process: MeshProcess) -> dict[str, Any]:
    keeper = process.keeper
    return {
        "name": keeper.name,
        "kind": process.program.kind,
        "node": process.program.node,
        "state": keeper.state.value,
        "ready": process.ready,
        "pid": keeper.process.pid if keeper.process else None,
        "restarts": keeper.restarts,
        "detail": _process_detail(process),
        "since": keeper.since,
    }


def _process_detail(process: MeshProcess) -> str:
    if not process.started:
        return "waits for the control plane's root certificate"
    if process.keeper.state is KeeperState.BACK_OFF:
        return process.keeper.detail
    return "" if process.ready else process.seen


def _pod(pod: Pod) -> dict[str, Any]:
    record = pod.record
    return {
        "namespace": record.namespace,
        "name": record.name,
        "uid": record.uid,
        "node": record.node,
        "netns": record.netns,
        "ips": list(record.addresses),
        "phase": pod.phase,
        "reason": pod.reason,
        "ready": pod.ready,
        "readyContainers": pod.ready_containers,
        "containers": [
            {"name": name, "state": keeper.state.value, "pid": keeper.process.pid if keeper.process else None, "restarts": keeper.restarts}
            for name, keeper in pod.keepers.items()
        ],
        "containerCount": len(pod.spec.containers),
        "restarts": pod.restarts,
        "serviceAccount": pod.spec.service_account,
        "owner": record.owner,
        "labels": dict(pod.spec.labels),
        "mesh": pod.redirection,
        "meshWanted": pod.mesh_wanted,
        "detail": pod.problem or next((keeper.detail for keeper in pod.keepers.values() if keeper.detail and not succeeded(keeper)), ""),
        "created": record.created,
    }


def succeeded(keeper: Keeper) -> bool:
    """As an init container does that the rest waited for: nothing that a person has to be told."""
    return keeper.state is KeeperState.EXITED and keeper.exit_code == 0


def _services(cluster: Cluster) -> list[dict[str, Any]]:
    rows = []
    for key, service in sorted(cluster.wanted.services.items()):
        states = cluster.service_states.get(key, [])
        rows.append(
            {
                "namespace": service.namespace,
                "name": service.name,
                "addresses": list(cluster.service_addresses.get(key, ())),
                "headless": service.headless,
                "ports": [{"name": port.name, "port": port.port, "protocol": port.protocol} for port in service.ports],
                "endpoints": sorted({f"{item.address} {item.port}" for state in states for item in state.endpoints}),
            }
        )
    return rows


def _deployments(cluster: Cluster) -> list[dict[str, Any]]:
    rows = []
    for key, owner in sorted(cluster.wanted.owners.items()):
        if not owner.bare:
            pods = [
                pod
                for pod in cluster.podset.pods.values()
                if pod.record.namespace == key.namespace and pod.record.owner == owner.reference and not pod.record.deleting
            ]
            rows.append(
                {
                    "namespace": key.namespace,
                    "name": key.name,
                    "replicas": owner.replicas,
                    "ready": sum(pod.ready for pod in pods),
                    "updated": sum(pod.record.revision == owner.revision for pod in pods),
                    "total": len(pods),
                }
            )
    return rows
