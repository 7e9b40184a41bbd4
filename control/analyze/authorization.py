"""AuthorizationPolicies: whom they are for, what tunnels cannot judge, and rules that never match."""

from __future__ import annotations

from collections.abc import Iterator

from control.analyze.codes import policy as codes
from control.analyze.covered import at_waypoints, lacking, outside, reach, selected, targets
from control.analyze.findings import Findings
from control.analyze.given import about
from control.analyze.identities import Identities
from control.analyze.ports import Ports
from control.analyze.world import PODS, World
from mesh.model.manifest import AuthorizationPolicy
from mesh.model.manifest.security import DRY_RUN_ANNOTATION, Operation, PolicyRule, Source
from mesh.model.manifest.shapes import wire_name

ATTRIBUTES = ("principals", "namespaces", "service_accounts", "ip_blocks", "request_principals", "remote_ip_blocks", "trust_domains")
OPERATIONS = ("ports", "hosts", "methods", "paths")


def check(world: World, found: Findings) -> None:
    identities, ports = Identities(world, found), Ports(world, found)
    for policy in world.of(AuthorizationPolicy):
        spec = policy.spec
        if policy.annotations.get(DRY_RUN_ANNOTATION) == "true":
            message = f"the annotation {DRY_RUN_ANNOTATION} makes this a dry run: nothing is enforced"
            field = f"metadata.annotations[{DRY_RUN_ANNOTATION}]"
            found.add(codes.DRY_RUN, about(policy), field, message, "remove the annotation to enforce it")
        for index, rule in enumerate(spec.rules):
            path = f"spec.rules[{index}]"
            identities.check(policy, rule, path)
            _never(policy, rule, path, found)
        if spec.action == "AUDIT":
            message = "nothing audits what this matches"
            found.add(codes.NO_AUDIT, about(policy), "spec.action", message, "use ALLOW or DENY, with istio.io/dry-run to try it out")
        elif spec.targets:
            _targeted(world, policy, found)
            at_waypoints(world, policy, found)
            ports.of_targets(policy)
        else:
            _selecting(world, policy, ports, found)
    _all_denied(world, found)


def _targeted(world: World, policy: AuthorizationPolicy, found: Findings) -> None:
    for path, why in lacking(world, policy, found):
        message = f"only a waypoint enforces this, and there is none ({why}): the pods behind it are denied"
        if policy.annotations.get(DRY_RUN_ANNOTATION) == "true":
            message = f"only a waypoint counts what this would do, and there is none ({why})"
        found.add(codes.TARGET_WITHOUT_WAYPOINT, about(policy), path, message, "label the Service or its namespace istio.io/use-waypoint")
    if policy.spec.action == "CUSTOM":
        provider = policy.spec.provider.name if policy.spec.provider is not None else ""
        message = f"there is no authorizer {provider} to ask: what this matches is denied"
        found.add(codes.CUSTOM_DENIES, about(policy), "spec.provider.name", message, "use ALLOW and DENY")


def _selecting(world: World, policy: AuthorizationPolicy, ports: Ports, found: Findings) -> None:
    runs = selected(world, policy, found)
    outside(world, policy, runs, found)
    if policy.spec.action == "CUSTOM":
        message = "a tunnel asks no authorizer: everything that this selects is denied"
        found.add(codes.CUSTOM_DENIES, about(policy), "spec.action", message, "target a Service that has a waypoint, or use ALLOW and DENY")
        return
    for index, rule in enumerate(policy.spec.rules):
        path = f"spec.rules[{index}]"
        asks = list(asks_requests(rule, path))
        if asks:
            effect = "this rule allows nothing" if policy.spec.action == "ALLOW" else "this rule denies whatever the request is"
            names = ", ".join(field.removeprefix(f"{path}.") for field in asks[:3])
            message = f"a tunnel cannot judge {names}: {effect}"
            hint = "name the Service in targetRefs instead of a selector, and give it a waypoint"
            found.add(codes.NEEDS_WAYPOINT, about(policy), asks[0], message, hint)
    ports.of_pods(policy, runs)


def asks_requests(rule: PolicyRule, path: str) -> Iterator[str]:
    """The fields that only a waypoint can judge."""
    for index, source in enumerate(rule.from_):
        yield from (f"{path}.from[{index}].source.{wire_name(name)}" for name in Source.L7 if getattr(source.source, name))
    for index, to in enumerate(rule.to):
        yield from (f"{path}.to[{index}].operation.{wire_name(name)}" for name in Operation.L7 if getattr(to.operation, name))
    yield from (f"{path}.when[{index}].key" for index, condition in enumerate(rule.when) if not condition.l4)


# Rules that never match


