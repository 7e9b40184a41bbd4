"""AuthorizationPolicy of security.istio.io, v1 and v1beta1 (which are the same).

What Istio takes but could never match is refused here (`*` in the middle of a principal or a path, a principal with its scheme, an empty
list): in a DENY it would be silently open. An unknown `when` key refuses the whole policy, by promise 1.
"""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from mesh.model.manifest.core import Object
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import NETWORK, Choice, ListOf, Parsed, Report, Shape, Text
from mesh.model.manifest.status import IstioStatus, status
from mesh.model.manifest.targets import ONE_WAY, Targeted, TargetRef
from mesh.model.manifest.tree import Node
from mesh.model.workload import IPNetwork

__all__ = [
    "API_VERSIONS",
    "DRY_RUN_ANNOTATION",
    "PORT_TEXT",
    "AuthorizationPolicy",
    "Condition",
    "Operation",
    "PolicyRule",
    "Source",
    "TargetRef",
]

API_VERSIONS = ("security.istio.io/v1", "security.istio.io/v1beta1")
DRY_RUN_ANNOTATION = "istio.io/dry-run"
MAX_RULES = 512

_WILD = r"\*|\*?[^*]+|[^*]+\*"
WILDCARDED = Text(_WILD, "a string, with '*' alone, first or last in it")
PRINCIPAL = Text(
    _WILD,
    "<trust domain>/ns/<namespace>/sa/<account> without spiffe://, with '*' alone, first or last in it",
    never=r"^\*?spiffe:",
)
ACCOUNT = Text(r"[a-z0-9][-a-z0-9.]*(/[a-z0-9][-a-z0-9.]*)?", "<namespace>/<account> or <account>, without wildcards", 320)
# A path as it is asked for begins with '/'; what begins otherwise would match none. Templates take one segment, or, last, all the rest.
_SEGMENT = r"(?:[^*{}/]*|\{\*\})"
PATH = Text(
    rf"\*|\*[^*{{}}]+|/[^*{{}}]*\*?|(?:/{_SEGMENT})*(?:/\{{\*\*\}}[^*{{}}/]*)?",
    "a path that begins with '/', or with '*' alone or first, or with '*' last; or one with {*} for a segment and {**} for the last ones",
)


def _port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65535:
        raise ValueError(text)
    return number


PORT_TEXT = Parsed(_port, "a port from '1' to '65535'", r"[0-9]{1,5}", 5)
NETWORKS = ListOf(NETWORK, 1)
WILD_STRINGS = ListOf(WILDCARDED, 1)
PRINCIPALS = ListOf(PRINCIPAL, 1)
ACCOUNTS = ListOf(ACCOUNT, 1, 16)
PORTS = ListOf(PORT_TEXT, 1)
PATHS = ListOf(PATH, 1)
VALUES = ListOf(Text(r"(?s).+", "a string"), 1)

# Keys of `when` that a tunnel can judge, with what their values may be; and those that only a waypoint can.
L4_KEYS: Mapping[str, Shape] = {
    "source.ip": NETWORK,
    "source.namespace": WILDCARDED,
    "source.principal": PRINCIPAL,
    "source.serviceAccount": ACCOUNT,
    "destination.ip": NETWORK,
    "destination.port": PORT_TEXT,
}
L7_KEYS = (
    r"request\.headers\[[^\[\]]+\]",
    r"remote\.ip",
    r"source\.trustDomain",
    r"request\.auth\.(principal|audiences|presenter)",
    r"request\.auth\.claims(\[[^\[\]]+\])+",
    r"connection\.sni",
    r"experimental\.envoy\.filters\.[^\[\]]+(\[[^\[\]]+\])+",
)
KEYS_ACCEPTED = (
    ", ".join(L4_KEYS) + "; with a waypoint also request.headers[..], remote.ip, source.trustDomain, request.auth.principal, "
    "request.auth.audiences, request.auth.presenter, request.auth.claims[..], connection.sni"
)
CONDITION_KEY = Text("|".join((*map(re.escape, L4_KEYS), *L7_KEYS)), KEYS_ACCEPTED)
TYPED_KEYS: Mapping[str, Shape] = {**L4_KEYS, "remote.ip": NETWORK}

