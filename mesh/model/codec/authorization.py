"""L4 policies: `istio.security.Authorization` to the frozen type and back.

Stricter than for addresses: fields of a newer schema are refused too, wherever they are, since in a policy the part that is
not understood may be the part that narrows it.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.empty_pb2 import Empty

from mesh.model.codec.checks import Decoding
from mesh.model.policy import Action, Authorization, Clause, Match, PolicyScope, Rule, ServiceAccountMatch, StringKind, StringMatch
from mesh.model.workload import IPNetwork
from mesh.pb import authorization_pb2 as pb

# Travels on a policy that cannot be judged at L4. Beside it, the policy is a DENY that matches everything, so that a tunnel
# that does not know the extension denies as well.
UNENFORCEABLE = "culvert.dev/unenforceable"

SCOPES = {pb.GLOBAL: PolicyScope.GLOBAL, pb.NAMESPACE: PolicyScope.NAMESPACE, pb.WORKLOAD_SELECTOR: PolicyScope.WORKLOAD}
ACTIONS = {pb.ALLOW: Action.ALLOW, pb.DENY: Action.DENY}
_SCOPE_NUMBERS = {member: number for number, member in SCOPES.items()}
_ACTION_NUMBERS = {member: number for number, member in ACTIONS.items()}


def authorization_from(message: pb.Authorization, where: str = "") -> Authorization:
    """ConfigError for anything that is not understood in full."""
    door = Decoding(f"Authorization {message.namespace}/{message.name}", where)
    door.no_unknown("", message)
    enforceable = all(extension.name != UNENFORCEABLE for extension in message.extensions)
    return Authorization(
        name=door.segment("name", message.name),
        namespace=door.segment("namespace", message.namespace),
        scope=door.member("scope", message.scope, SCOPES),
        action=door.member("action", message.action, ACTIONS),
        rules=tuple(_rule_from(door, f"rules[{index}]", rule) for index, rule in enumerate(message.rules)),
        dry_run=message.dry_run,
        enforceable=enforceable,
    )


def authorization_to(policy: Authorization) -> pb.Authorization:
    message = pb.Authorization(name=policy.name, namespace=policy.namespace, scope=_SCOPE_NUMBERS[policy.scope])
    if not policy.enforceable:
        message.action = pb.DENY
        message.rules.add()
        message.extensions.add(name=UNENFORCEABLE)
        return message
    message.action = _ACTION_NUMBERS[policy.action]
    message.dry_run = policy.dry_run
    message.rules.extend(_rule_to(rule) for rule in policy.rules)
    return message


def _rule_from(door: Decoding, field: str, rule: pb.Rule) -> Rule:
    door.no_unknown(field, rule)
    clauses: list[Clause] = []
    for index, clause in enumerate(rule.clauses):
        path = f"{field}.clauses[{index}]"
        door.no_unknown(path, clause)
        clauses.append(Clause(tuple(_match_from(door, f"{path}.matches[{at}]", match) for at, match in enumerate(clause.matches))))
    return Rule(tuple(clauses))


def _match_from(door: Decoding, field: str, match: pb.Match) -> Match:
    door.no_unknown(field, match)
    if match.extensions:
        door.refuse(f"{field}.extensions", match.extensions[0].name, "no extensions: what they ask cannot be judged here")
    return Match(
        namespaces=_strings_from(door, f"{field}.namespaces", match.namespaces),
        not_namespaces=_strings_from(door, f"{field}.not_namespaces", match.not_namespaces),
        principals=_strings_from(door, f"{field}.principals", match.principals),
        not_principals=_strings_from(door, f"{field}.not_principals", match.not_principals),
        source_ips=_networks_from(door, f"{field}.source_ips", match.source_ips),
        not_source_ips=_networks_from(door, f"{field}.not_source_ips", match.not_source_ips),
        destination_ips=_networks_from(door, f"{field}.destination_ips", match.destination_ips),
        not_destination_ips=_networks_from(door, f"{field}.not_destination_ips", match.not_destination_ips),
        destination_ports=_ports_from(door, f"{field}.destination_ports", match.destination_ports),
        not_destination_ports=_ports_from(door, f"{field}.not_destination_ports", match.not_destination_ports),
        service_accounts=_accounts_from(door, f"{field}.service_accounts", match.service_accounts),
        not_service_accounts=_accounts_from(door, f"{field}.not_service_accounts", match.not_service_accounts),
    )


def _strings_from(door: Decoding, field: str, values: Iterable[pb.StringMatch]) -> tuple[StringMatch, ...]:
    found: list[StringMatch] = []
    for index, value in enumerate(values):
        path = f"{field}[{index}]"
        door.no_unknown(path, value)
        match value.WhichOneof("match_type"):
            case "exact":
                found.append(StringMatch(StringKind.EXACT, door.text(f"{path}.exact", value.exact)))
            case "prefix":
                found.append(StringMatch(StringKind.PREFIX, door.text(f"{path}.prefix", value.prefix)))
            case "suffix":
                found.append(StringMatch(StringKind.SUFFIX, door.text(f"{path}.suffix", value.suffix)))
            case "presence":
                found.append(StringMatch(StringKind.PRESENCE))
            case _:
                door.refuse(path, "nothing", "one of exact, prefix, suffix, presence")
    return tuple(found)


def _networks_from(door: Decoding, field: str, values: Iterable[pb.Address]) -> tuple[IPNetwork, ...]:
    found: list[IPNetwork] = []
    for index, value in enumerate(values):
        door.no_unknown(f"{field}[{index}]", value)
        found.append(door.network(f"{field}[{index}]", value.address, value.length))
    return tuple(found)


def _ports_from(door: Decoding, field: str, values: Iterable[int]) -> tuple[int, ...]:
    return tuple(door.port(f"{field}[{index}]", value) for index, value in enumerate(values))


def _accounts_from(door: Decoding, field: str, values: Iterable[pb.ServiceAccountMatch]) -> tuple[ServiceAccountMatch, ...]:
    found: list[ServiceAccountMatch] = []
    for index, value in enumerate(values):
        path = f"{field}[{index}]"
        door.no_unknown(path, value)
        namespace = door.segment(f"{path}.namespace", value.namespace)
        found.append(ServiceAccountMatch(namespace, door.segment(f"{path}.serviceAccount", value.serviceAccount)))
    return tuple(found)


def _rule_to(rule: Rule) -> pb.Rule:
    return pb.Rule(clauses=[pb.Clause(matches=[_match_to(match) for match in clause.matches]) for clause in rule.clauses])


def _match_to(match: Match) -> pb.Match:
    return pb.Match(
        namespaces=_strings_to(match.namespaces),
        not_namespaces=_strings_to(match.not_namespaces),
        principals=_strings_to(match.principals),
        not_principals=_strings_to(match.not_principals),
        source_ips=_networks_to(match.source_ips),
        not_source_ips=_networks_to(match.not_source_ips),
        destination_ips=_networks_to(match.destination_ips),
        not_destination_ips=_networks_to(match.not_destination_ips),
        destination_ports=match.destination_ports,
        not_destination_ports=match.not_destination_ports,
        service_accounts=_accounts_to(match.service_accounts),
        not_service_accounts=_accounts_to(match.not_service_accounts),
    )


def _strings_to(values: tuple[StringMatch, ...]) -> list[pb.StringMatch]:
    found: list[pb.StringMatch] = []
    for value in values:
        match value.kind:
            case StringKind.EXACT:
                found.append(pb.StringMatch(exact=value.value))
            case StringKind.PREFIX:
                found.append(pb.StringMatch(prefix=value.value))
            case StringKind.SUFFIX:
                found.append(pb.StringMatch(suffix=value.value))
            case StringKind.PRESENCE:
                found.append(pb.StringMatch(presence=Empty()))
    return found


def _networks_to(values: tuple[IPNetwork, ...]) -> list[pb.Address]:
    return [pb.Address(address=value.network_address.packed, length=value.prefixlen) for value in values]


def _accounts_to(values: tuple[ServiceAccountMatch, ...]) -> list[pb.ServiceAccountMatch]:
    return [pb.ServiceAccountMatch(namespace=value.namespace, serviceAccount=value.name) for value in values]
