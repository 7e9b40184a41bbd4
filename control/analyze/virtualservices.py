"""VirtualServices: hosts, gateways, delegates, the order of rules, and where they lead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from control.analyze import destinations
from control.analyze.codes import traffic as codes
from control.analyze.destinations import Reference, Subsets
from control.analyze.findings import Findings
from control.analyze.given import about
from control.analyze.hosts import Host
from control.analyze.matches import NO_MATCH, covers, covers_l4, covers_tls
from control.analyze.near import near
from control.analyze.world import DELEGATES, GATEWAYS, SERVICES, World
from mesh.model.l7.notes import Notes, Problem
from mesh.model.l7.translate.delegates import Delegates, expanded, visible, wanted
from mesh.model.manifest import IstioGateway, Key, VirtualService
from mesh.model.manifest.istio.actions import Destination
from mesh.model.manifest.istio.matches import HTTPMatch, L4Match, TLSMatch
from mesh.model.manifest.istio.virtualservice import MESH

M = TypeVar("M")


def check(world: World, subsets: Subsets, found: Findings) -> None:
    every = world.of(VirtualService)
    for service in every:
        for reference in references(world, service):
            destinations.check(world, subsets, reference, found)
        _order(service, found)
        _hosts(world, service, found)
        _gateways(world, service, found)
    _bound_twice(world, every, found)
    _delegates(world, every, found)


def age(service: VirtualService) -> tuple[str, str, str]:
    """The oldest first. Without a time of creation: after those that have one."""
    return (service.metadata.creation_timestamp or "~", service.namespace, service.name)


def bound(world: World, service: VirtualService) -> Iterator[tuple[int, Host]]:
    """The services inside the mesh whose name it says, with the index of its host."""
    if service.spec.in_mesh:
        for index, name in enumerate(service.spec.hosts):
            for host in world.hosts.find(world.hosts.qualified(name, service.namespace)):
                yield index, host


def references(world: World, service: VirtualService) -> Iterator[Reference]:
    """Every destination that it names."""
    for path, destination in _destinations(service):
        yield Reference(
            about(service),
            service.namespace,
            world.hosts.qualified(destination.host, service.namespace),
            f"{path}.host",
            destination.port.number if destination.port is not None else None,
            f"{path}.port.number",
            destination.subset,
            f"{path}.subset",
            at_waypoint=any(world.routed(host.key) for _, host in bound(world, service)),
        )


def _destinations(service: VirtualService) -> Iterator[tuple[str, Destination]]:
    for index, rule in enumerate(service.spec.http):
        path = f"spec.http[{index}]"
        several = len(rule.route) > 1
        for number, entry in enumerate(rule.route):
            if entry.weight or not several:
                yield f"{path}.route[{number}].destination", entry.destination
        if rule.mirror is not None:
            yield f"{path}.mirror", rule.mirror
        for number, mirror in enumerate(rule.mirrors):
            yield f"{path}.mirrors[{number}].destination", mirror.destination
    for kind, routes in (("tls", [rule.route for rule in service.spec.tls]), ("tcp", [rule.route for rule in service.spec.tcp])):
        for index, route in enumerate(routes):
            for number, l4 in enumerate(route):
                yield f"spec.{kind}[{index}].route[{number}].destination", l4.destination


# The order of rules


def _order(service: VirtualService, found: Findings) -> None:
    spec = service.spec
    http = [rule.match or (NO_MATCH,) for rule in spec.http]
    tcp = [rule.match or (L4Match(),) for rule in spec.tcp]
    for kind, index, before in (
        *(("http", *pair) for pair in unreachable(http, covers)),
        *(("tls", *pair) for pair in unreachable([rule.match for rule in spec.tls], covers_tls)),
        *(("tcp", *pair) for pair in unreachable(tcp, covers_l4)),
    ):
        rules = " and ".join(f"spec.{kind}[{other}]" for other in before)
        message = f"this rule is never reached: {rules}, before it, {'takes' if len(before) == 1 else 'take'} all that it matches"
        found.add(codes.UNREACHABLE_RULE, about(service), f"spec.{kind}[{index}]", message, f"move it before spec.{kind}[{before[0]}]")


def unreachable(rules: Sequence[Sequence[M]], takes: Callable[[M, M], bool]) -> Iterator[tuple[int, list[int]]]:
    """Of rules, each a list of matches, of which the first that matches counts: which are never reached, and because of which."""
    seen: list[tuple[int, M]] = []
    for index, matches in enumerate(rules):
        before = [next((other for other, earlier in seen if takes(earlier, match)), None) for match in matches]
        if all(other is not None for other in before):
            yield index, sorted({other for other in before if other is not None})
        seen += [(index, match) for match in matches]


# Hosts and gateways


def _hosts(world: World, service: VirtualService, found: Findings) -> None:
    if not service.spec.in_mesh:
        return
    for index, name in enumerate(service.spec.hosts):
        full = world.hosts.qualified(name, service.namespace)
        if world.hosts.find(full) or (full.startswith("*.") and world.hosts.within(full)):
            continue
        meant = world.hosts.meant(full)
        near_by = world.hosts.near(full)
        # With gateways beside it the host may be there for those alone.
        known = not service.spec.gateways and world.lacks(SERVICES, world.hosts.namespace_of(full) or service.namespace, near_by)
        if not meant and not known:
            continue
        meant = meant or near_by
        hint = f"did you mean {meant}?" if meant else "mend the name, or declare the host"
        message = f"there is no service {full}, so that these rules are for nobody"
        found.add(codes.ROUTES_UNKNOWN_HOST, about(service), f"spec.hosts[{index}]", message, hint)


def _gateways(world: World, service: VirtualService, found: Findings) -> None:
    named: list[tuple[str, str]] = [(name, f"spec.gateways[{index}]") for index, name in enumerate(service.spec.gateways)]
    matches: dict[str, Sequence[Sequence[HTTPMatch | TLSMatch | L4Match]]] = {
        "http": [rule.match for rule in service.spec.http],
        "tls": [rule.match for rule in service.spec.tls],
        "tcp": [rule.match for rule in service.spec.tcp],
    }
    for kind, rules in matches.items():
        for index, rule in enumerate(rules):
            for number, match in enumerate(rule):
                path = f"spec.{kind}[{index}].match[{number}].gateways"
                named += [(name, f"{path}[{place}]") for place, name in enumerate(match.gateways)]
    gateways: list[IstioGateway] = []
    known = True
    for name, field in named:
        if name == MESH:
            continue
        owner, _, short = name.rpartition("/")
        namespace = service.namespace if owner in ("", ".") else owner
        gateway = world.find(IstioGateway, namespace, short)
        if gateway is not None:
            gateways.append(gateway)
        else:
            known = False
            _no_gateway(world, service, Key(IstioGateway.TYPE, namespace, short), field, found)
    if gateways and known:
        _served(service, gateways, found)


def _no_gateway(world: World, service: VirtualService, key: Key, field: str, found: Findings) -> None:
    every = world.of(IstioGateway)
    meant = near(key.name, [gateway.name for gateway in every if gateway.namespace == key.namespace])
    if not world.lacks(GATEWAYS, key.namespace, meant) and Key("Gateway", key.namespace, key.name) not in world.objects:
        return
    elsewhere = sorted(f"{gateway.namespace}/{gateway.name}" for gateway in every if gateway.name == key.name)
    hint = f"did you mean {meant or elsewhere[0]}?" if meant or elsewhere else "create the Gateway, or mend the name"
    if Key("Gateway", key.namespace, key.name) in world.objects:
        hint = "the Gateway of this name is one of gateway.networking.k8s.io: attach an HTTPRoute to it instead"
    message = f"there is no Gateway {key.namespace}/{key.name} of networking.istio.io"
    found.add(codes.UNKNOWN_GATEWAY, about(service), field, message, hint)


def _served(service: VirtualService, gateways: list[IstioGateway], found: Findings) -> None:
    if service.spec.in_mesh:
        return
    for index, name in enumerate(service.spec.hosts):
        if not any(_serves(served, gateway, name, service.namespace) for gateway in gateways for served in _served_hosts(gateway)):
            names = ", ".join(sorted({served for gateway in gateways for served in _served_hosts(gateway)}))
            message = f"no server of {', '.join(str(gateway.key) for gateway in gateways)} is for {name}"
            related = [about(gateway) for gateway in gateways]
            found.add(codes.NOT_SERVED, about(service), f"spec.hosts[{index}]", message, f"they serve {names}", related=related)


def _served_hosts(gateway: IstioGateway) -> Iterable[str]:
    return (host for server in gateway.spec.servers for host in server.hosts)


def _serves(served: str, gateway: IstioGateway, name: str, namespace: str) -> bool:
    owner, _, host = served.rpartition("/")
    if owner not in ("", "*") and namespace != (gateway.namespace if owner == "." else owner):
        return False
    return overlap(host, name)


def overlap(one: str, other: str) -> bool:
    """Whether some host is within both, each of which may be a wildcard."""
    if "*" in (one, other) or one == other:
        return True
    if one.startswith("*.") and other.startswith("*."):
        return one.endswith(other[1:]) or other.endswith(one[1:])
    wild, exact = (one, other) if one.startswith("*.") else (other, one)
    return wild.startswith("*.") and exact.endswith(wild[1:])


def _bound_twice(world: World, every: list[VirtualService], found: Findings) -> None:
    holders: dict[tuple[str, str], list[tuple[VirtualService, int]]] = {}
    for service in every:
        places = [name if name == MESH or "/" in name else f"{service.namespace}/{name}" for name in service.spec.gateways or (MESH,)]
        for index, name in enumerate(service.spec.hosts):
            for place in places:
                holders.setdefault((place, world.hosts.qualified(name, service.namespace)), []).append((service, index))
    for (place, host), entries in holders.items():
        entries.sort(key=lambda entry: age(entry[0]))
        for position, (service, index) in enumerate(entries):
            older = next((other for other, _ in entries[:position] if _meet(other, service)), None)
            if older is None:
                continue
            at = "" if place == MESH else f" at {place}"
            message = f"{older.key} is for {host} as well{at}: its rules come first, {_why(older, service)}"
            everything = (index for index, rule in enumerate(older.spec.http) if not rule.match or any(m.everything for m in rule.match))
            hidden = next(everything, None)
            if hidden is not None and service.spec.http:
                message += f", and spec.http[{hidden}] of it takes everything"
            found.add(
                codes.HOST_BOUND_TWICE,
                about(service),
                f"spec.hosts[{index}]",
                message,
                "put the rules into one of them",
                related=[about(older)],
            )


def _meet(one: VirtualService, other: VirtualService) -> bool:
    """Whether some client may see both."""
    namespaces = {one.namespace, other.namespace, "~elsewhere"}
    return any(
        visible(one.spec.export_to, one.namespace, viewer) and visible(other.spec.export_to, other.namespace, viewer)
        for viewer in namespaces
    )


def _why(older: VirtualService, younger: VirtualService) -> str:
    if older.metadata.creation_timestamp and older.metadata.creation_timestamp != younger.metadata.creation_timestamp:
        return "since it is older"
    return "by its name, since neither is known to be older"


# Delegates


def _delegates(world: World, every: list[VirtualService], found: Findings) -> None:
    delegates: Delegates = {(service.namespace, service.name): service for service in every}
    roots = sorted((service for service in every if not service.spec.delegated), key=age)
    for root in roots:
        for index, rule in enumerate(root.spec.http):
            if rule.delegate is not None:
                namespace, name = rule.delegate.namespace or root.namespace, rule.delegate.name
                meant = near(name, [service.name for service in every if service.spec.delegated and service.namespace == namespace])
                if (namespace, name) not in delegates and world.lacks(DELEGATES, namespace, meant):
                    message = f"there is no VirtualService {namespace}/{name}: this rule is left out"
                    hint = f"did you mean {meant}?" if meant else "create it, or mend the name"
                    found.add(codes.MISSING_DELEGATE, about(root), f"spec.http[{index}].delegate.name", message, hint)
    notes = Notes()
    for _ in expanded(roots, delegates, notes):
        pass
    subjects = {service.key: about(service) for service in every}
    for note in notes.done(None).notes:
        if note.problem is Problem.BAD_DELEGATE:
            hint = "a delegate has no hosts, is exported there, and matches within what is delegated"
            found.add(codes.BAD_DELEGATE, subjects[note.subject], note.field, note.message, hint)
    named = wanted(roots)
    for service in every:
        # Who delegates to it may be in a namespace that is not here.
        known = world.given.complete or service.namespace in world.namespaces
        if service.spec.delegated and (service.namespace, service.name) not in named and known:
            message = "it has no hosts, and no VirtualService here delegates to it"
            found.add(codes.ORPHAN, about(service), "spec.hosts", message, "set hosts, or delegate to it")
