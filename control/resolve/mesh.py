"""The resolution as the rest of the control plane uses it: changes of objects in, changes of resources out.

    batch = mesh.take()            on the event loop: what the sources said since the last time
    changes = mesh.settle(batch)   on a thread: all the work
    mesh.publish(changes)          on the event loop: what others may look at from now on

Only `settle` touches the engine, so that looking at what was published never waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from control.catalog import Catalog, Origin, Rejection, Subject
from control.resolve.engine import Engine, Query, Table
from control.resolve.l7.plans import Ref, Resource, plan, resources
from control.resolve.l7.views import View
from control.resolve.policies import converted, policies, strict
from control.resolve.services import services
from control.resolve.status import Status, statuses
from control.resolve.tables import OBJECTS, REJECTIONS, SETTINGS, MeshSettings
from control.resolve.workloads import node_identity, workloads
from mesh.model.identity import Identity
from mesh.model.manifest import Key, Object, Parsed, Refused
from mesh.model.policy import Authorization
from mesh.model.workload import Service, TunnelProtocol, Workload


@dataclass(frozen=True, slots=True)
class Batch:
    """What changed of the catalog: the objects in force now (None: no more) and the rejections."""

    objects: Mapping[Key, Object | None]
    rejections: Mapping[Subject, Rejection | None]
    pins: tuple[tuple[bool, View | Ref], ...] = ()


@dataclass(slots=True)
class Changes:
    """What follows from a batch. `resources` by their names on the wire (None: no more), in which a kind has no name twice."""

    workloads: dict[str, Workload | None] = field(default_factory=dict)
    services: dict[str, Service | None] = field(default_factory=dict)
    policies: dict[str, Authorization | None] = field(default_factory=dict)
    identities: list[tuple[tuple[str, Identity] | None, tuple[str, Identity] | None]] = field(default_factory=list)
    statuses: dict[Key, Status | None] = field(default_factory=dict)
    consequences: dict[Subject, tuple[str, ...]] = field(default_factory=dict)
    l7: dict[Ref, Resource | None] = field(default_factory=dict)
    pinned: tuple[View | Ref, ...] = ()
    """What was asked for and is worked out now, whether or not there is anything."""


class Mesh:
    """Everything that is known, and what was last published of it."""

    def __init__(self, settings: MeshSettings) -> None:
        self.settings = settings
        self.catalog = Catalog()
        self.workloads: dict[str, Workload] = {}
        self.services: dict[str, Service] = {}
        self.policies: dict[str, Authorization] = {}
        self.statuses: dict[Key, Status] = {}
        self.consequences: dict[Subject, tuple[str, ...]] = {}
        self.unenforceable = 0
        """How many policies deny all that they cover, for want of something better."""
        self.engine = Engine((workloads, services, policies, converted, strict, node_identity, statuses, resources))
        self._identities: Counter[tuple[str, Identity]] = Counter()
        self._pins: list[tuple[bool, View | Ref]] = []
        self.engine.set(SETTINGS, None, settings)
        self.engine.pin(strict, None)

    def put(self, source: str, origin: str, parsed: Parsed) -> bool:
        """Whether anything is different now."""
        return self.catalog.put(Origin(source, origin), parsed)

    def recall(self, parsed: Parsed) -> None:
        """What an earlier life accepted last, where what is put next is refused."""
        self.catalog.recall(parsed)

    def pin(self, wanted: View | Ref) -> None:
        """Work out all that a view needs, or one resource, from the next batch on, until it is unpinned as often."""
        self._pins.append((True, wanted))

    def unpin(self, wanted: View | Ref) -> None:
        self._pins.append((False, wanted))

    def take(self) -> Batch:
        """What has changed of the catalog, and what was pinned."""
        return replace(self.take_objects(), pins=self.take_pins().pins)

    def take_objects(self) -> Batch:
        changed = self.catalog.update()
        objects = {subject: self.catalog.objects.get(subject) for subject in changed if isinstance(subject, Key)}
        return Batch(objects, {subject: self.catalog.rejections.get(subject) for subject in changed})

    def take_pins(self, most: int | None = None) -> Batch:
        """What was pinned and unpinned, in order: up to `most` resources, or one whole view. What is let go and wanted again is two
        batches, since in one it would not have changed, and nobody would be told of it.
        """
        let_go: set[View | Ref] = set()
        count = weight = 0
        for on, wanted in self._pins:
            if on and (wanted in let_go or (most is not None and weight >= most)):
                break
            if not on:
                let_go.add(wanted)
            elif most is not None:
                weight += 1 if isinstance(wanted, Ref) else most
            count += 1
        pins, self._pins = tuple(self._pins[:count]), self._pins[count:]
        return Batch({}, {}, pins)

    @property
    def waiting(self) -> int:
        """How many pins and unpins are not taken yet."""
        return len(self._pins)

    def settle(self, batch: Batch) -> Changes:
        for key, entry in batch.objects.items():
            if entry is None:
                self.engine.unset(OBJECTS, key)
            else:
                self.engine.set(OBJECTS, key, entry)
        for subject, rejection in batch.rejections.items():
            if rejection is None:
                self.engine.unset(REJECTIONS, subject)
            else:
                self.engine.set(REJECTIONS, subject, rejection)
        for on, wanted in batch.pins:
            table: Query[Any, Any] = resources if isinstance(wanted, Ref) else plan
            (self.engine.pin if on else self.engine.unpin)(table, wanted)
        changes = _changes(self.engine.settle())
        changes.pinned = tuple(wanted for on, wanted in batch.pins if on)
        return changes

    def resources_of(self, view: View) -> dict[Ref, Resource]:
        """Everything that is worked out for a view. Looks at the engine: to be called where `settle` is."""
        found = {}
        for ref in self.engine.args(resources):
            made = self.engine.value(resources, ref)
            if ref.view == view and made is not None:
                found[ref] = made
        return found

    def publish(self, changes: Changes) -> None:
        _apply(self.workloads, changes.workloads)
        _apply(self.services, changes.services)
        for name, policy in changes.policies.items():
            before = self.policies.get(name)
            self.unenforceable += (policy is not None and not policy.enforceable) - (before is not None and not before.enforceable)
        _apply(self.policies, changes.policies)
        _apply(self.statuses, changes.statuses)
        for subject, consequences in changes.consequences.items():
            if any(consequences):
                self.consequences[subject] = consequences
            else:
                self.consequences.pop(subject, None)
        for left, came in changes.identities:
            if left is not None:
                self._identities[left] -= 1
                if not self._identities[left]:
                    del self._identities[left]
            if came is not None:
                self._identities[came] += 1

    def runs_on(self, node: str, identity: Identity) -> bool:
        """Whether a pod with this identity is on the node."""
        return (node, identity) in self._identities

    def nodes(self) -> set[str]:
        """Those on which pods of the mesh run: their tunnels hold certificates, connected or not."""
        return {made.node for made in self.workloads.values() if made.protocol is TunnelProtocol.HBONE and made.node}

    def identities(self) -> dict[str, set[Identity]]:
        found: dict[str, set[Identity]] = {}
        for node, identity in self._identities:
            found.setdefault(node, set()).add(identity)
        return found

    def refused(self) -> list[tuple[Refused, str]]:
        """What is refused now, each with what follows from that; "" where nothing but its absence does."""
        return self.refused_view()()

    def refused_view(self) -> Callable[[], list[tuple[Refused, str]]]:
        """As `refused`, as of now; the work is done where what is returned is called, on any thread."""
        rejections, consequences = dict(self.catalog.rejections), dict(self.consequences)

        def view() -> list[tuple[Refused, str]]:
            found = []
            for subject, rejection in sorted(rejections.items(), key=lambda item: str(item[0])):
                told = consequences.get(subject, ())
                for index, entry in enumerate(rejection.refused):
                    found.append((entry, rejection.kept or (told[index] if index < len(told) else "")))
            return found

        return view


def _apply(known: dict[Any, Any], changes: Mapping[Any, Any]) -> None:
    for name, value in changes.items():
        if value is None:
            known.pop(name, None)
        else:
            known[name] = value


def _changes(found: Mapping[tuple[Table[Any, Any], Any], tuple[Any, Any]]) -> Changes:
    changes = Changes()
    for (table, arg), (before, now) in found.items():
        if table is workloads:
            _names(changes.workloads, before, now, lambda value: value.uid)
        elif table is services:
            _names(changes.services, before, now, lambda value: str(value.key))
        elif table is policies:
            _names(changes.policies, before and before.authorizations, now and now.authorizations, lambda value: value.key)
            changes.consequences[arg] = now.consequences if now is not None else ()
        elif table is node_identity:
            changes.identities.append((before, now))
        elif table is statuses:
            changes.statuses[arg] = now
        elif table is resources:
            changes.l7[arg] = now
        else:
            _names(changes.policies, before, now, lambda value: value.key)
    return changes


def _names(into: dict[str, Any], before: Iterable[Any] | None, now: Iterable[Any] | None, name: Callable[[Any], str]) -> None:
    """What one cell's change is to its resources. A name that left one cell may have come to another: who has it wins."""
    old = {name(value): value for value in before or ()}
    new = {name(value): value for value in now or ()}
    for gone in old.keys() - new.keys():
        into.setdefault(gone, None)
    into.update({key: value for key, value in new.items() if old.get(key) != value})
