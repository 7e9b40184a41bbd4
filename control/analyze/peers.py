"""PeerAuthentications, RequestAuthentications and Telemetries: whom they are for, and whether anything comes of them."""

from __future__ import annotations

from control.analyze.codes import policy as codes
from control.analyze.codes import reading
from control.analyze.covered import at_waypoints, lacking, outside, selected
from control.analyze.findings import Findings
from control.analyze.given import about
from control.analyze.ports import Ports
from control.analyze.runs import Runs
from control.analyze.world import GATEWAYS, World
from control.resolve.policies import mtls_modes
from mesh.model.l7.profile import Kind
from mesh.model.l7.telemetry import NO_TELEMETRY
from mesh.model.l7.translate.telemetry import BUILT_IN, merged
from mesh.model.manifest import Gateway, PeerAuthentication, RequestAuthentication, Telemetry, selects


def check(world: World, found: Findings) -> None:
    ports = Ports(world, found)
    for policy in world.of(PeerAuthentication):
        runs = selected(world, policy, found)
        if any(mtls.mode == "STRICT" for mtls in (policy.spec.mtls, *policy.spec.port_level_mtls.values())):
            outside(world, policy, runs, found)
        ports.of_modes(policy, runs)
        _disabled(policy, found)
    _shadowed(world, found)
    for tokens in world.of(RequestAuthentication):
        _tokens(world, tokens, found)
    for telemetry in world.of(Telemetry):
        _telemetry(world, telemetry, found)


def _disabled(policy: PeerAuthentication, found: Findings) -> None:
    named = [("spec.mtls.mode", policy.spec.mtls.mode)]
    named += [(f"spec.portLevelMtls[{port}].mode", mtls.mode) for port, mtls in policy.spec.port_level_mtls.items()]
    for field, mode in named:
        if mode == "DISABLE":
            message = "tunnels take mutual TLS whatever this says, and plaintext beside it"
            found.add(codes.DISABLE_IS_PERMISSIVE, about(policy), field, message, "write PERMISSIVE")


def _shadowed(world: World, found: Findings) -> None:
    every = world.of(PeerAuthentication)
    for namespace in sorted({policy.namespace for policy in every}):
        for ignored, used in world.ask(mtls_modes, namespace).ignored:
            if ignored.namespace != namespace:
                continue
            message = f"{used.key} is for the same pods and counts"
            found.add(codes.SHADOWED, about(ignored), "metadata.name", message, "keep one of them", related=[about(used)])
        selecting = sorted((policy for policy in every if policy.namespace == namespace and policy.spec.match_labels), key=_age)
        _selected_twice(world.runs_in(namespace), selecting, found)


def _selected_twice(runs: list[Runs], selecting: list[PeerAuthentication], found: Findings) -> None:
    """Of several that select the same pods the oldest counts."""
    for index, policy in enumerate(selecting):
        own = [made for made in runs if selects(policy.spec.match_labels, made.labels)]
        before = [next((other for other in selecting[:index] if selects(other.spec.match_labels, made.labels)), None) for made in own]
        if own and all(other is not None for other in before):
            first = next(other for other in before if other is not None)
            message = f"{first.key} selects the same pods and counts"
            found.add(codes.SHADOWED, about(policy), "spec.selector", message, "keep one of them", related=[about(first)])


def _age(policy: PeerAuthentication) -> tuple[str, bool, str]:
    """As the resolution orders them."""
    return (policy.metadata.creation_timestamp or "~", policy.spec.mtls.mode != "STRICT", policy.name)


def _tokens(world: World, policy: RequestAuthentication, found: Findings) -> None:
    if not policy.spec.targets:
        runs = selected(world, policy, found)
        if policy.spec.jwt_rules:
            whom = "the pods that it selects" if policy.spec.match_labels else f"every pod of {policy.namespace}"
            message = f"a tunnel cannot look at tokens: all traffic to {whom} is denied"
            hint = "name the Service in targetRefs, and give it a waypoint"
            field = "spec.selector" if policy.spec.match_labels else "spec"
            found.add(codes.TOKENS_DENY, about(policy), field, message, hint, related=[made.subject for made in runs[:3]])
        return
    for path, why in lacking(world, policy, found):
        message = f"only a waypoint looks at tokens, and there is none ({why}): the pods behind it are denied"
        hint = "label the Service or its namespace istio.io/use-waypoint"
        found.add(codes.TARGET_WITHOUT_WAYPOINT, about(policy), path, message, hint)
    at_waypoints(world, policy, found)


def _telemetry(world: World, policy: Telemetry, found: Findings) -> None:
    spec = policy.spec
    for note in merged((policy,), BUILT_IN, Kind.WAYPOINT, NO_TELEMETRY).notes:
        if note.field.endswith(".providers"):
            hint = f"providers: {', '.join(sorted(BUILT_IN))}"
            found.add(codes.UNKNOWN_PROVIDER, about(policy), note.field, note.message, hint)
        else:
            found.add(reading.NOT_HONOURED, about(policy), note.field, f"this has no effect: {note.message}", "remove it")
    if spec.targets:
        for path, why in lacking(world, policy, found):
            message = f"only a waypoint tells of requests, and there is none ({why})"
            found.add(codes.NO_TELEMETRY, about(policy), path, message, "label the Service or its namespace istio.io/use-waypoint")
    elif spec.match_labels:
        message = "waypoints are named in targetRefs: none is selected by labels"
        found.add(codes.NO_TELEMETRY, about(policy), "spec.selector", message, "name a Gateway or a Service in targetRefs")
    elif policy.namespace != world.settings.root_namespace and not _waypoints(world, policy.namespace):
        message = f"there is no waypoint in {policy.namespace} that it could be for"
        found.add(codes.NO_TELEMETRY, about(policy), "metadata.namespace", message, "create a waypoint, or remove it")


def _waypoints(world: World, namespace: str) -> bool:
    """Whether there are any in a namespace, or may be."""
    own = any(gateway.spec.waypoint and gateway.namespace == namespace for gateway in world.of(Gateway))
    return own or not world.knows(GATEWAYS, namespace)
