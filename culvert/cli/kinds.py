"""Names of kinds as people type them."""

from __future__ import annotations

from culvert.cli.output import UsageError

# What a kind is called among all (`type_of`), in lower case → how else people write it: the plural, and kubectl's short name.
KINDS: dict[str, tuple[str, ...]] = {
    "pod": ("pods", "po"),
    "service": ("services", "svc"),
    "deployment": ("deployments", "deploy"),
    "namespace": ("namespaces", "ns"),
    "serviceaccount": ("serviceaccounts", "sa"),
    "endpointslice": ("endpointslices",),
    "authorizationpolicy": ("authorizationpolicies", "ap"),
    "peerauthentication": ("peerauthentications", "pa"),
    "requestauthentication": ("requestauthentications", "ra"),
    "virtualservice": ("virtualservices", "vs"),
    "destinationrule": ("destinationrules", "dr"),
    "serviceentry": ("serviceentries", "se"),
    "workloadentry": ("workloadentries", "we"),
    "telemetry": ("telemetries",),
    "gatewayclass": ("gatewayclasses", "gc"),
    "gateway": ("gateways", "gtw"),
    "gateway.networking.istio.io": ("gateways.networking.istio.io", "gw"),
    "httproute": ("httproutes",),
    "grpcroute": ("grpcroutes",),
    "tcproute": ("tcproutes",),
    "tlsroute": ("tlsroutes",),
    "referencegrant": ("referencegrants", "refgrant"),
}
POLICIES = ("authorizationpolicy", "peerauthentication", "requestauthentication")
SHOWN_ONLY: dict[str, tuple[str, ...]] = {"node": ("nodes", "no"), "refused": ()}
_BY_WORD: dict[str, tuple[str, ...]] = {word: (kind,) for kind, words in (KINDS | SHOWN_ONLY).items() for word in (kind, *words)}
_BY_WORD |= {"policy": POLICIES, "policies": POLICIES}


def resolve_kinds(word: str) -> tuple[str, ...]:
    """The kinds in lower case: `pods` → `pod`, `deployment.apps` → `deployment`, `policies` → all of them. Raises UsageError."""
    found = _look_up(word)
    if not found:
        raise UsageError(f"{word} is no kind that is known here; known: {accepted(shown=True)}")
    return found


def resolve_changeable(word: str) -> tuple[str, ...]:
    """As `resolve_kinds`, for what is an object of its own. Raises UsageError."""
    found = _look_up(word)
    if not found or found[0] in SHOWN_ONLY:
        raise UsageError(f"{word} is nothing that can be changed by name; known: {accepted(shown=False)}")
    return found


def _look_up(word: str) -> tuple[str, ...]:
    lower = word.lower()
    return _BY_WORD.get(lower) or _BY_WORD.get(lower.partition(".")[0], ())


def accepted(*, shown: bool) -> str:
    names = [f"{kind} ({words[1]})" if len(words) > 1 else kind for kind, words in KINDS.items()] + [f"policy ({', '.join(POLICIES)})"]
    return ", ".join(names + (["node (no)", "refused"] if shown else []))
