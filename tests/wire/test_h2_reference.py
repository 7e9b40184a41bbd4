"""Against the `h2` library: another implementation of the same text, with Huffman codes, dynamic tables and opinions of its own."""

from __future__ import annotations

from random import Random

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from mesh.wire.h2 import (
    CLIENT_SETTINGS,
    HEADER_SIZE,
    SERVER_SETTINGS,
    Code,
    DataReceived,
    Event,
    GoAway,
    H2Connection,
    Limits,
    PingAcked,
    RequestReceived,
    ResponseReceived,
    StreamReset,
)

REQUEST = [
    (b":method", b"CONNECT"),
    (b":authority", b"10.244.1.5:8080"),
    (b"baggage", b"k8s.cluster.name=Kubernetes,k8s.namespace.name=shop"),
    (b"forwarded", b'for="10.244.1.7:43210"'),
]


class Peers:
    """Our machine and the library's, wired to each other."""

    def __init__(self, ours_is_client: bool) -> None:
        self.ours = H2Connection(ours_is_client, CLIENT_SETTINGS if ours_is_client else SERVER_SETTINGS, Limits())
        config = h2.config.H2Configuration(client_side=not ours_is_client, header_encoding=None)
        self.theirs = h2.connection.H2Connection(config)
        self.theirs.local_settings = h2.settings.Settings(
            client=not ours_is_client, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 100}
        )
        self.ours.start(0.0)
        self.theirs.initiate_connection()
        self.ours_events: list[Event] = []
        self.theirs_events: list[h2.events.Event] = []
        self.data: dict[tuple[str, int], bytearray] = {}
        self.run()

    def run(self, step: int = 1 << 20) -> None:
        while True:
            ours, theirs = self.ours.take_output(), self.theirs.data_to_send()
            if not ours and not theirs:
                return
            self.to_theirs(ours)
            for at in range(0, len(theirs), step):
                for event in self.ours.receive(memoryview(theirs[at : at + step]), 1.0):
                    if isinstance(event, DataReceived):
                        self.data.setdefault(("ours", event.stream_id), bytearray()).extend(event.data)
                        self.ours.consumed(event.stream_id, len(event.data))
                        if not event.end_stream:
                            continue
                    self.ours_events.append(event)

    def to_theirs(self, data: bytes) -> None:
        for event in self.theirs.receive_data(data):
            self.theirs_events.append(event)
            if isinstance(event, h2.events.DataReceived):
                self.data.setdefault(("theirs", event.stream_id), bytearray()).extend(event.data)
                self.theirs.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def send_ours(self, stream: int, data: bytes, end: bool) -> None:
        """All of `data`, as fast as the library's windows allow."""
        while True:
            size = min(self.ours.sendable(stream), len(data))
            last = end and size == len(data)
            out = bytearray(self.ours.take_output()) + bytes(HEADER_SIZE)
            self.ours.write_data_header(out, len(out) - HEADER_SIZE, stream, size, last)
            self.to_theirs(bytes(out) + data[:size])
            data = data[size:]
            self.run()
            if not data:
                return

    def send_theirs(self, stream: int, data: bytes, end: bool, padding: int | None) -> None:
        while data or end:
            window = self.theirs.local_flow_control_window(stream) - (0 if padding is None else padding + 1)
            size = min(window, self.theirs.max_outbound_frame_size - 256, len(data))
            last = end and size == len(data)
            self.theirs.send_data(stream, data[:size], end_stream=last, pad_length=padding)
            data = data[size:]
            self.run(step=10_000)
            if not data:
                return

    def seen(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.ours_events if isinstance(event, kind)]


