"""What each flow on the wire is, and whether it may be so. Pure.

A flow is judged by who its ends are, never by what it says of itself: between two pods of the mesh every byte must be inside TLS 1.3
to port 15008; plaintext is in order only where one end is outside the mesh and the other's policy is permissive. A flow that
nothing explains is a failure, and so is a capture with a hole in it, and so is a run in which no mesh byte was seen at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from culvert.verify.records import AES_GCM, TLS13, TlsView, view
from culvert.verify.streams import Flow
from mesh.model.workload import HBONE_PORT, IPAddress, SocketAddress

JOINED = "joined"  # opened before the capture


class Kind(Enum):
    """What a flow turned out to be."""

    MESH = "mutual TLS"
    PLAINTEXT = "plaintext"
    CONTROL = "control plane"
    PROBE = "verify's own"
    LEAK = "LEAK"
    UNKNOWN = "UNKNOWN"


class Mode(Enum):
    """What policy accepts at a pod's port."""

    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"
    DISABLE = "DISABLE"


@dataclass(frozen=True, slots=True)
class Pod:
    """`mode` gives what the pod's PeerAuthentication says for a port."""

    namespace: str
    name: str
    node: str
    enrolled: bool
    addresses: tuple[IPAddress, ...]
    netns: str = ""
    mode: Callable[[int], Mode] = lambda _: Mode.PERMISSIVE

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class World:
    """Who has which address. `infrastructure` are nodes and the control plane by address; `control_ports` are what they may talk to."""

    pods: Mapping[IPAddress, Pod]
    infrastructure: Mapping[IPAddress, str] = field(default_factory=dict)
    control_ports: Collection[int] = (15012,)

    def name(self, end: SocketAddress) -> str:
        pod = self.pods.get(end.ip)
        return str(pod) if pod is not None else self.infrastructure.get(end.ip, str(end.ip))


@dataclass(frozen=True, slots=True)
class Finding:
    """One flow: who talked to whom, how, and what is wrong with it ("" if nothing is). Bytes are TCP payload."""

    kind: Kind
    source: str
    destination: str
    port: int
    sent: int
    received: int
    detail: str
    wrong: str = ""
    view: TlsView | None = None

    @property
    def ok(self) -> bool:
        return not self.wrong


def judge(flow: Flow, world: World, own: Collection[SocketAddress] = (), markers: Iterable[bytes] = ()) -> Finding:
    """Judge one flow. `own` are client addresses of connections that verify itself makes; `markers` must appear nowhere in the clear."""
    finding = _judge_ends(flow, world, own)
    if finding.kind is not Kind.PROBE and flow.missing and not finding.wrong:
        finding = _with(finding, f"the capture misses {flow.missing} bytes of it")
    if any(marker in flow.upstream.data or marker in flow.downstream.data for marker in markers):
        finding = _with(finding, "a marked payload of the mesh is in it in the clear", Kind.LEAK)
    return finding


def _judge_ends(flow: Flow, world: World, own: Collection[SocketAddress]) -> Finding:
    source, destination = world.pods.get(flow.client.ip), world.pods.get(flow.server.ip)

    def found(kind: Kind, detail: str, wrong: str = "", view: TlsView | None = None) -> Finding:
        sent, received = len(flow.upstream.data), len(flow.downstream.data)
        return Finding(kind, world.name(flow.client), world.name(flow.server), flow.server.port, sent, received, detail, wrong, view)

    if flow.client in own:
        return found(Kind.PROBE, "a handshake to see which TLS versions the port takes")
    if destination and destination.enrolled and flow.server.port == HBONE_PORT:
        seen = _view(flow)
        if source is None or not source.enrolled:
            return found(Kind.UNKNOWN, "", "somebody outside the mesh talks to a tunnel port", seen)
        return found(Kind.MESH, _describe(seen), "; ".join(seen.violations[:3]), seen)
    if source and destination:
        return _plaintext(flow, source, destination, found)
    infrastructure = flow.client.ip in world.infrastructure and flow.server.ip in world.infrastructure
    if infrastructure and flow.server.port in world.control_ports:
        seen = _view(flow)
        # Which suite gRPC chooses is not the mesh's promise; that it is TLS 1.3 is.
        wrong = [violation for violation in seen.violations if "cipher suite" not in violation]
        return found(Kind.CONTROL, _describe(seen), "; ".join(wrong[:3]), seen)
    return found(Kind.UNKNOWN, "", "nothing explains this flow")


def _plaintext(flow: Flow, source: Pod, destination: Pod, found: Callable[..., Finding]) -> Finding:
    """Not to the tunnel port, between two pods."""
    if source.enrolled and destination.enrolled:
        if flow.refused and not flow.payload:
            return found(Kind.PLAINTEXT, "refused without a byte")
        late = "" if flow.from_start else "; it was open before the capture: older than the label?"
        return found(Kind.LEAK, "", f"plaintext between two pods of the mesh{late}")
    if destination.enrolled:
        mode = destination.mode(flow.server.port)
        if mode is not Mode.STRICT:
            return found(Kind.PLAINTEXT, f"the client is outside the mesh; the destination is {mode.value}")
        if flow.downstream.data:
            return found(Kind.LEAK, "", "the destination is STRICT and answered plaintext")
        return found(Kind.PLAINTEXT, "the client is outside the mesh; the destination is STRICT and sent nothing")
    return found(Kind.PLAINTEXT, "the destination is outside the mesh" if source.enrolled else "both are outside the mesh")


def _view(flow: Flow) -> TlsView:
    return view(flow.upstream.data, flow.downstream.data, from_start=flow.from_start)


def _describe(seen: TlsView) -> str:
    if not seen.from_start:
        return JOINED
    if seen.version is None:
        return "no hello"
    version = "TLS 1.3" if seen.version == TLS13 else f"0x{seen.version:04x}"
    return f"{version}, {AES_GCM.get(seen.cipher or 0, f'suite 0x{seen.cipher or 0:04x}')}"


def _with(finding: Finding, wrong: str, kind: Kind | None = None) -> Finding:
    return replace(finding, wrong="; ".join(part for part in (finding.wrong, wrong) if part), kind=kind or finding.kind)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One marked payload that verify sent: what came of it, and how many bytes it was, each way."""

    source: Pod
    destination: Pod
    family: int
    size: int
    arrived: bool
    note: str = ""

    @property
    def meshed(self) -> bool:
        return self.source.enrolled and self.destination.enrolled


def unproved(deliveries: Iterable[Delivery], findings: Iterable[Finding]) -> list[str]:
    """What a run did not prove although every flow is in order: payloads that arrived but were not seen inside TLS, or none at all."""
    carried: dict[tuple[str, str], int] = {}
    for finding in findings:
        if finding.kind is Kind.MESH and finding.view is not None:
            pair = (finding.source, finding.destination)
            carried[pair] = carried.get(pair, 0) + min(finding.view.client_payload, finding.view.server_payload)
    wanted: dict[tuple[str, str], int] = {}
    for delivery in deliveries:
        if delivery.meshed and delivery.arrived:
            pair = (str(delivery.source), str(delivery.destination))
            wanted[pair] = wanted.get(pair, 0) + delivery.size
    problems = [
        f"{size} marked bytes went from {pair[0]} to {pair[1]} and back, but only {carried.get(pair, 0)} bytes inside TLS were seen"
        for pair, size in wanted.items()
        if carried.get(pair, 0) < size
    ]
    if not wanted:
        problems.append("no marked payload arrived through the mesh: there is nothing to prove anything with")
    return problems
