"""Is everything ready that should be? Pure: the supervisor's status in, sentences out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Readiness:
    """`ready` and `waiting_for` are lines for people; `summary` counts."""

    ready: tuple[str, ...]
    waiting_for: tuple[str, ...]
    summary: str

    @property
    def done(self) -> bool:
        return not self.waiting_for


def readiness(status: dict[str, Any]) -> Readiness:
    ready: list[str] = []
    waiting: list[str] = []
    for process in status["processes"]:
        if process["ready"]:
            ready.append(f"{process['name']} ready")
        else:
            waiting.append(f"{process['name']}: {process['detail'] or process['state']}")
    pods = status["pods"]
    for pod in pods:
        name = f"pod {pod['namespace']}/{pod['name']}"
        finished = pod["phase"] == "Succeeded"
        if not finished and pod["meshWanted"] != (pod["mesh"] == "enabled"):
            waiting.append(
                f"{name}: {'to enter' if pod['meshWanted'] else 'to leave'} the mesh" + (f": {pod['mesh']}" if pod["mesh"] else "")
            )
        elif finished or pod["ready"]:
            ready.append(f"{name} {'completed' if finished else 'ready'} on {pod['node']}")
        else:
            waiting.append(f"{name}: {pod['reason']}" + (f": {pod['detail']}" if pod["detail"] else ""))
    for item in status["deployments"]:
        have, asked = item["ready"], item["replicas"]
        if not (have == asked == item["total"] == item["updated"]):
            waiting.append(f"deployment {item['namespace']}/{item['name']}: {have} of {asked} ready, {item['updated']} up to date")
    waiting += [f"{what}: {why}" for what, why in status["problems"].items()]
    running = sum(pod["ready"] for pod in pods)
    summary = (
        f"{_count(len(status['nodes']), 'node')}, {running} of {_count(len(pods), 'pod')}, {_count(len(status['services']), 'service')}"
    )
    return Readiness(tuple(ready), tuple(waiting), summary)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
