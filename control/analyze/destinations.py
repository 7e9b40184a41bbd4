"""Where routes lead: whether the service, its port and its subset are there, and may be seen from where the route is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from control.analyze.codes import traffic as codes
from control.analyze.findings import Findings
from control.analyze.given import Subject, about
from control.analyze.hosts import Host
from control.analyze.near import near
from control.analyze.world import SERVICES, World
from control.resolve.l7.lookup import destination_rule
from control.resolve.l7.views import View
from mesh.model.l7.profile import Kind
from mesh.model.manifest import DestinationRule, Key, Service
from mesh.model.workload import NamespacedHostname


@dataclass(frozen=True, slots=True)
class Reference:
    """One destination, as somebody wrote it. `host` is a full name. `host_field` and so on are where its parts stand. `at_waypoint`: it is
    a waypoint that goes there.
    """

    subject: Subject
    namespace: str
    host: str
    host_field: str
    port: int | None = None
    port_field: str = ""
    subset: str = ""
    subset_field: str = ""
    at_waypoint: bool = False


class Subsets:
    """The DestinationRules of every host, and which subsets of it a route may name."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._of: dict[str, list[DestinationRule]] = {}
        for rule in world.of(DestinationRule):
            self._of.setdefault(world.hosts.qualified(rule.spec.host, rule.namespace), []).append(rule)

    def rules(self, host: str) -> list[DestinationRule]:
        labels = host.split(".")
        wild = (rule for index in range(1, len(labels)) for rule in self._of.get("*." + ".".join(labels[index:]), ()))
        return [*self._of.get(host, ()), *wild]

    def of(self, host: Host, namespaces: Iterable[str]) -> set[str]:
        """The subsets of a host for proxies of some namespaces."""
        found: set[str] = set()
        for namespace in namespaces:
            view = View(Kind.WAYPOINT, namespace)
            merged = self._world.ask(destination_rule, (view, NamespacedHostname(host.namespace, host.name))).value
            found |= merged.subsets.keys() if merged is not None else set()
        return found


def looked_up(world: World, host: Host) -> set[str]:
    """The namespaces in which a waypoint looks for DestinationRules of a host."""
    use = world.service_use(host.key)
    own = {use.waypoint.key.namespace} if use.waypoint is not None else set()
    return {host.namespace, world.settings.root_namespace, *own}


def check(world: World, subsets: Subsets, reference: Reference, found: Findings) -> None:
    hosts = world.hosts.find(reference.host)
    if not hosts:
        _unknown(world, reference, found)
        return
    visible = [host for host in hosts if host.seen_from(reference.namespace)]
    # What is not exported is hidden from clients' own proxies, not from waypoints.
    if not visible and not reference.at_waypoint:
        hidden = hosts[0]
        message = f"{reference.host} is not exported to {reference.namespace}: proxies of clients there do not see it"
        hint = f"add {reference.namespace} to exportTo of {hidden.key}"
        found.add(codes.HIDDEN_HOST, reference.subject, reference.host_field, message, hint, related=[about(hidden.entry)])
        return
    _port(reference, visible or hosts, found)
    _subset(world, subsets, reference, visible or hosts, found)


def _unknown(world: World, reference: Reference, found: Findings) -> None:
    meant = world.hosts.meant(reference.host)
    namespace = world.hosts.namespace_of(reference.host)
    external = _external(world, reference.host)
    if external is not None:
        message = f"{reference.host} is a Service of the type ExternalName, which nothing is routed to"
        hint = f"make a ServiceEntry for {external.spec.external_name or 'the name that it stands for'}"
        found.add(codes.UNKNOWN_HOST, reference.subject, reference.host_field, message, hint, related=[about(external)])
    elif meant:
        message = f"there is no service {reference.host}: only a name without a dot is completed"
        found.add(codes.UNKNOWN_HOST, reference.subject, reference.host_field, message, f"did you mean {meant}?")
    elif world.lacks(SERVICES, namespace or reference.namespace, world.hosts.near(reference.host)):
        message = f"there is no service {reference.host}"
        found.add(codes.UNKNOWN_HOST, reference.subject, reference.host_field, message, _hint(world, reference.host))


def _hint(world: World, name: str) -> str:
    meant = world.hosts.near(name)
    namespace = world.hosts.namespace_of(name)
    if meant:
        return f"did you mean {meant}?"
    if not namespace:
        return "make it known by a ServiceEntry"
    own = world.hosts.services_of(namespace)
    return f"services of {namespace}: {', '.join(own[:10])}" if own else f"create a Service {name.partition('.')[0]} in {namespace}"


def _external(world: World, name: str) -> Service | None:
    namespace = world.hosts.namespace_of(name)
    found = world.objects.get(Key(Service.TYPE, namespace, name.partition(".")[0])) if namespace else None
    return found if isinstance(found, Service) and found.spec.type == "ExternalName" else None


def _port(reference: Reference, hosts: list[Host], found: Findings) -> None:
    if reference.port is None or any(host.port(reference.port) is not None for host in hosts):
        return
    numbers = ", ".join(f"{port.number} ({port.name})" if port.name else str(port.number) for port in hosts[0].ports) or "none"
    target = _targeted(hosts[0], reference.port)
    hint = f"pods have the port {reference.port}; the Service's is {target}" if target else f"ports of {hosts[0].key}: {numbers}"
    message = f"{reference.host} has no port {reference.port}"
    field = reference.port_field or reference.host_field
    found.add(codes.UNKNOWN_PORT, reference.subject, field, message, hint, related=[about(hosts[0].entry)])


def _targeted(host: Host, number: int) -> int | None:
    """The Service's port whose targetPort it is, if one wrote that instead."""
    if not isinstance(host.entry, Service):
        return None
    return next((port.port for port in host.entry.spec.ports if port.target_port == number), None)


def _subset(world: World, subsets: Subsets, reference: Reference, hosts: list[Host], found: Findings) -> None:
    if not reference.subset or any(reference.subset in subsets.of(host, {reference.namespace, *looked_up(world, host)}) for host in hosts):
        return
    host = hosts[0]
    rules = subsets.rules(host.name)
    others = [rule for rule in rules if any(entry.name == reference.subset for entry in rule.spec.subsets)]
    message = f"no DestinationRule defines the subset {reference.subset} of {reference.host}"
    if others:
        hint = f"{others[0].key} does, but in {others[0].namespace} it is not looked up: move it to {host.namespace}"
    else:
        names = sorted({entry.name for rule in rules for entry in rule.spec.subsets})
        meant = near(reference.subset, names)
        known = f"subsets of it: {', '.join(names)}" if names else f"create a DestinationRule for it in {host.namespace}"
        hint = f"did you mean {meant}?" if meant else known
    found.add(codes.UNKNOWN_SUBSET, reference.subject, reference.subset_field, message, hint, related=[about(rule) for rule in others])
