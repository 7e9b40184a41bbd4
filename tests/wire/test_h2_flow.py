"""Flow control, both directions: windows are kept, credited, moved by SETTINGS, and never passed."""

from __future__ import annotations

import pytest

from mesh.model.errors import BugError
from mesh.wire.h2 import LocalSettings
from tests.wire.h2talk import CONNECT, Talk

SMALL = LocalSettings(stream_window=65535, connection_window=131070, max_frame=16384)
OPEN = f"""
    < HEADERS 1 {CONNECT}
    ! Request 1 {CONNECT}
"""
CHUNKS = pytest.mark.parametrize("chunk", [0, 7, 16384])


def opened(chunk: int = 0, settings: LocalSettings | None = None) -> Talk:
    talk = Talk.begun(settings=settings, chunk=chunk)
    talk.play(f"""
        {OPEN}
        $ respond 1 200
        > HEADERS 1 :status=200
    """)
    return talk


def test_what_is_sendable_is_the_least_of_three_bounds() -> None:
    talk = opened()
    talk.play(f"""
        $ sendable 1 16384
        < SETTINGS 5=1048576
        ! Settings
        > SETTINGS ACK
        $ sendable 1 65535
        < WINDOW 1 +10
        $ sendable 1 65535
        < WINDOW 0 +5
        $ sendable 1 65540
        $ send 1 "x"*65540
        > DATA 1 "{"x" * 65540}"
        $ sendable 1 0
    """)


def test_an_exhausted_window_is_reported_when_it_opens_and_only_then() -> None:
    talk = opened()
    for _ in range(3):
        talk.play(f"""
            $ send 1 "x"*16384
            > DATA 1 "{"x" * 16384}"
        """)
    talk.play(f"""
        < WINDOW 1 +1
        < WINDOW 0 +1
        $ send 1 "x"*16384
        > DATA 1 "{"x" * 16384}"
        $ sendable 1 0
        < WINDOW 1 +7
        ! Window 1
        $ sendable 1 0
        < WINDOW 0 +5
        ! Window 0
        $ sendable 1 5
    """)


def test_settings_may_make_a_window_negative() -> None:
    """RFC 9113 §6.9.2: 60 KiB were sent, the window shrinks to 16 KiB: it is -44 KiB, and opens when WINDOW_UPDATE lifts it above zero."""
    talk = opened()
    talk.play(f"""
        $ send 1 "x"*16384
        > DATA 1 "{"x" * 16384}"
        < WINDOW 0 +1000000
        < SETTINGS 4=1000
        ! Settings
        > SETTINGS ACK
        $ sendable 1 0
        < WINDOW 1 +15384
        $ sendable 1 0
        < WINDOW 1 +1
        ! Window 1
        $ sendable 1 1
        < SETTINGS 4=1002
        ! Settings
        > SETTINGS ACK
        $ sendable 1 3
        < SETTINGS 4=0
        ! Settings
        > SETTINGS ACK
        < SETTINGS 4=65535
        ! Window 1
        ! Settings
        > SETTINGS ACK
        $ send 1 "" END
        > DATA 1 "" END
    """)


def test_a_stream_can_end_where_no_window_is_left() -> None:
    talk = opened()
    talk.play("""
        < SETTINGS 4=0
        ! Settings
        > SETTINGS ACK
        $ sendable 1 0
        $ send 1 "" END
        > DATA 1 "" END
    """)


def test_new_streams_take_the_new_initial_window() -> None:
    talk = Talk.begun()
    talk.play(f"""
        < SETTINGS 4=10
        ! Settings
        > SETTINGS ACK
        {OPEN}
        $ sendable 1 10
    """)


@pytest.mark.parametrize(
    ("frames", "outcome"),
    [
        ("< WINDOW 0 +2147418113", "! Error h2_protocol FLOW_CONTROL_ERROR\n> GOAWAY 1 FLOW_CONTROL_ERROR"),
        ("< WINDOW 1 +2147418113", "! Reset 1 FLOW_CONTROL_ERROR local\n> RST 1 FLOW_CONTROL_ERROR"),
        ("< WINDOW 1 +2147418112\n< SETTINGS 4=65536", "! Error h2_protocol FLOW_CONTROL_ERROR\n> GOAWAY 1 FLOW_CONTROL_ERROR"),
        ("< WINDOW 1 +0", "! Reset 1 PROTOCOL_ERROR local\n> RST 1 PROTOCOL_ERROR"),
    ],
)
def test_windows_have_an_upper_bound(frames: str, outcome: str) -> None:
    talk = opened()
    did = talk.feed(frames) + [line for line in talk.sent() if "SETTINGS" not in line]
    assert did == outcome.splitlines()


