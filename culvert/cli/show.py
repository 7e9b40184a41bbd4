"""`culvert get`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from culvert.cli.kinds import POLICIES, resolve_kinds
from culvert.cli.output import FailedError, UsageError, age, note, print_json, print_table
from culvert.cli.refused import explain
from culvert.cli.target import name_option
from culvert.playground.apply import remembered_refusals
from culvert.playground.control import load_spec, read_status
from culvert.playground.documents import Document, dump
from culvert.playground.layout import Layout
from culvert.playground.observe import control_refusals
from culvert.playground.store import Store
from culvert.playground.wanted import BUILT_IN_NAMESPACES
from mesh.model.enrolment import MODE_LABEL
from mesh.model.errors import Refusal

COLOURS = {"Running": "green", "enabled": "green", "CrashLoopBackOff": "red", "Error": "red", "Terminating": "yellow", "pending": "yellow"}


def run_get(layout: Layout, kind: str, names: list[str], namespace: str | None, output: str | None) -> None:
    if output not in (None, "json", "yaml", "wide"):
        raise UsageError(f"-o {output} is not accepted; accepted: json, yaml, wide")
    kinds = resolve_kinds(kind)
    load_spec(layout)
    wanted = kinds[0]
    if namespace is not None and namespace not in _namespaces(layout):
        raise FailedError(f"namespace {namespace} does not exist; see what does: culvert get namespaces{name_option(layout)}")
    if wanted == "refused":
        _refused(layout, output)
    elif wanted == "node":
        _nodes(layout, names, output)
    elif output in ("json", "yaml") or wanted not in TABLES:
        _objects(layout, kinds, kind, names, namespace, output)
    else:
        columns, wide, rows = TABLES[wanted]
        status = read_status(layout)
        found = [
            row | {"podCount": _pods_behind(row, status["pods"])}
            for row in status[f"{wanted}s"]
            if namespace in (None, row["namespace"]) and (not names or row["name"] in names)
        ]
        _must_exist(layout, kind, names, [row["name"] for row in found])
        if not found:
            _none(kind, namespace)
            return
        take = len(columns) + len(wide) if output == "wide" else len(columns)
        print_table((columns + wide)[:take], [rows(row)[:take] for row in found], COLOURS)


def all_refusals(layout: Layout) -> list[Refusal]:
    """What apply refused, and what the supervisor and the control plane found to be unusable since."""
    found = remembered_refusals(layout) + [Refusal(**item) for item in read_status(layout)["refused"]]
    known = {item.subject for item in found}
    return found + [item for item in control_refusals(layout) if item.subject not in known]


def _none(kind: str, namespace: str | None) -> None:
    note(f"no {kind} found" + (f" in namespace {namespace}" if namespace else ""))


def _namespaces(layout: Layout) -> set[str]:
    return {*BUILT_IN_NAMESPACES, *(key.name for key in Store(layout.applied).load() if key.kind == "Namespace")}


def _pods_behind(row: dict[str, Any], pods: list[dict[str, Any]]) -> int:
    """How many pods are endpoints of a service, however many addresses and ports they have."""
    addresses = {text.rpartition(" ")[0] for text in row.get("endpoints", ())}
    return sum(not addresses.isdisjoint(pod["ips"]) for pod in pods)


def _pod_row(pod: dict[str, Any]) -> list[object]:
    mesh = pod["mesh"] or "-"
    ready = f"{pod['readyContainers']}/{pod['containerCount']}"
    row = [pod["namespace"], pod["name"], ready, pod["reason"], pod["restarts"], age(pod["created"]), mesh.partition(":")[0]]
    return [*row, pod["ips"][0], pod["node"], pod["serviceAccount"], pod["detail"]]


def _service_row(service: dict[str, Any]) -> list[object]:
    ports = ",".join(f"{port['port']}/{port['protocol']}" for port in service["ports"])
    address = "None" if service["headless"] else ",".join(service["addresses"]) or "<none>"
    return [service["namespace"], service["name"], address, ports, service["podCount"], ", ".join(service["endpoints"])]


def _deployment_row(item: dict[str, Any]) -> list[object]:
    return [item["namespace"], item["name"], f"{item['ready']}/{item['replicas']}", item["updated"], item["total"]]


TABLES = {
    "pod": (["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "MESH"], ["IP", "NODE", "ACCOUNT", "DETAIL"], _pod_row),
    "service": (["NAMESPACE", "NAME", "CLUSTER-IP", "PORTS", "ENDPOINTS"], ["ADDRESSES"], _service_row),
    "deployment": (["NAMESPACE", "NAME", "READY", "UP-TO-DATE", "PODS"], [], _deployment_row),
}


def _nodes(layout: Layout, names: list[str], output: str | None) -> None:
    nodes = [node for node in read_status(layout)["nodes"] if not names or node["name"] in names]
    _must_exist(layout, "node", names, [node["name"] for node in nodes])
    if output == "json":
        print_json(nodes)
        return
    rows = [[node["name"], ",".join(node["addresses"]), ",".join(node["podRanges"]), node["pods"], node["netns"]] for node in nodes]
    print_table(["NAME", "ADDRESSES", "POD-RANGES", "PODS", "NETNS"], rows, None, ["POD-RANGES", "ADDRESSES"])


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


def _objects(layout: Layout, kinds: tuple[str, ...], kind: str, names: list[str], namespace: str | None, output: str | None) -> None:
    documents = {**Store(layout.applied).load(), **_published(layout)}
    found = [
        document
        for key, document in sorted(documents.items())
        if key.as_key.kind.lower() in kinds
        and (not key.namespace or namespace in (None, key.namespace))
        and (not names or key.name in names)
    ]
    _must_exist(layout, kind, names, [document.key.name for document in found])
    if output == "json":
        bodies = [dict(document.body) for document in found]
        print_json(bodies[0] if len(names) == 1 else {"apiVersion": "v1", "kind": "List", "items": bodies})
    elif output == "yaml":
        print("---\n".join(dump(document.body) for document in found), end="")
    else:
        if not found:
            _none(kind, namespace)
        elif kinds == ("namespace",):
            _namespace_table(layout, found)
        elif set(kinds) <= set(POLICIES):
            columns = ["NAMESPACE", "KIND", "NAME", "ACTION/MODE", "SELECTOR"]
            print_table(columns, [[item.key.namespace, item.key.kind, item.key.name, *policy_says(item.body)] for item in found])
        else:
            print_table(["NAMESPACE", "KIND", "NAME"], [[item.key.namespace or "-", item.key.kind, item.key.name] for item in found])


def _namespace_table(layout: Layout, found: list[Document]) -> None:
    """Who is in the mesh is what the agents say; the label is only what is wanted."""
    pods = read_status(layout)["pods"]
    rows = []
    for item in found:
        inside = [pod["mesh"] == "enabled" for pod in pods if pod["namespace"] == item.key.name]
        labels = item.body["metadata"].get("labels") or {}
        rows.append([item.key.name, labels.get(MODE_LABEL, "-"), f"{sum(inside)}/{len(inside)}"])
    print_table(["NAME", "DATAPLANE-MODE", "PODS-IN-MESH"], rows)


def policy_says(body: Mapping[str, Any]) -> tuple[str, str]:
    """What an accepted policy does, and to which pods."""
    spec = body.get("spec") or {}
    if body.get("kind") == "AuthorizationPolicy":
        does = str(spec.get("action", "ALLOW"))
    elif body.get("kind") == "RequestAuthentication":
        does = ",".join(str(rule.get("issuer", "any issuer")) for rule in spec.get("jwtRules") or ()) or "nothing"
    else:
        ports = spec.get("portLevelMtls") or {}
        modes = [
            (spec.get("mtls") or {}).get("mode", "UNSET"),
            *(f"{port}:{(said or {}).get('mode', 'UNSET')}" for port, said in ports.items()),
        ]
        does = ",".join(modes)
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    targets = [f"{target.get('kind')}/{target.get('name')}" for target in spec.get("targetRefs") or [spec.get("targetRef")] if target]
    return does, ",".join([f"{key}={value}" for key, value in labels.items()] + targets) or "all"


def _published(layout: Layout) -> dict[Any, Document]:
    return Store(Path(layout.objects)).load()


def _must_exist(layout: Layout, kind: str, asked: list[str], found: list[str]) -> None:
    for name in asked:
        if name not in found:
            raise FailedError(f"{kind} {name} does not exist; see what does: culvert get {kind}{name_option(layout)}")
