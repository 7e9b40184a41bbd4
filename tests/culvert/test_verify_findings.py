"""Who may talk how: each row is a flow, and what verify must say of it."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from culvert.verify.findings import Delivery, Finding, Kind, Mode, Pod, World, judge, unproved
from culvert.verify.records import TLS13, TlsView
from culvert.verify.streams import Direction, Flow
from mesh.model.workload import SocketAddress

MARKER = b"culvert-marker-0123456789abcdef"
ADDRESSES = {name: IPv4Address(f"10.244.1.{number}") for number, name in enumerate(("mesh", "peer", "strict", "outsider", "stranger"), 2)}


def pod(name: str, *, enrolled: bool = True, mode: Mode = Mode.PERMISSIVE) -> Pod:
    return Pod("shop", name, "node-1", enrolled, (ADDRESSES[name],), mode=lambda _: mode)


PODS = [pod("mesh"), pod("peer"), pod("strict", mode=Mode.STRICT), pod("outsider", enrolled=False), pod("stranger", enrolled=False)]
CONTROL = IPv4Address("172.30.0.10")
NODE = IPv4Address("172.30.0.11")
WORLD = World({pod.addresses[0]: pod for pod in PODS}, {CONTROL: "control plane", NODE: "node-1"})
RECORD = b"\x17\x03\x03\x00\x10" + bytes(16)


def flow(
    client: str, server: str, port: int, up: bytes = b"", down: bytes = b"", *, refused: bool = False, start: bool = True, missing: int = 0
) -> Flow:
    ends = [
        SocketAddress(ADDRESSES.get(name) or {"control": CONTROL, "node": NODE, "who": IPv4Address("192.0.2.9")}[name], 40000)
        for name in (client, server)
    ]
    return Flow(ends[0], ends[1]._replace(port=port), Direction(up, missing, start), Direction(down, 0, start), refused)


@pytest.mark.parametrize(
    ("seen", "kind", "wrong"),
    [
        pytest.param(flow("mesh", "peer", 15008, RECORD, RECORD, start=False), Kind.MESH, "", id="records to the tunnel"),
        pytest.param(flow("mesh", "peer", 15008, b"hello", b""), Kind.MESH, "no TLS record", id="plaintext to the tunnel port"),
        pytest.param(flow("mesh", "peer", 15008, RECORD, RECORD, start=False, missing=9), Kind.MESH, "misses 9 bytes", id="a hole in it"),
        pytest.param(
            flow("outsider", "peer", 15008, RECORD, RECORD, start=False),
            Kind.UNKNOWN,
            "outside the mesh",
            id="an outsider to the tunnel port",
        ),
        pytest.param(flow("mesh", "peer", 80, b"GET", b"200"), Kind.LEAK, "between two pods of the mesh", id="plaintext inside the mesh"),
        pytest.param(flow("mesh", "peer", 80, start=False), Kind.LEAK, "older than the label", id="an old connection inside the mesh"),
        pytest.param(flow("mesh", "peer", 80, refused=True), Kind.PLAINTEXT, "", id="refused inside the mesh"),
        pytest.param(flow("mesh", "strict", 80, b"GET"), Kind.LEAK, "between two pods", id="plaintext inside the mesh to strict"),
        pytest.param(flow("outsider", "peer", 80, b"GET", b"200"), Kind.PLAINTEXT, "", id="permissive"),
        pytest.param(flow("outsider", "strict", 80, b"GET"), Kind.PLAINTEXT, "", id="strict says nothing"),
        pytest.param(flow("outsider", "strict", 80, b"GET", b"200"), Kind.LEAK, "STRICT and answered", id="strict answers"),
        pytest.param(flow("mesh", "outsider", 80, b"GET", b"200"), Kind.PLAINTEXT, "", id="to outside"),
        pytest.param(flow("outsider", "stranger", 80, b"GET", b"200"), Kind.PLAINTEXT, "", id="both outside"),
        pytest.param(flow("outsider", "stranger", 80, b"G" + MARKER), Kind.LEAK, "marked payload", id="a mesh marker elsewhere"),
        pytest.param(flow("node", "control", 15012, RECORD, RECORD, start=False), Kind.CONTROL, "", id="xDS"),
        pytest.param(flow("node", "control", 15012, b"PRI * HTTP/2.0"), Kind.CONTROL, "no TLS record", id="xDS in the clear"),
        pytest.param(flow("node", "control", 9999, RECORD), Kind.UNKNOWN, "nothing explains", id="another port of the control plane"),
        pytest.param(flow("who", "peer", 80, b"GET"), Kind.UNKNOWN, "nothing explains", id="an address nobody has"),
        pytest.param(flow("node", "peer", 80, b"GET"), Kind.UNKNOWN, "nothing explains", id="a node to a pod elsewhere"),
    ],
)
def test_judgement(seen: Flow, kind: Kind, wrong: str) -> None:
    finding = judge(seen, WORLD, markers=[MARKER])
    assert finding.kind is kind
    assert wrong in finding.wrong
    assert finding.ok == (not wrong)


def test_own_handshakes_are_known_by_their_address_only() -> None:
    seen = flow("node", "peer", 15008, b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
    assert judge(seen, WORLD).kind is Kind.UNKNOWN
    assert judge(seen, WORLD, own=[seen.client]).kind is Kind.PROBE


def mesh_finding(size: int) -> Finding:
    seen = TlsView(TLS13, 0x1301, True, size, size)
    return Finding(Kind.MESH, "shop/mesh", "shop/peer", 15008, size, size, "", view=seen)


@pytest.mark.parametrize(
    ("deliveries", "carried", "problem"),
    [
        pytest.param([(1000, True)], 1100, "", id="carried"),
        pytest.param([(1000, True), (1000, True)], 1100, "2000 marked bytes", id="half of it carried"),
        pytest.param([(1000, True)], 0, "only 0 bytes", id="arrived by another way"),
        pytest.param([(1000, False)], 1100, "nothing to prove", id="nothing arrived"),
        pytest.param([], 1100, "nothing to prove", id="nothing was sent"),
    ],
)
def test_what_is_not_proved(deliveries: list[tuple[int, bool]], carried: int, problem: str) -> None:
    sent = [Delivery(PODS[0], PODS[1], 4, size, arrived) for size, arrived in deliveries]
    problems = unproved(sent, [mesh_finding(carried)] if carried else [])
    assert bool(problems) == bool(problem)
    assert problem in "".join(problems)


def test_plaintext_deliveries_prove_nothing() -> None:
    assert unproved([Delivery(PODS[3], PODS[1], 4, 100, True)], [])