def _never(policy: AuthorizationPolicy, rule: PolicyRule, path: str, found: Findings) -> None:
    for index, entry in enumerate(rule.from_):
        at = f"{path}.from[{index}].source"
        _excluded(policy, entry.source, ATTRIBUTES, at, found)
        _apart(policy, entry.source, at, found)
    for index, to in enumerate(rule.to):
        at = f"{path}.to[{index}].operation"
        _excluded(policy, to.operation, OPERATIONS, at, found)
        for name in ("methods", "not_methods"):
            for number, method in enumerate(getattr(to.operation, name)):
                if method != method.upper():
                    message = f"methods are in capitals: no request has the method {method}"
                    found.add(codes.NEVER_MATCHES, about(policy), f"{at}.{wire_name(name)}[{number}]", message, f"write {method.upper()}")
    for index, condition in enumerate(rule.when):
        if condition.values and set(condition.values) <= set(condition.not_values):
            message = "notValues has every one of values: this never holds"
            found.add(codes.NEVER_MATCHES, about(policy), f"{path}.when[{index}].notValues", message, "remove what is in both")


def _excluded(policy: AuthorizationPolicy, holder: Source | Operation, names: tuple[str, ...], path: str, found: Findings) -> None:
    for name in names:
        values, excluded = getattr(holder, name), getattr(holder, f"not_{name}")
        if values and ("*" in excluded or set(values) <= set(excluded)):
            field = f"{path}.{wire_name(f'not_{name}')}"
            message = f"{wire_name(f'not_{name}')} takes away every one of {wire_name(name)}: this never matches"
            found.add(codes.NEVER_MATCHES, about(policy), field, message, "remove what is in both")


def _apart(policy: AuthorizationPolicy, source: Source, path: str, found: Findings) -> None:
    """Principals of other namespaces than those that are asked for beside them."""
    if not source.principals or not source.namespaces or any("*" in value for value in (*source.principals, *source.namespaces)):
        return
    owners = {principal.split("/")[2] for principal in source.principals if principal.count("/") == 4}
    if owners and not owners & set(source.namespaces):
        message = f"principals are of {', '.join(sorted(owners))}, and namespaces asks for {', '.join(source.namespaces)}: none is both"
        found.add(codes.NEVER_MATCHES, about(policy), f"{path}.namespaces", message, "remove namespaces, which principals say already")


# Policies that deny everything


def _all_denied(world: World, found: Findings) -> None:
    policies = [policy for policy in world.of(AuthorizationPolicy) if policy.annotations.get(DRY_RUN_ANNOTATION) != "true"]
    allowing = [policy for policy in policies if policy.spec.action == "ALLOW" and policy.spec.rules]
    # A policy at a waypoint lets nobody in at the pods.
    at_pods = (policy for policy in allowing if not policy.spec.targets)
    allowed = {id(runs) for policy in at_pods for runs in world.selected(reach(world, policy.namespace), policy.spec.match_labels)}
    for policy in policies:
        if policy.spec.action == "DENY":
            for index, rule in enumerate(policy.spec.rules):
                if not (rule.from_ or rule.to or rule.when):
                    message = "a rule without conditions matches everything: all that the policy covers is denied, whatever others allow"
                    hint = "say from, to or when; to deny by default, use ALLOW without rules"
                    found.add(codes.DENIES_ALL, about(policy), f"spec.rules[{index}]", message, hint)
        elif policy.spec.action == "ALLOW" and not policy.spec.rules:
            _allows_nothing(world, policy, allowing, allowed, found)


def _allows_nothing(
    world: World, policy: AuthorizationPolicy, allowing: list[AuthorizationPolicy], allowed: set[int], found: Findings
) -> None:
    """An ALLOW without rules is the default for what others allow; where no other does, nothing gets in."""
    if policy.spec.targets:
        own = {(target.kind, target.name) for target in policy.spec.targets}
        if not any(own & {(target.kind, target.name) for _, target in targets(other)} for other in allowing):
            message = "an ALLOW policy without rules allows nothing, and no other policy allows anything at its targets"
            found.add(codes.DENIES_ALL, about(policy), "spec", message, "add an ALLOW policy with rules for them")
        return
    where = reach(world, policy.namespace)
    if where is not None and not world.knows(PODS, where):
        return
    covered = world.selected(where, policy.spec.match_labels)
    # What no Service leads to may well be a client and nothing else.
    denied = [runs for runs in covered if world.services_of(runs) and id(runs) not in allowed]
    if denied:
        names = sorted({runs.subject.name for runs in denied})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        message = f"an ALLOW policy without rules allows nothing, and no other policy allows anything to {', '.join(names[:3])}{more}"
        related = [runs.subject for runs in denied[:3]]
        found.add(codes.DENIES_ALL, about(policy), "spec", message, "add an ALLOW policy with rules for them", related=related)
