"""The connection itself: prefaces, SETTINGS, PING, GOAWAY, and frames that mean nothing. Whole, and byte by byte."""

from __future__ import annotations

import pytest

from mesh.model.errors import BugError, PeerError
from mesh.wire.h2 import SERVER_SETTINGS, H2Connection, Limits, LocalSettings
from tests.wire.h2talk import CONNECT, FIRST_CLIENT, FIRST_SERVER, Talk

pytestmark = pytest.mark.parametrize("chunk", [0, 1, 7])


def test_server_greets_and_acknowledges(chunk: int) -> None:
    Talk(chunk=chunk).play(f"""
        $ start
        {FIRST_SERVER}
        < PREFACE
        < SETTINGS 4=100000
        < SETTINGS ACK
        ! Settings
        > SETTINGS ACK
    """)


def test_client_greets_with_the_magic(chunk: int) -> None:
    Talk(client=True, chunk=chunk).play(f"""
        $ start
        {FIRST_CLIENT}
        < SETTINGS 3=100
        < SETTINGS ACK
        ! Settings
        > SETTINGS ACK
    """)


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"\x16\x03\x01\x02\x00" * 8])
def test_server_refuses_what_is_not_http2(chunk: int, first: bytes) -> None:
    Talk(chunk=chunk).play(f"""
        < RAW {first.hex()}
        ! Error h2_protocol PROTOCOL_ERROR
        > GOAWAY 0 PROTOCOL_ERROR
    """)


@pytest.mark.parametrize("frame", ["SETTINGS ACK", 'PING "12345678"', f"HEADERS 1 {CONNECT}", 'DATA 1 "x"', "FRAME 0x42 0 0 00"])
@pytest.mark.parametrize("client", [False, True])
def test_the_first_frame_is_settings(chunk: int, frame: str, client: bool) -> None:
    preface = "" if client else "< PREFACE"
    Talk(client, chunk=chunk).play(f"""
        {preface}
        < {frame}
        ! Error h2_protocol PROTOCOL_ERROR
        > GOAWAY 0 PROTOCOL_ERROR
    """)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ("4=2147483648", "FLOW_CONTROL_ERROR"),
        ("5=16383", "PROTOCOL_ERROR"),
        ("5=16777216", "PROTOCOL_ERROR"),
        ("2=2", "PROTOCOL_ERROR"),
        ("8=2", "PROTOCOL_ERROR"),
    ],
)
def test_settings_out_of_range_end_the_connection(chunk: int, settings: str, code: str) -> None:
    Talk.begun(chunk=chunk).play(f"""
        < SETTINGS {settings}
        ! Error h2_protocol {code}
        > GOAWAY 0 {code}
    """)


def test_a_server_may_not_enable_push(chunk: int) -> None:
    Talk.begun(client=True, chunk=chunk).play("""
        < SETTINGS 2=0
        ! Settings
        > SETTINGS ACK
        < SETTINGS 2=1
        ! Error h2_protocol PROTOCOL_ERROR
        > GOAWAY 0 PROTOCOL_ERROR
    """)


