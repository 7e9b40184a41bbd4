"""PeerAuthentication by level, port and age: the mode that verify holds plaintext against."""

from __future__ import annotations

from typing import Any

import pytest

from culvert.verify.findings import Mode
from culvert.verify.modes import mode_of

LABELS = {"app": "redis"}


def policy(
    namespace: str,
    mode: str = "",
    *,
    app: str = "",
    ports: dict[Any, str] | None = None,
    name: str = "p",
    created: str = "2026-01-01T00:00:00Z",
) -> dict[str, Any]:
    spec: dict[str, Any] = {"mtls": {"mode": mode}} if mode else {}
    if app:
        spec["selector"] = {"matchLabels": {"app": app}}
    if ports:
        spec["portLevelMtls"] = {port: {"mode": value} for port, value in ports.items()}
    return {"metadata": {"namespace": namespace, "name": name, "creationTimestamp": created}, "spec": spec}


@pytest.mark.parametrize(
    ("policies", "port", "expected"),
    [
        pytest.param([], 80, Mode.PERMISSIVE, id="nothing said"),
        pytest.param([policy("istio-system", "STRICT")], 80, Mode.STRICT, id="mesh"),
        pytest.param([policy("istio-system", "STRICT"), policy("shop", "PERMISSIVE")], 80, Mode.PERMISSIVE, id="namespace over mesh"),
        pytest.param([policy("istio-system", "STRICT"), policy("shop", "UNSET")], 80, Mode.STRICT, id="unset asks the next level"),
        pytest.param([policy("shop", "PERMISSIVE"), policy("shop", "STRICT", app="redis")], 80, Mode.STRICT, id="workload over namespace"),
        pytest.param([policy("shop", "STRICT", app="other")], 80, Mode.PERMISSIVE, id="another workload's"),
        pytest.param([policy("else", "STRICT")], 80, Mode.PERMISSIVE, id="another namespace's"),
        pytest.param(
            [policy("istio-system", "STRICT", app="redis")], 80, Mode.PERMISSIVE, id="a selector in the root namespace is local there"
        ),
        pytest.param([policy("shop", "STRICT", app="redis", ports={6379: "PERMISSIVE"})], 6379, Mode.PERMISSIVE, id="port over workload"),
        pytest.param([policy("shop", "STRICT", app="redis", ports={"6379": "DISABLE"})], 6379, Mode.DISABLE, id="port as a string"),
        pytest.param([policy("shop", "STRICT", app="redis", ports={6379: "PERMISSIVE"})], 80, Mode.STRICT, id="another port"),
        pytest.param([policy("shop", "STRICT", ports={80: "PERMISSIVE"})], 80, Mode.STRICT, id="ports count with a selector only"),
        pytest.param(
            [policy("shop", "STRICT", name="a"), policy("shop", "PERMISSIVE", name="z", created="2025-01-01T00:00:00Z")],
            80,
            Mode.PERMISSIVE,
            id="the oldest wins",
        ),
    ],
)
def test_precedence(policies: list[dict[str, Any]], port: int, expected: Mode) -> None:
    assert mode_of("shop", LABELS, policies)(port) is expected
