"""L4 authorization: the decision that stands between a peer and an app. Pure, and closed by default where a policy is in doubt.

The shape is Istio's: a policy is an OR of rules, a rule an AND of clauses, a clause an OR of matches, a match an AND over the
kinds of field; within a kind, positives are OR'ed and of the negatives none may match. An absent identity fails every
positive and passes every negative. A policy without rules never matches; a rule without clauses always does; a clause
with an empty list of matches is true; a match in which every field is empty is false.

Where we differ from Istio's tunnel on purpose: a policy that a workload names but that has not arrived denies, instead of being
skipped, and so does one that was announced as not enforceable here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeVar

from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from mesh.model.workload import IPAddress, IPNetwork

T = TypeVar("T")


class PolicyScope(Enum):
    GLOBAL = "Global"
    NAMESPACE = "Namespace"
    WORKLOAD = "WorkloadSelector"


class Action(Enum):
    ALLOW = "Allow"
    DENY = "Deny"


class StringKind(Enum):
    EXACT = "Exact"
    PREFIX = "Prefix"
    SUFFIX = "Suffix"
    PRESENCE = "Presence"


@dataclass(frozen=True, slots=True)
class StringMatch:
    kind: StringKind
    value: str = ""

    def matches(self, subject: str | None) -> bool:
        if not subject:
            return False
        if self.kind is StringKind.EXACT:
            return subject == self.value
        if self.kind is StringKind.PREFIX:
            return subject.startswith(self.value)
        if self.kind is StringKind.SUFFIX:
            return subject.endswith(self.value)
        return True


class ServiceAccountMatch(NamedTuple):
    """Trust domains do not matter here; only namespace and name."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Match:
    """One conjunction. An empty tuple means that the kind of field is not asked about."""

    namespaces: tuple[StringMatch, ...] = ()
    not_namespaces: tuple[StringMatch, ...] = ()
    principals: tuple[StringMatch, ...] = ()
    not_principals: tuple[StringMatch, ...] = ()
    source_ips: tuple[IPNetwork, ...] = ()
    not_source_ips: tuple[IPNetwork, ...] = ()
    destination_ips: tuple[IPNetwork, ...] = ()
    not_destination_ips: tuple[IPNetwork, ...] = ()
    destination_ports: tuple[int, ...] = ()
    not_destination_ports: tuple[int, ...] = ()
    service_accounts: tuple[ServiceAccountMatch, ...] = ()
    not_service_accounts: tuple[ServiceAccountMatch, ...] = ()

    def matches(self, peer: Connection) -> bool:
        if self == EMPTY_MATCH:
            return False
        identity = peer.source_identity
        namespace = identity.namespace if identity else None
        principal = identity.principal if identity else None
        account = ServiceAccountMatch(identity.namespace, identity.service_account) if identity else None
        return (
            _strings(self.namespaces, self.not_namespaces, namespace)
            and _strings(self.principals, self.not_principals, principal)
            and _networks(self.source_ips, self.not_source_ips, peer.source_ip)
            and _networks(self.destination_ips, self.not_destination_ips, peer.destination_ip)
            and _plain(self.destination_ports, self.not_destination_ports, peer.destination_port)
            and _plain(self.service_accounts, self.not_service_accounts, account)
        )


EMPTY_MATCH = Match()


@dataclass(frozen=True, slots=True)
class Clause:
    matches: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    clauses: tuple[Clause, ...] = ()

    def matches(self, peer: Connection) -> bool:
        return all(not clause.matches or any(match.matches(peer) for match in clause.matches) for clause in self.clauses)


@dataclass(frozen=True, slots=True)
class Authorization:
    """A policy as the tunnel enforces it.

    `enforceable=False` marks a policy that cannot be judged at L4 (it was malformed or needs L7): it denies all that it covers.
    """

    name: str
    namespace: str
    scope: PolicyScope
    action: Action
    rules: tuple[Rule, ...] = ()
    dry_run: bool = False
    enforceable: bool = True

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def matching_rule(self, peer: Connection) -> int | None:
        """The index of the first rule that matches, or None."""
        for index, rule in enumerate(self.rules):
            if rule.matches(peer):
                return index
        return None


class Connection(NamedTuple):
    """What a policy may ask about one inbound connection. `source_identity` is None for plaintext."""

    source_identity: Identity | None
    source_ip: IPAddress
    destination_ip: IPAddress
    destination_port: int


@dataclass(frozen=True, slots=True)
class Decision:
    """`policy` is `<namespace>/<name>`; `rule` the index of the rule that decided, where one did."""

    allowed: bool
    reason: Reason
    policy: str = ""
    rule: int | None = None
    dry_run: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.allowed:
            return f"allowed by {self.policy} rule[{self.rule}]" if self.policy else "allowed: no ALLOW policy applies"
        where = f" {self.policy}" + (f" rule[{self.rule}]" if self.rule is not None else "") if self.policy else ""
        return f"{self.reason.word}{where}"


# Names that the control plane gives to what PeerAuthentication becomes; a denial by one of them is about mTLS.
STRICT_POLICY_NAME = "istio_converted_static_strict"
CONVERTED_PREFIX = "converted_peer_authentication_"


def evaluate(peer: Connection, policies: Iterable[Authorization], missing: Iterable[str] = ()) -> Decision:
    """Judge one connection against the policies that apply to its destination, and the keys it names that are `missing`."""
    for key in missing:
        return Decision(False, Reason.POLICY_MISSING, key)
    denies: list[Authorization] = []
    allows: list[Authorization] = []
    dry: list[str] = []
    for policy in policies:
        if not policy.enforceable:
            return Decision(False, Reason.POLICY_UNENFORCEABLE, policy.key)
        if policy.dry_run:
            if policy.matching_rule(peer) is not None:
                dry.append(f"{policy.action.value} {policy.key}")
            continue
        (denies if policy.action is Action.DENY else allows).append(policy)
    notes = tuple(dry)
    for policy in denies:
        rule = policy.matching_rule(peer)
        if rule is not None:
            converted = policy.name == STRICT_POLICY_NAME or policy.name.startswith(CONVERTED_PREFIX)
            reason = Reason.MTLS_REQUIRED if converted else Reason.POLICY_DENY
            return Decision(False, reason, policy.key, rule, notes)
    if not allows:
        return Decision(True, Reason.OK, dry_run=notes)
    for policy in allows:
        rule = policy.matching_rule(peer)
        if rule is not None:
            return Decision(True, Reason.OK, policy.key, rule, notes)
    return Decision(False, Reason.POLICY_NO_ALLOW, allows[0].key if len(allows) == 1 else "", None, notes)


def _strings(positive: tuple[StringMatch, ...], negative: tuple[StringMatch, ...], subject: str | None) -> bool:
    if positive and not any(match.matches(subject) for match in positive):
        return False
    return not any(match.matches(subject) for match in negative)


def _networks(positive: tuple[IPNetwork, ...], negative: tuple[IPNetwork, ...], ip: IPAddress) -> bool:
    if positive and not any(ip in network for network in positive):
        return False
    return not any(ip in network for network in negative)


def _plain(positive: tuple[T, ...], negative: tuple[T, ...], subject: T | None) -> bool:
    if positive and subject not in positive:
        return False
    return subject not in negative
