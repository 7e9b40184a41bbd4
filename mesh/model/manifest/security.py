"""AuthorizationPolicy and PeerAuthentication of security.istio.io, v1 and v1beta1 (which are the same).

What Istio takes but could never match is refused here (`*` in the middle of a principal, a principal with its scheme, an empty
list): in a DENY it would be silently open. An unknown `when` key refuses the whole policy, by promise 1.
"""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from mesh.model.manifest.core import UNREAD, Object, Selector
from mesh.model.manifest.shapes import (
    DNS_NAME,
    NETWORK,
    NOTHING,
    Choice,
    ListOf,
    MapOf,
    Parsed,
    Record,
    Report,
    Rule,
    Shape,
    Text,
    item,
)
from mesh.model.manifest.tree import Node
from mesh.model.workload import IPNetwork

API_VERSIONS = ("security.istio.io/v1", "security.istio.io/v1beta1")
DRY_RUN_ANNOTATION = "istio.io/dry-run"
MAX_RULES = 512

_WILD = r"\*|\*?[^*]+|[^*]+\*"
WILDCARDED = Text(_WILD, "a string, with '*' alone, first or last in it")
PRINCIPAL = Text(
    rf"(?!\*?spiffe:)(?:{_WILD})", "<trust domain>/ns/<namespace>/sa/<account> without spiffe://, with '*' alone, first or last in it"
)
ACCOUNT = Text(r"[a-z0-9][-a-z0-9.]*(/[a-z0-9][-a-z0-9.]*)?", "<namespace>/<account> or <account>, without wildcards", 320)


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(text)
    return int(text)


PORT_TEXT = Parsed(_port, "a port from '1' to '65535'")
NETWORKS = ListOf(NETWORK, 1)
WILD_STRINGS = ListOf(WILDCARDED, 1)
PRINCIPALS = ListOf(PRINCIPAL, 1)
ACCOUNTS = ListOf(ACCOUNT, 1, 16)
PORTS = ListOf(PORT_TEXT, 1)

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

Value = str | int | IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Each tuple empty where the field is absent: an empty list is refused."""

    principals: tuple[str, ...] = item(PRINCIPALS, ())
    not_principals: tuple[str, ...] = item(PRINCIPALS, ())
    namespaces: tuple[str, ...] = item(WILD_STRINGS, ())
    not_namespaces: tuple[str, ...] = item(WILD_STRINGS, ())
    service_accounts: tuple[str, ...] = item(ACCOUNTS, ())
    not_service_accounts: tuple[str, ...] = item(ACCOUNTS, ())
    ip_blocks: tuple[IPNetwork, ...] = item(NETWORKS, ())
    not_ip_blocks: tuple[IPNetwork, ...] = item(NETWORKS, ())
    request_principals: tuple[str, ...] = item(WILD_STRINGS, ())
    not_request_principals: tuple[str, ...] = item(WILD_STRINGS, ())
    remote_ip_blocks: tuple[IPNetwork, ...] = item(NETWORKS, ())
    not_remote_ip_blocks: tuple[IPNetwork, ...] = item(NETWORKS, ())
    trust_domains: tuple[str, ...] = item(WILD_STRINGS, ())
    not_trust_domains: tuple[str, ...] = item(WILD_STRINGS, ())

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
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    ports: tuple[int, ...] = item(PORTS, ())
    not_ports: tuple[int, ...] = item(PORTS, ())
    hosts: tuple[str, ...] = item(WILD_STRINGS, ())
    not_hosts: tuple[str, ...] = item(WILD_STRINGS, ())
    methods: tuple[str, ...] = item(WILD_STRINGS, ())
    not_methods: tuple[str, ...] = item(WILD_STRINGS, ())
    paths: tuple[str, ...] = item(ListOf(Text(r"(?s).+", "a path"), 1), ())
    not_paths: tuple[str, ...] = item(ListOf(Text(r"(?s).+", "a path"), 1), ())

    L7 = ("hosts", "not_hosts", "methods", "not_methods", "paths", "not_paths")
    RULES = (Rule(lambda operation: operation != Operation(), "", "at least one field"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class From:
    source: Source = item(Record(Source), required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class To:
    operation: Operation = item(Record(Operation), required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`values` are networks, ports or strings, as the key demands."""

    key: str = item(CONDITION_KEY, required=True)
    values: tuple[Value, ...] = item(ListOf(Text(r"(?s).+", "a string"), 1), ())
    not_values: tuple[Value, ...] = item(ListOf(Text(r"(?s).+", "a string"), 1), ())

    RULES = (Rule(lambda condition: condition.values or condition.not_values, "values", "at least one of values and notValues"),)

    @property
    def l4(self) -> bool:
        return self.key in L4_KEYS


