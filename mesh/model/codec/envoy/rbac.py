"""Policies → Envoy's RBAC filters, in the order AUDIT, CUSTOM and DENY, ALLOW, and for each a shadow of what is a dry run.

Envoy splits a policy in two, what is asked for (permissions) and who asks (principals), of each of which one must match. So every clause,
whose matches all speak of one of the two, becomes an AND member of its half. A clause that mixes them would be widened or narrowed
by that: the policy is refused by `mixed`, and its chain denies.

Who asks is never Envoy's own `authenticated`, which would see the inner connection: it is the identity that the tunnel's other end
proved, kept in filter state. The address is the tunnel's client's, likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from envoy.config.rbac.v3 import rbac_pb2 as pb
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_pb2
from envoy.type.matcher.v3 import filter_state_pb2, path_pb2
from xds.core.v3 import cidr_pb2

from mesh.model.codec.envoy import parts
from mesh.model.codec.envoy.routes import JWT_FILTER, JWT_PAYLOAD
from mesh.model.identity import SCHEME
from mesh.model.l7.names import FILTER_STATE_SOURCE_IP
from mesh.model.l7.policies import (
    OF_SOURCE,
    Action,
    Check,
    Clause,
    Field,
    Policy,
    Rule,
    Value,
    deny_all,
    requesters,
)
from mesh.model.l7.texts import TextKind, TextMatch, quoted
from mesh.model.workload import IPNetwork

HTTP_FILTER, NETWORK_FILTER = "envoy.filters.http.rbac", "envoy.filters.network.rbac"
DRY_RUN_STATS = {Action.ALLOW: "istio_dry_run_allow_", Action.DENY: "istio_dry_run_deny_"}
Encode = Callable[[Check, Value, bool], Any]


def http_filters(policies: Sequence[Policy]) -> list[Any]:
    """The filters of an HTTP chain, in order, each a TypedExtensionConfig-like {name, message}."""
    return [(HTTP_FILTER, _filter(http_pb2.RBAC(), *stage)) for stage in _stages(policies)]


def network_filters(policies: Sequence[Policy]) -> list[Any]:
    """The same for a TCP chain, whose policies ask about nothing of HTTP."""
    return [
        (NETWORK_FILTER, _filter(network_pb2.RBAC(stat_prefix="tcp."), *stage))
        for stage in _stages(policies)
        if stage[0] is not Action.AUDIT
    ]


def mixed(policy: Policy) -> bool:
    """Whether some clause speaks of both who asks and what for."""
    return any(len(_halves(clause)) > 1 for rule in policy.rules for clause in rule.clauses)


Stage = tuple[Action, list[Policy], list[Policy]]


def _stages(policies: Sequence[Policy]) -> list[Stage]:
    """{action, what is enforced, what is only counted}, without those that have nothing to do."""
    usable = [deny_all(policy.name, policy.namespace) if mixed(policy) and not policy.dry_run else policy for policy in policies]
    stages: list[Stage] = []
    for action, members in (
        (Action.AUDIT, (Action.AUDIT,)),
        (Action.DENY, (Action.CUSTOM, Action.DENY)),
        (Action.ALLOW, (Action.ALLOW,)),
    ):
        found = [policy for policy in usable if policy.action in members]
        enforced = [policy for policy in found if not policy.dry_run]
        dry = [policy for policy in found if policy.dry_run and action is not Action.AUDIT and not mixed(policy)]
        if enforced or dry:
            stages.append((action, enforced, dry))
    return stages


def _filter(made: Any, action: Action, enforced: list[Policy], dry: list[Policy]) -> Any:
    if enforced:
        made.rules.CopyFrom(_rules(action, enforced))
    if dry:
        made.shadow_rules.CopyFrom(_rules(action, dry))
        made.shadow_rules_stat_prefix = DRY_RUN_STATS[action]
    return made


ACTIONS = {Action.ALLOW: pb.RBAC.ALLOW, Action.DENY: pb.RBAC.DENY, Action.AUDIT: pb.RBAC.LOG}


def _rules(action: Action, policies: Iterable[Policy]) -> Any:
    """Policies by a name that logs and response details show: `ns[<namespace>]-policy[<name>]-rule[<index>]`, as Istio writes it."""
    made = pb.RBAC(action=ACTIONS[action])
    for policy in policies:
        for index, rule in enumerate(policy.rules):
            name = f"ns[{policy.namespace}]-policy[{policy.name}]-rule[{index}]"
            made.policies[name].CopyFrom(_policy(rule, wide=action is not Action.ALLOW))
    return made


def _policy(rule: Rule, wide: bool) -> Any:
    permissions: list[Any] = []
    principals: list[Any] = []
    for clause in rule.clauses:
        if any(not match.checks for match in clause.matches):
            continue
        if OF_SOURCE in _halves(clause):
            principals.append(_clause(clause, _principal, pb.Principal, wide))
        else:
            permissions.append(_clause(clause, _permission, pb.Permission, wide))
    return pb.Policy(
        permissions=[_and(permissions) if permissions else pb.Permission(any=True)],
        principals=[_and(principals) if principals else pb.Principal(any=True)],
    )


def _clause(clause: Clause, encode: Encode, cls: type[Any], wide: bool) -> Any:
    return _or([_and([_check(check, encode, cls, wide) for check in match.checks]) for match in clause.matches])


def _halves(clause: Clause) -> set[frozenset[Field] | None]:
    return {OF_SOURCE if check.field in OF_SOURCE else None for match in clause.matches for check in match.checks}


def _check(check: Check, encode: Encode, cls: type[Any], wide: bool) -> Any:
    members: list[Any] = []
    if check.values:
        members.append(_or([encode(check, value, wide) for value in check.values]))
    if check.not_values:
        members.append(_not(_or([encode(check, value, not wide) for value in check.not_values])))
    return _and(members) if members else cls(any=True)


# Permissions and principals combine alike, under other names.


def _and(members: list[Any]) -> Any:
    if len(members) == 1:
        return members[0]
    if isinstance(members[0], pb.Permission):
        return pb.Permission(and_rules=pb.Permission.Set(rules=members))
    return pb.Principal(and_ids=pb.Principal.Set(ids=members))


def _or(members: list[Any]) -> Any:
    if len(members) == 1:
        return members[0]
    if isinstance(members[0], pb.Permission):
        return pb.Permission(or_rules=pb.Permission.Set(rules=members))
    return pb.Principal(or_ids=pb.Principal.Set(ids=members))


def _not(member: Any) -> Any:
    if isinstance(member, pb.Permission):
        return pb.Permission(not_rule=member)
    return pb.Principal(not_id=member)


def _permission(check: Check, value: Value, wide: bool) -> Any:
    if isinstance(value, int):
        return pb.Permission(destination_port=value)
    if not isinstance(value, TextMatch):
        return pb.Permission(destination_ip=parts.cidr(value))
    match check.field:
        case Field.HOST:
            return pb.Permission(header=_header(":authority", _case_blind(value)))
        case Field.METHOD:
            return pb.Permission(header=_header(":method", value))
        case Field.PATH:
            return pb.Permission(url_path=path_pb2.PathMatcher(path=parts.text(value)))
        case Field.HEADER:
            return pb.Permission(header=_header(check.key[0], value))
        case Field.SNI:
            return pb.Permission(requested_server_name=parts.text(value))
        case _:
            return pb.Permission(metadata=parts.metadata_matches(check.key[0], check.key[1:], value))


def _header(name: str, value: TextMatch) -> Any:
    return route_components_pb2.HeaderMatcher(name=name, string_match=parts.text(value))


def _case_blind(value: TextMatch) -> TextMatch:
    return TextMatch(TextKind.REGEX, f"(?i){value.value}") if value.kind is TextKind.REGEX else TextMatch(value.kind, value.value, True)


def _principal(check: Check, value: Value, wide: bool) -> Any:
    if not isinstance(value, TextMatch):
        return _address(check.field, value)
    match check.field:
        case Field.PRINCIPAL:
            return pb.Principal(filter_state=parts.principal_matches(_with_scheme(value)))
        case Field.NAMESPACE:
            return pb.Principal(filter_state=parts.principal_matches(parts.spiffe(namespace=_segment(value))))
        case Field.TRUST_DOMAIN:
            return pb.Principal(filter_state=parts.principal_matches(parts.spiffe(domain=_segment(value))))
        case Field.SERVICE_ACCOUNT:
            namespace, _, account = value.value.partition("/")
            return pb.Principal(filter_state=parts.principal_matches(parts.spiffe(namespace=quoted(namespace), account=quoted(account))))
        case Field.REQUEST_PRINCIPAL:
            pairs = requesters(value, wide)
            found = [_and([_claim(("iss",), issuer), _claim(("sub",), subject)]) for issuer, subject in pairs]
            return _or(found) if found else _not(pb.Principal(any=True))
        case _:
            return _claim(check.key, value)


def _claim(path: tuple[str, ...], value: TextMatch) -> Any:
    return pb.Principal(metadata=parts.metadata_matches(JWT_FILTER, (JWT_PAYLOAD, *path), value))


def _address(field: Field, value: Value) -> Any:
    assert not isinstance(value, (TextMatch, int))
    if field is Field.REMOTE_IP:
        return pb.Principal(remote_ip=parts.cidr(value))
    block: IPNetwork = value
    ranges = cidr_pb2.CidrRange(address_prefix=str(block.network_address), prefix_len=parts.uint32(block.prefixlen))
    made = filter_state_pb2.FilterStateMatcher(key=FILTER_STATE_SOURCE_IP)
    made.address_match.ranges.append(ranges)
    return pb.Principal(filter_state=made)


def _with_scheme(value: TextMatch) -> TextMatch:
    """A test on an identity without its scheme, for the URI that has it."""
    match value.kind:
        case TextKind.EXACT | TextKind.PREFIX:
            return TextMatch(value.kind, SCHEME + value.value)
        case TextKind.SUFFIX:
            return TextMatch(TextKind.REGEX, f"{SCHEME}.*{quoted(value.value)}")
        case _:
            return TextMatch(TextKind.REGEX, f"{SCHEME}.+")


def _segment(value: TextMatch) -> str:
    """One segment of an identity, as part of a regular expression."""
    text = quoted(value.value)
    return {TextKind.EXACT: text, TextKind.PREFIX: f"{text}[^/]*", TextKind.SUFFIX: f"[^/]*{text}"}.get(value.kind, "[^/]+")