def test_callers_cannot_pass_a_window() -> None:
    talk = opened()
    header = bytearray(9)
    for length in (16385, -1, 0):
        with pytest.raises(BugError):
            talk.machine.write_data_header(header, 0, 1, length)
    assert header == bytes(9)


@CHUNKS
def test_the_stream_window_is_credited_by_halves_of_what_was_consumed(chunk: int) -> None:
    talk = opened(chunk, SMALL)
    piece = "x" * 16384
    for _ in range(3):
        talk.play(f"""
            < DATA 1 "{piece}"
            ! Data 1 "{piece}"
        """)
    talk.play("""
        $ consumed 1 32767
        $ consumed 1 1
        > WINDOW 1 +32768
        $ consumed 1 16384
    """)
    with pytest.raises(BugError):
        talk.machine.consumed(1, 1)


@CHUNKS
def test_the_connection_window_is_credited_on_arrival(chunk: int) -> None:
    """One stream whose app does not read must not stop the others."""
    talk = opened(chunk, SMALL)
    sent = []
    for _ in range(3):
        talk.feed(f'< DATA 1 "{"x" * 16384}"')
        sent += talk.sent()
    talk.feed(f'< DATA 1 "{"x" * 16383}"')
    sent += talk.sent()
    assert sent == ["> WINDOW 0 +65535"]
    talk.play(f"""
        < HEADERS 3 {CONNECT}
        ! Request 3 {CONNECT}
        < DATA 3 "goes on"
        ! Data 3 "goes on"
    """)


@CHUNKS
def test_data_beyond_the_stream_window_costs_the_stream(chunk: int) -> None:
    talk = opened(chunk, SMALL)
    for _ in range(3):
        talk.feed(f'< DATA 1 "{"x" * 16384}"')
    talk.feed(f'< DATA 1 "{"x" * 16383}"')
    talk.sent()
    talk.play("""
        < DATA 1 "y"
        ! Reset 1 FLOW_CONTROL_ERROR local
        > RST 1 FLOW_CONTROL_ERROR
        < DATA 1 "y"
        ! Error h2_protocol FLOW_CONTROL_ERROR
        > GOAWAY 1 FLOW_CONTROL_ERROR
    """)


def test_data_beyond_the_connection_window_ends_the_connection() -> None:
    """Only possible within one read, since the window is credited after each."""
    talk = Talk.begun(settings=LocalSettings(stream_window=65535, connection_window=65535))
    frames = [f"< HEADERS {number} {CONNECT}" for number in (1, 3)] + [f'< DATA {number} "{"x" * 16384}"' for number in (1, 3, 1, 3)]
    assert talk.feed("\n".join(frames)) == ["! Error h2_protocol FLOW_CONTROL_ERROR"]


@CHUNKS
def test_padding_counts_and_is_credited_by_ourselves(chunk: int) -> None:
    talk = opened(chunk, SMALL)
    for _ in range(256):
        assert talk.feed('< DATA 1 "x" PAD=255') == ['! Data 1 "x"']
    lines = [line for line in talk.sent() if line.startswith("> WINDOW 1")]
    # 256 of the 257 bytes of each frame are padding and its length: 128 frames of them are half of the window.
    assert lines == ["> WINDOW 1 +32768", "> WINDOW 1 +32768"]
    talk.machine.consumed(1, 256)


def test_padding_alone_can_break_the_window() -> None:
    talk = opened(settings=SMALL)
    for _ in range(3):
        talk.feed(f'< DATA 1 "{"x" * 16384}"')
    talk.feed(f'< DATA 1 "{"x" * 16283}"')
    talk.sent()
    talk.play("""
        < DATA 1 "" PAD=100
        ! Reset 1 FLOW_CONTROL_ERROR local
        > RST 1 FLOW_CONTROL_ERROR
        > WINDOW 0 +65536
    """)


def test_a_reset_stream_may_use_up_its_window_and_no_more() -> None:
    talk = opened(settings=SMALL)
    talk.play("""
        $ reset 1 CANCEL
        > RST 1 CANCEL
    """)
    for size in (16384, 16384, 16384, 16383):
        assert talk.feed(f'< DATA 1 "{"x" * size}"') == []
    talk.sent()
    talk.play("""
        < DATA 1 "x"
        ! Error h2_protocol FLOW_CONTROL_ERROR
        > GOAWAY 1 FLOW_CONTROL_ERROR
    """)


def test_consuming_after_the_end_needs_no_credit() -> None:
    talk = opened()
    talk.play("""
        < DATA 1 "x" END
        ! Data 1 "x" END
        $ consumed 1 1
    """)
