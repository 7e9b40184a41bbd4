"""DestinationRules: hosts, subsets, rules that disagree, and TLS that is not what it seems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from control.analyze.codes import traffic as codes
from control.analyze.destinations import looked_up
from control.analyze.findings import Findings
from control.analyze.given import about
from control.analyze.hosts import Host
from control.analyze.near import near
from control.analyze.services import written
from control.analyze.world import PODS, SERVICES, World
from control.resolve.policies import mtls_modes
from mesh.model.l7.notes import Problem
from mesh.model.l7.translate.delegates import visible
from mesh.model.l7.translate.destination_rule import merge
from mesh.model.manifest import DestinationRule, Service, ServiceEntry
from mesh.model.manifest.istio.destinationrule import ClientTls, TrafficPolicy
from mesh.model.workload import AppProtocol

REQUESTS = (AppProtocol.HTTP11, AppProtocol.HTTP2, AppProtocol.GRPC)
TOPOLOGY = ("topology.istio.io/", "topology.kubernetes.io/")


def check(world: World, found: Findings) -> None:
    for rule in world.of(DestinationRule):
        full = world.hosts.qualified(rule.spec.host, rule.namespace)
        hosts = world.hosts.within(full) if full.startswith("*.") else world.hosts.find(full)
        if not hosts:
            _unknown(world, rule, full, found)
            continue
        visible = [host for host in hosts if host.seen_from(rule.namespace)] or hosts
        if not full.startswith("*."):
            _elsewhere(world, rule, visible, found)
            _subsets(world, rule, visible, found)
        for path, tls, port in _tls(rule):
            _mode(world, rule, visible, path, tls, port, found)
    _conflicts(world, found)


def _unknown(world: World, rule: DestinationRule, full: str, found: Findings) -> None:
    meant = world.hosts.meant(full)
    near_by = world.hosts.near(full)
    if not meant and not world.lacks(SERVICES, world.hosts.namespace_of(full) or rule.namespace, near_by):
        return
    meant = meant or near_by
    hint = f"did you mean {meant}?" if meant else "mend the name, or declare the host"
    found.add(codes.RULE_OF_UNKNOWN_HOST, about(rule), "spec.host", f"there is no service {full}: the rule never applies", hint)


def _elsewhere(world: World, rule: DestinationRule, hosts: list[Host], found: Findings) -> None:
    namespaces = {namespace for host in hosts for namespace in looked_up(world, host)}
    if rule.namespace in namespaces:
        _hidden(world, rule, hosts, found)
        return
    # The waypoint that a namespace's labels ask for may be anywhere.
    if any(world.routed(host.key) is None for host in hosts):
        return
    owner = hosts[0].namespace
    message = f"{hosts[0].name} is of {owner}, and its rules are not looked up in {rule.namespace}"
    found.add(codes.RULE_ELSEWHERE, about(rule), "metadata.namespace", message, f"move it to {owner}", related=[about(hosts[0].entry)])


def _hidden(world: World, rule: DestinationRule, hosts: list[Host], found: Findings) -> None:
    for host in hosts:
        waypoint = world.service_use(host.key).waypoint
        if waypoint is not None and not visible(rule.spec.export_to, rule.namespace, waypoint.key.namespace):
            message = f"the waypoint of {host.name} is in {waypoint.key.namespace}, from where exportTo hides this"
            hint = f"add {waypoint.key.namespace}"
            found.add(codes.RULE_ELSEWHERE, about(rule), "spec.exportTo", message, hint, related=[about(host.entry)])


# Subsets


def _subsets(world: World, rule: DestinationRule, hosts: list[Host], found: Findings) -> None:
    labels = [entry for host in hosts for entry in _endpoints(world, host)]
    if not labels or not all(map(_listed, hosts)):
        return
    for index, subset in enumerate(rule.spec.subsets):
        asked = {key: value for key, value in subset.labels.items() if not key.startswith(TOPOLOGY)}
        if any(all(have.get(key) == value for key, value in asked.items()) for have in labels):
            continue
        wrong = next((key for key, value in asked.items() if all(have.get(key) != value for have in labels)), "")
        values = sorted({have[wrong] for have in labels if wrong in have})
        meant = near(asked.get(wrong, ""), values)
        if not all(world.lacks(PODS, host.namespace, meant) for host in hosts):
            continue
        there = f"they have {wrong}={', '.join(values)}" if values else f"none has the label {wrong}"
        hint = f"did you mean {wrong}={meant}?" if meant else there
        field = f"spec.subsets[{index}].labels" + (f"[{wrong}]" if wrong else "")
        message = f"no endpoint of {hosts[0].name} has {written(asked)}: the subset {subset.name} is empty"
        found.add(codes.EMPTY_SUBSET, about(rule), field, message, hint, related=[about(hosts[0].entry)])


def _listed(host: Host) -> bool:
    """Whether the labels of all its endpoints are known. Those of EndpointSlices are not."""
    return bool(host.entry.spec.selector) if isinstance(host.entry, Service) else True


def _endpoints(world: World, host: Host) -> Iterator[Mapping[str, str]]:
    for runs in world.behind(host.key):
        yield runs.labels
    for entry in world.entries_behind(host.key):
        yield {**entry.labels, **entry.spec.labels}
    if isinstance(host.entry, ServiceEntry):
        for spec in host.entry.spec.endpoints:
            yield spec.labels


# Several rules for one host


def _conflicts(world: World, found: Findings) -> None:
    """Of one namespace: only one namespace's rules count."""
    every: dict[tuple[str, str], list[DestinationRule]] = {}
    for rule in world.of(DestinationRule):
        every.setdefault((rule.namespace, world.hosts.qualified(rule.spec.host, rule.namespace)), []).append(rule)
    for rules in every.values():
        rules.sort(key=lambda rule: (rule.metadata.creation_timestamp or "~", rule.name))
        for note in merge(rules).notes if len(rules) > 1 else ():
            index = next(index for index, rule in enumerate(rules) if rule.key == note.subject)
            if note.problem is Problem.CONFLICT and not _agree(rules[index], rules[:index], note.field):
                hint, first = f"put it into {rules[0].key}", about(rules[0])
                found.add(codes.RULES_CONFLICT, about(rules[index]), note.field, note.message, hint, related=[first])


