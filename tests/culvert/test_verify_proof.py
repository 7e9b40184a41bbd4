"""Whole proofs from frames made by hand: one that holds, and each way in which one must not."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

pytest.importorskip("scapy")

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from culvert.verify.capture import Captured
from culvert.verify.findings import Delivery, Kind, Pod, World
from culvert.verify.proof import Proof, prove
from culvert.verify.traffic import Traffic
from culvert.verify.world import Cluster
from mesh.model.workload import SocketAddress
from tests.culvert.handshakes import APPLICATION, transcript, write_pem

ONE = Pod("shop", "one", "node-1", True, (IPv4Address("10.244.1.2"),))
TWO = Pod("shop", "two", "node-2", True, (IPv4Address("10.244.2.2"),))
OUT = Pod("else", "out", "node-1", False, (IPv4Address("10.244.1.9"),))
ASKER = IPv4Address("172.30.0.11")
WORLD = World({pod.addresses[0]: pod for pod in (ONE, TWO, OUT)}, {ASKER: "node-1"})
CLUSTER = Cluster((), (ONE, TWO, OUT), WORLD)
SECRET, OPEN = b"s" * 32, b"o" * 32


def conversation(
    source: IPv4Address, sport: int, target: IPv4Address, dport: int, up: bytes, down: bytes, *, syn: bool = True
) -> list[bytes]:
    """Frames of one connection: SYN both ways, then the bytes of each side in pieces."""
    frames = []

    def put(outward: bool, sequence: int, flags: str, payload: bytes = b"", acknowledged: int = 0) -> None:
        ends = (source, target, sport, dport) if outward else (target, source, dport, sport)
        frames.append(
            bytes(
                Ether()
                / IP(src=str(ends[0]), dst=str(ends[1]))
                / TCP(sport=ends[2], dport=ends[3], seq=sequence, flags=flags, ack=acknowledged)
                / payload
            )
        )

    if syn:
        put(True, 0, "S")
        put(False, 0, "SA")
    for outward, data in ((True, up), (False, down)):
        for at in range(0, len(data), 1400):
            put(outward, 1 + at, "PA", data[at : at + 1400])
    put(True, 1 + len(up), "A", acknowledged=1 + len(down))
    put(False, 1 + len(down), "A", acknowledged=1 + len(up))
    return frames


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Callable[[ssl.TLSVersion], tuple[bytes, bytes]]:
    pem = write_pem(tmp_path_factory.mktemp("tls") / "both.pem")
    return lambda version: transcript(pem, version)


class Run:
    """A run in order; tests spoil one thing each."""

    def __init__(self, tls: Callable[[ssl.TLSVersion], tuple[bytes, bytes]]) -> None:
        up, down = tls(ssl.TLSVersion.TLSv1_3)
        self.up, self.down = up, down
        self.mesh = conversation(ONE.addresses[0], 40000, TWO.addresses[0], 15008, up, down)
        self.plain = conversation(OUT.addresses[0], 40001, TWO.addresses[0], 80, OPEN, OPEN)
        self.refusal = conversation(ASKER, 40002, TWO.addresses[0], 15008, up[:300], b"\x15\x03\x03\x00\x02\x02\x46")
        self.answer = conversation(ASKER, 40003, TWO.addresses[0], 15008, up, down)
        self.extra: list[bytes] = []
        self.lost = 0
        asked = {40002: ssl.TLSVersion.TLSv1_2, 40003: ssl.TLSVersion.TLSv1_3}
        self.traffic = Traffic(
            markers=[SECRET],
            clear=[(Delivery(OUT, TWO, 4, 32, True), OPEN)],
            deliveries=[Delivery(ONE, TWO, 4, len(APPLICATION), True), Delivery(OUT, TWO, 4, 32, True)],
            own={SocketAddress(ASKER, port) for port in asked},
            questions={SocketAddress(ASKER, port): (TWO.addresses[0], version) for port, version in asked.items()},
        )

    def prove(self) -> Proof:
        frames = self.mesh + self.plain + self.refusal + self.answer + self.extra
        return prove(CLUSTER, self.traffic, [Captured("node-1", frames, self.lost), Captured("node-2", list(frames))])


@pytest.fixture
def run(tls: Callable[[ssl.TLSVersion], tuple[bytes, bytes]]) -> Run:
    return Run(tls)


def test_a_run_in_order_is_proved(run: Run) -> None:
    proof = run.prove()
    assert proof.problems == []
    assert [finding.kind for finding in proof.findings] == [Kind.MESH, Kind.PLAINTEXT, Kind.PROBE, Kind.PROBE]
    assert proof.joined == 0


def test_a_connection_from_before_leans_on_the_ports_answers(run: Run) -> None:
    records = run.up[run.up.index(b"\x17\x03\x03") :], run.down[run.down.rindex(b"\x17\x03\x03", 0, -100) :]
    run.mesh = conversation(ONE.addresses[0], 40000, TWO.addresses[0], 15008, *records, syn=False)
    proof = run.prove()
    assert (proof.problems, proof.joined) == ([], 1)


def spoil_nothing_sent(run: Run) -> None:
    run.mesh, run.traffic.deliveries = [], []


def spoil_other_way(run: Run) -> None:
    run.mesh = []


def spoil_marker_in_the_clear(run: Run) -> None:
    run.extra = conversation(OUT.addresses[0], 40009, TWO.addresses[0], 80, b"x" * 1390 + SECRET, b"")


def spoil_marker_outside_tcp(run: Run) -> None:
    run.extra = [bytes(Ether() / IP(src="10.244.1.2", dst="10.244.2.2") / UDP(sport=1, dport=2) / SECRET)]


def spoil_udp(run: Run) -> None:
    run.extra = [bytes(Ether() / IP(src="10.244.1.2", dst="10.244.2.2") / UDP(sport=1, dport=2) / b"hello")]


def spoil_lost_frames(run: Run) -> None:
    run.lost = 3


def spoil_a_hole(run: Run) -> None:
    del run.mesh[3]


def spoil_blind(run: Run) -> None:
    run.plain = []


def spoil_plaintext_in_the_mesh(run: Run) -> None:
    run.extra = conversation(ONE.addresses[0], 40009, TWO.addresses[0], 80, b"GET /", b"200")


def spoil_old_version_taken(run: Run) -> None:
    run.refusal = conversation(ASKER, 40002, TWO.addresses[0], 15008, run.up, run.down)


def spoil_no_answer_to_new_version(run: Run) -> None:
    run.answer = conversation(ASKER, 40003, TWO.addresses[0], 15008, run.up, b"\x15\x03\x03\x00\x02\x02\x46")


def spoil_question_not_seen(run: Run) -> None:
    run.refusal = []


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (spoil_nothing_sent, "nothing to prove anything with"),
        (spoil_other_way, "only 0 bytes inside TLS were seen"),
        (spoil_marker_in_the_clear, "in the clear"),
        (spoil_marker_outside_tcp, "a frame carries a marked payload"),
        (spoil_udp, "unexplained traffic: UDP"),
        (spoil_lost_frames, "the capture lost 3 frames"),
        (spoil_a_hole, "misses"),
        (spoil_blind, "the capture is blind"),
        (spoil_plaintext_in_the_mesh, "plaintext between two pods of the mesh"),
        (spoil_old_version_taken, "takes TLS 1.2"),
        (spoil_no_answer_to_new_version, "does not answer TLS 1.3"),
        (spoil_question_not_seen, "no packet of a handshake"),
    ],
    ids=lambda value: value.__name__.removeprefix("spoil_") if callable(value) else "",
)
def test_what_must_not_be_proved(run: Run, spoil: Callable[[Run], None], problem: str) -> None:
    spoil(run)
    proof = run.prove()
    assert not proof.proved
    assert problem in "\n".join(proof.problems)


def test_tls12_inside_the_mesh_is_found(run: Run, tls: Callable[[ssl.TLSVersion], tuple[bytes, bytes]]) -> None:
    run.mesh = conversation(ONE.addresses[0], 40000, TWO.addresses[0], 15008, *tls(ssl.TLSVersion.TLSv1_2))
    assert "not TLS 1.3" in "\n".join(run.prove().problems)


def test_the_worse_of_two_views_counts(run: Run) -> None:
    """Seen whole on one node and with a hole on the other: not proved."""
    frames = run.mesh + run.plain + run.refusal + run.answer
    holed = [frame for frame in frames if frame is not run.mesh[3]]
    assert not prove(CLUSTER, run.traffic, [Captured("node-1", frames), Captured("node-2", holed)]).proved
