"""Is the playground as it should be? Pure: what `status` shows in, sentences out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from culvert.playground.outcome import is_policy
from culvert.playground.readiness import readiness
from mesh.model.errors import Refusal


def troubles(status: dict[str, Any], seen: dict[str, Any], refusals: Iterable[Refusal], *, supervised: bool) -> list[str]:
    """What is not ready, not connected, behind, refused, or not enforced as it is written. None: all is well."""
    found = [] if supervised else ["the supervisor is not running"]
    found += readiness(status).waiting_for
    found += _behind(status, seen)
    found += [f"source {name}: {source['error']}" for name, source in seen["controlPlane"]["sources"].items() if source["error"]]
    found += [f"{item['node']}: {item['identity']}: {item['error']}" for item in seen["certificates"] if item["error"]]
    refused = {refusal.subject if " " in refusal.subject else refusal.where for refusal in refusals}
    if refused:
        found.append(_count(len(refused), "object is refused", "objects are refused"))
    lacking = {item["object"] for item in seen["notes"] if is_policy(item["object"])} - refused
    if lacking:
        found.append(_count(len(lacking), "policy is not enforced as written", "policies are not enforced as written"))
    return found


def _behind(status: dict[str, Any], seen: dict[str, Any]) -> list[str]:
    if not status["mesh"]:
        return []
    nodes = {node["name"]: seen["controlPlane"]["nodes"].get(node["name"]) for node in status["nodes"]}
    proxies = {proxy["id"]: proxy for proxy in seen["controlPlane"]["proxies"]}
    said = {name: "not connected to the control plane" if sync is None else "behind the control plane" for name, sync in nodes.items()}
    said |= dict.fromkeys(proxies, "behind the control plane")
    return [f"{name}: {said[name]}" for name, sync in (nodes | proxies).items() if sync is None or not sync["synced"]]


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
