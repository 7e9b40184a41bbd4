"""What is to be said of single objects: what of them is not in force as written, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from control.resolve.engine import Group, Read, query
from control.resolve.policies import USE_WAYPOINT, mtls_modes, policies
from control.resolve.tables import OBJECTS
from mesh.model.manifest import AuthorizationPolicy, Key, Object, PeerAuthentication


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
    if isinstance(entry, AuthorizationPolicy):
        notes = read(policies, key).notes
    elif isinstance(entry, PeerAuthentication):
        notes = tuple(
            f"has no effect: {used.key} ({used.source}) is for the same pods and counts"
            for ignored, used in read(mtls_modes, entry.namespace).ignored
            if ignored.key == key
        )
    waypoint = entry.labels.get(USE_WAYPOINT, "none")
    if waypoint != "none":
        # Said, since its traffic goes on without one.
        notes = (*notes, f"{USE_WAYPOINT}={waypoint}: there is no such waypoint; traffic goes without one")
    return Status(str(key), entry.source, notes) if notes else None


def _told(key: Key, entry: Object) -> Iterable[Key]:
    if isinstance(entry, (AuthorizationPolicy, PeerAuthentication)) or entry.labels.get(USE_WAYPOINT, "none") != "none":
        yield key


TOLD: Group[Key, Object | None, Key] = Group("objects with a status", OBJECTS, _told, spawns=statuses)
