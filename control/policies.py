"""Policies of the mesh: what users wrote, what was refused, and which workload is under which. Pure.

A refused policy of which no version was ever accepted denies all that it would cover, as far as that can be read: its selector, else
its namespace, else the whole mesh. A refused PeerAuthentication is taken as STRICT, which is the most that it could ask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mesh.model.manifest import AuthorizationPolicy, PeerAuthentication, Pod, Refused, Service, selects
from mesh.model.manifest.authorization import compile_policy, scope_of, unenforceable
from mesh.model.manifest.mtls import Demand, MutualTlsModes
from mesh.model.manifest.security import TargetRef
from mesh.model.policy import Authorization, PolicyScope

USE_WAYPOINT, USE_WAYPOINT_NAMESPACE = "istio.io/use-waypoint", "istio.io/use-waypoint-namespace"


@dataclass(frozen=True, slots=True)
class Status:
    """What is to be said of one object: `subject` is `Kind namespace/name`."""

    subject: str
    where: str
    notes: tuple[str, ...]


@dataclass(slots=True)
class Attachment:
    """One policy that workloads name: on the pods of `namespace` (None: of every one) with these labels, or on those behind its targets,
    which are of `namespace` themselves (None: of any).
    """

    key: str
    namespace: str | None
    labels: Mapping[str, str]
    targets: tuple[TargetRef, ...] = ()

    def covers(self, pod: Pod, services: Iterable[Service], namespace_labels: Mapping[str, str]) -> bool:
        if self.targets:
            return any(_targeted(target, self.namespace, pod, services, namespace_labels) for target in self.targets)
        return self.namespace in (None, pod.namespace) and selects(self.labels, pod.labels)


@dataclass(slots=True)
class Policies:
    """`authorizations` by key; `status` of those that are not enforced as written."""

    authorizations: dict[str, Authorization] = field(default_factory=dict)
    attachments: dict[str | None, list[Attachment]] = field(default_factory=dict)
    """By the namespace that they can reach; None: any."""
    modes: MutualTlsModes = field(default_factory=lambda: MutualTlsModes((), ""))
    status: list[Status] = field(default_factory=list)
    consequences: dict[int, str] = field(default_factory=dict)
    """By position in the list of refused objects: what being refused means for traffic."""

    def keys_for(self, pod: Pod, services: Iterable[Service], namespace_labels: Mapping[str, str]) -> tuple[str, ...]:
        """The policies that a pod's workload names, sorted. `services` are those that select the pod."""
        candidates = (entry for reach in (None, pod.namespace) for entry in self.attachments.get(reach, ()))
        found = {entry.key for entry in candidates if entry.covers(pod, services, namespace_labels)}
        strict = self.modes.key_for(pod.namespace, pod.labels)
        return tuple(sorted(found | {strict} if strict is not None else found))


def resolve_policies(
    policies: Iterable[AuthorizationPolicy],
    peer_authentications: Iterable[PeerAuthentication],
    refused: Iterable[tuple[Refused, str]],
    root_namespace: str,
) -> Policies:
    result = Policies()
    for policy in policies:
        compiled = compile_policy(policy, root_namespace)
        if compiled.notes:
            result.status.append(Status(str(policy.key), policy.source, compiled.notes))
        if compiled.policy is None:
            continue
        namespace = None if policy.namespace == root_namespace and not policy.spec.targets else policy.namespace
        _add(result, compiled.policy, namespace, policy.spec.match_labels, policy.spec.targets)
    demands: list[Demand] = []
    for index, (entry, kept) in enumerate(refused):
        if kept or not entry.policy:
            continue
        if entry.dry_run and entry.kind == AuthorizationPolicy.KIND:
            result.consequences[index] = "it is a dry run and would not be enforced: nothing is denied"
        elif entry.kind == PeerAuthentication.KIND:
            demand = _demand(entry, root_namespace)
            demands.append(demand)
            result.consequences[index] = f"taken as STRICT: plaintext is denied to {_reach(demand.namespace, demand.selector, ())}"
        else:
            result.consequences[index] = _deny(result, entry, root_namespace)
    result.modes = MutualTlsModes(peer_authentications, root_namespace, demands)
    for authorization in result.modes.policies:
        result.authorizations[authorization.key] = authorization
    for ignored, used in result.modes.ignored:
        note = f"has no effect: {used.key} ({used.source}) is for the same pods and counts"
        result.status.append(Status(str(ignored.key), ignored.source, (note,)))
    return result


def _add(
    result: Policies, policy: Authorization, namespace: str | None, labels: Mapping[str, str], targets: tuple[TargetRef, ...] = ()
) -> None:
    result.authorizations[policy.key] = policy
    if policy.scope is PolicyScope.WORKLOAD:
        # Who uses a gateway may be anywhere.
        reach = None if targets else namespace
        result.attachments.setdefault(reach, []).append(Attachment(policy.key, namespace, labels, targets))


def _deny(result: Policies, entry: Refused, root_namespace: str) -> str:
    """Put a policy that denies in the place of a refused one. What it covers, as a sentence."""
    namespace = entry.namespace
    selector = entry.selector or {}
    owner = root_namespace if namespace is None else namespace
    name = _free_name(result, owner, entry)
    everywhere = namespace is None or (namespace == root_namespace and not entry.targets)
    scope = PolicyScope.WORKLOAD if entry.targets else scope_of(owner, bool(selector), root_namespace)
    _add(result, unenforceable(name, owner, scope), None if everywhere else namespace, selector, entry.targets)
    return f"all traffic is denied to {_reach(None if everywhere else namespace, selector, entry.targets)}"


def _free_name(result: Policies, namespace: str, entry: Refused) -> str:
    """The policy's own name; with a mark that no Kubernetes name has, where it is unreadable or another one has it."""
    name = entry.name
    if not name or "/" in name:
        name = "unreadable~" + hashlib.sha256(entry.refusals[0].where.encode()).hexdigest()[:8]
    count, free = 1, name
    while f"{namespace}/{free}" in result.authorizations:
        count += 1
        free = f"{name}~{count}"
    return free


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


def _targeted(target: TargetRef, owner: str | None, pod: Pod, services: Iterable[Service], namespace_labels: Mapping[str, str]) -> bool:
    """Whether traffic to the pod may be what a policy for this target is about. `services` are those that select the pod."""
    if target.kind == "Service":
        return owner in (None, pod.namespace) and any(service.name == target.name for service in services)
    for labels in (pod.labels, namespace_labels, *(service.labels for service in services)):
        waypoint = labels.get(USE_WAYPOINT, "none")
        if waypoint != "none" and target.kind == "GatewayClass":
            return True
        if waypoint == target.name and target.kind == "Gateway" and owner in (None, labels.get(USE_WAYPOINT_NAMESPACE, pod.namespace)):
            return True
    return False
