"""Policies of the mesh: what users wrote, what was refused, and which pods are under which.

A refused policy of which no version was ever accepted denies all that it would cover, as far as that can be read: its selector, else
its namespace, else the whole mesh. A refused PeerAuthentication is taken as STRICT, which is the most that it could ask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from control.catalog import Subject
from control.resolve.engine import Group, Read, query
from control.resolve.passage import bypass, listed_by
from control.resolve.services import services_for
from control.resolve.tables import ANYTHING, OBJECTS, REJECTIONS, SETTINGS, Labels, Pair, first_pair, pairs
from control.resolve.waypoints import gateway_key, service_waypoint, waypoints, workload_waypoint
from mesh.model.manifest import (
    AuthorizationPolicy,
    Gateway,
    Key,
    Object,
    PeerAuthentication,
    Refused,
    RequestAuthentication,
    Service,
    ServiceEntry,
    selects,
)
from mesh.model.manifest.authorization import compile_policy, scope_of, unenforceable
from mesh.model.manifest.gatewayapi.gateways import WAYPOINT_CLASS
from mesh.model.manifest.mtls import Demand, MutualTlsModes, strict_policy
from mesh.model.manifest.security import TargetRef
from mesh.model.manifest.shapes import NOTHING
from mesh.model.policy import Authorization, PolicyScope
from mesh.model.workload import IPAddress


@dataclass(frozen=True, slots=True)
class Attachment:
    """One policy that workloads name: on the pods of `namespace` (None: of every one) with these labels, or on those behind its targets,
    which are of `namespace` themselves (None: of any).
    """

    key: str
    namespace: str | None
    labels: Mapping[str, str]
    targets: tuple[TargetRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of one policy, or of one rejection. `notes`: where it is not enforced as written. `consequences`: of each refused."""

    authorizations: tuple[Authorization, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    demands: tuple[Demand, ...] = ()
    notes: tuple[str, ...] = ()
    consequences: tuple[str, ...] = ()
    reason: str = ""
    """Why it is not enforced as written, in a word, where it is not for want of a waypoint."""


NO_OUTCOME = Outcome()
GATEWAY_CLASS = "GatewayClass"
ADDRESSED = (Service.KIND, ServiceEntry.KIND)
"""Kinds of targets that clients address."""


def _deny_on_bug(read: Read, subject: Subject) -> Outcome:
    """A policy that we fail to compile denies its namespace, or everything where it may be for everything."""
    root = read(SETTINGS, None).root_namespace
    namespace = subject.namespace if isinstance(subject, Key) and subject.namespace != root else None
    denied = unenforceable(f"bug~{_hash(repr(subject))}", namespace or root, PolicyScope.WORKLOAD)
    return Outcome((denied,), (Attachment(denied.key, namespace, NOTHING),))


@query(30, rescue=_deny_on_bug)
def policies(read: Read, subject: Subject) -> Outcome:
    policy = read(OBJECTS, subject) if isinstance(subject, Key) else None
    root = read(SETTINGS, None).root_namespace
    if isinstance(policy, AuthorizationPolicy):
        return _targeted_policy(read, policy, root) if policy.spec.targets else _selecting_policy(policy, root)
    if isinstance(policy, RequestAuthentication):
        return _tokens(read, policy, root)
    rejection = read(REJECTIONS, subject)
    if rejection is None or rejection.kept:
        return NO_OUTCOME
    return _rejected(rejection.refused, root)


def _selecting_policy(policy: AuthorizationPolicy, root_namespace: str) -> Outcome:
    compiled = compile_policy(policy, root_namespace)
    if compiled.policy is None:
        return Outcome(notes=compiled.notes)
    namespace = None if policy.namespace == root_namespace else policy.namespace
    return Outcome((compiled.policy,), _attachments(compiled.policy, namespace, policy.spec.match_labels, ()), notes=compiled.notes)


def _targeted_policy(read: Read, policy: AuthorizationPolicy, root_namespace: str) -> Outcome:
    """A waypoint enforces it. Where there is none that does, what it covers is denied."""
    compiled = compile_policy(policy, root_namespace)
    if compiled.policy is None:
        return Outcome(notes=compiled.notes if policy.spec.action == "AUDIT" else _lacking(read, policy.key, policy.spec.targets)[1])
    return _where_lacking(read, policy.key, policy.spec.targets, compiled.policy)


def _where_lacking(read: Read, key: Key, targets: tuple[TargetRef, ...], instead: Authorization) -> Outcome:
    """`instead` is on the pods that no waypoint stands before."""
    lacking, notes = _lacking(read, key, targets)
    if not lacking:
        return Outcome(notes=notes)
    if any(_misplaced(read, key, target) for target in lacking):
        lacking = ()  # what it would cover is not told by them: the whole namespace
    return Outcome((instead,), _attachments(instead, key.namespace, NOTHING, lacking), notes=notes)


def _tokens(read: Read, policy: RequestAuthentication, root_namespace: str) -> Outcome:
    """Only a waypoint can look at tokens. Where there is none that does, bad ones would pass: all traffic is denied instead."""
    if not policy.spec.jwt_rules:
        return NO_OUTCOME
    name = f"{policy.name}~{policy.KIND}"
    if policy.spec.targets:
        return _where_lacking(read, policy.key, policy.spec.targets, unenforceable(name, policy.namespace, PolicyScope.WORKLOAD))
    labels = policy.spec.match_labels
    namespace = None if policy.namespace == root_namespace else policy.namespace
    denied = unenforceable(name, policy.namespace, scope_of(policy.namespace, bool(labels), root_namespace))
    note = f"tokens are looked at by waypoints only, which take targetRefs: all traffic is denied to {_reach(namespace, labels, ())}"
    return Outcome((denied,), _attachments(denied, namespace, labels, ()), notes=(note,))


def _lacking(read: Read, key: Key, targets: tuple[TargetRef, ...]) -> tuple[tuple[TargetRef, ...], tuple[str, ...]]:
    """The targets that something may reach without a waypoint of theirs, and what is to be said of them."""
    lacking: list[TargetRef] = []
    notes: list[str] = []
    for target in targets:
        if _misplaced(read, key, target):
            lacking.append(target)
            notes.append(f"a GatewayClass is a target in the root namespace only: the policy is on every pod of namespace {key.namespace}")
            continue
        if target.kind in (Gateway.KIND, GATEWAY_CLASS):
            # Whether each that asks for it is let through it is seen where it asks.
            lacking.append(target)
            found = read(waypoints, gateway_key(key.namespace, target.name)) if target.kind == Gateway.KIND else None
            if isinstance(found, str):
                notes.append(f"needs the waypoint {target.name}: {found}; what asks for it is denied")
            elif found is not None and not found.takes:
                notes.append(f"the waypoint {target.name} takes nothing: the policy covers nothing of it")
            elif found is None and target.name != WAYPOINT_CLASS:
                notes.append(f"no waypoint is of class {target.name}, but of {WAYPOINT_CLASS}: the policy covers nothing of it")
            continue
        holder = Key(target.kind, key.namespace, target.name)
        if read(OBJECTS, holder) is None:
            notes.append(f"there is no {holder}: the policy covers nothing of it")
            lacking.append(target)
            continue
        why = read(bypass, holder)
        if why:
            lacking.append(target)
            notes.append(f"needs a waypoint for {target.kind} {target.name} ({why}): the pods behind it are denied")
    return tuple(lacking), tuple(notes)


def _misplaced(read: Read, key: Key, target: TargetRef) -> bool:
    return target.kind == GATEWAY_CLASS and key.namespace != read(SETTINGS, None).root_namespace


def _attachments(
    policy: Authorization, namespace: str | None, labels: Mapping[str, str], targets: tuple[TargetRef, ...]
) -> tuple[Attachment, ...]:
    return (Attachment(policy.key, namespace, labels, targets),) if policy.scope is PolicyScope.WORKLOAD else ()


def _rejected(refused: tuple[Refused, ...], root_namespace: str) -> Outcome:
    authorizations: list[Authorization] = []
    attachments: list[Attachment] = []
    demands: list[Demand] = []
    consequences: list[str] = []
    for index, entry in enumerate(refused):
        if not entry.policy:
            consequences.append("")
        elif entry.dry_run and entry.kind == AuthorizationPolicy.KIND:
            consequences.append("it is a dry run and would not be enforced: nothing is denied")
        elif entry.kind == PeerAuthentication.KIND:
            demand = _demand(entry, root_namespace)
            demands.append(demand)
            consequences.append(f"taken as STRICT: plaintext is denied to {_reach(demand.namespace, demand.selector, ())}")
        else:
            namespace = entry.namespace
            owner = root_namespace if namespace is None else namespace
            targets = covered(entry, root_namespace)
            if namespace == root_namespace and not targets:
                namespace = None
            selector = entry.selector or {}
            scope = PolicyScope.WORKLOAD if targets else scope_of(owner, bool(selector), root_namespace)
            denied = unenforceable(_name(entry, index), owner, scope)
            authorizations.append(denied)
            attachments += _attachments(denied, namespace, selector, targets)
            consequences.append(f"all traffic is denied to {_reach(namespace, selector, targets)}")
    return Outcome(tuple(authorizations), tuple(attachments), tuple(demands), (), tuple(consequences))


def covered(entry: Refused, root_namespace: str) -> tuple[TargetRef, ...]:
    """The targets of a refused policy where it is they that say what it covers; else it is its namespace, or the whole mesh."""
    if entry.namespace is None:
        return ()
    misplaced = entry.namespace != root_namespace and any(target.kind == GATEWAY_CLASS for target in entry.targets)
    return () if misplaced else entry.targets


def _name(entry: Refused, index: int) -> str:
    """The policy's own name, with a mark that no Kubernetes name has where another resource may have it."""
    name = entry.name
    if entry.namespace is None or not name or "/" in name:
        # Of another namespace than it is told under: what is called so there is not to be mistaken for it.
        return f"unreadable~{_hash(entry.refusals[0].where)}" + (f"~{index + 1}" if index else "")
    if entry.kind != AuthorizationPolicy.KIND:
        name += f"~{entry.kind}"
    return f"{name}~{index + 1}" if index else name


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _demand(entry: Refused, root_namespace: str) -> Demand:
    selector = entry.selector or {}
    wide = entry.namespace is None or (entry.namespace == root_namespace and not selector)
    return Demand(None if wide else entry.namespace, selector)


def _reach(namespace: str | None, labels: Mapping[str, str], targets: tuple[TargetRef, ...]) -> str:
    where = "of the whole mesh" if namespace is None else f"of namespace {namespace}"
    if targets:
        return f"the pods {where} behind {', '.join(f'{target.kind} {target.name}' for target in targets)}"
    if labels:
        return f"the pods {where} with {', '.join(f'{key}={value}' for key, value in sorted(labels.items()))}"
    return f"every pod {where}"


# Which policies pods are under.


OBJECTS.spawn(policies, lambda entry: isinstance(entry, (AuthorizationPolicy, RequestAuthentication)))
REJECTIONS.spawn(policies, lambda rejection: True)


def _attached(_: Subject, outcome: Outcome) -> Iterable[tuple[str | None, Pair]]:
    for entry in outcome.attachments:
        # Who uses a gateway may be anywhere.
        yield (None, ANYTHING) if entry.targets else (entry.namespace, first_pair(entry.labels))


ATTACHED: Group[Subject, Outcome, tuple[str | None, Pair]] = Group("attached", policies, _attached)
"""Policies by the namespace that they can reach (None: any) and a label that their pods must have."""

BY_TARGET: Group[Subject, Outcome, None] = Group(
    "attached by target",
    policies,
    lambda _, outcome: [None] if any(target.kind in ADDRESSED for entry in outcome.attachments for target in entry.targets) else [],
)

DEMANDED: Group[Subject, Outcome, str | None] = Group(
    "demanded", policies, lambda _, outcome: [demand.namespace for demand in outcome.demands]
)


@query(43)
def policy_keys(read: Read, arg: tuple[str, Labels]) -> tuple[str, ...]:
    """The policies that workloads of a namespace with these labels name, sorted."""
    namespace, labels = arg
    have = dict(labels)
    found = set()
    for reach in (None, namespace):
        for pair in pairs(labels):
            for subject in read(ATTACHED, (reach, pair)):
                for entry in read(policies, subject).attachments:
                    if entry.targets:
                        covers = any(_targeted(read, target, entry.namespace, namespace, labels) for target in entry.targets)
                    else:
                        covers = entry.namespace in (None, namespace) and selects(entry.labels, have)
                    if covers:
                        found.add(entry.key)
    strict = read(mtls_modes, namespace).key_for(namespace, have)
    return tuple(sorted(found | {strict} if strict is not None else found))


def _targeted(read: Read, target: TargetRef, owner: str | None, namespace: str, labels: Labels) -> bool:
    """Whether traffic to pods of a namespace with these labels may be what a policy for this target is about, and no waypoint sees it."""
    keys = read(services_for, (namespace, labels))
    if target.kind in ADDRESSED:
        return owner == namespace and any(key.kind == target.kind and key.name == target.name and read(bypass, key) for key in keys)
    uses = [read(workload_waypoint, (namespace, labels)), *(read(service_waypoint, key) for key in keys)]
    missed = [use.wanted for use in uses if use.wanted is not None and use.waypoint is None]
    if target.kind == GATEWAY_CLASS:
        return target.name == WAYPOINT_CLASS and bool(missed)
    return any(wanted.name == target.name and owner in (None, wanted.namespace) for wanted in missed)


def workload_policies(read: Read, namespace: str, labels: Labels, addresses: Iterable[IPAddress]) -> tuple[str, ...]:
    """As `policy_keys`, with those for targets that list one of these addresses instead of selecting who has it."""
    found = read(policy_keys, (namespace, labels))
    if not read(BY_TARGET, None):  # the rule; no cell for each address then
        return found
    listed = {key for address in addresses for key in read(listed_keys, address)}
    return tuple(sorted(listed.union(found))) if listed else found


@query(44)
def listed_keys(read: Read, address: IPAddress) -> tuple[str, ...]:
    """The policies on whoever has this address because their targets list it, and no waypoint sees what goes there."""
    return read(all_listed, None).get(address, ())


@query(43)
def all_listed(read: Read, _: None) -> Mapping[IPAddress, tuple[str, ...]]:
    found: dict[IPAddress, set[str]] = {}
    for subject in read(BY_TARGET, None):
        for entry in read(policies, subject).attachments:
            keys = (Key(target.kind, entry.namespace or "", target.name) for target in entry.targets if target.kind in ADDRESSED)
            for address in {address for key in keys if read(bypass, key) for address in read(listed_by, key)}:
                found.setdefault(address, set()).add(entry.key)
    return MappingProxyType({address: tuple(sorted(keys)) for address, keys in found.items()})


# Mutual TLS.


@query(32)
def mtls_modes(read: Read, namespace: str) -> MutualTlsModes:
    """What the PeerAuthentications say that can concern a namespace."""
    root = read(SETTINGS, None).root_namespace
    keys = read(PEERS, namespace) | read(PEERS, root)
    found = [entry for entry in (read(OBJECTS, key) for key in sorted(keys)) if isinstance(entry, PeerAuthentication)]
    subjects = read(DEMANDED, namespace) | read(DEMANDED, None)
    demands = [demand for subject in subjects for demand in read(policies, subject).demands]
    return MutualTlsModes(found, root, demands)


@query(33)
def converted(read: Read, namespace: str) -> tuple[Authorization, ...]:
    """The policies that the PeerAuthentications of a namespace become, beside the one that all share."""
    modes = read(mtls_modes, namespace)
    return tuple(policy for policy in modes.policies if policy.namespace == namespace and policy.key != modes.static)


def _peers(_: Key, entry: Object) -> Iterable[str]:
    if isinstance(entry, PeerAuthentication):
        yield entry.namespace


PEERS: Group[Key, Object | None, str] = Group("peers", OBJECTS, _peers, spawns=converted)


@query(10)
def strict(read: Read, _: None) -> tuple[Authorization, ...]:
    """The one policy that stands for STRICT everywhere. Always there, so that it is known before a workload names it."""
    return (strict_policy(read(SETTINGS, None).root_namespace),)