def test_unknown_settings_are_ignored(chunk: int) -> None:
    Talk.begun(chunk=chunk).play("""
        < SETTINGS 9=1 61450=7
        ! Settings
        > SETTINGS ACK
    """)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("FRAME 4 0 0 0001", "FRAME_SIZE_ERROR"),
        ("FRAME 4 1 0 000100000000", "FRAME_SIZE_ERROR"),
        ("FRAME 4 0 1", "PROTOCOL_ERROR"),
        ("FRAME 6 0 0 00", "FRAME_SIZE_ERROR"),
        ("FRAME 6 0 1 0000000000000000", "PROTOCOL_ERROR"),
        ("FRAME 7 0 0 00000000", "FRAME_SIZE_ERROR"),
        ("FRAME 7 0 1 0000000000000000", "PROTOCOL_ERROR"),
        ("FRAME 8 0 0 000000", "FRAME_SIZE_ERROR"),
        ("FRAME 3 0 1 00", "FRAME_SIZE_ERROR"),
        ("FRAME 2 0 1 00", "FRAME_SIZE_ERROR"),
        ("FRAME 2 0 0 0000000000", "PROTOCOL_ERROR"),
        ("PUSH 1", "PROTOCOL_ERROR"),
        ("CONT 1 a=b", "PROTOCOL_ERROR"),
        ('DATA 0 "x"', "PROTOCOL_ERROR"),
        (f"HEADERS 0 {CONNECT}", "PROTOCOL_ERROR"),
        (f"HEADERS 2 {CONNECT}", "PROTOCOL_ERROR"),
        ("RST 0 CANCEL", "PROTOCOL_ERROR"),
        ("RST 9 CANCEL", "PROTOCOL_ERROR"),
        ("WINDOW 9 +1", "PROTOCOL_ERROR"),
        ('DATA 9 "x"', "PROTOCOL_ERROR"),
        ("WINDOW 0 +0", "PROTOCOL_ERROR"),
        ("FRAME 1 0x0c 1", "FRAME_SIZE_ERROR"),
        ("FRAME 1 0x0c 1 0500", "PROTOCOL_ERROR"),
        ("FRAME 1 0x24 1 0000", "PROTOCOL_ERROR"),
        ("FRAME 0 0x08 1", "FRAME_SIZE_ERROR"),
        ("FRAME 0 0x08 1 05000000", "PROTOCOL_ERROR"),
        ("RAW 100001 00 00 00000001", "FRAME_SIZE_ERROR"),
        ("RAW 100001 42 00 00000000", "FRAME_SIZE_ERROR"),
    ],
)
def test_malformed_frames_end_the_connection(chunk: int, frame: str, code: str) -> None:
    Talk.begun(chunk=chunk).play(f"""
        < {frame}
        ! Error h2_protocol {code}
        > GOAWAY 0 {code}
    """)


def test_after_a_fault_nothing_is_taken_any_more(chunk: int) -> None:
    talk = Talk.begun(chunk=chunk)
    talk.play("""
        < PUSH 1
        ! Error h2_protocol PROTOCOL_ERROR
        > GOAWAY 0 PROTOCOL_ERROR
        < SETTINGS
        ! Error h2_protocol PROTOCOL_ERROR
        @ 100
        ! Error h2_protocol PROTOCOL_ERROR
    """)
    assert talk.machine.finished
    assert talk.machine.next_deadline() is None


def test_unknown_frames_and_priorities_are_skipped(chunk: int) -> None:
    Talk.begun(chunk=chunk).play(f"""
        < FRAME 0x42 0xff 7 {"ab" * 20000}
        < PRIORITY 5
        < FRAME 0x10 0 0 00
        < PING "12345678"
        > PING ACK "12345678"
    """)


def test_reserved_bits_are_ignored(chunk: int) -> None:
    Talk.begun(chunk=chunk).play("""
        < RAW 000008 06 00 80000000 6162636465666768
        > PING ACK "abcdefgh"
        < RAW 000004 08 00 80000000 80000001
    """)


def test_keepalive_is_sent_after_a_silence_and_its_answer_is_awaited(chunk: int) -> None:
    talk = Talk.begun(chunk=chunk)
    assert talk.machine.next_deadline() == 10.0
    talk.play("""
        @ 9.9
        @ 10
        > PING "culvert."
        @ 10.5
        < PING ACK "culvert."
        ! PingAcked 0.5
    """)
    assert talk.machine.next_deadline() == 20.5
    talk.play("""
        @ 20.5
        > PING "culvert."
        @ 40.4
        @ 40.5
        ! Error h2_timeout NO_ERROR
        > GOAWAY 0 NO_ERROR
    """)


def test_traffic_is_a_sign_of_life(chunk: int) -> None:
    talk = Talk.begun(chunk=chunk)
    talk.play("""
        @ 10
        > PING "culvert."
        @ 29
        < PING "12345678"
        > PING ACK "12345678"
        @ 48
        @ 49
        ! Error h2_timeout NO_ERROR
        > GOAWAY 0 NO_ERROR
    """)


def test_keepalive_can_be_off(chunk: int) -> None:
    talk = Talk.begun(chunk=chunk, limits=Limits(ping_interval=0.0))
    talk.play("@ 1000")
    assert talk.machine.next_deadline() is None