@pytest.mark.parametrize("padding", [None, 0, 200])
def test_the_library_is_the_client(padding: int | None) -> None:
    peers = Peers(ours_is_client=False)
    random = Random(1)
    for stream in (1, 3, 5):
        peers.theirs.send_headers(stream, REQUEST)
        peers.run(step=5)
        request = peers.seen(RequestReceived)[-1]
        assert isinstance(request, RequestReceived)
        assert request.headers == tuple(REQUEST)
        peers.ours.respond(stream, [(b":status", b"200"), (b"baggage", b"k8s.namespace.name=x")])
        peers.run()
        response = [event for event in peers.theirs_events if isinstance(event, h2.events.ResponseReceived)][-1]
        assert list(response.headers) == [(b":status", b"200"), (b"baggage", b"k8s.namespace.name=x")]
        up, down = random.randbytes(3_000_000), random.randbytes(500_000)
        peers.send_theirs(stream, up, True, padding)
        peers.send_ours(stream, down, True)
        assert peers.data["ours", stream] == up
        assert peers.data["theirs", stream] == down
        assert [event.stream_id for event in peers.theirs_events if isinstance(event, h2.events.StreamEnded)][-1] == stream
    assert peers.ours.open_streams == peers.theirs.open_inbound_streams == peers.theirs.open_outbound_streams == 0


def test_the_library_is_the_server() -> None:
    peers = Peers(ours_is_client=True)
    for _ in range(3):
        stream = peers.ours.open_stream(REQUEST)
        peers.run()
        request = [event for event in peers.theirs_events if isinstance(event, h2.events.RequestReceived)][-1]
        assert list(request.headers) == REQUEST
        peers.theirs.send_headers(stream, [(b":status", b"103"), (b"link", b"x")])
        peers.theirs.send_headers(stream, [(b":status", b"200"), (b"server", b"reference")])
        peers.run(step=3)
        answer = peers.seen(ResponseReceived)[-1]
        assert isinstance(answer, ResponseReceived)
        assert answer.headers == ((b":status", b"200"), (b"server", b"reference"))
        peers.send_ours(stream, b"u" * 400_000, True)
        peers.theirs.send_data(stream, b"d" * 1000)
        peers.theirs.send_headers(stream, [(b"trailer", b"ignored")], end_stream=True)
        peers.run()
        assert peers.data["theirs", stream] == b"u" * 400_000
        assert peers.data["ours", stream] == b"d" * 1000
    assert peers.ours.open_streams == 0


def test_resets_both_ways() -> None:
    peers = Peers(ours_is_client=False)
    peers.theirs.send_headers(1, REQUEST)
    peers.theirs.send_headers(3, REQUEST)
    peers.run()
    peers.theirs.reset_stream(1, Code.CANCEL)
    peers.ours.reset(3, Code.CONNECT_ERROR)
    peers.run()
    reset = peers.seen(StreamReset)[-1]
    assert isinstance(reset, StreamReset)
    assert (reset.stream_id, reset.code) == (1, Code.CANCEL)
    theirs = [event for event in peers.theirs_events if isinstance(event, h2.events.StreamReset)]
    assert [(event.stream_id, event.error_code) for event in theirs] == [(3, Code.CONNECT_ERROR)]


def test_a_refusal_is_understood() -> None:
    peers = Peers(ours_is_client=False)
    peers.theirs.send_headers(1, REQUEST)
    peers.run()
    peers.ours.respond(1, [(b":status", b"401")], end_stream=True)
    peers.run()
    kinds = [type(event) for event in peers.theirs_events[-3:]]
    assert kinds == [h2.events.ResponseReceived, h2.events.StreamEnded, h2.events.StreamReset]


def test_pings_and_goaway() -> None:
    peers = Peers(ours_is_client=True)
    peers.ours.ping(0.5)
    peers.theirs.ping(b"12345678")
    peers.run()
    assert len(peers.seen(PingAcked)) == 1
    assert any(isinstance(event, h2.events.PingAckReceived) for event in peers.theirs_events)
    peers.theirs.close_connection(last_stream_id=0)
    peers.run()
    assert [(event.last_stream_id, event.code) for event in peers.seen(GoAway) if isinstance(event, GoAway)] == [(0, 0)]


def test_a_changed_initial_window_is_followed() -> None:
    peers = Peers(ours_is_client=False)
    peers.theirs.send_headers(1, REQUEST)
    peers.run()
    peers.ours.respond(1, [(b":status", b"200")])
    before = peers.ours.sendable(1)
    peers.theirs.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
    peers.run()
    assert (before, peers.ours.sendable(1)) == (16384, 100)
    peers.theirs.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 200_000, h2.settings.SettingCodes.MAX_FRAME_SIZE: 1 << 20})
    peers.run()
    assert peers.ours.sendable(1) == 65535
