"""Segments to streams: order, repetition, overlap, wrap-around; a hole is counted, never papered over."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

import pytest

from culvert.verify.streams import ACK, FIN, RST, SYN, WRAP, Segment, flows
from mesh.model.workload import SocketAddress

A = SocketAddress(IPv4Address("10.0.0.1"), 40000)
B = SocketAddress(IPv4Address("10.0.0.2"), 15008)
TEXT = bytes(range(256)) * 8


def up(sequence: int, payload: bytes = b"", flags: int = ACK) -> Segment:
    return Segment(A, B, sequence % WRAP, flags, payload)


def down(sequence: int, payload: bytes = b"", flags: int = ACK) -> Segment:
    return Segment(B, A, sequence % WRAP, flags, payload)


def pieces(start: int, size: int = 100) -> list[Segment]:
    return [up(start + at, TEXT[at : at + size]) for at in range(0, len(TEXT), size)]


@pytest.mark.parametrize("start", [0, 1000, WRAP - 700], ids=["from zero", "from anywhere", "over the wrap"])
@pytest.mark.parametrize("seed", range(3))
def test_any_order_and_repetition(start: int, seed: int) -> None:
    segments = pieces(start + 1) * 2 + pieces(start + 1, 64)
    random.Random(seed).shuffle(segments)
    (flow,) = flows([up(start, flags=SYN), *segments])
    assert (flow.client, flow.server, flow.from_start) == (A, B, True)
    assert (flow.upstream.data, flow.missing) == (TEXT, 0)


def test_a_hole_is_counted() -> None:
    segments = pieces(1)
    del segments[3:5]
    (flow,) = flows([up(0, flags=SYN), *segments])
    assert flow.missing == 200
    assert len(flow.upstream.data) == len(TEXT) - 200


def test_a_first_byte_that_is_lost_is_a_hole_too() -> None:
    (flow,) = flows([up(0, flags=SYN), *pieces(1)[1:]])
    assert flow.missing == 100


def test_an_end_that_was_acknowledged_but_not_seen_is_a_hole() -> None:
    (flow,) = flows([up(0, flags=SYN), up(1, b"abc"), down(0, flags=SYN | ACK)._replace(acknowledged=1), down(1)._replace(acknowledged=9)])
    assert flow.missing == 5


def test_a_fin_takes_a_number_and_no_byte() -> None:
    (flow,) = flows([up(0, flags=SYN), up(1, b"abc"), up(4, flags=FIN | ACK), down(1)._replace(acknowledged=5)])
    assert flow.missing == 0


def test_acknowledgements_from_before_mean_nothing() -> None:
    (flow,) = flows([down(7)._replace(acknowledged=5000), up(5000, b"abc"), down(7)._replace(acknowledged=5003)])
    assert flow.missing == 0


def test_joined_in_the_middle() -> None:
    (flow,) = flows([down(77, b"late"), *pieces(5000)])
    assert (flow.client, flow.server) == (A, B)
    assert not flow.from_start
    assert (flow.upstream.data, flow.downstream.data, flow.missing) == (TEXT, b"late", 0)


def test_both_ways_and_refusal() -> None:
    (refused,) = flows([up(0, flags=SYN), down(0, flags=RST | ACK)])
    assert refused.refused
    assert refused.payload == 0
    (later,) = flows([up(0, flags=SYN), down(0, flags=SYN | ACK), up(1, b"x"), down(1, flags=RST)])
    assert not later.refused


def test_ports_used_again_are_another_flow() -> None:
    first, second = flows([up(0, flags=SYN), up(1, b"one"), up(0, flags=SYN), up(900, flags=SYN), up(901, b"two")])
    assert (first.upstream.data, second.upstream.data) == (b"one", b"two")
