"""Floods: each kind of cheap frame has a bound, the bound has a reason, and honest traffic never meets it."""

from __future__ import annotations

import pytest

from mesh.model.errors import PeerError
from mesh.wire.h2 import Code, H2Connection, Limits, Rate
from mesh.wire.h2 import frames as f
from mesh.wire.h2.limits import Budget, window_updates_allowed
from tests.wire.h2talk import CONNECT, Talk

FLOOD = "! Error h2_flood ENHANCE_YOUR_CALM"


def flooded_after(talk: Talk, frame: str, most: int = 20_000) -> int:
    """How many times `frame` is taken before the connection ends. It must end, with the reason and the code of a flood."""
    for count in range(most):
        if did := [line for line in talk.feed("< " + frame) if line.startswith("! Error")]:
            assert did == [FLOOD]
            assert talk.sent()[-1].endswith("ENHANCE_YOUR_CALM")
            return count
        talk.machine.take_output()
    raise AssertionError("never")


def opened() -> Talk:
    talk = Talk.begun()
    talk.play(f"""
        < HEADERS 1 {CONNECT}
        ! Request 1 {CONNECT}
    """)
    return talk


@pytest.mark.parametrize(
    ("frame", "bound"),
    [
        ('PING "12345678"', 200),
        ("SETTINGS", 30),
        ("SETTINGS ACK", 30),
        ('DATA 1 ""', 200),
        ('DATA 1 "" PAD=5', 200),
        ("PRIORITY 3", 1000),
        ("FRAME 0x42 0 0", 1000),
        ('PING ACK "12345678"', 1000),
        ("WINDOW 0 +1", 1000),
        ("WINDOW 1 +1", 1000),
        ("GOAWAY 0 NO_ERROR", 1000),
    ],
)
def test_cheap_frames_are_bounded(frame: str, bound: int) -> None:
    talk = opened()
    assert flooded_after(talk, frame) == bound


@pytest.mark.parametrize("frame", ['PING "12345678"', "SETTINGS", 'DATA 1 ""', "PRIORITY 3"])
def test_time_refills_the_budgets(frame: str) -> None:
    talk = opened()
    for _ in range(3000):
        talk.now += 0.6
        talk.feed("< " + frame)
        talk.machine.take_output()


def test_rapid_reset() -> None:
    """CVE-2023-44487: streams opened and reset at once, each within every other bound."""
    talk = Talk.begun()
    count = 0
    did: list[str] = []
    while did[-1:] != [FLOOD]:
        did = talk.feed(f"< HEADERS {1 + 2 * count} {CONNECT}\n< RST {1 + 2 * count} CANCEL")
        count += 1
        assert count < 1000
    assert count == 501


def test_resets_of_answered_streams_are_ordinary() -> None:
    """Clients that close by RST, many a second, for ever: an HTTP load generator does this."""
    talk = Talk.begun()
    for number in range(1, 6001, 2):
        talk.feed(f"< HEADERS {number} {CONNECT}")
        talk.machine.respond(number, [(b":status", b"200")])
        assert talk.feed(f"< RST {number} CANCEL") == [f"! Reset {number} CANCEL"]
        talk.machine.take_output()


def test_crossing_resets_are_ordinary() -> None:
    talk = Talk.begun()
    for number in range(1, 6001, 2):
        talk.feed(f"< HEADERS {number} {CONNECT}")
        talk.machine.reset(number, Code.CANCEL)
        assert talk.feed(f"< RST {number} CANCEL") == []
        talk.machine.take_output()


def test_resets_of_closed_streams_are_bounded() -> None:
    talk = opened()
    talk.feed("< RST 1 CANCEL")
    assert flooded_after(talk, "RST 1 CANCEL") == 1000


@pytest.mark.parametrize("mistake", ["WINDOW {} +0", "HEADERS {} a=b", "WINDOW {} +2147483647"])
def test_made_you_reset(mistake: str) -> None:
    """CVE-2025-8671: the peer makes *us* reset its streams, which the count of its own resets would not see."""
    talk = Talk.begun()
    count = 0
    did: list[str] = []
    while did[-1:] != [FLOOD]:
        number = 1 + 2 * count
        did = talk.feed(f"< HEADERS {number} {CONNECT}\n< " + mistake.format(number))
        count += 1
        assert count < 1000
    assert count == 501


def test_refused_streams_are_bounded() -> None:
    talk = Talk.begun()
    count = 0
    did: list[str] = []
    while did[-1:] != [FLOOD]:
        did = talk.feed(f"< HEADERS {1 + 2 * count} {CONNECT}")
        count += 1
        assert count < 1000
    assert count == 200 + 501
    assert talk.machine.open_streams == 0