@pytest.mark.parametrize("heard", ["", "< PREFACE", "< PREFACE\n< SETTINGS\n! Settings\n> SETTINGS ACK"])
def test_settings_have_a_deadline(chunk: int, heard: str) -> None:
    talk = Talk(chunk=chunk)
    talk.play(f"""
        $ start
        {FIRST_SERVER}
        {heard}
        @ 9.9
    """)
    assert talk.machine.next_deadline() == 10.0
    talk.play("""
        @ 10
        ! Error h2_timeout SETTINGS_TIMEOUT
        > GOAWAY 0 SETTINGS_TIMEOUT
    """)


def test_server_drains_in_two_steps(chunk: int) -> None:
    """What is on its way when we begin to drain is served; what comes after the second GOAWAY was never looked at."""
    talk = Talk.begun(chunk=chunk)
    talk.play(f"""
        < HEADERS 1 {CONNECT}
        ! Request 1 {CONNECT}
        $ drain
        > GOAWAY 2147483647 NO_ERROR
        > PING "draining"
        < HEADERS 3 {CONNECT}
        ! Request 3 {CONNECT}
        < PING ACK "draining"
        > GOAWAY 3 NO_ERROR
        < HEADERS 5 {CONNECT}
        < DATA 5 "lost" END
        $ respond 1 200
        > HEADERS 1 :status=200
        < RST 1 CANCEL
        ! Reset 1 CANCEL
    """)
    assert not talk.machine.finished
    talk.play("""
        < RST 3 CANCEL
        ! Reset 3 CANCEL
    """)
    assert talk.machine.finished


def test_an_answer_to_no_drain_begins_none(chunk: int) -> None:
    talk = Talk.begun(chunk=chunk)
    talk.play('< PING ACK "draining"')
    assert not talk.machine.draining


def test_client_drains_at_once(chunk: int) -> None:
    talk = Talk.begun(client=True, chunk=chunk)
    talk.play(f"""
        $ open {CONNECT}
        > HEADERS 1 {CONNECT}
        $ drain
        > GOAWAY 0 NO_ERROR
        $ drain
    """)
    assert not talk.machine.can_open
    assert not talk.machine.finished
    with pytest.raises(BugError):
        talk.machine.open_stream([(b":method", b"CONNECT"), (b":authority", b"a:1")])


def test_goaway_refuses_the_streams_above_it(chunk: int) -> None:
    talk = Talk.begun(client=True, chunk=chunk)
    talk.play(f"""
        $ open {CONNECT}
        > HEADERS 1 {CONNECT}
        $ open {CONNECT}
        > HEADERS 3 {CONNECT}
        < GOAWAY 2147483647 NO_ERROR
        ! GoAway 2147483647 NO_ERROR
        < GOAWAY 1 NO_ERROR
        ! GoAway 1 NO_ERROR
        ! Reset 3 REFUSED_STREAM
        < HEADERS 1 :status=200
        ! Response 1 :status=200
        < GOAWAY 3 NO_ERROR
        ! Error h2_protocol PROTOCOL_ERROR
        > GOAWAY 0 PROTOCOL_ERROR
    """)
    assert not talk.machine.can_open


def test_queued_answers_are_bounded(chunk: int) -> None:
    """A peer that asks and never reads cannot make us keep the answers."""
    machine = H2Connection(False, SERVER_SETTINGS, Limits(max_queued_output=1000))
    machine.start(0.0)
    talk = Talk()
    machine.receive(memoryview(talk.frame("PREFACE") + talk.frame("SETTINGS")), 0.0)
    ping = talk.frame('PING "12345678"')
    for _ in range(40):
        machine.receive(memoryview(ping), 0.0)
    with pytest.raises(PeerError, match="h2_flood"):
        machine.receive(memoryview(ping * 20), 0.0)
    assert len(machine.take_output()) < 1200


@pytest.mark.parametrize(
    "wrong", [{"stream_window": 1}, {"connection_window": 1 << 31}, {"max_frame": 100}, {"max_streams": 0}, {"header_table": 9999}]
)
def test_our_own_settings_are_checked(chunk: int, wrong: dict[str, int]) -> None:
    with pytest.raises(BugError):
        LocalSettings(**wrong)
