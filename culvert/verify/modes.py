"""Which mutual-TLS mode policy sets for a pod's port, read from the PeerAuthentication objects themselves. Pure.

This is on purpose not the control plane's resolver: a proof that asks the accused for the rules proves nothing. Precedence as in Istio:
the port's mode, then the workload's policy, the namespace's, the root namespace's; where one says UNSET or nothing, the next
decides; at the end PERMISSIVE. Of several of one level the oldest wins, and among equals the first by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from culvert.verify.findings import Mode

GROUP = "security.istio.io"
ROOT_NAMESPACE = "istio-system"


def mode_of(namespace: str, labels: Mapping[str, str], policies: Iterable[Mapping[str, Any]]) -> Callable[[int], Mode]:
    """The mode by port of a pod with these labels. `policies` are PeerAuthentication documents of all namespaces."""
    levels: list[list[Mapping[str, Any]]] = [[], [], []]
    for policy in sorted(policies, key=_age):
        where = policy["metadata"].get("namespace", "default")
        selector = ((policy.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
        if where == namespace and selector and all(labels.get(key) == value for key, value in selector.items()):
            levels[0].append(policy)
        elif where == namespace and not selector:
            levels[1].append(policy)
        elif where == ROOT_NAMESPACE and not selector:
            levels[2].append(policy)
    chosen = [level[0].get("spec") or {} for level in levels if level]
    ports = chosen[0].get("portLevelMtls") or {} if levels[0] else {}

    def mode(port: int) -> Mode:
        for said in (ports.get(port) or ports.get(str(port)), *(spec.get("mtls") for spec in chosen)):
            name = (said or {}).get("mode", "UNSET")
            if name != "UNSET":
                return Mode(name)
        return Mode.PERMISSIVE

    return mode


def _age(policy: Mapping[str, Any]) -> tuple[str, str]:
    metadata = policy["metadata"]
    return (str(metadata.get("creationTimestamp") or "~"), str(metadata.get("name")))
