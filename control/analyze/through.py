"""Pods that are reached through a waypoint, and policies at their tunnel that keep it out: there the waypoint is the peer, not the client.

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
from mesh.model.policy import Action, Authorization, Connection, PolicyScope, evaluate
from mesh.model.reasons import Reason
from mesh.model.workload import Workload

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
    ports = {
        port for host in world.hosts.of(key) for name, pairs in workload.services.items() if name[1] == host.name for port in pairs.values()
    }
    decisions = [
        evaluate(Connection(identity, SOMEWHERE, workload.addresses[0], port), policies)
        for identity in _identities(world, waypoint)
        for port in sorted(ports)
    ]
    if not decisions or any(decision.allowed for decision in decisions):
        return
    through = f"{key} is reached through the waypoint {waypoint.key.namespace}/{waypoint.key.name}"
    principal = next(_identities(world, waypoint)).principal
    first = decisions[0]
    if first.reason is Reason.POLICY_DENY:
        denying = _written(world, first.policy)
        if denying is not None:
            message = f"{through}, which spec.rules[{first.rule}] denies"
            found.add(codes.WAYPOINT_OUT, about(denying), f"spec.rules[{first.rule}]", message, f"except {principal} in it")
    elif first.reason is Reason.POLICY_NO_ALLOW:
        for policy in policies:
            allowing = _written(world, policy.key) if policy.action is Action.ALLOW else None
            if allowing is not None and _judged(allowing):
                message = f"{through}, whose identity no rule lets in: what comes through it is denied"
                found.add(codes.WAYPOINT_OUT, about(allowing), "spec.rules", message, f"add the principal {principal} to a rule")


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