@dataclass(frozen=True)
class ConditionShape:
    """A `when` entry: what its values may be depends on its key."""

    plain: Shape = Record(Condition)

    @property
    def accepted(self) -> str:
        return self.plain.accepted

    def read(self, node: Node, path: str, report: Report) -> Any:
        before = len(report.refusals)
        made = self.plain.read(node, path, report)
        shape = L4_KEYS.get(node.text("key") or "")
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
    from_: tuple[From, ...] = item(ListOf(Record(From), 1), ())
    to: tuple[To, ...] = item(ListOf(Record(To), 1), ())
    when: tuple[Condition, ...] = item(ListOf(ConditionShape(), 1), ())


GATEWAY_GROUP, NETWORKING_GROUP = "gateway.networking.k8s.io", "networking.istio.io"
TARGETS = {
    ("Gateway", GATEWAY_GROUP),
    ("GatewayClass", GATEWAY_GROUP),
    ("Service", ""),
    ("Service", "core"),
    ("ServiceEntry", NETWORKING_GROUP),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRef:
    kind: str = item(Choice(("Gateway", "GatewayClass", "Service", "ServiceEntry")), required=True)
    name: str = item(DNS_NAME, required=True)
    group: str = item(Choice((GATEWAY_GROUP, NETWORKING_GROUP, "core", "")), "")
    namespace: str = item(Text("", "no namespace: a policy targets only its own"), "")

    RULES = (Rule(lambda ref: (ref.kind, ref.group) in TARGETS, "group", "the group that the kind belongs to"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    name: str = item(Text(r".+", "a provider's name"), required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicySpec:
    selector: Selector | None = item(Record(Selector))
    target_ref: TargetRef | None = item(Record(TargetRef))
    target_refs: tuple[TargetRef, ...] = item(ListOf(Record(TargetRef), most=16), ())
    rules: tuple[PolicyRule, ...] = item(ListOf(Record(PolicyRule), most=MAX_RULES), ())
    action: str = item(Choice(("ALLOW", "DENY", "AUDIT", "CUSTOM")), "ALLOW")
    provider: Provider | None = item(Record(Provider))

    RULES = (
        Rule(
            lambda spec: [spec.selector is not None, spec.target_ref is not None, bool(spec.target_refs)].count(True) <= 1,
            "selector",
            "at most one of selector, targetRef and targetRefs",
        ),
        Rule(
            lambda spec: (spec.provider is not None) == (spec.action == "CUSTOM"),
            "provider",
            "a provider with CUSTOM, and with nothing else",
        ),
        Rule(
            lambda spec: spec.rules or spec.action not in ("DENY", "CUSTOM"),
            "rules",
            "at least one rule: without one it never matches; {} matches everything",
        ),
    )

    @property
    def match_labels(self) -> Mapping[str, str]:
        """The labels of the pods that the policy is for; empty for all."""
        return self.selector.match_labels if self.selector is not None else NOTHING

    @property
    def targets(self) -> tuple[TargetRef, ...]:
        return self.target_refs or ((self.target_ref,) if self.target_ref is not None else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy(Object):
    KIND = "AuthorizationPolicy"
    API_VERSIONS = API_VERSIONS

    spec: AuthorizationPolicySpec = item(Record(AuthorizationPolicySpec), AuthorizationPolicySpec())
    status: Any = item(UNREAD)

    RULES = (
        Rule(
            lambda policy: policy.annotations.get(DRY_RUN_ANNOTATION, "false") in ("true", "false"),
            "metadata",
            'annotation istio.io/dry-run "true" or "false"',
        ),
    )


MODE = Choice(("UNSET", "DISABLE", "PERMISSIVE", "STRICT"))


def _has_labels(selector: Selector | None) -> bool:
    return selector is not None and bool(selector.match_labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualTls:
    mode: str = item(MODE, "UNSET")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthenticationSpec:
    selector: Selector | None = item(Record(Selector))
    mtls: MutualTls = item(Record(MutualTls), MutualTls())
    port_level_mtls: Mapping[int, MutualTls] = item(MapOf(PORT_TEXT, Record(MutualTls)), NOTHING)

    RULES = (
        Rule(
            lambda spec: not spec.port_level_mtls or _has_labels(spec.selector),
            "portLevelMtls",
            "a selector with labels beside it: port modes are of workloads",
        ),
    )

    @property
    def match_labels(self) -> Mapping[str, str]:
        return self.selector.match_labels if self.selector is not None else NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthentication(Object):
    KIND = "PeerAuthentication"
    API_VERSIONS = API_VERSIONS

    spec: PeerAuthenticationSpec = item(Record(PeerAuthenticationSpec), PeerAuthenticationSpec())
    status: Any = item(UNREAD)
