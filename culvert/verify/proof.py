"""From captured frames to a verdict: every flow judged, every promise of the run checked, nothing assumed."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field

from culvert.verify.capture import Captured
from culvert.verify.findings import Delivery, Finding, Kind, judge, unproved
from culvert.verify.packets import parse
from culvert.verify.records import TLS13, view
from culvert.verify.streams import Flow, Segment, flows
from culvert.verify.traffic import Traffic
from culvert.verify.world import Cluster
from mesh.model.workload import HBONE_PORT, IPAddress


@dataclass(slots=True)
class Proof:
    """`problems` is empty if all is proved. `joined` counts mesh connections whose handshake was before the capture."""

    findings: list[Finding] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    frames: int = 0
    joined: int = 0

    @property
    def proved(self) -> bool:
        return not self.problems


def prove(cluster: Cluster, traffic: Traffic, captures: Iterable[Captured]) -> Proof:
    proof = Proof(deliveries=traffic.deliveries)
    judged: dict[tuple[object, ...], tuple[Flow, Finding]] = {}
    in_clear: set[bytes] = set()
    clear = [marker for _, marker in traffic.clear]
    for captured in captures:
        proof.frames += len(captured.frames)
        if captured.lost:
            proof.problems.append(f"{captured.node}: the capture lost {captured.lost} frames; nothing is proved by what is left")
        segments = _segments(captured, traffic.markers, proof)
        for flow in flows(segments):
            in_clear.update(marker for marker in clear if marker in flow.upstream.data or marker in flow.downstream.data)
            finding = judge(flow, cluster.world, traffic.own, traffic.markers)
            # Each flow is seen at both its nodes: keep the worse of the two views.
            key = (flow.client, flow.server, flow.upstream.data[:64], flow.from_start)
            if key not in judged or (judged[key][1].ok and not finding.ok):
                judged[key] = (flow, finding)
    proof.findings = [finding for _, finding in judged.values()]
    proof.problems += [f"{f.source} → {f.destination} port {f.port}: {f.wrong}" for f in proof.findings if f.wrong]
    proof.problems += unproved(proof.deliveries, proof.findings)
    proof.problems += [
        f"a payload that went from {delivery.source} to {delivery.destination} in the clear was not seen: the capture is blind"
        for delivery, marker in traffic.clear
        if marker not in in_clear
    ]
    _check_versions(cluster, traffic, [flow for flow, _ in judged.values()], proof)
    return proof


def _segments(captured: Captured, markers: list[bytes], proof: Proof) -> list[Segment]:
    segments = []
    strangers: set[str] = set()
    for frame in captured.frames:
        if any(marker in frame for marker in markers):
            proof.problems.append(f"{captured.node}: a frame carries a marked payload of the mesh in the clear")
        parsed = parse(frame)
        if isinstance(parsed, Segment):
            segments.append(parsed)
        elif parsed is not None:
            strangers.add(parsed)
    proof.problems += [f"{captured.node}: unexplained traffic: {stranger}" for stranger in sorted(strangers)]
    return segments


def _check_versions(cluster: Cluster, traffic: Traffic, seen: list[Flow], proof: Proof) -> None:
    """Each tunnel port must turn away TLS 1.2 and answer TLS 1.3; that covers connections whose own handshake we came too late for."""
    answers: dict[tuple[IPAddress, ssl.TLSVersion], int | None] = {}
    for flow in seen:
        question = traffic.questions.get(flow.client)
        if question is not None and flow.server.port == HBONE_PORT:
            answers[question] = view(flow.upstream.data, flow.downstream.data, from_start=flow.from_start).version
    for address, version in traffic.questions.values():
        name = cluster.world.pods[address]
        if (address, version) not in answers:
            proof.problems.append(f"{name}: no packet of a handshake with its tunnel port was seen")
        elif version is ssl.TLSVersion.TLSv1_2 and answers[address, version] is not None:
            proof.problems.append(f"{name}: its tunnel port takes TLS 1.2")
        elif version is ssl.TLSVersion.TLSv1_3 and answers[address, version] != TLS13:
            proof.problems.append(f"{name}: its tunnel port does not answer TLS 1.3")
    proof.joined = sum(finding.kind is Kind.MESH and finding.view is not None and not finding.view.from_start for finding in proof.findings)
