"""What findings are derived from: everything that was given, resolved as the control plane would resolve it, and indexes over it.

    given → the resolution's `Mesh`   what waypoint serves whom, which policies cover whom, who is behind which service
          → indexes                   hosts, what runs, whose names there are

Manifests say less than a cluster knows, so some things are assumed for the resolution: what makes pods has made one, which is ready and
enrolled as its labels say, and a waypoint's Gateway in a file has got its Service.

And they say only some of what a cluster holds. That something is missing is found only where the input would have it: everywhere, if it
is a cluster; in a namespace whose Namespace is in the input together with what runs there; and elsewhere if it looks like something else,
misspelt. What could not be looked up is remembered in `unchecked`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar, cast

from control.analyze.given import Foreign, Given
from control.analyze.hosts import Host, Hosts
from control.analyze.runs import Runs, runs_of
from control.resolve import Mesh, MeshSettings
from control.resolve.engine import Query
from control.resolve.services import described, services_for
from control.resolve.tables import labels_of
from control.resolve.waypoints import Use, Waypoint, admits, service_waypoint, waypoints, workload_waypoint
from mesh.model.errors import BugError
from mesh.model.manifest import (
    Deployment,
    Gateway,
    IstioGateway,
    Key,
    Metadata,
    Namespace,
    Object,
    Parsed,
    Pod,
    Service,
    ServiceAccount,
    ServiceEntry,
    ServicePort,
    ServiceSpec,
    VirtualService,
    WorkloadEntry,
)
from mesh.model.manifest.gatewayapi.gateways import WAYPOINT_CLASS
from mesh.model.workload import NamespacedHostname

T = TypeVar("T", bound=Object)
A = TypeVar("A", bound=Hashable)
V = TypeVar("V")

SOURCE = "analysis"
PODS, SERVICES, ACCOUNTS, GATEWAYS, DELEGATES, LABELS, NAMESPACES, SECRETS = (
    *("workloads", "services", "service accounts", "Gateways", "delegates", "labels of the namespace", "namespaces", "Secrets"),
)
SECRET_KINDS = ("Secret", "SealedSecret", "ExternalSecret", "Certificate")
"""What is a Secret, or becomes one."""


class World:
    """`objects` are those that count: of several with one name the first."""

    def __init__(self, given: Given, settings: MeshSettings) -> None:
        self.given = given
        self.settings = settings
        self.objects: dict[Key, Object] = {}
        for entry in given.objects:
            self.objects.setdefault(entry.key, entry)
        self._of: dict[type[Object], list[Any]] = {}
        for entry in self.objects.values():
            self._of.setdefault(type(entry), []).append(entry)
        self.namespaces: Mapping[str, Namespace] = {entry.name: entry for entry in self.of(Namespace)}
        self.runs: list[Runs] = runs_of(given, self.namespaces)
        self._runs_in: dict[str, list[Runs]] = {}
        for runs in self.runs:
            self._runs_in.setdefault(runs.namespace, []).append(runs)
        self.unchecked: set[tuple[str, str]] = set()
        self._present = _present(self.objects.values(), self.runs, given.foreign)
        self.mesh = Mesh(settings)
        self._asked: set[tuple[Query[Any, Any], Any]] = set()
        self._resolve()
        self.hosts = Hosts(self.objects.values(), settings)
        self._behind: dict[Key, list[Runs]] = {}
        self._entries_behind: dict[Key, list[WorkloadEntry]] = {}
        self._index_services()

    # What there is

    def of(self, cls: type[T]) -> list[T]:
        """Every object of a class, and of those made from it."""
        return [entry for known, found in self._of.items() if issubclass(known, cls) for entry in found]

    def find(self, cls: type[T], namespace: str, name: str) -> T | None:
        found = self.objects.get(Key(cls.TYPE, namespace, name))
        return found if isinstance(found, cls) else None

    def runs_in(self, namespace: str) -> list[Runs]:
        return self._runs_in.get(namespace, [])

    def selected(self, namespace: str | None, labels: Mapping[str, str]) -> list[Runs]:
        """What runs in a namespace (None: in any) and has these labels."""
        candidates = self.runs if namespace is None else self.runs_in(namespace)
        return [runs for runs in candidates if all(runs.labels.get(key) == value for key, value in labels.items())]

    def behind(self, key: Key) -> list[Runs]:
        """What runs behind a Service or ServiceEntry."""
        return self._behind.get(key, [])

    def services_of(self, runs: Runs) -> tuple[Key, ...]:
        """The Services and ServiceEntries that it is behind."""
        return self.ask(services_for, (runs.namespace, labels_of(runs.labels)))

    def entries_behind(self, key: Key) -> list[WorkloadEntry]:
        return self._entries_behind.get(key, [])

    def knows(self, what: str, namespace: str) -> bool:
        """Whether what is not here of this sort is not there at all. If that cannot be told, it is remembered."""
        if what == SECRETS:
            known = False  # many are made by hand, and none is listed from a cluster
        elif self.given.complete:
            known = True
        elif what in (LABELS, GATEWAYS):
            known = namespace in self.namespaces
        else:
            known = namespace in self.namespaces and ((PODS, namespace) in self._present or (SERVICES, namespace) in self._present)
        if not known:
            self.unchecked.add((what, namespace))
        return known

    def lacks(self, what: str, namespace: str, meant: str) -> bool:
        """As `knows`, of one thing that is not here. `meant`: what is here and is called much the same, ""  for nothing: where there are
        others of its sort, it is taken for that one misspelt.
        """
        return (bool(meant) and (what, namespace) in self._present) or self.knows(what, namespace)

    # What the resolution says

    def ask(self, table: Query[A, V], arg: A) -> V:
        """What the resolution says, computed when it is first asked about."""
        engine = self.mesh.engine
        if (table, arg) not in self._asked:
            self._asked.add((table, arg))
            engine.pin(table, arg)
            engine.settle()
            self._no_bugs()
        return cast(V, engine.value(table, arg))

    def service_use(self, key: Key) -> Use:
        """The waypoint that a Service or ServiceEntry is reached through."""
        return self.ask(service_waypoint, key)

    def runs_use(self, runs: Runs) -> Use:
        return self.ask(workload_waypoint, (runs.namespace, labels_of(runs.labels)))

    def waypoint(self, key: Key) -> Waypoint | str:
        """The waypoint that a Gateway is, or why it is none."""
        return self.ask(waypoints, key)

    def admits(self, key: Key, namespace: str) -> bool:
        return self.ask(admits, (key, namespace))

    def passed_by(self, host: Host) -> bool:
        """Whether clients get past the waypoint that a service asks for, since there is no address to go there by. Files say only of some
        Services that they will have none.
        """
        if isinstance(host.entry, Service):
            return host.entry.spec.headless
        made = self.ask(described, NamespacedHostname(host.namespace, host.name))
        return made is not None and not (made.vips or made.vip_networks)

    def routed(self, key: Key) -> bool | None:
        """Whether a waypoint routes what is sent to a service; None where only the namespace's labels could tell, and are not here."""
        if self.service_use(key).waypoint is not None:
            return True
        entry = self.objects[key]
        return False if "istio.io/use-waypoint" in entry.labels or self.knows(LABELS, entry.namespace) else None

    def _resolve(self) -> None:
        runs = {made.stand_in.key: made.stand_in for made in self.runs}
        for key, entry in self.objects.items():
            if not isinstance(entry, (Pod, Deployment)):
                self.mesh.put(SOURCE, str(key), Parsed((entry,)))
        for key, pod in runs.items():
            self.mesh.put(SOURCE, str(key), Parsed((pod,)))
        for gateway in self.of(Gateway):
            key = Key(Service.TYPE, gateway.namespace, gateway.name)
            if gateway.spec.gateway_class_name == WAYPOINT_CLASS and key not in self.objects and gateway.key not in self.given.live:
                self.mesh.put(SOURCE, str(key), Parsed((_service_of(gateway),)))
        for refusals in self.given.refusals:
            self.mesh.put(SOURCE, f"refused {refusals.subject.where} {refusals.subject.name}", Parsed(refused=(refusals.refused,)))
        changes = self.mesh.settle(self.mesh.take())
        self.mesh.publish(changes)
        self._no_bugs()

    def _no_bugs(self) -> None:
        for table, arg, bug in self.mesh.engine.bugs:
            raise BugError(f"{table} {arg}: {bug}") from bug

    def _index_services(self) -> None:
        for runs in self.runs:
            for key in self.services_of(runs):
                self._behind.setdefault(key, []).append(runs)
        for entry in self.of(WorkloadEntry):
            for key in self.ask(services_for, (entry.namespace, labels_of({**entry.labels, **entry.spec.labels}))):
                self._entries_behind.setdefault(key, []).append(entry)


def _present(entries: Iterable[Object], runs: Iterable[Runs], foreign: Iterable[Foreign]) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = {(PODS, made.namespace) for made in runs}
    for entry in entries:
        if isinstance(entry, (Service, ServiceEntry)):
            found.add((SERVICES, entry.namespace))
        elif isinstance(entry, WorkloadEntry):
            found.add((PODS, entry.namespace))
        elif isinstance(entry, ServiceAccount):
            found.add((ACCOUNTS, entry.namespace))
        elif isinstance(entry, (Gateway, IstioGateway)):
            found.add((GATEWAYS, entry.namespace))
        elif isinstance(entry, VirtualService) and entry.spec.delegated:
            found.add((DELEGATES, entry.namespace))
    found |= {(SECRETS, other.subject.namespace) for other in foreign if other.kind in SECRET_KINDS}
    return found


def _service_of(gateway: Gateway) -> Service:
    """What a waypoint's Gateway gets from whoever runs it."""
    ports = tuple(ServicePort(port=listener.port, name=listener.name) for listener in gateway.spec.listeners)
    metadata = Metadata(name=gateway.name, namespace=gateway.namespace)
    return Service(where=gateway.where, metadata=metadata, spec=ServiceSpec(ports=ports))
