"""Whatever bytes come, in whatever pieces: events or PeerError, the same events, bounded windows, bounded memory."""

from __future__ import annotations

import sys

from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.errors import PeerError
from mesh.wire.h2 import DataReceived, Event, GoAway, H2Connection, Limits, LocalSettings, RequestReceived, StreamReset
from mesh.wire.h2 import frames as f
from tests.wire.h2talk import merged, shown

SETTINGS = LocalSettings(stream_window=65535, connection_window=131070, max_frame=16384, max_header_list=1000, max_streams=4)
STREAMS = st.integers(0, 9)
SMALL = st.binary(max_size=40)


def _block(fields: list[tuple[str, str]]) -> bytes:
    return Encoder().encode(fields)


REQUESTS = st.sampled_from(
    [
        _block([(":method", "CONNECT"), (":authority", "a:1")]),
        _block([(":method", "GET"), (":scheme", "http"), (":path", "/")]),
        _block([(":status", "200")]),
        _block([(":status", "103")]),
        _block([("a", "b")]),
        b"\x20\x82",
    ]
)


@st.composite
def one_frame(draw: st.DrawFn) -> bytes:
    """A frame that is valid on its own, most of the time; what it does to a connection is another matter."""
    kind = draw(st.sampled_from([0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 0x42]))
    stream = draw(STREAMS)
    flags = draw(st.sampled_from([0, 0, 1, 4, 4, 5, 8, 9, 0xC, 0x2D, 0xFF]))
    if kind == f.DATA:
        payload = draw(st.one_of(SMALL, st.integers(0, 17000).map(bytes)))
    elif kind in (f.HEADERS, f.CONTINUATION):
        payload = draw(st.one_of(REQUESTS, REQUESTS, SMALL))
    elif kind == f.SETTINGS:
        stream, flags = 0, draw(st.sampled_from([0, 0, 1]))
        values = st.tuples(st.integers(0, 9), st.one_of(st.sampled_from([0, 1, 2**31 - 1]), st.integers(0, 2**32 - 1)))
        payload = b"" if flags else b"".join(f.SETTING.pack(*value) for value in draw(st.lists(values, max_size=3)))
    elif kind == f.WINDOW_UPDATE:
        payload = draw(st.one_of(st.integers(0, 2**31 - 1), st.integers(1, 100_000))).to_bytes(4, "big")
    else:
        size = {f.PRIORITY: 5, f.RST_STREAM: 4, f.PING: 8, f.GOAWAY: 8}.get(kind, 3)
        payload = draw(st.one_of(st.binary(min_size=size, max_size=size), SMALL))
        if kind in (f.PING, f.GOAWAY):
            stream = 0
    return f.frame(kind, flags, stream, payload)


FRAMES = st.lists(one_frame(), max_size=30).map(b"".join)
CUTS = st.lists(st.integers(1, 3000), min_size=1, max_size=40)


def machine(client: bool) -> H2Connection:
    """One that is past its greeting, and as a client has three streams open."""
    made = H2Connection(client, SETTINGS, Limits())
    made.start(0.0)
    made.receive(memoryview((b"" if client else f.PREFACE) + f.settings([]) + f.SETTINGS_ACK), 0.0)
    if client:
        for _ in range(3):
            made.open_stream([(b":method", b"CONNECT"), (b":authority", b"a:1")])
    made.take_output()
    return made


def play(made: H2Connection, data: bytes, cuts: list[int]) -> tuple[list[str], str]:
    """The events of `data` cut into pieces of the sizes `cuts`, over and over, and how it ended. Checks what must always hold."""
    events: list[str] = []
    at = turn = 0
    while at < len(data):
        step = cuts[turn % len(cuts)]
        turn += 1
        piece = bytearray(data[at : at + step])
        try:
            got = made.receive(memoryview(piece), 1.0)
        except PeerError as error:
            assert f.goaway(0, 0)[3:9] in made.take_output()
            return events, f"{error.reason.word} {error.detail}"
        events += [_line(event) for event in got]
        at += step
        bounded(made)
    return events, ""


