"""Pods that are reached through a waypoint, and policies at their tunnel: there the waypoint is the peer, not the client. So a policy may
keep it out with all its clients, or mean to deny a client that it never gets to see.

Decided by the very evaluation that tunnels do, for the waypoint's identity on each port that it would connect to.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from control.analyze.authorization import asks_requests
from control.analyze.codes import policy as codes
from control.analyze.findings import Findings
from control.analyze.given import about
from control.analyze.world import World
from control.resolve.waypoints import GATEWAY_NAME, Waypoint
from mesh.model.identity import Identity
from mesh.model.manifest import AuthorizationPolicy, Key
from mesh.model.manifest.security import PolicyRule
from mesh.model.policy import Action, Authorization, Connection, Decision, PolicyScope, evaluate
from mesh.model.reasons import Reason
from mesh.model.workload import Workload

WHO = ("source.principal", "source.namespace", "source.serviceAccount")
SOMEWHERE = IPv4Address("192.0.2.1")
"""Where the waypoint may be. Policies that ask for addresses are not judged."""


def check(world: World, found: Findings) -> None:
    wide: dict[str, list[Authorization]] = {}
    for policy in world.mesh.policies.values():
        if policy.scope is PolicyScope.GLOBAL:
            wide.setdefault("", []).append(policy)
        elif policy.scope is PolicyScope.NAMESPACE:
            wide.setdefault(policy.namespace, []).append(policy)
    for runs in world.runs:
        workload = world.mesh.workloads.get(f"{world.settings.cluster}//Pod/{runs.namespace}/{runs.stand_in.name}")
        if workload is None or not runs.in_mesh:
            continue
        own = [world.mesh.policies[key] for key in workload.policies if key in world.mesh.policies]
        policies = [*own, *wide.get("", ()), *wide.get(runs.namespace, ())]
        for key in world.services_of(runs) if policies else ():
            waypoint = world.service_use(key).waypoint
            if waypoint is not None:
                _judge(world, key, waypoint, workload, policies, found)


def _judge(world: World, key: Key, waypoint: Waypoint, workload: Workload, policies: list[Authorization], found: Findings) -> None:
    names = {host.name for host in world.hosts.of(key)}
    ports = {port for name, pairs in workload.services.items() if name.hostname in names for port in pairs.values()}
    identities = list(_identities(world, waypoint))
    comes = [Connection(identity, SOMEWHERE, workload.addresses[0], port) for identity in identities for port in sorted(ports)]
    decisions = [evaluate(connection, policies) for connection in comes]
    through = f"{key} is reached through the waypoint {waypoint.key.namespace}/{waypoint.key.name}"
    if decisions and not any(decision.allowed for decision in decisions):
        _kept_out(world, through, identities[0].principal, decisions[0], policies, found)
    if not _guarded(world, key, waypoint):
        for policy in policies:
            if policy.action is Action.DENY and not policy.dry_run and not any(policy.matching_rule(one) is not None for one in comes):
                _unseen(world, through, policy.key, found)


def _kept_out(world: World, through: str, principal: str, decision: Decision, policies: list[Authorization], found: Findings) -> None:
    if decision.reason is Reason.POLICY_DENY:
        denying = _written(world, decision.policy)
        if denying is not None:
            field = f"spec.rules[{decision.rule}]"
            found.add(codes.WAYPOINT_OUT, about(denying), field, f"{through}, which this rule denies", f"except {principal} in it")
    elif decision.reason is Reason.POLICY_NO_ALLOW:
        for policy in policies:
            allowing = _written(world, policy.key) if policy.action is Action.ALLOW else None
            if allowing is not None and _judged(allowing):
                message = f"{through}, whose identity no rule lets in: what comes through it is denied"
                found.add(codes.WAYPOINT_OUT, about(allowing), "spec.rules", message, f"add the principal {principal} to a rule")


def _unseen(world: World, through: str, key: str, found: Findings) -> None:
    denying = _written(world, key)
    for index, rule in enumerate(denying.spec.rules if denying is not None else ()):
        if denying is not None and _asks_who(rule):
            message = f"{through}, and there the client is not seen: this rule denies nobody who comes that way"
            hint = "deny them in a policy that names the Service in targetRefs"
            found.add(codes.CLIENT_UNSEEN, about(denying), f"spec.rules[{index}]", message, hint)


def _asks_who(rule: PolicyRule) -> bool:
    """Whether a rule is for some identities only."""
    named = any(entry.source.principals or entry.source.namespaces or entry.source.service_accounts for entry in rule.from_)
    return named or any(condition.key in WHO and condition.values for condition in rule.when)


def _guarded(world: World, key: Key, waypoint: Waypoint) -> bool:
    """Whether something says at the waypoint who may use the service."""
    places = {(key.kind, key.namespace, key.name), (waypoint.key.kind, waypoint.key.namespace, waypoint.key.name)}
    return any(
        (target.kind, policy.namespace, target.name) in places for policy in world.of(AuthorizationPolicy) for target in policy.spec.targets
    )


def _identities(world: World, waypoint: Waypoint) -> Iterator[Identity]:
    """Those of its pods; while there are none, the one that Istio's controllers give it: an account of the Gateway's name."""
    namespace, name = waypoint.key.namespace, waypoint.key.name
    accounts = {runs.account for runs in world.runs_in(namespace) if runs.labels.get(GATEWAY_NAME) == name} or {name}
    return (Identity(world.settings.trust_domain, namespace, account) for account in sorted(accounts))


def _written(world: World, key: str) -> AuthorizationPolicy | None:
    namespace, _, name = key.partition("/")
    return world.find(AuthorizationPolicy, namespace, name)


def _judged(policy: AuthorizationPolicy) -> bool:
    """Whether some rule of it can be judged by a tunnel, and by what is known here of the waypoint."""
    addresses = any(entry.source.ip_blocks or entry.source.not_ip_blocks for rule in policy.spec.rules for entry in rule.from_) or any(
        condition.key == "source.ip" for rule in policy.spec.rules for condition in rule.when
    )
    return not addresses and any(not any(asks_requests(rule, "")) for rule in policy.spec.rules)
