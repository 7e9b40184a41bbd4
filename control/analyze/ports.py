"""Ports that policies name. A tunnel sees the pod's own port, a waypoint the Service's."""

from __future__ import annotations

from collections.abc import Iterator

from control.analyze.codes import Code
from control.analyze.codes import policy as codes
from control.analyze.covered import targets
from control.analyze.findings import Findings
from control.analyze.given import about
from control.analyze.runs import Runs
from control.analyze.world import World
from mesh.model.manifest import AuthorizationPolicy, Key, PeerAuthentication, Service, ServiceEntry


class Ports:
    def __init__(self, world: World, found: Findings) -> None:
        self._world = world
        self._found = found
        self._services_of: dict[int, list[Service]] = {}
        for service in world.of(Service):
            for runs in world.behind(service.key):
                self._services_of.setdefault(id(runs), []).append(service)

    def of_pods(self, policy: AuthorizationPolicy, runs: list[Runs]) -> None:
        for field, port in named(policy):
            self._listened(policy, codes.NEVER_MATCHES, field, port, runs)

    def of_modes(self, policy: PeerAuthentication, runs: list[Runs]) -> None:
        for port in policy.spec.port_level_mtls:
            self._listened(policy, codes.UNUSED_PORT_MODE, f"spec.portLevelMtls[{port}]", port, runs)

    def of_targets(self, policy: AuthorizationPolicy) -> None:
        known: set[int] = set()
        names: list[str] = []
        for _, target in targets(policy):
            entry = self._world.objects.get(Key(target.kind, policy.namespace, target.name))
            if isinstance(entry, Service):
                known |= {port.port for port in entry.spec.ports}
            elif isinstance(entry, ServiceEntry):
                known |= {port.number for port in entry.spec.ports}
            else:
                return
            names.append(str(entry.key))
        for field, port in named(policy):
            if known and port not in known:
                message = f"no port {port}: {', '.join(names)} {'has' if len(names) == 1 else 'have'} {_list(known)}"
                self._found.add(codes.NEVER_MATCHES, about(policy), field, message, "a waypoint sees the Service's ports, not the pods'")

    def _listened(self, policy: AuthorizationPolicy | PeerAuthentication, code: Code, field: str, port: int, runs: list[Runs]) -> None:
        """Says so where none of these pods has the port. One that declares none may have any."""
        if not runs or not all(made.ports for made in runs):
            return
        known = {number for made in runs for _, number in made.ports} | {number for made in runs for number in self._targets(made)}
        if port in known:
            return
        services = (one for made in runs for one in self._services_of.get(id(made), ()))
        service = next((one for one in services if any(entry.port == port for entry in one.spec.ports)), None)
        there = f"they have {_list(known)}"
        hint = f"{port} is the port of {service.key}; its pods have {_list(known)}" if service is not None else there
        names = sorted({made.subject.name for made in runs})
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        self._found.add(code, about(policy), field, f"no pod of {', '.join(names[:2])}{more} has the port {port}", hint)

    def _targets(self, runs: Runs) -> Iterator[int]:
        for service in self._services_of.get(id(runs), ()):
            for port in service.spec.ports:
                if isinstance(port.target_port, int) or port.target_port is None:
                    yield port.target_port or port.port


def named(policy: AuthorizationPolicy) -> Iterator[tuple[str, int]]:
    """Every port that must be matched, with its path."""
    for index, rule in enumerate(policy.spec.rules):
        path = f"spec.rules[{index}]"
        for number, to in enumerate(rule.to):
            for place, port in enumerate(to.operation.ports):
                yield f"{path}.to[{number}].operation.ports[{place}]", port
        for number, condition in enumerate(rule.when):
            if condition.key == "destination.port":
                for place, value in enumerate(condition.values):
                    if isinstance(value, int):
                        yield f"{path}.when[{number}].values[{place}]", value


def _list(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