def _line(event: Event) -> str:
    if isinstance(event, DataReceived):
        return f'! Data {event.stream_id} "{bytes(event.data).hex()}"' + (" END" if event.end_stream else "")
    if isinstance(event, RequestReceived):
        return f"! Request {event.stream_id} {event.headers!r} {event.end_stream}"
    if isinstance(event, StreamReset):
        return f"! Reset {event.stream_id} {event.code} {event.local}"
    if isinstance(event, GoAway):
        return f"! GoAway {event.last_stream_id} {event.code}"
    return shown(event)


def bounded(made: H2Connection) -> None:
    """Windows within their ranges, tables within their sizes, nothing kept that grows with what was sent to us."""
    assert SETTINGS.connection_window < 2 * made._receive_window <= 2 * SETTINGS.connection_window
    assert made._send_window <= f.MAX_WINDOW
    assert len(made._streams) <= (3 if made._client else SETTINGS.max_streams)
    assert len(made._reset) <= Limits().remembered_resets
    for stream in made._streams.values():
        assert 0 <= stream.receive_window <= SETTINGS.stream_window
        assert 0 <= stream.uncredited * 2 <= SETTINGS.stream_window
        assert stream.send_window <= f.MAX_WINDOW
    assert len(made._pending) <= 9 + 4096
    assert len(made._block) <= SETTINGS.max_header_list + 256
    assert len(made._out) <= Limits().max_queued_output
    assert sys.getsizeof(made._pending) < 20_000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=500), CUTS, st.booleans())
def test_arbitrary_bytes(data: bytes, cuts: list[int], client: bool) -> None:
    fresh = H2Connection(client, SETTINGS, Limits())
    fresh.start(0.0)
    play(fresh, data, cuts)
    play(machine(client), data, cuts)


@settings(max_examples=600, deadline=None)
@given(FRAMES, CUTS, st.booleans())
def test_arbitrary_frames_in_arbitrary_pieces(data: bytes, cuts: list[int], client: bool) -> None:
    """Cut or whole: the same end for the same reason; the same events, but for those lost in the call that raised."""
    whole, end = play(machine(client), data, [max(1, len(data))])
    pieces, cut_end = play(machine(client), data, cuts)
    single, single_end = play(machine(client), data, [1])
    if not cut_end == single_end == end:
        # The connection's window is credited after each call: what arrives in one piece may pass it, in several it does not.
        assert "connection's window" in end + cut_end
        return
    if not end:
        assert merged(pieces) == merged(single) == merged(whole)
    else:
        assert flat(single)[: len(flat(pieces))] == flat(pieces)


def flat(events: list[str]) -> list[str]:
    """DATA a byte at a time, so that one run can be a prefix of another."""
    out: list[str] = []
    for line in events:
        if not line.startswith("! Data"):
            out.append(line)
            continue
        head, data, tail = line.split('"')
        out += [head + data[at : at + 2] for at in range(0, len(data), 2)]
        out += [head + tail] if tail else []
    return out


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 3, 5]), st.integers(0, 70_000), st.integers(0, 60_000)), max_size=40), CUTS)
def test_a_stream_never_holds_more_than_its_window(steps: list[tuple[int, int, int]], cuts: list[int]) -> None:
    """What was delivered and not consumed is our memory: at most a stream's window, whatever the peer sends."""
    made = machine(False)
    block = _block([(":method", "CONNECT"), (":authority", "a:1")])
    made.receive(memoryview(b"".join(f.frame(f.HEADERS, f.END_HEADERS, stream, block) for stream in (1, 3, 5))), 1.0)
    held = dict.fromkeys((1, 3, 5), 0)
    for stream, size, consumed in steps:
        data = b"".join(f.frame(f.DATA, 0, stream, bytes(min(16384, size - at))) for at in range(0, size, 16384))
        try:
            for at in range(0, len(data), cuts[0]):
                for event in made.receive(memoryview(data[at : at + cuts[0]]), 1.0):
                    if isinstance(event, DataReceived):
                        held[event.stream_id] += len(event.data)
        except PeerError:
            return
        assert max(held.values()) <= SETTINGS.stream_window
        taken = min(consumed, held[stream])
        held[stream] -= taken
        made.consumed(stream, taken)
        bounded(made)
