"""`culvert status`: one look at everything."""

from __future__ import annotations

from typing import Any

from culvert.cli.output import age, console, note, print_json, print_table, show_refusals
from culvert.cli.show import COLOURS, TABLES, all_refusals
from culvert.playground.control import load_spec, read_status, supervisor_process
from culvert.playground.layout import Layout
from culvert.playground.observe import observe
from mesh.model.errors import Refusal


def run_status(layout: Layout, *, as_json: bool) -> None:
    load_spec(layout)
    found = read_status(layout)
    supervisor = supervisor_process(layout)
    seen = observe(layout, found)
    refusals = all_refusals(layout)
    if as_json:
        document: dict[str, Any] = {"name": layout.name, "state": str(layout.state), "supervisor": supervisor.pid if supervisor else None}
        document |= {key: value for key, value in found.items() if key != "refused"}
        document |= seen
        document["refused"] = [{slot: getattr(item, slot) for slot in Refusal.__slots__} for item in refusals]
        print_json(document)
        return
    _show(layout, found, seen)
    show_refusals(refusals)
    if supervisor is None:
        note(f"the supervisor is not running: what you see may be old; culvert up starts it again (log: {layout.supervisor_log})")


def _show(layout: Layout, found: dict[str, Any], seen: dict[str, Any]) -> None:
    out = console()
    rows = [[node["name"], ",".join(node["addresses"]), ",".join(node["podRanges"]), node["pods"]] for node in found["nodes"]]
    print_table(["NODE", "ADDRESSES", "POD-RANGES", "PODS"], rows)
    if found["processes"]:
        out.print()
        memory = seen["memory"]
        processes = [
            [
                item["name"],
                _state(item),
                item["pid"] or "-",
                item["restarts"],
                age(item["since"]),
                memory.get(item["name"], "-"),
                item["detail"],
            ]
            for item in found["processes"]
        ]
        print_table(
            ["PROCESS", "STATE", "PID", "RESTARTS", "AGE", "MEMORY", "DETAIL"], processes, {"ready": "green", "not ready": "yellow"}
        )
    out.print()
    columns, wide, row = TABLES["pod"]
    print_table(columns + wide, [row(pod) for pod in found["pods"]], COLOURS)
    for title, lines in seen["notes"].items():
        out.print()
        out.print(title, style="bold")
        for line in lines:
            out.print(f"  {line}", markup=False)
    for what, why in found["problems"].items():
        note(f"problem: {what}: {why}")


def _state(process: dict[str, Any]) -> str:
    if process["state"] != "Running":
        return str(process["state"])
    return "ready" if process["ready"] else "not ready"
