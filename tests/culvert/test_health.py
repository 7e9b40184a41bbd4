"""Whether a playground is as it should be, from what the supervisor, the control plane and the tunnels say."""

from __future__ import annotations

from typing import Any

import pytest

from culvert.playground.health import troubles
from mesh.model.errors import Refusal

SYNCED = {"synced": True}


def status(**changes: Any) -> dict[str, Any]:
    nodes = [{"name": "node-1"}, {"name": "node-2"}]
    return {"mesh": True, "nodes": nodes, "processes": [], "pods": [], "deployments": [], "services": [], "problems": {}, **changes}


def seen(nodes: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    control = {"nodes": {"node-1": SYNCED, "node-2": SYNCED} if nodes is None else nodes, "proxies": [], "sources": {}}
    return {"controlPlane": control, "certificates": [], "notes": [], **changes}


def refusal(subject: str, where: str = "a.yaml:1") -> Refusal:
    return Refusal(where, subject, "spec", "1", "2")


def noted(*objects: str) -> list[dict[str, Any]]:
    return [{"object": item, "notes": ["needs a waypoint"]} for item in objects]


TUNNEL = {"name": "node-1.ztunnel", "ready": False, "state": "BackOff", "detail": "exited with 1"}


@pytest.mark.parametrize(
    ("status", "seen", "refusals", "told"),
    [
        (status(), seen(), [], []),
        (status(mesh=False), seen({}), [], []),
        (status(processes=[TUNNEL]), seen(), [], ["node-1.ztunnel: exited with 1"]),
        (status(problems={"Network": "no"}), seen(), [], ["Network: no"]),
        (
            status(),
            seen({"node-1": {"synced": False}}),
            [],
            ["node-1: behind the control plane", "node-2: not connected to the control plane"],
        ),
        (status(), seen(certificates=[{"node": "node-1", "identity": "x", "error": "no CA"}]), [], ["node-1: x: no CA"]),
        # Two values of one object, and two documents that have no name.
        (status(), seen(), [refusal("A b")] * 2, ["1 object is refused"]),
        (status(), seen(), [refusal("", "a:1"), refusal("", "a:9")], ["2 objects are refused"]),
        (status(), seen(notes=noted("Gateway a/b", "AuthorizationPolicy a/b")), [], ["1 policy is not enforced as written"]),
        (
            status(),
            seen(notes=noted("AuthorizationPolicy a/b", "RequestAuthentication a/b", "PeerAuthentication a/c")),
            [refusal("PeerAuthentication a/c")],
            ["1 object is refused", "2 policies are not enforced as written"],
        ),
    ],
)
def test_what_is_told(status: dict[str, Any], seen: dict[str, Any], refusals: list[Refusal], told: list[str]) -> None:
    assert troubles(status, seen, refusals, supervised=True) == told
    assert troubles(status, seen, refusals, supervised=False) == ["the supervisor is not running", *told]


def test_a_source_that_is_not_current() -> None:
    found = seen()
    found["controlPlane"]["sources"] = {"files": {"error": None}, "consul": {"error": "refused"}}
    assert troubles(status(), found, (), supervised=True) == ["source consul: refused"]
