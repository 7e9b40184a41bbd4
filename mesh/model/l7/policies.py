"""L7 authorization: what AuthorizationPolicy says, for a proxy that sees requests; and the decision itself, as the reference for those that
have their own way of making it.

The shape is that of `mesh.model.policy`, with one kind of check for everything: a policy is an OR of rules, a rule an AND of clauses, a
clause an OR of matches, a match an AND of checks; in a check one of the values must match and none of the negative ones may. What a request
does not have fails every positive and passes every negative. A policy without rules never matches; a rule without clauses always does; so
does a match without checks.

    CUSTOM and DENY: a match denies.   ALLOW: if there is any, one must match.   AUDIT: only marks what it matches.

CUSTOM asks somebody else, and there is nobody to ask: what it matches is denied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from mesh.model.identity import Identity
from mesh.model.l7.texts import TextKind, TextMatch
from mesh.model.workload import IPAddress, IPNetwork


class Action(Enum):
    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


class Field(Enum):
    """What is checked. Of whom: PRINCIPAL to REQUEST_CLAIM; of what: the rest. Those in HTTP_ONLY exist only where HTTP is spoken."""

    PRINCIPAL = "source.principal"
    NAMESPACE = "source.namespace"
    SERVICE_ACCOUNT = "source.serviceAccount"
    TRUST_DOMAIN = "source.trustDomain"
    SOURCE_IP = "source.ip"
    REMOTE_IP = "remote.ip"
    REQUEST_PRINCIPAL = "request.auth.principal"
    CLAIM = "request.auth.claims"
    HOST = "request.host"
    METHOD = "request.method"
    PATH = "request.path"
    HEADER = "request.headers"
    DESTINATION_IP = "destination.ip"
    DESTINATION_PORT = "destination.port"
    SNI = "connection.sni"
    METADATA = "experimental.envoy.filters"


HTTP_ONLY = frozenset({Field.REQUEST_PRINCIPAL, Field.CLAIM, Field.HOST, Field.METHOD, Field.PATH, Field.HEADER})
OF_SOURCE = frozenset(
    {
        Field.PRINCIPAL,
        Field.NAMESPACE,
        Field.SERVICE_ACCOUNT,
        Field.TRUST_DOMAIN,
        Field.SOURCE_IP,
        Field.REMOTE_IP,
        Field.REQUEST_PRINCIPAL,
        Field.CLAIM,
    }
)

Value = TextMatch | IPNetwork | int
ANY_TEXT = TextMatch(TextKind.REGEX, "(?s).+")
"""`*` in a policy: present, and not empty."""


@dataclass(frozen=True, slots=True)
class Check:
    """`key` is a header's name, the path to a claim, or a filter's name and the path in its metadata. Values are texts, for addresses
    networks, for ports numbers. A SERVICE_ACCOUNT is `namespace/name`; a PRINCIPAL has no scheme.
    """

    field: Field
    values: tuple[Value, ...] = ()
    not_values: tuple[Value, ...] = ()
    key: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Clause:
    """Never empty."""

    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    clauses: tuple[Clause, ...] = ()


ALWAYS = Rule()


@dataclass(frozen=True, slots=True)
class Policy:
    """`enforceable=False` marks one that stands in for what could not be understood: it denies everything."""

    name: str
    namespace: str
    action: Action
    rules: tuple[Rule, ...] = ()
    dry_run: bool = False
    enforceable: bool = True

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def deny_all(name: str, namespace: str) -> Policy:
    return Policy(name, namespace, Action.DENY, (ALWAYS,), enforceable=False)


@dataclass(frozen=True, slots=True)
class Request:
    """What there is to check. `claims` is None without a verified token. `headers` have lower-case names, repeats joined with commas."""

    source_ip: IPAddress
    destination_ip: IPAddress
    destination_port: int
    identity: Identity | None = None
    remote_ip: IPAddress | None = None
    sni: str = ""
    method: str = ""
    host: str = ""
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`policy` and `rule` are those that decided, where one did."""

    allowed: bool
    policy: str = ""
    rule: int | None = None


def judge(request: Request, policies: Sequence[Policy]) -> Verdict:
    enforced = [policy for policy in policies if not policy.dry_run]
    for action in (Action.CUSTOM, Action.DENY):
        for policy in enforced:
            if policy.action is action:
                rule = matching_rule(policy, request)
                if rule is not None:
                    return Verdict(False, policy.key, rule)
    allows = [policy for policy in enforced if policy.action is Action.ALLOW]
    for policy in allows:
        rule = matching_rule(policy, request)
        if rule is not None:
            return Verdict(True, policy.key, rule)
    return Verdict(not allows)


def matching_rule(policy: Policy, request: Request) -> int | None:
    wide = policy.action is not Action.ALLOW
    for index, rule in enumerate(policy.rules):
        if all(any(all(_holds(check, request, wide) for check in match.checks) for match in clause.matches) for clause in rule.clauses):
            return index
    return None


