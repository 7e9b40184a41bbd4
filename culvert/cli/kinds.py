"""Names of kinds as people type them."""

from __future__ import annotations

ALIASES = {
    "po": "Pod",
    "svc": "Service",
    "deploy": "Deployment",
    "ns": "Namespace",
    "sa": "ServiceAccount",
    "ap": "AuthorizationPolicy",
    "pa": "PeerAuthentication",
    "vs": "VirtualService",
    "dr": "DestinationRule",
    "no": "Node",
    "authorizationpolicies": "AuthorizationPolicy",
    "networkpolicies": "NetworkPolicy",
    "serviceentries": "ServiceEntry",
    "workloadentries": "WorkloadEntry",
}


def resolve_kind(word: str) -> str:
    """The kind in lower case: `pods` → `pod`, `svc` → `service`, `authorizationpolicies` → `authorizationpolicy`."""
    lower = word.lower().partition(".")[0]
    if lower in ALIASES:
        return ALIASES[lower].lower()
    return lower[:-1] if lower.endswith("s") and not lower.endswith("ss") else lower