def test_continuations_are_bounded_in_number() -> None:
    """CVE-2024-27316, with empty frames."""
    talk = Talk.begun()
    talk.feed(f"< HEADERS 1 {CONNECT} MORE")
    assert flooded_after(talk, "CONT 1 MORE") == 16


@pytest.mark.parametrize("chunk", [0, 1000])
def test_header_blocks_are_bounded_in_bytes(chunk: int) -> None:
    """As compressed: nothing larger is collected. A single large frame is refused by its header, before its payload."""
    talk = Talk.begun(chunk=chunk)
    talk.feed(f"< HEADERS 1 {CONNECT} MORE")
    piece = f.frame(f.CONTINUATION, 0, 1, bytes(16000)).hex()
    assert talk.feed(f"< RAW {piece * 4}") == []
    assert talk.feed(f"< RAW {piece}") == [FLOOD]
    talk = Talk.begun(chunk=chunk)
    assert talk.feed("< RAW 011000 01 04 00000001") == [FLOOD]


def test_header_blocks_are_bounded_as_decoded() -> None:
    """A header bomb: one entry of 4000 bytes in the table, then a byte for each copy."""
    talk = Talk.begun(chunk=0)
    bomb = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 20
    assert talk.feed("< RAW " + f.frame(f.HEADERS, f.END_HEADERS, 1, bomb).hex()) == ["! Error h2_protocol COMPRESSION_ERROR"]


def test_table_size_updates_are_bounded() -> None:
    talk = Talk.begun()
    block = b"\x20\x3f\xe1\x1f\x20"
    assert talk.feed("< RAW " + f.frame(f.HEADERS, f.END_HEADERS, 1, block).hex()) == ["! Error h2_protocol COMPRESSION_ERROR"]


@pytest.mark.parametrize(
    "frame", ["RAW 001001 06 00 00000000", "RAW 001001 07 00 00000000", "RAW 001001 04 00 00000000", "SETTINGS " + "1=4096 " * 65]
)
def test_control_frames_are_bounded_in_bytes(frame: str) -> None:
    assert Talk.begun().feed("< " + frame) == [FLOOD]


def test_tiny_data_is_never_a_flood() -> None:
    """A chatty protocol's one-byte frames, 100,000 in one second: killing this tunnel would be our fault."""
    talk = opened()
    data = memoryview(talk.frame('DATA 1 "x"') * 1000)
    for _ in range(100):
        assert len(talk.machine.receive(data, 1.0)) == 1000
        talk.machine.consumed(1, 1000)
        talk.machine.take_output()


def test_window_updates_for_what_we_send_are_never_a_flood() -> None:
    """Some peers update both windows for every frame they read, whatever its size."""
    talk = opened()
    talk.machine.respond(1, [(b":status", b"200")])
    header = bytearray(9)
    updates = memoryview(talk.frame("WINDOW 1 +1") + talk.frame("WINDOW 0 +1"))
    for _ in range(20_000):
        talk.machine.write_data_header(header, 0, 1, 1)
        talk.machine.receive(updates, 1.0)
    assert window_updates_allowed(1, 0, 1 << 20) > (1 << 20) // 1024 * 2


def test_what_is_remembered_of_reset_streams_is_bounded() -> None:
    """Late HEADERS for a stream that was forgotten cost a reset each, and no longer the connection."""
    talk = Talk.begun(limits=Limits(remembered_resets=2))
    talk.feed("\n".join(f"< HEADERS {number} {CONNECT}" for number in (1, 3, 5)))
    for number in (1, 3, 5):
        talk.machine.reset(number, Code.CANCEL)
    talk.sent()
    talk.play("""
        < HEADERS 5 a=b END
        < HEADERS 1 a=b END
        > RST 1 STREAM_CLOSED
        < DATA 1 "x"
    """)


def test_a_budget_refills_up_to_its_burst() -> None:
    budget = Budget(Rate(2, 1.0))
    assert [budget.spend(now) for now in (0.0, 0.0, 0.0, 0.9, 1.0, 1.5, 100.0, 100.0, 100.0)] == [
        True, True, False, False, True, False, True, True, False,
    ]  # fmt: skip


def test_a_clock_that_stands_still_or_goes_back_changes_nothing() -> None:
    budget = Budget(Rate(3, 1000.0))
    assert [budget.spend(now) for now in (5.0, 5.0, 4.0, 3.0)] == [True, True, True, False]


def test_reasons_are_told_to_the_peer() -> None:
    machine = H2Connection(False, Talk().machine._local, Limits(pings=Rate(0, 0.0)))
    talk = Talk()
    with pytest.raises(PeerError):
        machine.receive(memoryview(talk.frame("PREFACE") + talk.frame("SETTINGS") + talk.frame('PING "12345678"')), 0.0)
    assert machine.take_output().endswith(b"PING")
