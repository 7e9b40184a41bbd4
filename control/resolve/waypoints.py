"""Waypoints: which there are, and what asks for which.

A Gateway of class istio-waypoint whose Service (of the same name) is there is a waypoint. `istio.io/use-waypoint` on a Service,
ServiceEntry, pod or WorkloadEntry asks for one, and on a namespace for all in it that does not say otherwise; `none` asks for none.
What asks for one that does not work goes without, which is said; policies that need it then deny.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from control.resolve.engine import Read, query
from control.resolve.tables import OBJECTS, SETTINGS, Labels, namespace_labels
from mesh.model.manifest import Gateway, Key, Service
from mesh.model.workload import GatewayAddress, NamespacedHostname

USE_WAYPOINT, USE_WAYPOINT_NAMESPACE = "istio.io/use-waypoint", "istio.io/use-waypoint-namespace"
WAYPOINT_FOR = "istio.io/waypoint-for"
GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
SERVICES, WORKLOADS = "service", "workload"
TAKES = {"all": (SERVICES, WORKLOADS), SERVICES: (SERVICES,), WORKLOADS: (WORKLOADS,), "none": ()}
"""What a waypoint takes, by its label `WAYPOINT_FOR`."""


@dataclass(frozen=True, slots=True)
class Waypoint:
    """One that works. `takes`: what may be addressed through it, of `service` and `workload`."""

    key: Key
    address: GatewayAddress
    takes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Use:
    """What came of asking for a waypoint. `wanted` is what was asked for, None for nothing; `why` says what is wrong with it."""

    waypoint: Waypoint | None = None
    wanted: Key | None = None
    why: str = ""


NO_USE = Use()


def gateway_key(namespace: str, name: str) -> Key:
    return Key(Gateway.TYPE, namespace, name)


@query(20)
def waypoints(read: Read, key: Key) -> Waypoint | str:
    """The waypoint that a Gateway is, or why it is none."""
    gateway = read(OBJECTS, key)
    if not isinstance(gateway, Gateway):
        return "there is no such waypoint"
    if not gateway.spec.waypoint:
        return f"the Gateway is of class {gateway.spec.gateway_class_name}, not istio-waypoint"
    service = read(OBJECTS, Key(Service.TYPE, key.namespace, key.name))
    if not isinstance(service, Service):
        return f"it is not ready: there is no Service {key.namespace}/{key.name}"
    takes = TAKES.get(wanted := gateway.labels.get(WAYPOINT_FOR, SERVICES))
    if takes is None:
        return f"its label {WAYPOINT_FOR} is {wanted}; accepted: {', '.join(TAKES)}"
    host = f"{key.name}.{key.namespace}.svc.{read(SETTINGS, None).cluster_domain}"
    return Waypoint(key, GatewayAddress(NamespacedHostname(key.namespace, host)), frozenset(takes))


@query(21)
def admits(read: Read, arg: tuple[Key, str]) -> bool:
    """Whether a Gateway's listeners let another namespace use it."""
    key, namespace = arg
    gateway = read(OBJECTS, key)
    if not isinstance(gateway, Gateway):
        return False
    for listener in gateway.spec.listeners:
        allowed = listener.allowed_routes.namespaces
        if allowed.from_ == "All" or (allowed.from_ == "Same" and namespace == key.namespace):
            return True
        if allowed.selector is not None and allowed.selector.selects(read(namespace_labels, namespace)):
            return True
    return False


@query(22)
def service_waypoint(read: Read, key: Key) -> Use:
    """What a Service or ServiceEntry asks for. Waypoints themselves are not reached through others."""
    entry = read(OBJECTS, key)
    if entry is None or _is_waypoint(read, entry.namespace, entry.labels, entry.name):
        return NO_USE
    return _use(read, SERVICES, entry.namespace, entry.labels)


@query(22)
def workload_waypoint(read: Read, arg: tuple[str, Labels]) -> Use:
    """What pods and WorkloadEntries of a namespace with these labels ask for."""
    namespace, pairs = arg
    labels = dict(pairs)
    if _is_waypoint(read, namespace, labels, ""):
        return NO_USE
    return _use(read, WORKLOADS, namespace, labels)


def asks(labels: Mapping[str, str]) -> bool:
    """Whether labels ask for a waypoint."""
    return labels.get(USE_WAYPOINT, "none") not in ("none", "")


def asked_of(labels: Mapping[str, str], namespace: str) -> Key:
    """The Gateway that labels which ask for a waypoint name."""
    return gateway_key(labels.get(USE_WAYPOINT_NAMESPACE) or namespace, labels[USE_WAYPOINT])


def _use(read: Read, kind: str, namespace: str, labels: Mapping[str, str]) -> Use:
    own = USE_WAYPOINT in labels
    holder = labels if own else read(namespace_labels, namespace)
    if not asks(holder):
        return NO_USE
    key = asked_of(holder, namespace)
    found = read(waypoints, key)
    if isinstance(found, str):
        return Use(None, key, found)
    if key.namespace != namespace and not read(admits, (key, namespace)):
        return Use(None, key, f"none of its listeners allows routes from namespace {namespace}")
    if kind not in found.takes:
        # A namespace's waypoint is for what it takes; only who asks for it by name wants to be told.
        return Use(None, key, f"it is not for a {kind} ({WAYPOINT_FOR})") if own else NO_USE
    return Use(found, key)


def _is_waypoint(read: Read, namespace: str, labels: Mapping[str, str], name: str) -> bool:
    """Whether labels are of a waypoint's pods, or a name is of its Service."""
    gateway = labels.get(GATEWAY_NAME) or name
    return bool(gateway) and isinstance(read(waypoints, gateway_key(namespace, gateway)), Waypoint)
