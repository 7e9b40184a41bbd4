"""What is to be said of single objects: conditions for their status, in Istio's and the Gateway API's words.

    Accepted       the object was understood. False: this version was refused; an earlier one may be in force
    ResolvedRefs   what it names is there
    Programmed     those who carry it out were told
    Enforced       it has its full effect. False with NeedsWaypoint: what it asks for only a waypoint can do, and nothing leads through
                   one; with Bypassed: some route leads around it; with OtherNamespace: where it is, nobody reads it; with Conflict:
                   another object counts instead; with Unsupported: nobody can do that

`common` has the vocabulary, `readers` who goes by what; `policies`, `routing` and `gateways` know one family of kinds each.
"""

from __future__ import annotations

from control.catalog import Rejection, Subject
from control.kube.conditions import Wanted
from control.resolve.engine import Read, query
from control.resolve.status import gateways, policies, routing
from control.resolve.status.common import Status, accepted, asking, because, condition
from control.resolve.tables import OBJECTS, REJECTIONS
from control.resolve.waypoints import asks
from mesh.model.manifest import (
    AuthorizationPolicy,
    DestinationRule,
    Gateway,
    GatewayClass,
    GRPCRoute,
    HTTPRoute,
    IstioGateway,
    Key,
    Object,
    PeerAuthentication,
    RequestAuthentication,
    ServiceEntry,
    TCPRoute,
    Telemetry,
    TLSRoute,
    VirtualService,
    WorkloadEntry,
)

POLICIES = (AuthorizationPolicy, RequestAuthentication, PeerAuthentication, Telemetry)
ROUTES = (HTTPRoute, GRPCRoute, TLSRoute, TCPRoute)
ROUTING = (VirtualService, DestinationRule, ServiceEntry, WorkloadEntry)
GATEWAYS = (Gateway, GatewayClass, IstioGateway)
OURS = (*POLICIES, *ROUTES, *ROUTING, *GATEWAYS)


@query(90)
def statuses(read: Read, subject: Subject) -> Status | None:
    """None where there is nothing to say."""
    if not isinstance(subject, Key):
        return None
    entry = read(OBJECTS, subject)
    rejection = read(REJECTIONS, subject)
    found = _of(read, entry) if entry is not None else None
    return _refused(subject, rejection, found) if rejection is not None else found


OBJECTS.spawn(statuses, lambda entry: isinstance(entry, OURS) or asks(entry.labels))
REJECTIONS.spawn(statuses, lambda rejection: True)


def _of(read: Read, entry: Object) -> Status | None:
    if isinstance(entry, POLICIES):
        return policies.status(read, entry)
    if isinstance(entry, ROUTES):
        return routing.of_route(read, entry)
    if isinstance(entry, ROUTING):
        return routing.status(read, entry)
    if isinstance(entry, GATEWAYS):
        return gateways.status(read, entry)
    notes = asking(read, entry)
    return Status(entry.key, entry.source, 0, None, notes) if notes else None


def _refused(key: Key, rejection: Rejection, kept: Status | None) -> Status:
    """The newest version was refused; what is said of the one that stays in force, if there is one, is said beside that."""
    words = "; ".join(str(refusal) for entry in rejection.refused for refusal in entry.refusals)
    message = f"{words}; {rejection.kept}" if rejection.kept else words
    others = tuple(one for one in kept.wanted.conditions if one.type != "Accepted") if kept is not None and kept.wanted is not None else ()
    refused = condition("Accepted", False, "Invalid", message)
    parents = kept.wanted.parents if kept is not None and kept.wanted is not None else None
    generation = max(entry.generation for entry in rejection.refused)
    wanted = Wanted(generation, () if parents is not None else (refused, *others), parents)
    where = rejection.refused[0].refusals[0].where
    return Status(key, where, generation, wanted, kept.notes if kept is not None else ())


__all__ = ["OURS", "Status", "accepted", "because", "statuses"]
