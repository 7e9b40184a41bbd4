"""Where routes send traffic: names in manifests → services → clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mesh.model.l7.names import BLACK_HOLE, cluster_name
from mesh.model.l7.notes import Notes, Problem
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.routes import Hash
from mesh.model.l7.services import MeshService
from mesh.model.l7.translate.destination_rule import MergedRule, effective, hashes_of
from mesh.model.manifest import Key


@dataclass(frozen=True, slots=True)
class Target:
    """A service, and the DestinationRules that count for it in the eyes of the proxy that the routes are for. `through`: what goes there
    meets its waypoint first, which alone chooses among subsets and tries again.
    """

    mesh: MeshService
    rule: MergedRule | None = None
    through: bool = False

    def has_subset(self, name: str) -> bool:
        return self.through or (self.rule is not None and name in self.rule.subsets)

    def hashes(self, port: int, subset: str) -> tuple[Hash, ...]:
        """What chooses the endpoint, where one is chosen by hash."""
        return hashes_of(effective(self.rule, port, subset).load_balancer)


Targets = Mapping[str, Target]
"""By hostname."""


def qualified(host: str, namespace: str, context: Context) -> str:
    """A name without a dot is one of the namespace of who wrote it."""
    return host if "." in host or host == "*" else f"{host}.{namespace}.svc.{context.cluster_domain}"


def service_host(name: str, namespace: str, context: Context) -> str:
    return f"{name}.{namespace}.svc.{context.cluster_domain}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The cluster of a destination. `known`: it will exist."""

    cluster: str
    known: bool
    hashes: tuple[Hash, ...] = ()


class Reference(NamedTuple):
    """From Gateway API's routes of a kind in `namespace` to a Service of another namespace, `of`."""

    kind: str
    namespace: str
    service: str
    of: str


@dataclass(frozen=True, slots=True)
class Finder:
    """Finds clusters for the routes of one service port. `frontend` is the service's host; `granted`: see `backends`."""

    targets: Targets
    port: int
    context: Context
    notes: Notes
    frontend: str = ""
    granted: frozenset[Reference] = frozenset()

    def find(self, host: str, subset: str, port: int | None, subject: Key, field: str) -> Chosen:
        """`host` is qualified. Without `port`: the service's only one, else the one that the client addressed."""
        target = self.targets.get(host)
        if target is None:
            self.notes.add(Problem.UNKNOWN_DESTINATION, subject, f"{field}.host", f"there is no service {host}: what goes there fails")
            return self._unknown(cluster_name(host, port or self.port, subset))
        ports = target.mesh.service.ports
        number = port or (ports[0].port if len(ports) == 1 else self.port)
        known = True
        if target.mesh.port(number) is None:
            self.notes.add(Problem.UNKNOWN_PORT, subject, f"{field}.port", f"{host} has no port {number}: what goes there fails")
            known = False
        if subset and target.through:
            message = f"{host} has a waypoint, which alone chooses among subsets: this goes there, and not to {subset} for sure"
            self.notes.add(Problem.NO_EFFECT, subject, f"{field}.subset", message)
        if subset and not target.has_subset(subset):
            self.notes.add(
                Problem.MISSING_SUBSET,
                subject,
                f"{field}.subset",
                f"no DestinationRule defines the subset {subset} of {host}: what goes there fails",
            )
            known = False
        name = cluster_name(host, number, subset)
        return Chosen(name, True, target.hashes(number, subset)) if known else self._unknown(name)

    def _unknown(self, name: str) -> Chosen:
        """Proxies answer 503 for a cluster that is none. gRPC clients would wait for it, so they are sent where nobody is."""
        return Chosen(BLACK_HOLE if self.context.kind is Kind.GRPC else name, False)
