"""The vocabulary of statuses, and what is said of objects of any kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from control.kube.conditions import Condition, Wanted
from control.resolve.engine import Read
from control.resolve.tables import labels_of
from control.resolve.waypoints import USE_WAYPOINT, admits, asked_of, asks, service_waypoint, waypoints, workload_waypoint
from mesh.model.manifest import Key, Namespace, Object, Pod, Service, ServiceEntry, WorkloadEntry, unsupported

NEEDS_WAYPOINT = "NeedsWaypoint"
BYPASSED = "Bypassed"
OTHER_NAMESPACE = "OtherNamespace"
CONFLICT = "Conflict"
UNSUPPORTED = "Unsupported"


@dataclass(frozen=True, slots=True)
class Status:
    """What is to be said of one object. `generation`: of which version; 0 where the object says none. `wanted`: for its status, None for
    kinds whose status is not ours. `notes`: what is not in force as written, a sentence each.
    """

    key: Key
    where: str
    generation: int
    wanted: Wanted | None
    notes: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        return str(self.key)


def made(read: Read, entry: Object, *conditions: Condition, notes: Iterable[str] = (), wanted: Wanted | None = None) -> Status:
    """The status of an object that was accepted: that it was, with what of it is not honoured, and `conditions`."""
    generation = entry.metadata.generation or 0
    said = (*notes, *asking(read, entry))
    full = wanted if wanted is not None else Wanted(generation, (accepted(entry), *conditions))
    return Status(entry.key, entry.source, generation, full, tuple(dict.fromkeys(said)))


def condition(kind: str, status: bool, reason: str, message: str = "") -> Condition:
    return Condition(kind, "True" if status else "False", reason, message)


def accepted(entry: Object, *more: str) -> Condition:
    """With the fields that are known but cannot be honoured, so that nobody believes that they are."""
    return condition("Accepted", True, "Accepted", because((*ignored(entry), *more)))


def ignored(entry: Object) -> tuple[str, ...]:
    return tuple(f"{path} has no effect: {why}" for path, why in unsupported(entry))


def because(sentences: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(sentences))


def asking(read: Read, entry: Object) -> tuple[str, ...]:
    """Said where a waypoint is asked for that does not work, since traffic goes on without it."""
    if not asks(entry.labels):
        return ()
    if isinstance(entry, Namespace):
        wanted = asked_of(entry.labels, entry.name)
        found = read(waypoints, wanted)
        why = found if isinstance(found, str) else "" if read(admits, (wanted, entry.name)) else "it lets no other namespace in"
    elif isinstance(entry, (Service, ServiceEntry)):
        why = read(service_waypoint, entry.key).why
    elif isinstance(entry, (Pod, WorkloadEntry)):
        why = read(workload_waypoint, (entry.namespace, labels_of(entry.labels))).why
    else:
        why = ""
    return (f"{USE_WAYPOINT}={entry.labels[USE_WAYPOINT]}: {why}; traffic goes without one",) if why else ()
