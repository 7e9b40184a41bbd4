"""What the mesh's own processes say of themselves, asked by HTTP inside their namespaces, and what they weigh.

A process that does not answer is shown as such; it never keeps the rest from being shown.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any

from culvert.playground.launch import in_netns
from culvert.playground.layout import Layout
from culvert.playground.meshprograms import CONTROL_HTTP_PORT, LOCAL, TUNNEL_ADMIN_PORT
from mesh.model.errors import Refusal

TIMEOUT_SECONDS = 2.0
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def observe(layout: Layout, status: dict[str, Any]) -> dict[str, Any]:
    """`memory` in MB per process; `controlPlane` per node; `certificates` per node and identity; `consequences` of refused policies."""
    seen: dict[str, Any] = {
        "memory": {item["name"]: resident_mb(item["pid"]) for item in status["processes"] if item["pid"]},
        "controlPlane": {"snapshot": None, "nodes": {}, "proxies": [], "sources": {}},
        "certificates": [],
        "consequences": {},
        "notes": [],
    }
    if not status["mesh"]:
        return seen
    sync = ask(layout.control, CONTROL_HTTP_PORT, "/debug/sync")
    if isinstance(sync, dict):
        seen["controlPlane"] = {
            "snapshot": sync["snapshot"],
            "nodes": {item["node"]: _sync(item) for item in sync["clients"] if item["kind"] == "tunnel"},
            "proxies": [{"id": item["id"], "view": item["kind"], **_sync(item)} for item in sync["clients"] if item["kind"] != "tunnel"],
            "sources": sync["sources"],
        }
    seen["consequences"] = refused_consequences(layout)
    seen["notes"] = _notes(layout)
    for node in status["nodes"]:
        dump = ask(node["netns"], TUNNEL_ADMIN_PORT, "/config_dump")
        if isinstance(dump, dict):
            seen["certificates"] += [_certificate(node["name"], item) for item in dump["certificates"]]
    return seen


def refused_consequences(layout: Layout) -> dict[str, str]:
    """What the control plane says that follows from refused objects, by `Kind namespace/name`."""
    return {item["object"]: item["consequence"] for item in _refusals(layout) if item["consequence"]}


def control_refusals(layout: Layout) -> list[Refusal]:
    """What the control plane refuses itself, beside what it is told of that was refused before it."""
    held = str(layout.refused_objects)
    return [
        Refusal(item["file"], item["object"], item["field"], item["value"], item["accepted"])
        for item in _refusals(layout)
        if held not in item["file"]
    ]


def _refusals(layout: Layout) -> list[dict[str, str]]:
    found = ask(layout.control, CONTROL_HTTP_PORT, "/debug/refusals")
    return found if isinstance(found, list) else []


def _notes(layout: Layout) -> list[dict[str, Any]]:
    snapshot = ask(layout.control, CONTROL_HTTP_PORT, "/debug/snapshot")
    return [item for item in snapshot["status"] if item["notes"]] if isinstance(snapshot, dict) else []


def ask(netns: str, port: int, path: str) -> Any:
    """The JSON at this loopback port of a namespace, or None where nobody answers with any."""
    connection = http.client.HTTPConnection(LOCAL, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.sock = in_netns(netns, lambda: socket.create_connection((LOCAL, port), TIMEOUT_SECONDS))
        connection.request("GET", path)
        reply = connection.getresponse()
        return json.loads(reply.read()) if reply.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _sync(client: dict[str, Any]) -> dict[str, Any]:
    """One tunnel's place in what the control plane sends. `snapshot` is the oldest that it acknowledged."""
    types = client["types"].values()
    return {
        "synced": bool(types) and all(item["synced"] for item in types),
        "snapshot": min((item["accepted"] or 0 for item in types), default=0),
        "resources": {name.rpartition(".")[2]: item["resources"] for name, item in client["types"].items()},
        "nacks": sum(item["nacks"] for item in types),
        "errors": [item["error"] for item in types if item["error"]],
        "connectedSeconds": client["connected_seconds"],
    }


def _certificate(node: str, item: dict[str, Any]) -> dict[str, Any]:
    leaf = item["certChain"][0] if item["certChain"] else {}
    return {
        "node": node,
        "identity": item["identity"],
        "state": item["state"],
        "validFrom": leaf.get("validFrom"),
        "expires": leaf.get("expirationTime"),
        "error": item.get("error", ""),
    }


def resident_mb(pid: int) -> float | None:
    """Resident memory; None where the process is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return round(int(file.read().split()[1]) * PAGE_MB, 1)
    except (FileNotFoundError, ProcessLookupError):
        return None
