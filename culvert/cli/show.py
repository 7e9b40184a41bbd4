"""`culvert get`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from culvert.cli.kinds import resolve_kind
from culvert.cli.output import FailedError, UsageError, age, print_json, print_table
from culvert.cli.refused import explain
from culvert.playground.apply import remembered_refusals
from culvert.playground.control import load_spec, read_status
from culvert.playground.documents import Document, dump
from culvert.playground.layout import Layout
from culvert.playground.store import Store
from mesh.model.errors import Refusal

POLICIES = ("authorizationpolicy", "peerauthentication")
COLOURS = {"Running": "green", "enabled": "green", "CrashLoopBackOff": "red", "Error": "red", "Terminating": "yellow", "pending": "yellow"}


def run_get(layout: Layout, kind: str, names: list[str], namespace: str | None, output: str | None) -> None:
    if output not in (None, "json", "yaml", "wide"):
        raise UsageError(f"-o {output} is not accepted; accepted: json, yaml, wide")
    load_spec(layout)
    wanted = resolve_kind(kind)
    if wanted == "refused":
        _refused(layout, output)
    elif wanted == "node":
        _nodes(layout, output)
    elif output in ("json", "yaml") or wanted not in TABLES:
        _objects(layout, POLICIES if wanted in ("policie", "policy") else (wanted,), names, namespace, output)
    else:
        columns, wide, rows = TABLES[wanted]
        found = [
            row
            for row in read_status(layout)[f"{wanted}s"]
            if namespace in (None, row["namespace"]) and (not names or row["name"] in names)
        ]
        _must_exist(kind, names, [row["name"] for row in found])
        take = len(columns) + len(wide) if output == "wide" else len(columns)
        print_table((columns + wide)[:take], [rows(row)[:take] for row in found], COLOURS)


def all_refusals(layout: Layout) -> list[Refusal]:
    """What apply refused, and what the supervisor found to be unusable since."""
    return remembered_refusals(layout) + [Refusal(**item) for item in read_status(layout)["refused"]]


def _pod_row(pod: dict[str, Any]) -> list[object]:
    mesh = pod["mesh"] or "-"
    ready = f"{pod['readyContainers']}/{pod['containerCount']}"
    row = [pod["namespace"], pod["name"], ready, pod["reason"], pod["restarts"], age(pod["created"]), mesh.partition(":")[0]]
    return [*row, pod["ips"][0], pod["node"], pod["serviceAccount"], pod["detail"]]


def _service_row(service: dict[str, Any]) -> list[object]:
    ports = ",".join(f"{port['port']}/{port['protocol']}" for port in service["ports"])
    address = "None" if service["headless"] else ",".join(service["addresses"]) or "<none>"
    return [service["namespace"], service["name"], address, ports, len(service["endpoints"]), ", ".join(service["endpoints"])]


def _deployment_row(item: dict[str, Any]) -> list[object]:
    return [item["namespace"], item["name"], f"{item['ready']}/{item['replicas']}", item["updated"], item["total"]]


TABLES = {
    "pod": (["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "MESH"], ["IP", "NODE", "ACCOUNT", "DETAIL"], _pod_row),
    "service": (["NAMESPACE", "NAME", "CLUSTER-IP", "PORTS", "ENDPOINTS"], ["ADDRESSES"], _service_row),
    "deployment": (["NAMESPACE", "NAME", "READY", "UP-TO-DATE", "PODS"], [], _deployment_row),
}


def _nodes(layout: Layout, output: str | None) -> None:
    nodes = read_status(layout)["nodes"]
    if output == "json":
        print_json(nodes)
        return
    rows = [[node["name"], ",".join(node["addresses"]), ",".join(node["podRanges"]), node["pods"], node["netns"]] for node in nodes]
    print_table(["NAME", "ADDRESSES", "POD-RANGES", "PODS", "NETNS"], rows)


def _refused(layout: Layout, output: str | None) -> None:
    refusals = all_refusals(layout)
    explained = explain(layout, refusals)
    if output == "json":
        following = {outcome.subject: outcome.consequence for outcome in explained}
        slots = [{slot: getattr(item, slot) for slot in Refusal.__slots__} for item in refusals]
        print_json([item | {"consequence": following.get(item["subject"], "")} for item in slots])
        return
    for refusal in refusals:
        print(refusal)
    for outcome in explained:
        print(outcome)
    if not refusals:
        print("nothing is refused")


def _objects(layout: Layout, kinds: tuple[str, ...], names: list[str], namespace: str | None, output: str | None) -> None:
    documents = {**Store(layout.applied).load(), **_published(layout)}
    found = [
        document
        for key, document in sorted(documents.items())
        if key.kind.lower() in kinds and (not key.namespace or namespace in (None, key.namespace)) and (not names or key.name in names)
    ]
    _must_exist(kinds[0], names, [document.key.name for document in found])
    if output == "json":
        bodies = [dict(document.body) for document in found]
        print_json(bodies[0] if len(names) == 1 else {"apiVersion": "v1", "kind": "List", "items": bodies})
    elif output == "yaml":
        print("---\n".join(dump(document.body) for document in found), end="")
    else:
        print_table(["NAMESPACE", "KIND", "NAME"], [[item.key.namespace or "-", item.key.kind, item.key.name] for item in found])


def _published(layout: Layout) -> dict[Any, Document]:
    return Store(Path(layout.objects)).load()


def _must_exist(kind: str, asked: list[str], found: list[str]) -> None:
    for name in asked:
        if name not in found:
            raise FailedError(f"{kind} {name} does not exist; see what does: culvert get {kind}")
