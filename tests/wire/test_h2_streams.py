"""A stream's life: request, answer, bytes, both ends, resets; and the peer's mistakes that cost one stream only."""

from __future__ import annotations

import pytest

from mesh.model.errors import BugError
from mesh.wire.h2 import LocalSettings
from tests.wire.h2talk import CONNECT, Talk

pytestmark = pytest.mark.parametrize("chunk", [0, 1, 7])
OPEN = f"""
    < HEADERS 1 {CONNECT}
    ! Request 1 {CONNECT}
"""
OPENED = f"""
    $ open {CONNECT}
    > HEADERS 1 {CONNECT}
    < HEADERS 1 :status=200
    ! Response 1 :status=200
"""


def test_a_whole_life_at_the_server(chunk: int) -> None:
    talk = Talk.begun(chunk=chunk)
    talk.play(f"""
        {OPEN}
        $ respond 1 200 baggage=k=v
        > HEADERS 1 :status=200 baggage=k=v
        < DATA 1 "to the app"
        ! Data 1 "to the app"
        $ send 1 "from the app"
        > DATA 1 "from the app"
        < DATA 1 "bye" END
        ! Data 1 "bye" END
        $ send 1 "still there"
        > DATA 1 "still there"
        $ end 1
        > DATA 1 "" END
    """)
    assert talk.machine.open_streams == 0


def test_a_whole_life_at_the_client(chunk: int) -> None:
    talk = Talk.begun(client=True, chunk=chunk)
    talk.play(f"""
        {OPENED}
        $ send 1 "bye" END
        > DATA 1 "bye" END
        < DATA 1 "still"
        < DATA 1 " there"
        ! Data 1 "still there"
        < DATA 1 "" END
        ! Data 1 "" END
    """)
    assert talk.machine.open_streams == 0


def test_streams_do_not_mix(chunk: int) -> None:
    Talk.begun(chunk=chunk).play(f"""
        < HEADERS 1 {CONNECT}
        < HEADERS 3 {CONNECT}
        < DATA 3 "b"
        < DATA 1 "a"
        < DATA 3 "bb" END
        ! Request 1 {CONNECT}
        ! Request 3 {CONNECT}
        ! Data 3 "b"
        ! Data 1 "a"
        ! Data 3 "bb" END
    """)


def test_padding_is_stripped_and_priority_ignored(chunk: int) -> None:
    Talk.begun(chunk=chunk).play(f"""
        < HEADERS 1 {CONNECT} PAD=9 PRIO
        < DATA 1 "x" PAD=0
        < DATA 1 "yz" PAD=255
        < DATA 1 "" PAD=3 END
        ! Request 1 {CONNECT}
        ! Data 1 "xyz" END
    """)


def test_a_header_block_may_come_in_continuations(chunk: int) -> None:
    Talk.begun(chunk=chunk).play(f"""
        < HEADERS 1 :method=CONNECT MORE END
        < CONT 1 MORE
        < CONT 1 :authority=10.0.0.1:80
        ! Request 1 {CONNECT} END
    """)


@pytest.mark.parametrize(
    "frame", ['DATA 1 "x"', 'PING "12345678"', "CONT 3", f"HEADERS 3 {CONNECT}", "FRAME 0x42 0 0 00", "PRIORITY 1", "RST 1 CANCEL"]
)
def test_nothing_interrupts_a_header_block(chunk: int, frame: str) -> None:
    Talk.begun(chunk=chunk).play(f"""
        {OPEN}
        < HEADERS 1 a=b MORE
        < {frame}
        ! Error h2_protocol PROTOCOL_ERROR
        > GOAWAY 1 PROTOCOL_ERROR
    """)


def test_trailers_end_a_stream(chunk: int) -> None:
    Talk.begun(chunk=chunk).play(f"""
        {OPEN}
        < DATA 1 "x"
        < HEADERS 1 grpc-status=0 END
        ! Data 1 "x" END
    """)
    Talk.begun(client=True, chunk=chunk).play(f"""
        {OPENED}
        < HEADERS 1 grpc-status=0 END
        ! Data 1 "" END
    """)


@pytest.mark.parametrize("trailers", ["HEADERS 1 a=b", "HEADERS 1 :status=200 END", "HEADERS 1 A=b END"])
def test_bad_trailers_cost_the_stream(chunk: int, trailers: str) -> None:
    Talk.begun(chunk=chunk).play(f"""
        {OPEN}
        < {trailers}
        ! Reset 1 PROTOCOL_ERROR local
        > RST 1 PROTOCOL_ERROR
    """)


def test_interim_responses_are_ignored(chunk: int) -> None:
    Talk.begun(client=True, chunk=chunk).play(f"""
        $ open {CONNECT}
        > HEADERS 1 {CONNECT}
        < HEADERS 1 :status=103 link=x
        < HEADERS 1 :status=200
        ! Response 1 :status=200
    """)


