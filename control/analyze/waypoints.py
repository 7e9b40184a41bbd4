"""Waypoints: whether what is asked for is there, works, and is for who asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from control.analyze.codes import mesh as codes
from control.analyze.findings import Findings
from control.analyze.given import Subject, about
from control.analyze.near import near
from control.analyze.world import GATEWAYS, LABELS, World
from control.resolve.waypoints import SERVICES, USE_WAYPOINT, USE_WAYPOINT_NAMESPACE, WAYPOINT_FOR, WORKLOADS, asked_of, asks
from mesh.model.enrolment import MODE_AMBIENT, MODE_LABEL
from mesh.model.manifest import Gateway, Key, Namespace, Service, ServiceEntry, WorkloadEntry

PURPOSES = ("service", "workload", "all", "none")


@dataclass(frozen=True, slots=True)
class Ask:
    """Somebody who asks for a waypoint. `kind` is what it would be to it; "" for a namespace, which asks for all that is in it."""

    subject: Subject
    labels: Mapping[str, str]
    path: str
    namespace: str
    kind: str

    @property
    def wanted(self) -> Key:
        return asked_of(self.labels, self.namespace)

    @property
    def field(self) -> str:
        return f"{self.path}[{USE_WAYPOINT}]"


def check(world: World, found: Findings) -> None:
    asking = list(_asking(world))
    for ask in asking:
        if _is_there(world, ask, found):
            _is_for(world, ask, found)
        _inside(world, ask, found)
    used = {ask.wanted for ask in asking}
    for gateway in world.of(Gateway):
        if gateway.spec.waypoint:
            _waypoint(world, gateway, used, found)


def _asking(world: World) -> Iterator[Ask]:
    for entry in world.objects.values():
        if not asks(entry.labels):
            continue
        if isinstance(entry, Namespace):
            yield Ask(about(entry), entry.labels, "metadata.labels", entry.name, "")
        elif isinstance(entry, (Service, ServiceEntry)):
            yield Ask(about(entry), entry.labels, "metadata.labels", entry.namespace, SERVICES)
        elif isinstance(entry, WorkloadEntry):
            yield Ask(about(entry), entry.labels, "metadata.labels", entry.namespace, WORKLOADS)
    for runs in world.runs:
        if asks(runs.labels):
            yield Ask(runs.subject, runs.labels, f"{runs.metadata}.labels", runs.namespace, WORKLOADS)


def _is_there(world: World, ask: Ask, found: Findings) -> bool:
    key = ask.wanted
    state = world.waypoint(key)
    if not isinstance(state, str):
        return True
    gateway = world.find(Gateway, key.namespace, key.name)
    if gateway is None:
        own = [other.name for other in world.of(Gateway) if other.spec.waypoint and other.namespace == key.namespace]
        if world.lacks(GATEWAYS, key.namespace, near(key.name, own)):
            message = f"there is no waypoint {key.namespace}/{key.name}: traffic goes without one"
            found.add(codes.NO_WAYPOINT, ask.subject, ask.field, message, _instead(world, key))
    elif not gateway.spec.waypoint:
        message = f"the Gateway {key.namespace}/{key.name} is of class {gateway.spec.gateway_class_name}: traffic goes without a waypoint"
        hint = "name a Gateway with gatewayClassName: istio-waypoint"
        found.add(codes.NO_SUCH_CLASS_OF_WAYPOINT, ask.subject, ask.field, message, hint, related=[about(gateway)])
    else:
        message = f"the waypoint {key.namespace}/{key.name} is not ready, since it has no Service: traffic goes without one"
        hint = f"look at kubectl describe gateway -n {key.namespace} {key.name}"
        found.add(codes.WAYPOINT_NOT_READY, ask.subject, ask.field, message, hint, related=[about(gateway)])
    return False


def _instead(world: World, key: Key) -> str:
    there = [gateway for gateway in world.of(Gateway) if gateway.spec.waypoint]
    own = [gateway.name for gateway in there if gateway.namespace == key.namespace]
    meant = near(key.name, own)
    if meant:
        return f"did you mean {meant}?"
    elsewhere = [gateway.namespace for gateway in there if gateway.name == key.name]
    if elsewhere:
        return f"there is one in {elsewhere[0]}: label it {USE_WAYPOINT_NAMESPACE}={elsewhere[0]} as well"
    if own:
        return f"waypoints of {key.namespace}: {', '.join(sorted(own))}"
    return f"create a Gateway {key.name} with gatewayClassName: istio-waypoint in {key.namespace}"


def _is_for(world: World, ask: Ask, found: Findings) -> None:
    key = ask.wanted
    gateway = world.find(Gateway, key.namespace, key.name)
    state = world.waypoint(key)
    assert gateway is not None
    assert not isinstance(state, str)
    if key.namespace != ask.namespace and not world.admits(key, ask.namespace):
        # Whom a selector lets in is in the labels of the namespace.
        selecting = any(listener.allowed_routes.namespaces.selector is not None for listener in gateway.spec.listeners)
        if not selecting or world.knows(LABELS, ask.namespace):
            message = f"no listener of the waypoint {key.namespace}/{key.name} lets the namespace {ask.namespace} in"
            hint = "set allowedRoutes.namespaces of its listener"
            found.add(codes.WAYPOINT_CLOSED, ask.subject, ask.field, message, hint, related=[about(gateway)])
    elif ask.kind and ask.kind not in state.takes:
        takes = ", ".join(f"{kind}s" for kind in sorted(state.takes)) or "nothing"
        message = f"the waypoint {key.namespace}/{key.name} takes {takes}, and this is a {ask.kind}"
        hint = f"label the Gateway {WAYPOINT_FOR}={'all' if state.takes else ask.kind}"
        found.add(codes.WAYPOINT_MISMATCH, ask.subject, ask.field, message, hint, related=[about(gateway)])


def _inside(world: World, ask: Ask, found: Findings) -> None:
    """Whether who asks is in the mesh. A Service need not be: clients in the mesh go by its waypoint all the same."""
    if ask.kind == SERVICES or not world.knows(LABELS, ask.namespace):
        return
    namespace = world.namespaces.get(ask.namespace)
    ambient = namespace is not None and namespace.labels.get(MODE_LABEL) == MODE_AMBIENT
    if ask.kind == WORKLOADS:
        outside = any(runs.subject == ask.subject and runs.in_mesh is False for runs in world.runs_in(ask.namespace))
    else:
        outside = not ambient and not any(runs.in_mesh for runs in world.runs_in(ask.namespace))
    if outside:
        what = "these pods are" if ask.kind else "nothing of the namespace is"
        message = f"a waypoint is asked for, but {what} {'outside' if ask.kind else 'in'} the mesh"
        hint = f"label the namespace {MODE_LABEL}={MODE_AMBIENT}, or remove {USE_WAYPOINT}"
        found.add(codes.WAYPOINT_OUTSIDE, ask.subject, ask.field, message, hint)


def _waypoint(world: World, gateway: Gateway, used: Iterable[Key], found: Findings) -> None:
    purpose = gateway.labels.get(WAYPOINT_FOR)
    field = f"metadata.labels[{WAYPOINT_FOR}]"
    if purpose is not None and purpose not in PURPOSES:
        meant = near(purpose, PURPOSES)
        hint = f"did you mean {meant}?" if meant else f"write one of {', '.join(PURPOSES)}"
        found.add(codes.UNKNOWN_WAYPOINT_FOR, about(gateway), field, f"{purpose!r} is nothing that a waypoint can be for", hint)
    if gateway.key in used or purpose == "none":
        return
    # Somebody may use it whose labels are not here.
    open_to_others = any(listener.allowed_routes.namespaces.from_ != "Same" for listener in gateway.spec.listeners)
    if world.given.complete or (not open_to_others and world.knows(LABELS, gateway.namespace)):
        message = f"nothing asks for this waypoint with {USE_WAYPOINT}={gateway.name}"
        hint = f"label the namespace or a Service {USE_WAYPOINT}={gateway.name}"
        found.add(codes.UNUSED_WAYPOINT, about(gateway), "metadata.name", message, hint)
