"""What is to be said of single objects: what of them is not in force as written, and why."""

from __future__ import annotations

from dataclasses import dataclass

from control.resolve.engine import Read, query
from control.resolve.policies import mtls_modes, policies
from control.resolve.tables import OBJECTS, labels_of
from control.resolve.waypoints import USE_WAYPOINT, admits, asked_of, asks, service_waypoint, waypoints, workload_waypoint
from mesh.model.manifest import (
    AuthorizationPolicy,
    Key,
    Namespace,
    Object,
    PeerAuthentication,
    Pod,
    RequestAuthentication,
    Service,
    ServiceEntry,
    WorkloadEntry,
)


@dataclass(frozen=True, slots=True)
class Status:
    """What is to be said of one object: `subject` is `Kind namespace/name`."""

    subject: str
    where: str
    notes: tuple[str, ...]


@query(90)
def statuses(read: Read, key: Key) -> Status | None:
    """None where there is nothing to say."""
    entry = read(OBJECTS, key)
    if entry is None:
        return None
    notes: tuple[str, ...] = ()
    if isinstance(entry, (AuthorizationPolicy, RequestAuthentication)):
        notes = read(policies, key).notes
    elif isinstance(entry, PeerAuthentication):
        notes = tuple(
            f"has no effect: {used.key} ({used.source}) is for the same pods and counts"
            for ignored, used in read(mtls_modes, entry.namespace).ignored
            if ignored.key == key
        )
    notes = (*notes, *_waypoint_notes(read, key, entry))
    return Status(str(key), entry.source, notes) if notes else None


def _waypoint_notes(read: Read, key: Key, entry: Object) -> tuple[str, ...]:
    """Said where a waypoint is asked for that does not work, since traffic goes on without it."""
    if not asks(entry.labels):
        return ()
    if isinstance(entry, Namespace):
        wanted = asked_of(entry.labels, entry.name)
        found = read(waypoints, wanted)
        why = found if isinstance(found, str) else "" if read(admits, (wanted, entry.name)) else "it lets no other namespace in"
    elif isinstance(entry, (Service, ServiceEntry)):
        why = read(service_waypoint, key).why
    elif isinstance(entry, (Pod, WorkloadEntry)):
        why = read(workload_waypoint, (entry.namespace, labels_of(entry.labels))).why
    else:
        why = ""
    return (f"{USE_WAYPOINT}={entry.labels[USE_WAYPOINT]}: {why}; traffic goes without one",) if why else ()


def _told(entry: Object) -> bool:
    return isinstance(entry, (AuthorizationPolicy, PeerAuthentication, RequestAuthentication)) or asks(entry.labels)


OBJECTS.spawn(statuses, _told)
