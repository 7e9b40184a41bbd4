"""AuthorizationPolicies that target what a waypoint serves → the policies of its chains, for HTTP and for the rest.

Selection is done: these apply. Each rule stays a rule, so that a decision names what the user wrote. For connections on which no HTTP is
spoken, what asks about requests cannot be judged, and errs on the closed side:

    ALLOW    the whole rule is left out, so that it allows less
    DENY     that part is taken as matched, so that it denies more
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mesh.model.l7.notes import Notes, Problem, Translated
from mesh.model.l7.policies import (
    ANY_TEXT,
    HTTP_ONLY,
    Action,
    Check,
    Clause,
    Field,
    Match,
    Policy,
    Rule,
    Value,
    deny_all,
)
from mesh.model.l7.texts import TextKind, TextMatch, exact, quoted, regex, unsafe, usable_regex
from mesh.model.manifest import AuthorizationPolicy, Key
from mesh.model.manifest.security import DRY_RUN_ANNOTATION, Condition, Operation, PolicyRule, Source

KEYS = {
    "source.ip": Field.SOURCE_IP,
    "source.namespace": Field.NAMESPACE,
    "source.principal": Field.PRINCIPAL,
    "source.serviceAccount": Field.SERVICE_ACCOUNT,
    "source.trustDomain": Field.TRUST_DOMAIN,
    "remote.ip": Field.REMOTE_IP,
    "destination.ip": Field.DESTINATION_IP,
    "destination.port": Field.DESTINATION_PORT,
    "connection.sni": Field.SNI,
    "request.auth.principal": Field.REQUEST_PRINCIPAL,
}
CLAIMS = {"request.auth.audiences": ("aud",), "request.auth.presenter": ("azp",)}
CLAIM_KEY, HEADER_KEY, FILTER_KEY = "request.auth.claims", "request.headers", "experimental."
SOURCES = (
    ("principals", Field.PRINCIPAL),
    ("namespaces", Field.NAMESPACE),
    ("service_accounts", Field.SERVICE_ACCOUNT),
    ("ip_blocks", Field.SOURCE_IP),
    ("request_principals", Field.REQUEST_PRINCIPAL),
    ("remote_ip_blocks", Field.REMOTE_IP),
    ("trust_domains", Field.TRUST_DOMAIN),
)
OPERATIONS = (("ports", Field.DESTINATION_PORT), ("hosts", Field.HOST), ("methods", Field.METHOD), ("paths", Field.PATH))


@dataclass(frozen=True, slots=True)
class Enforced:
    """What a chain enforces: `http` where it is spoken, `tcp` elsewhere."""

    http: tuple[Policy, ...] = ()
    tcp: tuple[Policy, ...] = ()


def enforced(policies: Sequence[AuthorizationPolicy], trust_domains: Sequence[str], unreadable: Iterable[Key] = ()) -> Translated[Enforced]:
    """`trust_domains`: the mesh's own and its aliases, each as good as the other. `unreadable` are policies that were refused and have no
    earlier form: each denies everything.
    """
    notes = Notes()
    http = [_policy(policy, trust_domains, notes) for policy in policies]
    tcp = [_without_http(made, policy.key, notes) for made, policy in zip(http, policies, strict=True)]
    denied = [deny_all(key.name, key.namespace) for key in unreadable]
    return notes.done(Enforced((*denied, *http), (*denied, *tcp)))


def _policy(policy: AuthorizationPolicy, trust_domains: Sequence[str], notes: Notes) -> Policy:
    spec = policy.spec
    action = Action[spec.action]
    if action is Action.CUSTOM:
        provider = spec.provider.name if spec.provider is not None else ""
        message = f"there is no provider {provider} to ask: what this matches is denied"
        notes.add(Problem.DENIES_MORE, policy.key, "spec.provider", message)
    elif action is Action.AUDIT:
        notes.add(Problem.NO_EFFECT, policy.key, "spec.action", "nothing but marks for access logs comes of it")
    reader = _Reader(policy.namespace, tuple(trust_domains))
    rules = tuple(reader.rule(rule) for rule in spec.rules)
    dry_run = policy.annotations.get(DRY_RUN_ANNOTATION) == "true"
    made = Policy(policy.name, policy.namespace, action, rules, dry_run)
    tests = [check for rule in rules for clause in rule.clauses for match in clause.matches for check in match.checks]
    if all(map(_usable, tests)):
        return made
    # A proxy would refuse it, and with it every chain that it serves.
    notes.add(Problem.DENIES_ALL, policy.key, "spec.rules", "some name or value is more than a proxy takes: everything is denied")
    return deny_all(policy.name, policy.namespace)


ROOM = "x" * 64
"""For what an encoder may put around a value that it makes a regular expression of."""


def _usable(check: Check) -> bool:
    texts = [value for value in (*check.values, *check.not_values) if isinstance(value, TextMatch)]
    patterns = (value.value if value.kind is TextKind.REGEX else quoted(value.value) for value in texts)
    return not unsafe(*check.key) and all(usable_regex(ROOM + pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class _Reader:
    """`namespace` is the policy's own."""

    namespace: str
    trust_domains: tuple[str, ...]

    def rule(self, rule: PolicyRule) -> Rule:
        """Clauses in the order to, from, when."""
        clauses: list[Clause] = []
        if rule.to:
            clauses.append(Clause(tuple(Match(self._tests(entry.operation, OPERATIONS)) for entry in rule.to)))
        if rule.from_:
            clauses.append(Clause(tuple(Match(self._tests(entry.source, SOURCES)) for entry in rule.from_)))
        clauses += [Clause((Match((self._condition(condition),)),)) for condition in rule.when]
        return Rule(tuple(clauses))

    def _tests(self, holder: Source | Operation, fields: Sequence[tuple[str, Field]]) -> tuple[Check, ...]:
        found: list[Check] = []
        for name, field in fields:
            values, not_values = getattr(holder, name), getattr(holder, f"not_{name}")
            if values or not_values:
                found.append(Check(field, self._values(field, values), self._values(field, not_values)))
        return tuple(found)

    def _condition(self, condition: Condition) -> Check:
        field, key = key_of(condition.key)
        return Check(field, self._values(field, condition.values), self._values(field, condition.not_values), key)

    def _values(self, field: Field, values: Iterable[object]) -> tuple[Value, ...]:
        found: list[Value] = []
        for value in values:
            if not isinstance(value, str):
                assert not isinstance(value, TextMatch)
                found.append(value)  # type: ignore[arg-type]
            elif field is Field.PATH:
                found.append(path(value))
            elif field is Field.SERVICE_ACCOUNT:
                found.append(exact(value if "/" in value else f"{self.namespace}/{value}"))
            elif field is Field.PRINCIPAL:
                found += [text(name) for name in self._aliases(value)]
            else:
                found.append(text(value.lower() if field is Field.HOST else value))
        return tuple(found)

    def _aliases(self, principal: str) -> list[str]:
        """The same identity in every trust domain that the mesh goes by."""
        domain, slash, rest = principal.partition("/")
        if not slash or domain not in self.trust_domains:
            return [principal]
        return [f"{other}/{rest}" for other in dict.fromkeys((domain, *self.trust_domains))]


