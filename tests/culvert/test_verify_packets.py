"""Frames as scapy builds them, as the kernel pads and coalesces them, and what is not TCP."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

scapy = pytest.importorskip("scapy.layers.inet")

from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import ICMPv6MLReport2, ICMPv6ND_NS, IPv6, IPv6ExtHdrHopByHop  # noqa: E402
from scapy.layers.l2 import ARP, Ether  # noqa: E402
from scapy.packet import Packet, Padding  # noqa: E402

from culvert.verify.packets import parse  # noqa: E402
from culvert.verify.streams import Segment  # noqa: E402

FOUR = IP(src="10.244.1.2", dst="10.244.2.3")
SIX = IPv6(src="fd00::1", dst="fd00::2")


@pytest.mark.parametrize("network", [FOUR, SIX], ids=["v4", "v6"])
@pytest.mark.parametrize("size", [0, 1, 1448, 60000], ids=str)
def test_tcp(network: Packet, size: int) -> None:
    payload = b"x" * size
    segment = parse(bytes(Ether() / network / TCP(sport=40000, dport=15008, seq=7, flags="PA") / payload))
    assert isinstance(segment, Segment)
    assert (segment.source.ip, segment.source.port) == (ip_address(network.src), 40000)
    assert (segment.destination.ip, segment.destination.port) == (ip_address(network.dst), 15008)
    assert (segment.sequence, segment.flags, segment.payload) == (7, 0x18, payload)


def test_padding_of_short_frames_is_no_payload() -> None:
    segment = parse(bytes(Ether() / FOUR / TCP(flags="A") / Padding(b"\0" * 20)))
    assert isinstance(segment, Segment)
    assert segment.payload == b""
    segment = parse(bytes(Ether() / FOUR / TCP(flags="PA") / b"hi" / Padding(b"\0" * 4)))
    assert isinstance(segment, Segment)
    assert segment.payload == b"hi"


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(Ether() / ARP(), id="ARP"),
        pytest.param(Ether() / FOUR / ICMP(), id="ICMP"),
        pytest.param(Ether() / SIX / ICMPv6ND_NS(), id="neighbour discovery"),
        pytest.param(Ether() / SIX / IPv6ExtHdrHopByHop() / ICMPv6MLReport2(), id="multicast listener report"),
    ],
)
def test_housekeeping_is_passed_over(packet: Packet) -> None:
    assert parse(bytes(packet)) is None


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        pytest.param(Ether() / FOUR / UDP(sport=5, dport=53) / b"?", "UDP from 10.244.1.2 port 5 to 10.244.2.3 port 53", id="UDP"),
        pytest.param(Ether() / IP(proto=47) / b"?", "IP protocol 47", id="GRE"),
        pytest.param(Ether() / IP(flags="MF") / TCP(), "fragment", id="a fragment"),
        pytest.param(Ether(type=0x88CC) / b"?", "type 0x88cc", id="LLDP"),
    ],
)
def test_what_is_not_tcp_is_named(packet: Packet, words: str) -> None:
    parsed = parse(bytes(packet))
    assert isinstance(parsed, str)
    assert words in parsed
