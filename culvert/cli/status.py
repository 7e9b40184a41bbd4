"""`culvert status`: one look at everything."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from culvert.cli.output import FAILED, OK, age, console, note, print_json, print_table
from culvert.cli.refused import explain, show_notes
from culvert.cli.show import COLOURS, TABLES, all_refusals
from culvert.cli.target import name_option
from culvert.playground.control import load_spec, read_status, supervisor_process
from culvert.playground.health import troubles
from culvert.playground.layout import Layout
from culvert.playground.observe import observe
from culvert.playground.outcome import Outcome
from mesh.model.errors import Refusal

MOST_TOLD = 5
GOOD_AND_BAD = {
    "ready": "green",
    "synced": "green",
    "Available": "green",
    "not ready": "yellow",
    "behind": "yellow",
    "not connected": "red",
}


def run_status(layout: Layout, *, as_json: bool) -> int:
    """The exit code: 1 where something is not as it should be."""
    load_spec(layout)
    found = read_status(layout)
    supervisor = supervisor_process(layout)
    seen = observe(layout, found)
    refusals = all_refusals(layout)
    wrong = troubles(found, seen, refusals, supervised=supervisor is not None)
    code = FAILED if wrong else OK
    if as_json:
        document: dict[str, Any] = {"name": layout.name, "state": str(layout.state), "supervisor": supervisor.pid if supervisor else None}
        document |= found | seen
        document["refused"] = [{slot: getattr(item, slot) for slot in Refusal.__slots__} for item in refusals]
        document["troubles"] = wrong
        print_json(document)
        return code
    _nodes(found, seen)
    if found["processes"]:
        _section("PROCESSES")
        _processes(found, seen)
    _section("PODS")
    columns, wide, row = TABLES["pod"]
    print_table(columns + wide, [row(pod) for pod in found["pods"]], COLOURS, ["DETAIL", "ACCOUNT", "AGE", "RESTARTS", "IP", "READY"])
    if seen["controlPlane"]["proxies"]:
        _section("PROXIES")
        rows = [[item["id"], item["view"], *_sync(item)] for item in seen["controlPlane"]["proxies"]]
        print_table(["PROXY", "VIEW", "CONTROL-PLANE", "SNAPSHOT"], rows, GOOD_AND_BAD)
    if seen["certificates"]:
        _section("CERTIFICATES")
        rows = [[item["node"], item["identity"], item["state"], _expiry(item["expires"]), item["error"]] for item in seen["certificates"]]
        print_table(["NODE", "IDENTITY", "STATE", "EXPIRES", "PROBLEM"], rows, GOOD_AND_BAD)
    _refused(refusals, explain(layout, refusals))
    show_notes((item["object"], text) for item in seen["notes"] for text in item["notes"])
    for source, state in seen["controlPlane"]["sources"].items():
        if state["error"]:
            old = f"{state['stale_seconds']:.0f} s old at most: " if state["stale_seconds"] is not None else ""
            note(f"problem: source {source}: {old}{state['error']}")
    for what, why in found["problems"].items():
        note(f"problem: {what}: {why}")
    for name in found.get("unusableNames", ()):
        note(f"{name} is a host of the mesh that pods here cannot look up: no hosts file can have that name, or its addresses")
    if supervisor is None:
        again = f"culvert up{name_option(layout)} starts it again"
        note(f"the supervisor is not running: what you see may be old; {again} (log: {layout.supervisor_log})")
    if wrong:
        note(f"not as it should be: {'; '.join(wrong[:MOST_TOLD])}{f'; and {len(wrong) - MOST_TOLD} more' if wrong[MOST_TOLD:] else ''}")
    return code


def _section(title: str) -> None:
    console().print(f"\n{title}", style="bold")


def _nodes(found: dict[str, Any], seen: dict[str, Any]) -> None:
    rows = []
    for node in found["nodes"]:
        row = [node["name"], ",".join(node["addresses"]), ",".join(node["podRanges"]), node["pods"]]
        rows.append([*row, *_sync(seen["controlPlane"]["nodes"].get(node["name"]))] if found["mesh"] else row)
    columns = ["NODE", "ADDRESSES", "POD-RANGES", "PODS"]
    print_table(columns + (["CONTROL-PLANE", "SNAPSHOT"] if found["mesh"] else []), rows, GOOD_AND_BAD, ["POD-RANGES", "ADDRESSES"])


def _sync(sync: dict[str, Any] | None) -> list[object]:
    if sync is None:
        return ["not connected", "-"]
    return ["synced" if sync["synced"] else "behind", sync["snapshot"]]


def _processes(found: dict[str, Any], seen: dict[str, Any]) -> None:
    rows = []
    for item in found["processes"]:
        memory = seen["memory"].get(item["name"])
        state = item["state"] if item["state"] != "Running" else "ready" if item["ready"] else "not ready"
        shown = f"{memory:.0f} MB" if memory else "-"
        rows.append([item["name"], state, item["pid"] or "-", item["restarts"], age(item["since"]), shown, item["detail"]])
    print_table(["NAME", "STATE", "PID", "RESTARTS", "AGE", "MEMORY", "DETAIL"], rows, GOOD_AND_BAD, ["PID", "AGE", "MEMORY"])


def _expiry(text: str | None) -> str:
    if not text:
        return "-"
    left = (datetime.fromisoformat(text) - datetime.now(UTC)).total_seconds()
    if left <= 0:
        return "expired"
    return f"in {left:.0f} s" if left < 120 else f"in {left / 60:.0f} min" if left < 7200 else f"in {left / 3600:.0f} h"


def _refused(refusals: list[Refusal], explained: list[Outcome]) -> None:
    if not refusals:
        return
    _section("REFUSED")
    for refusal in refusals:
        print(f"{refusal}")
    for outcome in explained:
        print(outcome)