Value = str | int | IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Each tuple empty where the field is absent: an empty list is refused."""

    principals: tuple[str, ...] = item(
        PRINCIPALS, (), about="Identities that mutual TLS proved: cluster.local/ns/<namespace>/sa/<account>."
    )
    not_principals: tuple[str, ...] = item(PRINCIPALS, (), about="Identities that do not match; a peer without one does.")
    namespaces: tuple[str, ...] = item(WILD_STRINGS, (), about="Namespaces of the peer's proved identity.")
    not_namespaces: tuple[str, ...] = item(WILD_STRINGS, (), about="Namespaces that do not match.")
    service_accounts: tuple[str, ...] = item(
        ACCOUNTS, (), about="Service accounts of the peer: <namespace>/<account>, or one of the policy's namespace."
    )
    not_service_accounts: tuple[str, ...] = item(ACCOUNTS, (), about="Service accounts that do not match.")
    ip_blocks: tuple[IPNetwork, ...] = item(NETWORKS, (), about="Addresses or CIDR blocks of the peer.")
    not_ip_blocks: tuple[IPNetwork, ...] = item(NETWORKS, (), about="Addresses or CIDR blocks that do not match.")
    request_principals: tuple[str, ...] = item(WILD_STRINGS, (), about="Issuer and subject of the request's token: <iss>/<sub>.")
    not_request_principals: tuple[str, ...] = item(
        WILD_STRINGS, (), about="Token principals that do not match; a request without a token does."
    )
    remote_ip_blocks: tuple[IPNetwork, ...] = item(NETWORKS, (), about="The client's addresses as trusted proxies in front report them.")
    not_remote_ip_blocks: tuple[IPNetwork, ...] = item(NETWORKS, (), about="Reported addresses that do not match.")
    trust_domains: tuple[str, ...] = item(WILD_STRINGS, (), about="Trust domains of the peer's proved identity.")
    not_trust_domains: tuple[str, ...] = item(WILD_STRINGS, (), about="Trust domains that do not match.")

    L7 = (
        "request_principals",
        "not_request_principals",
        "remote_ip_blocks",
        "not_remote_ip_blocks",
        "trust_domains",
        "not_trust_domains",
    )
    RULES = (
        Rule(lambda source: source != Source(), "", "at least one field"),
        Rule(
            lambda source: (
                not (source.service_accounts or source.not_service_accounts)
                or not (source.principals or source.not_principals or source.namespaces or source.not_namespaces)
            ),
            "serviceAccounts",
            "serviceAccounts without principals and namespaces beside them",
            "!(has(self.serviceAccounts) || has(self.notServiceAccounts)) || "
            "!(has(self.principals) || has(self.notPrincipals) || has(self.namespaces) || has(self.notNamespaces))",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    ports: tuple[int, ...] = item(PORTS, (), about="Ports of the destination, in quotes.")
    not_ports: tuple[int, ...] = item(PORTS, (), about="Ports that do not match, in quotes.")
    hosts: tuple[str, ...] = item(WILD_STRINGS, (), about="Hosts of the request, in letters of either case; judged by a waypoint.")
    not_hosts: tuple[str, ...] = item(WILD_STRINGS, (), about="Hosts that do not match.")
    methods: tuple[str, ...] = item(WILD_STRINGS, (), about="HTTP methods, in capitals; judged by a waypoint.")
    not_methods: tuple[str, ...] = item(WILD_STRINGS, (), about="HTTP methods that do not match.")
    paths: tuple[str, ...] = item(PATHS, (), about="Paths without their query; {*} stands for a segment, {**} for all that follow.")
    not_paths: tuple[str, ...] = item(PATHS, (), about="Paths that do not match.")

    L7 = ("hosts", "not_hosts", "methods", "not_methods", "paths", "not_paths")
    RULES = (Rule(lambda operation: operation != Operation(), "", "at least one field"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class From:
    source: Source = item(Record(Source), required=True, about="One kind of peer: all its fields must match, any value of each.")


@dataclass(frozen=True, slots=True, kw_only=True)
class To:
    operation: Operation = item(
        Record(Operation), required=True, about="One kind of request: all its fields must match, any value of each."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`values` are networks, ports or strings, as the key demands."""

    key: str = item(CONDITION_KEY, required=True, about="The attribute that is asked about, such as request.headers[x-team].")
    values: tuple[Value, ...] = item(VALUES, (), about="Values of which one must match.")
    not_values: tuple[Value, ...] = item(VALUES, (), about="Values of which none may match.")

    RULES = (
        Rule(
            lambda condition: condition.values or condition.not_values,
            "values",
            "at least one of values and notValues",
            "has(self.values) || has(self.notValues)",
        ),
    )

    @property
    def l4(self) -> bool:
        return self.key in L4_KEYS


