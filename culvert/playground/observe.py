"""What the mesh's own processes say of themselves, asked by HTTP inside their namespaces, and what they weigh."""

from __future__ import annotations

from typing import Any

from culvert.playground.layout import Layout


def observe(layout: Layout, status: dict[str, Any]) -> dict[str, Any]:
    """`memory` per process, `notes` as lines for people under a title."""
    return {"memory": {item["name"]: _memory(item["pid"]) for item in status["processes"] if item["pid"]}, "notes": {}}


def _memory(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return f"{int(file.read().split()[1]) * 4 // 1024} MB"
    except (FileNotFoundError, ProcessLookupError):
        return "-"
