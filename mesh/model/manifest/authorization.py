"""AuthorizationPolicy → the policy that tunnels enforce at L4.

One rule for one rule, so that a decision names the rule that the user wrote; clauses in the order to, from, when. What asks about
L7 cannot be judged by a tunnel, and errs on the closed side:

- in an ALLOW, the whole rule never matches (it stays in its place as a rule that is false);
- in a DENY, the L7 part is taken as matched, so that the rule is wider; one that only asks about L7 denies everything;
- CUSTOM is not enforceable: all that it selects is denied. AUDIT has no effect and says so;
- a policy for targetRefs needs a waypoint: it becomes one that is not enforceable, and who it covers is the resolver's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.security import DRY_RUN_ANNOTATION, AuthorizationPolicy, Condition, Operation, PolicyRule, Source
from mesh.model.manifest.shapes import wire_name
from mesh.model.policy import (
    EMPTY_MATCH,
    Action,
    Authorization,
    Clause,
    Match,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringKind,
    StringMatch,
)

NEVER = Rule((Clause((EMPTY_MATCH,)),))
ALWAYS = Rule()


@dataclass(frozen=True, slots=True)
class Compiled:
    """`policy` is None where tunnels have nothing to enforce. `notes` are sentences for the policy's status."""

    policy: Authorization | None
    notes: tuple[str, ...] = ()


def unenforceable(name: str, namespace: str, scope: PolicyScope) -> Authorization:
    """A policy that denies all that it covers."""
    return Authorization(name, namespace, scope, Action.DENY, (ALWAYS,), enforceable=False)


def scope_of(namespace: str, selects_some: bool, root_namespace: str) -> PolicyScope:
    if selects_some:
        return PolicyScope.WORKLOAD
    return PolicyScope.GLOBAL if namespace == root_namespace else PolicyScope.NAMESPACE


def compile_policy(policy: AuthorizationPolicy, root_namespace: str) -> Compiled:
    spec = policy.spec
    dry_run = policy.annotations.get(DRY_RUN_ANNOTATION) == "true"
    if spec.action == "AUDIT":
        return Compiled(None, ("AUDIT has no effect: no tunnel writes audit logs",))
    if spec.targets:
        names = ", ".join(f"{target.kind} {target.name}" for target in spec.targets)
        if dry_run:
            return Compiled(None, (f"dry run for {names} has no effect: it needs a waypoint, and there is none",))
        denied = unenforceable(policy.name, policy.namespace, PolicyScope.WORKLOAD)
        return Compiled(denied, (f"needs a waypoint for {names}, and there is none: all that it covers is denied",))
    scope = scope_of(policy.namespace, bool(spec.match_labels), root_namespace)
    if spec.action == "CUSTOM":
        denied = unenforceable(policy.name, policy.namespace, scope)
        return Compiled(denied, ("CUSTOM needs a waypoint, and there is none: all that it selects is denied",))
    action = Action.ALLOW if spec.action == "ALLOW" else Action.DENY
    notes: list[str] = []
    rules = tuple(_rule(rule, f"spec.rules[{index}]", action, policy.namespace, notes) for index, rule in enumerate(spec.rules))
    return Compiled(Authorization(policy.name, policy.namespace, scope, action, rules, dry_run), tuple(notes))


def _rule(rule: PolicyRule, path: str, action: Action, namespace: str, notes: list[str]) -> Rule:
    needs = list(_l7_fields(rule, path))
    if needs:
        effect = "this rule never matches" if action is Action.ALLOW else "taken as matched, so that this rule denies more"
        notes.append(f"{', '.join(needs)}: judged only by a waypoint, and there is none; {effect}")
        if action is Action.ALLOW:
            return NEVER
    clauses: list[Clause] = []
    if rule.to:
        clauses += _clause(_operation(entry.operation) for entry in rule.to)
    if rule.from_:
        clauses += _clause(_source(entry.source, namespace) for entry in rule.from_)
    for condition in rule.when:
        if condition.l4:
            clauses += _clause([_condition(condition, namespace)])
    return Rule(tuple(clauses))


def _l7_fields(rule: PolicyRule, path: str) -> Iterable[str]:
    for index, source in enumerate(rule.from_):
        yield from (f"{path}.from[{index}].source.{wire_name(name)}" for name in Source.L7 if getattr(source.source, name))
    for index, to in enumerate(rule.to):
        yield from (f"{path}.to[{index}].operation.{wire_name(name)}" for name in Operation.L7 if getattr(to.operation, name))
    yield from (f"{path}.when[{index}].key {condition.key}" for index, condition in enumerate(rule.when) if not condition.l4)


def _clause(matches: Iterable[Match]) -> list[Clause]:
    """One clause, or none where an alternative asks nothing that a tunnel can judge: then all of it is taken as true."""
    found = tuple(matches)
    return [] if EMPTY_MATCH in found else [Clause(found)]


def _source(source: Source, namespace: str) -> Match:
    return Match(
        namespaces=strings(source.namespaces),
        not_namespaces=strings(source.not_namespaces),
        principals=strings(source.principals),
        not_principals=strings(source.not_principals),
        source_ips=source.ip_blocks,
        not_source_ips=source.not_ip_blocks,
        service_accounts=_accounts(source.service_accounts, namespace),
        not_service_accounts=_accounts(source.not_service_accounts, namespace),
    )


def _operation(operation: Operation) -> Match:
    return Match(destination_ports=operation.ports, not_destination_ports=operation.not_ports)


def _condition(condition: Condition, namespace: str) -> Match:
    attribute = {
        "source.ip": "source_ips",
        "source.namespace": "namespaces",
        "source.principal": "principals",
        "source.serviceAccount": "service_accounts",
        "destination.ip": "destination_ips",
        "destination.port": "destination_ports",
    }[condition.key]
    values: dict[str, Any] = {attribute: condition.values, f"not_{attribute}": condition.not_values}
    for name, texts in values.items():
        if attribute in ("namespaces", "principals"):
            values[name] = strings(texts)
        elif attribute == "service_accounts":
            values[name] = _accounts(texts, namespace)
    return Match(**values)


def strings(values: Iterable[str]) -> tuple[StringMatch, ...]:
    return tuple(string(value) for value in values)


def string(value: str) -> StringMatch:
    """`*` alone, at the end, or at the beginning; elsewhere there is none, the parser saw to that."""
    if value == "*":
        return StringMatch(StringKind.PRESENCE)
    if value.startswith("*"):
        return StringMatch(StringKind.SUFFIX, value[1:])
    if value.endswith("*"):
        return StringMatch(StringKind.PREFIX, value[:-1])
    return StringMatch(StringKind.EXACT, value)


def _accounts(values: Iterable[str], namespace: str) -> tuple[ServiceAccountMatch, ...]:
    """`<namespace>/<account>`, or an account of the policy's own namespace."""
    parts = (value.rpartition("/") for value in values)
    return tuple(ServiceAccountMatch(owner or namespace, account) for owner, _, account in parts)