def at_connect(policy: Policy, ip: IPAddress, port: int) -> Policy | None:
    """What of a policy without HTTP in it can be judged when somebody asks to be connected to this address and port, before a byte comes.
    None where that is nothing. What cannot be judged yet, a server name, is judged later: now it denies nothing and allows everything.
    """
    if policy.dry_run or policy.action is Action.AUDIT:
        return None
    allow = policy.action is Action.ALLOW
    rules: list[Rule] = []
    for rule in policy.rules:
        clauses: list[Clause] = []
        for clause in rule.clauses:
            matches = [match for match in (_known(match, ip, port, allow) for match in clause.matches) if match is not None]
            if not matches:
                break
            if all(match.checks for match in matches):
                clauses.append(Clause(tuple(matches)))
        else:
            rules.append(Rule(tuple(clauses)))
    return replace(policy, rules=tuple(rules)) if rules or allow else None


def _known(match: Match, ip: IPAddress, port: int, allow: bool) -> Match | None:
    """Without the checks whose answers are known; None where one of them fails."""
    here = Request(ip, ip, port)
    left: list[Check] = []
    for check in match.checks:
        if check.field in (Field.DESTINATION_IP, Field.DESTINATION_PORT):
            if not _holds(check, here, not allow):
                return None
        elif check.field in (Field.SNI, Field.METADATA):
            if not allow:
                return None
        else:
            left.append(check)
    return Match(tuple(left))


def _holds(check: Check, request: Request, wide: bool) -> bool:
    if check.values and not _any(check, check.values, request, wide):
        return False
    return not _any(check, check.not_values, request, not wide)


def _any(check: Check, values: Iterable[Value], request: Request, wide: bool) -> bool:
    identity = request.identity
    match check.field:
        case Field.REQUEST_PRINCIPAL:
            return any(isinstance(value, TextMatch) and _is_requester(value, request, wide) for value in values)
        case Field.CLAIM:
            found = _claim(request.claims, check.key)
            texts = [entry for entry in (found if isinstance(found, (list, tuple)) else [found]) if isinstance(entry, str)]
            return any(isinstance(value, TextMatch) and value.matches(text) for value in values for text in texts)
        case Field.SOURCE_IP | Field.REMOTE_IP | Field.DESTINATION_IP:
            ip = {Field.SOURCE_IP: request.source_ip, Field.DESTINATION_IP: request.destination_ip}.get(check.field, request.remote_ip)
            return any(ip is not None and not isinstance(value, (TextMatch, int)) and ip in value for value in values)
        case Field.DESTINATION_PORT:
            return request.destination_port in values
    subject: str | None
    match check.field:
        case Field.PRINCIPAL:
            subject = identity.principal if identity else None
        case Field.NAMESPACE:
            subject = identity.namespace if identity else None
        case Field.SERVICE_ACCOUNT:
            subject = f"{identity.namespace}/{identity.service_account}" if identity else None
        case Field.TRUST_DOMAIN:
            subject = identity.trust_domain if identity else None
        case Field.HOST:
            subject = request.host.lower()
        case Field.METHOD:
            subject = request.method
        case Field.PATH:
            subject = request.path.partition("?")[0]
        case Field.HEADER:
            subject = request.headers.get(check.key[0])
        case Field.SNI:
            subject = request.sni
        case _:
            subject = None
    return any(isinstance(value, TextMatch) and value.matches(subject) for value in values)


def _claim(claims: Mapping[str, Any] | None, path: tuple[str, ...]) -> Any:
    found: Any = claims
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _is_requester(value: TextMatch, request: Request, wide: bool) -> bool:
    issuer, subject = _claim(request.claims, ("iss",)), _claim(request.claims, ("sub",))
    if not (isinstance(issuer, str) and issuer and isinstance(subject, str) and subject):
        return False
    return any(of_issuer.matches(issuer) and of_subject.matches(subject) for of_issuer, of_subject in requesters(value, wide))


def requesters(value: TextMatch, wide: bool) -> list[tuple[TextMatch, TextMatch]]:
    """What a check of `<issuer>/<subject>` asks of each of the two; one of the pairs must hold.

    Both may hold slashes, so that one text can be cut in several ways, and who issues tokens as `https://a` could write a subject that
    reads like somebody of `https://a/b`. Where a match lets in, only the last slash counts, as in Istio; where it keeps out (`wide`), every
    one does.
    """
    text, kind = value.value, value.kind
    if kind not in (TextKind.EXACT, TextKind.PREFIX, TextKind.SUFFIX):
        return [(ANY_TEXT, ANY_TEXT)]
    slashes = [index for index, letter in enumerate(text) if letter == "/"]
    pairs: list[tuple[TextMatch, TextMatch]] = []
    for index in slashes if wide else slashes[-1:]:
        left, right = text[:index], text[index + 1 :]
        of_issuer = _or_any(TextKind.SUFFIX, left) if kind is TextKind.SUFFIX else TextMatch(TextKind.EXACT, left)
        of_subject = _or_any(TextKind.PREFIX, right) if kind is TextKind.PREFIX else TextMatch(TextKind.EXACT, right)
        pairs.append((of_issuer, of_subject))
    # The wildcard may stand for the slash and all of the other half. An issuer that begins so is who it is, whatever its subjects are.
    if kind is TextKind.PREFIX:
        pairs.append((value, ANY_TEXT))
    elif kind is TextKind.SUFFIX and (wide or not slashes):
        pairs.append((ANY_TEXT, value))
    return pairs


def _or_any(kind: TextKind, text: str) -> TextMatch:
    return TextMatch(kind, text) if text else ANY_TEXT