@pytest.mark.parametrize(
    "response",
    [":status=100 END", ":status=101", ":status=20", ":status=2000", ":status=abc", "a=b", ":method=GET", ":status=200 :status=200"],
)
def test_bad_responses_cost_the_stream(chunk: int, response: str) -> None:
    Talk.begun(client=True, chunk=chunk).play(f"""
        $ open {CONNECT}
        > HEADERS 1 {CONNECT}
        < HEADERS 1 {response}
        ! Reset 1 PROTOCOL_ERROR local
        > RST 1 PROTOCOL_ERROR
    """)


def test_data_before_the_response_costs_the_stream(chunk: int) -> None:
    Talk.begun(client=True, chunk=chunk).play(f"""
        $ open {CONNECT}
        > HEADERS 1 {CONNECT}
        < DATA 1 "early"
        ! Reset 1 PROTOCOL_ERROR local
        > RST 1 PROTOCOL_ERROR
    """)


@pytest.mark.parametrize("frame", ['DATA 1 "x"', "HEADERS 1 a=b END", 'DATA 1 "" END'])
def test_nothing_follows_the_end(chunk: int, frame: str) -> None:
    Talk.begun(chunk=chunk).play(f"""
        {OPEN}
        < DATA 1 "" END
        ! Data 1 "" END
        < {frame}
        ! Reset 1 STREAM_CLOSED local
        > RST 1 STREAM_CLOSED
    """)


def test_a_refusal_ends_the_stream_both_ways(chunk: int) -> None:
    """The answer says END_STREAM; RST_STREAM(NO_ERROR) tells a client that goes on sending to stop, and what is on its way is ignored."""
    talk = Talk.begun(chunk=chunk)
    talk.play(f"""
        {OPEN}
        $ respond 1 401 END
        > HEADERS 1 :status=401 END
        > RST 1 NO_ERROR
        < DATA 1 "on its way"
        < WINDOW 1 +5
        < DATA 1 "" END
        < RST 1 CANCEL
    """)
    assert talk.machine.open_streams == 0


def test_a_refused_request_that_had_ended_needs_no_reset(chunk: int) -> None:
    Talk.begun(chunk=chunk).play(f"""
        < HEADERS 1 {CONNECT} END
        ! Request 1 {CONNECT} END
        $ respond 1 503 END
        > HEADERS 1 :status=503 END
    """)


def test_the_client_sees_a_refusal_and_then_its_reset(chunk: int) -> None:
    Talk.begun(client=True, chunk=chunk).play(f"""
        $ open {CONNECT}
        > HEADERS 1 {CONNECT}
        < HEADERS 1 :status=401 END
        < RST 1 NO_ERROR
        ! Response 1 :status=401 END
        ! Reset 1 NO_ERROR
    """)


def test_the_peer_resets(chunk: int) -> None:
    talk = Talk.begun(chunk=chunk)
    talk.play(f"""
        {OPEN}
        < DATA 1 "x"
        < RST 1 CANCEL
        ! Data 1 "x"
        ! Reset 1 CANCEL
        $ sendable 1 0
        $ consumed 1 1
        $ respond 1 200
        $ end 1
        $ reset 1 CANCEL
    """)
    with pytest.raises(BugError):
        talk.machine.write_data_header(bytearray(9), 0, 1, 1)


def test_a_frame_larger_than_announced_ends_the_connection(chunk: int) -> None:
    talk = Talk.begun(chunk=chunk, settings=LocalSettings(max_frame=16384))
    talk.play(f"""
        {OPEN}
        < DATA 1 "x"*16385
        ! Error h2_protocol FRAME_SIZE_ERROR
        > GOAWAY 1 FRAME_SIZE_ERROR
    """)


def test_we_reset_and_ignore_what_is_on_its_way(chunk: int) -> None:
    Talk.begun(chunk=chunk).play(f"""
        {OPEN}
        < DATA 1 "abc"
        ! Data 1 "abc"
        $ reset 1 CANCEL
        > RST 1 CANCEL
        < DATA 1 "def" PAD=2
        < HEADERS 1 trailer=x END
        < PING "12345678"
        > PING ACK "12345678"
    """)


def test_a_reset_in_the_middle_of_a_frame_drops_its_rest(chunk: int) -> None:
    talk = Talk.begun(chunk=chunk)
    talk.play(OPEN)
    frame = talk.frame('DATA 1 "abcdef"')
    talk.play(f"""
        < RAW {frame[:12].hex()}
        ! Data 1 "abc"
        $ reset 1 CANCEL
        > RST 1 CANCEL
        < RAW {frame[12:].hex()}
        < PING "12345678"
        > PING ACK "12345678"
    """)


