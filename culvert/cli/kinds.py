"""Names of kinds as people type them."""

from __future__ import annotations

from culvert.cli.output import UsageError

# Kind in lower case → how else people write it.
KINDS: dict[str, tuple[str, ...]] = {
    "pod": ("pods", "po"),
    "service": ("services", "svc"),
    "deployment": ("deployments", "deploy"),
    "namespace": ("namespaces", "ns"),
    "serviceaccount": ("serviceaccounts", "sa"),
    "authorizationpolicy": ("authorizationpolicies", "ap"),
    "peerauthentication": ("peerauthentications", "pa"),
}
POLICIES = ("authorizationpolicy", "peerauthentication")
SHOWN_ONLY: dict[str, tuple[str, ...]] = {"node": ("nodes", "no"), "refused": ()}
_BY_WORD: dict[str, tuple[str, ...]] = {word: (kind,) for kind, words in (KINDS | SHOWN_ONLY).items() for word in (kind, *words)}
_BY_WORD |= {"policy": POLICIES, "policies": POLICIES}


def resolve_kinds(word: str) -> tuple[str, ...]:
    """The kinds in lower case: `pods` → `pod`, `deployment.apps` → `deployment`, `policies` → both. Raises UsageError."""
    found = _BY_WORD.get(word.lower().partition(".")[0])
    if found is None:
        raise UsageError(f"{word} is no kind that is known here; known: {accepted(shown=True)}")
    return found


def resolve_changeable(word: str) -> tuple[str, ...]:
    """As `resolve_kinds`, for what is an object of its own. Raises UsageError."""
    found = _BY_WORD.get(word.lower().partition(".")[0], ())
    if not found or found[0] in SHOWN_ONLY:
        raise UsageError(f"{word} is nothing that can be changed by name; known: {accepted(shown=False)}")
    return found


def accepted(*, shown: bool) -> str:
    names = [f"{kind} ({words[1]})" for kind, words in KINDS.items()] + ["policy (the last two)"]
    return ", ".join(names + (["node (no)", "refused"] if shown else []))
