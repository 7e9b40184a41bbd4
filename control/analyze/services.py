"""Services: whom they select, and on which ports."""

from __future__ import annotations

from collections.abc import Mapping

from control.analyze.codes import reading as codes
from control.analyze.findings import Findings
from control.analyze.given import Subject, about
from control.analyze.near import near
from control.analyze.runs import Runs
from control.analyze.world import PODS, World
from control.resolve.services import app_protocol, holder
from control.resolve.waypoints import GATEWAY_NAME
from mesh.model.manifest import Key, Service, ServicePort
from mesh.model.workload import AppProtocol, NamespacedHostname, NetworkAddress


def check(world: World, found: Findings, routed: frozenset[Key]) -> None:
    """`routed`: services that some route, or a waypoint, is for."""
    for service in world.of(Service):
        if service.spec.type == "ExternalName" or not service.spec.selector:
            continue
        # What a controller makes the pods of is not in manifests.
        if GATEWAY_NAME in service.spec.selector and not world.given.complete:
            continue
        behind = world.behind(service.key)
        if behind and GATEWAY_NAME not in service.spec.selector:
            for index, port in enumerate(service.spec.ports):
                _target(service, index, port, behind, found)
        elif not behind and not world.entries_behind(service.key):
            _selects_nothing(world, service, found)
    for service in world.of(Service):
        if service.key in routed:
            _protocols(service, found)
    _addresses(world, found)


def _selects_nothing(world: World, service: Service, found: Findings) -> None:
    hint, wrong = suggestion(service.spec.selector, world.runs_in(service.namespace))
    if world.lacks(PODS, service.namespace, wrong):
        field = "spec.selector" + (f"[{wrong}]" if wrong else "")
        message = f"no pod of {service.namespace} has {written(service.spec.selector)}"
        found.add(codes.SELECTS_NO_POD, about(service), field, message, hint)


def suggestion(selector: Mapping[str, str], runs: list[Runs], path: str = "") -> tuple[str, str]:
    """What was probably meant by a selector that selects nothing, as a hint, and the key that is wrong; "" where that cannot be told."""
    best: tuple[int, str, str] = (0, "", "")
    for made in runs:
        differing = [key for key, value in selector.items() if made.labels.get(key) != value]
        if len(differing) != 1:
            continue
        key, value = differing[0], selector[differing[0]]
        there = made.labels.get(key)
        matched = len(selector) - 1
        if there is not None and (matched or near(value, [there])):
            candidate = (matched + 2, f"did you mean {key}={there}, as {made.subject.name} has?", key)
        elif there is None and (other := _same_value(value, key, made.labels)):
            candidate = (matched + 1, f"did you mean {other}={value}, as {made.subject.name} has?", key)
        elif there is None and matched:
            candidate = (matched, f"{made.subject.name} has all of them but {key}", key)
        else:
            continue
        best = max(best, candidate, key=lambda entry: entry[0])
    if not best[1]:
        names = ", ".join(sorted({made.subject.name for made in runs})[:5])
        return (f"compare it with the labels of {names}" if names else "add the pods, or what makes them"), ""
    return best[1], best[2]


def _same_value(value: str, key: str, labels: Mapping[str, str]) -> str:
    """A label that has the value under a name that is like the key."""
    return near(key, [name for name, other in labels.items() if other == value]) or near(
        key.rpartition("/")[2], [name for name, other in labels.items() if other == value]
    )


def written(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "any label"


def _target(service: Service, index: int, port: ServicePort, behind: list[Runs], found: Findings) -> None:
    if port.protocol != "TCP":
        return
    field = f"spec.ports[{index}]" + (".targetPort" if port.target_port is not None else ".port")
    names = sorted({name for made in behind for name, _ in made.ports if name})
    if isinstance(port.target_port, str):
        if port.target_port not in names:
            meant = near(port.target_port, names)
            hint = f"did you mean {meant}?" if meant else f"ports with a name: {', '.join(names) or 'none'}"
            message = f"no container of {_names(behind)} has a TCP port called {port.target_port}"
            found.add(codes.NO_NAMED_PORT, about(service), field, message, hint)
        return
    number = port.target_port or port.port
    if all(made.ports for made in behind) and not any(number == known for made in behind for _, known in made.ports):
        numbers = sorted({known for made in behind for _, known in made.ports})
        message = f"no container of {_names(behind)} declares the port {number}"
        found.add(codes.UNDECLARED_PORT, about(service), field, message, f"declared: {', '.join(map(str, numbers))}")


def _names(behind: list[Runs]) -> str:
    names = sorted({made.subject.name for made in behind})
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _protocols(service: Service, found: Findings) -> None:
    for index, port in enumerate(service.spec.ports):
        if port.protocol == "TCP" and app_protocol(port.app_protocol, port.name) is AppProtocol.UNKNOWN:
            said = f"neither appProtocol nor the name {port.name!r} says" if port.name else "nothing says"
            message = f"{said} what is spoken on port {port.port}, which is routed: it is told by the first bytes"
            hint = f"set appProtocol, or call the port http-{port.name or port.port}, grpc-… or tcp-…"
            found.add(codes.UNKNOWN_PROTOCOL, about(service), f"spec.ports[{index}].name", message, hint)


def _addresses(world: World, found: Findings) -> None:
    holders: dict[NetworkAddress, dict[Key, Subject]] = {}
    for name in sorted(world.mesh.services):
        service = world.mesh.services[name]
        key = world.ask(holder, NamespacedHostname(service.namespace, service.hostname))
        if key is None or key not in world.objects:
            continue
        for vip in service.vips:
            holders.setdefault(vip, {})[key] = about(world.objects[key])
    for vip, subjects in holders.items():
        first, *others = subjects.values()
        for other in others:
            message = f"{vip.ip} is the address of {first.name} too"
            field = "spec.clusterIP" if other.name.startswith("Service ") else "spec.addresses"
            found.add(codes.SAME_ADDRESS, other, field, message, "give it an address of its own", related=[first])