@dataclass(frozen=True)
class ConditionShape:
    """A `when` entry: what its values may be depends on its key."""

    described: Record = Record(Condition)

    @property
    def accepted(self) -> str:
        return self.described.accepted

    def take(self, value: Any) -> Any:
        made: Condition = self.described.take(value)
        shape = TYPED_KEYS.get(made.key)
        if shape is None:
            return made
        values, not_values = (tuple(map(shape.take, texts)) for texts in (made.values, made.not_values))
        return Condition(key=made.key, values=values, not_values=not_values)

    def read(self, node: Node, path: str, report: Report) -> Any:
        before = len(report.refusals)
        made = self.described.read(node, path, report)
        shape = TYPED_KEYS.get(node.text("key") or "")
        if len(report.refusals) > before or shape is None:
            return made
        typed: dict[str, Any] = {}
        for attribute, wire in (("values", "values"), ("not_values", "notValues")):
            values = node.get(wire)
            if values is not None and values.value is not None:
                typed[attribute] = ListOf(shape, 1).read(values, f"{path}.{wire}", report)
        return Condition(key=made.key, **typed)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRule:
    from_: tuple[From, ...] = item(ListOf(Record(From), 1, 512), (), about="Peers of which one must match; absent, any does.")
    to: tuple[To, ...] = item(ListOf(Record(To), 1), (), about="Requests of which one must match; absent, any does.")
    when: tuple[Condition, ...] = item(ListOf(ConditionShape(), 1), (), about="Further conditions, all of which must hold.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    name: str = item(Text(r".+", "a provider's name"), required=True, about="The name of an external authorizer in the mesh's settings.")


def _asks_identity(rule: PolicyRule) -> bool:
    """What only is known after an external authorizer was asked, or never to it."""
    named = ("principals", "namespaces", "service_accounts", "trust_domains", "request_principals")
    return any(getattr(entry.source, f"{no}{name}") for entry in rule.from_ for name in named for no in ("", "not_")) or any(
        re.match(r"source\.(?!ip$)|request\.auth\.", condition.key) for condition in rule.when
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicySpec(Targeted):
    rules: tuple[PolicyRule, ...] = item(
        ListOf(Record(PolicyRule), most=MAX_RULES),
        (),
        about="What the policy matches: any of these. An ALLOW without rules allows nothing.",
    )
    action: str = item(
        Choice(("ALLOW", "DENY", "AUDIT", "CUSTOM")),
        "ALLOW",
        about="What becomes of a match. DENY goes before ALLOW; CUSTOM asks the provider.",
    )
    provider: Provider | None = item(Record(Provider), about="Who decides, with the action CUSTOM.")

    RULES = (
        ONE_WAY,
        Rule(
            lambda spec: (spec.provider is not None) == (spec.action == "CUSTOM"),
            "provider",
            "a provider with CUSTOM, and with nothing else",
            "has(self.provider) == (self.action == 'CUSTOM')",
        ),
        Rule(
            lambda spec: spec.rules or spec.action not in ("DENY", "CUSTOM"),
            "rules",
            "at least one rule: without one it never matches; {} matches everything",
            "(has(self.rules) && size(self.rules) > 0) || !(self.action in ['DENY', 'CUSTOM'])",
        ),
        Rule(
            lambda spec: spec.action != "CUSTOM" or not any(map(_asks_identity, spec.rules)),
            "rules",
            "with CUSTOM no principals, namespaces, serviceAccounts, trustDomains, requestPrincipals and request.auth: "
            "they are judged after it",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy(Object):
    """Says who may reach what: which peers, with which requests, at the pods or services that it is for."""

    KIND = "AuthorizationPolicy"
    API_VERSIONS = API_VERSIONS

    spec: AuthorizationPolicySpec = item(
        Record(AuthorizationPolicySpec), AuthorizationPolicySpec(), about="Whom the policy is for, and what it allows or denies."
    )
    status: Any = status(IstioStatus, "What became of the policy.")

    RULES = (
        Rule(
            lambda policy: policy.annotations.get(DRY_RUN_ANNOTATION, "false") in ("true", "false"),
            "metadata",
            'annotation istio.io/dry-run "true" or "false"',
        ),
    )
