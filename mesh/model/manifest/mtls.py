"""PeerAuthentication → DENY policies about plaintext, and which workload names which.

Effective mode: the workload's (a selector) over its namespace's over the mesh's (the root namespace, no selector); UNSET inherits, DISABLE
is PERMISSIVE, nothing at all is PERMISSIVE. Of several in one scope the oldest counts; where their ages are equal or unknown,
STRICT before others, then by name. A selector in the root namespace selects pods of that namespace.

STRICT becomes one shared policy, `istio_converted_static_strict`, which denies peers without identity. Where ports differ from the
workload's mode, a policy of the PeerAuthentication's own says the same for or except those ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.model.manifest.core import selects
from mesh.model.manifest.peerauth import PeerAuthentication
from mesh.model.policy import (
    CONVERTED_PREFIX,
    STRICT_POLICY_NAME,
    Action,
    Authorization,
    Clause,
    Match,
    PolicyScope,
    Rule,
    StringKind,
    StringMatch,
)

ANY_PRINCIPAL = (StringMatch(StringKind.PRESENCE),)


@dataclass(frozen=True, slots=True)
class Demand:
    """A refused PeerAuthentication: STRICT is the most that any reading of it could ask. `namespace` None is all of the mesh."""

    namespace: str | None
    selector: Mapping[str, str]


class MutualTlsModes:
    """The PeerAuthentications of a mesh. `policies` are those that workloads may name."""

    def __init__(self, policies: Iterable[PeerAuthentication], root_namespace: str, demands: Iterable[Demand] = ()) -> None:
        self._root = root_namespace
        self._demands = tuple(demands)
        self._wide: dict[str, PeerAuthentication] = {}
        self._selecting: dict[str, list[PeerAuthentication]] = {}
        self.ignored: list[tuple[PeerAuthentication, PeerAuthentication]] = []
        for policy in sorted(policies, key=_age):
            if policy.spec.match_labels:
                self._selecting.setdefault(policy.namespace, []).append(policy)
            elif policy.namespace in self._wide:
                self.ignored.append((policy, self._wide[policy.namespace]))
            else:
                self._wide[policy.namespace] = policy
        self._converted = {policy.key: self._convert(policy) for found in self._selecting.values() for policy in found}
        self.policies: list[Authorization] = [strict_policy(root_namespace)]
        self.policies += [policy for policy in self._converted.values() if policy is not None]

    def key_for(self, namespace: str, labels: Mapping[str, str]) -> str | None:
        """The key of the one policy that a workload names for its mTLS mode, or None if plaintext is let in everywhere."""
        static = f"{self._root}/{STRICT_POLICY_NAME}"
        for demand in self._demands:
            if demand.namespace in (None, namespace) and selects(demand.selector, labels):
                return static
        strict = self._inherited(namespace)
        for policy in self._selecting.get(namespace, ()):
            if selects(policy.spec.match_labels, labels):
                converted = self._converted[policy.key]
                if converted is not None:
                    return converted.key
                strict = _mode(policy.spec.mtls.mode, strict)
                break
        return static if strict else None

    def _inherited(self, namespace: str) -> bool:
        strict = False
        for scope in dict.fromkeys((self._root, namespace)):
            if scope in self._wide:
                strict = _mode(self._wide[scope].spec.mtls.mode, strict)
        return strict

    def _convert(self, policy: PeerAuthentication) -> Authorization | None:
        """The policy of its own that port-level modes need; None where no port differs from the rest."""
        strict = _mode(policy.spec.mtls.mode, self._inherited(policy.namespace))
        ports = tuple(sorted(port for port, mtls in policy.spec.port_level_mtls.items() if _mode(mtls.mode, strict) != strict))
        if not ports:
            return None
        if strict:
            match = Match(not_principals=ANY_PRINCIPAL, not_destination_ports=ports)
        else:
            match = Match(not_principals=ANY_PRINCIPAL, destination_ports=ports)
        return _deny(f"{CONVERTED_PREFIX}{policy.name}", policy.namespace, match)


def strict_policy(root_namespace: str) -> Authorization:
    return _deny(STRICT_POLICY_NAME, root_namespace, Match(not_principals=ANY_PRINCIPAL))


def _deny(name: str, namespace: str, match: Match) -> Authorization:
    return Authorization(name, namespace, PolicyScope.WORKLOAD, Action.DENY, (Rule((Clause((match,)),)),))


def _mode(mode: str, inherited: bool) -> bool:
    return inherited if mode == "UNSET" else mode == "STRICT"


def _age(policy: PeerAuthentication) -> tuple[str, bool, str, str]:
    """Oldest first. Without a time of creation: after those that have one."""
    return (policy.metadata.creation_timestamp or "~", policy.spec.mtls.mode != "STRICT", policy.namespace, policy.name)