def key_of(key: str) -> tuple[Field, tuple[str, ...]]:
    """The field that a `when` key asks about, and what of it."""
    if key in KEYS:
        return KEYS[key], ()
    if key in CLAIMS:
        return Field.CLAIM, CLAIMS[key]
    inner = tuple(re.findall(r"\[([^\]]+)\]", key))
    if key.startswith(CLAIM_KEY):
        return Field.CLAIM, inner
    if key.startswith(HEADER_KEY):
        return Field.HEADER, (inner[0].lower(),)
    return Field.METADATA, (key.removeprefix(FILTER_KEY).partition("[")[0], *inner)


def text(value: str) -> TextMatch:
    """`*` alone is any text that is there; at an end, anything there."""
    if value == "*":
        return ANY_TEXT
    if value.startswith("*"):
        return TextMatch(TextKind.SUFFIX, value[1:])
    if value.endswith("*"):
        return TextMatch(TextKind.PREFIX, value[:-1])
    return exact(value)


def path(value: str) -> TextMatch:
    """`{*}` is one segment, `{**}` all that follow."""
    if "{" not in value:
        return text(value)
    return regex("".join({"{*}": "[^/]+", "{**}": ".*"}.get(part, quoted(part)) for part in re.split(r"(\{\*\*?\})", value)))


def _without_http(policy: Policy, subject: Key, notes: Notes) -> Policy:
    """What is left of a policy where there are no requests to look at."""
    allow = policy.action is Action.ALLOW
    rules: list[Rule] = []
    for index, rule in enumerate(policy.rules):
        fields = {check.field for clause in rule.clauses for match in clause.matches for check in match.checks} & HTTP_ONLY
        if not fields:
            rules.append(rule)
            continue
        effect = "this rule allows nothing there" if allow else "taken as matched there, so that this rule denies more"
        words = ", ".join(sorted(field.value for field in fields))
        problem = Problem.ALLOWS_LESS if allow else Problem.DENIES_MORE
        notes.add(problem, subject, f"spec.rules[{index}]", f"{words}: cannot be judged on ports that speak no HTTP; {effect}")
        if not allow:
            rules.append(_widened(rule))
    return replace(policy, rules=tuple(rules))


def _widened(rule: Rule) -> Rule:
    clauses: list[Clause] = []
    for clause in rule.clauses:
        matches = tuple(Match(tuple(check for check in match.checks if check.field not in HTTP_ONLY)) for match in clause.matches)
        if all(match.checks for match in matches):
            clauses.append(Clause(matches))
    return Rule(tuple(clauses))