def test_headers_for_a_closed_stream_end_the_connection(chunk: int) -> None:
    Talk.begun(chunk=chunk).play(f"""
        < HEADERS 5 {CONNECT}
        ! Request 5 {CONNECT}
        < HEADERS 3 {CONNECT}
        ! Error h2_protocol STREAM_CLOSED
        > GOAWAY 5 STREAM_CLOSED
    """)


def test_data_for_a_closed_stream_is_answered_by_a_reset(chunk: int) -> None:
    Talk.begun(chunk=chunk).play(f"""
        {OPEN}
        < RST 1 CANCEL
        ! Reset 1 CANCEL
        < DATA 1 "x"
        > RST 1 STREAM_CLOSED
    """)


@pytest.mark.parametrize(
    "fields",
    [
        ":authority=a:1",
        ":method=CONNECT",
        ":method=CONNECT :authority=",
        ":method=CONNECT :authority=a:1 :scheme=http",
        ":method=CONNECT :authority=a:1 :path=/",
        ":method=CONNECT :authority=a:1 :protocol=websocket",
        ":method=CONNECT :method=CONNECT :authority=a:1",
        ":method=CONNECT a=b :authority=a:1",
        ":method=CONNECT :authority=a:1 Upper=x",
        ":method=CONNECT :authority=a:1 connection=close",
        ":method=CONNECT :authority=a:1 transfer-encoding=chunked",
        ":method=CONNECT :authority=a:1 te=gzip",
        ":method=CONNECT :authority=a:1 'a= b'",
        ":method=CONNECT :authority=a:1 'a=b '",
        ":method=CONNECT :authority=a:1 'a b=c'",
        ":method=CONNECT :authority=a:1 :status=200",
        ":method=GET :authority=a:1",
        ":method=GET :scheme=http :path= :authority=a:1",
        "a=b",
        "",
    ],
)
def test_malformed_requests_cost_the_stream(chunk: int, fields: str) -> None:
    Talk.begun(chunk=chunk).play(f"""
        < HEADERS 1 {fields}
        > RST 1 PROTOCOL_ERROR
        < DATA 1 "on its way"
        < HEADERS 3 {CONNECT}
        ! Request 3 {CONNECT}
    """)


@pytest.mark.parametrize("fields", [":method=GET :scheme=https :authority=a :path=/", ":method=POST :scheme=http :path=/x te=trailers"])
def test_other_methods_are_delivered_for_the_tunnel_to_refuse(chunk: int, fields: str) -> None:
    Talk.begun(chunk=chunk).play(f"""
        < HEADERS 1 {fields}
        ! Request 1 {fields}
        $ respond 1 400 END
        > HEADERS 1 :status=400 END
        > RST 1 NO_ERROR
    """)


def test_more_streams_than_announced_are_refused(chunk: int) -> None:
    talk = Talk.begun(chunk=chunk)
    for number in range(200):
        talk.feed(f"< HEADERS {1 + 2 * number} {CONNECT}")
    talk.play(f"""
        < HEADERS 401 {CONNECT}
        > RST 401 REFUSED_STREAM
        < RST 1 CANCEL
        < HEADERS 403 {CONNECT}
        ! Reset 1 CANCEL
        ! Request 403 {CONNECT}
    """)


def test_the_client_keeps_to_the_peers_maximum(chunk: int) -> None:
    talk = Talk.begun(client=True, chunk=chunk)
    assert talk.machine.peer_max_streams == 100
    talk.play(f"""
        < SETTINGS 3=1
        ! Settings
        > SETTINGS ACK
        {OPENED}
    """)
    assert not talk.machine.can_open
    talk.play("""
        < RST 1 CANCEL
        ! Reset 1 CANCEL
    """)
    assert talk.machine.can_open


def test_misuse_is_our_bug(chunk: int) -> None:
    server = Talk.begun(chunk=chunk)
    server.play(OPEN)
    for call in (
        "$ open :method=CONNECT",
        "$ end 3",
        "$ reset 3 CANCEL",
        "$ consumed 3 1",
        "$ respond 3 200",
        "$ end 1",
        "$ consumed 1 1",
        '$ send 1 "x"',
    ):
        with pytest.raises(BugError):
            server.play(call)
    server.machine.respond(1, [(b":status", b"200")])
    server.machine.end_stream(1)
    for call in ("$ respond 1 200", "$ end 1", '$ send 1 "x"'):
        with pytest.raises(BugError):
            server.play(call)
    client = Talk.begun(client=True, chunk=chunk)
    client.play(OPENED)
    with pytest.raises(BugError):
        client.play("$ respond 1 200")