def _agree(rule: DestinationRule, older: list[DestinationRule], field: str) -> bool:
    """Whether it says there only what an older one says anyway."""
    if field == "spec.trafficPolicy":
        return any(rule.spec.traffic_policy == other.spec.traffic_policy for other in older)
    subset = rule.spec.subsets[int(field.removeprefix("spec.subsets[").removesuffix("]"))]
    return any(subset in other.spec.subsets for other in older)


# TLS


def _tls(rule: DestinationRule) -> Iterator[tuple[str, ClientTls, int | None]]:
    """Every tls that is written, with its path and the port that it is for."""
    policies = [("spec.trafficPolicy", rule.spec.traffic_policy)]
    policies += [(f"spec.subsets[{index}].trafficPolicy", subset.traffic_policy) for index, subset in enumerate(rule.spec.subsets)]
    for path, policy in policies:
        if policy is not None:
            yield from _of_policy(path, policy)


def _of_policy(path: str, policy: TrafficPolicy) -> Iterator[tuple[str, ClientTls, int | None]]:
    if policy.tls is not None:
        yield f"{path}.tls", policy.tls, None
    for index, entry in enumerate(policy.port_level_settings):
        if entry.tls is not None:
            yield f"{path}.portLevelSettings[{index}].tls", entry.tls, entry.number


def _mode(world: World, rule: DestinationRule, hosts: list[Host], path: str, tls: ClientTls, port: int | None, found: Findings) -> None:
    inside = [host for host in hosts if any(runs.in_mesh for runs in world.behind(host.key))]
    outside = [host for host in hosts if _outside(world, host)]
    field = f"{path}.mode"
    if tls.mode == "DISABLE" and inside:
        demanded = " (and PeerAuthentication STRICT demands it)" if _strict(world, inside[0]) else ""
        message = f"{inside[0].name} is in the mesh: DISABLE takes no mutual TLS away from its tunnels{demanded}"
        found.add(codes.PLAINTEXT_DISABLED, about(rule), field, message, "remove tls", related=[about(inside[0].entry)])
    elif tls.mode == "ISTIO_MUTUAL" and outside and not inside:
        message = f"{outside[0].name} is outside the mesh: nobody there takes mutual TLS of the mesh, and traffic is plaintext"
        hint = "use SIMPLE or MUTUAL if the server speaks TLS, or enrol its pods"
        found.add(codes.NO_IDENTITY, about(rule), field, message, hint, related=[about(outside[0].entry)])
    elif tls.mode in ("SIMPLE", "MUTUAL"):
        for host in inside:
            plain = [entry for entry in host.ports if entry.protocol in REQUESTS and port in (None, entry.number)]
            if plain:
                message = f"port {plain[0].number} of {host.name} is in the mesh and says that it speaks plaintext"
                hint = "remove tls: the tunnel encrypts already; or set the port's appProtocol to https"
                found.add(codes.TLS_TO_PLAINTEXT, about(rule), field, message, hint, related=[about(host.entry)])
                return


def _outside(world: World, host: Host) -> bool:
    if isinstance(host.entry, ServiceEntry) and host.entry.spec.location == "MESH_EXTERNAL":
        return True
    behind = world.behind(host.key)
    return bool(behind) and all(runs.in_mesh is False for runs in behind)


def _strict(world: World, host: Host) -> bool:
    modes = world.ask(mtls_modes, host.namespace)
    return any(modes.key_for(runs.namespace, runs.labels) is not None for runs in world.behind(host.key))
