"""A client machine wired to a server machine: what one writes the other reads, over a wire that cuts it anywhere."""

from __future__ import annotations

from random import Random

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
    LocalSettings,
    RequestReceived,
    ResponseReceived,
    StreamReset,
)

REQUEST = ((b":method", b"CONNECT"), (b":authority", b"[fd00::1]:443"), (b"baggage", b"k8s.namespace.name=shop"))
OK = ((b":status", b"200"),)


class Wire:
    """Both machines, and a wire that cuts what it carries at random places. Events are collected with their DATA copied."""

    def __init__(self, seed: int, client: LocalSettings = CLIENT_SETTINGS, server: LocalSettings = SERVER_SETTINGS) -> None:
        self.random = Random(seed)
        self.client = H2Connection(True, client, Limits())
        self.server = H2Connection(False, server, Limits())
        self.client.start(0.0)
        self.server.start(0.0)
        self.buffers: dict[H2Connection, bytearray] = {self.client: bytearray(), self.server: bytearray()}
        self.events: dict[H2Connection, list[Event]] = {self.client: [], self.server: []}
        self.data: dict[tuple[H2Connection, int], bytearray] = {}
        self.run()

    def send(self, machine: H2Connection, stream: int, data: bytes, end: bool = False) -> int:
        """As the engine does it: control frames first, then as much DATA as the windows allow. Returns how much."""
        out = self.buffers[machine]
        sent = 0
        while sent < len(data) or (end and sent == len(data)):
            size = min(machine.sendable(stream), len(data) - sent)
            last = end and sent + size == len(data)
            if not size and not last:
                break
            out += machine.take_output()
            at = len(out)
            out += bytes(HEADER_SIZE)
            machine.write_data_header(out, at, stream, size, last)
            out += data[sent : sent + size]
            sent += size
            if last:
                break
        return sent

    def run(self, consume: bool = True) -> None:
        """Until both sides are silent."""
        while True:
            quiet = True
            for source, target in ((self.client, self.server), (self.server, self.client)):
                out = self.buffers[source]
                out += source.take_output()
                data, at = bytes(out), 0
                out.clear()
                quiet = quiet and not data
                while at < len(data):
                    step = self.random.choice((1, 9, 100, 5000, 70000))
                    for event in target.receive(memoryview(data[at : at + step]), 1.0):
                        if isinstance(event, DataReceived):
                            self.data.setdefault((target, event.stream_id), bytearray()).extend(event.data)
                            if consume:
                                target.consumed(event.stream_id, len(event.data))
                        else:
                            self.events[target].append(event)
                    at += step
            if quiet:
                return

    def open(self) -> int:
        stream = self.client.open_stream(REQUEST)
        self.run()
        event = self.events[self.server].pop()
        assert isinstance(event, RequestReceived)
        assert (event.stream_id, event.headers) == (stream, REQUEST)
        self.server.respond(stream, OK)
        self.run()
        answer = self.events[self.client].pop()
        assert isinstance(answer, ResponseReceived)
        assert answer.headers == OK
        return stream


@pytest.mark.parametrize("seed", range(5))
def test_bytes_arrive_both_ways_on_many_streams(seed: int) -> None:
    wire = Wire(seed)
    random = wire.random
    streams = [wire.open() for _ in range(5)]
    left = {
        (side, stream): random.randbytes(random.choice((0, 1, 300_000, 3_000_000)))
        for side in (wire.client, wire.server)
        for stream in streams
    }
    other = {wire.client: wire.server, wire.server: wire.client}
    wanted = {(other[side], stream): data for (side, stream), data in left.items() if data}
    while left:
        for key in random.sample(list(left), len(left)):
            side, stream = key
            sent = wire.send(side, stream, left[key][: random.choice((1, 20_000, 5_000_000))] or b"")
            left[key] = left[key][sent:]
            if not left[key]:
                del left[key]
                wire.send(side, stream, b"", end=True)
        wire.run()
    assert {key: bytes(data) for key, data in wire.data.items() if data} == wanted
    assert wire.client.open_streams == wire.server.open_streams == 0


def test_an_unread_stream_stops_its_sender_and_no_other() -> None:
    settings = LocalSettings(stream_window=65535, connection_window=65535 * 2)
    wire = Wire(0, server=settings)
    slow, fast = wire.open(), wire.open()
    assert wire.send(wire.client, slow, bytes(100_000)) == 65535
    wire.run(consume=False)
    assert wire.client.sendable(slow) == 0
    for _ in range(10):
        assert wire.send(wire.client, fast, bytes(65535)) == 65535
        wire.run(consume=False)
        wire.server.consumed(fast, 65535)
        wire.run()
    wire.server.consumed(slow, 65535)
    wire.run()
    assert wire.client.sendable(slow) == 65535


def test_a_header_block_larger_than_a_frame_is_continued() -> None:
    wire = Wire(0, server=LocalSettings(max_frame=16384, max_header_list=60_000))
    headers = (*REQUEST, *((b"x-%d" % number, b"v" * 1000) for number in range(40)))
    stream = wire.client.open_stream(headers)
    wire.run()
    event = wire.events[wire.server].pop()
    assert isinstance(event, RequestReceived)
    assert (event.stream_id, event.headers) == (stream, headers)


def test_resets_cross() -> None:
    wire = Wire(0)
    stream = wire.open()
    wire.client.reset(stream, Code.CANCEL)
    wire.server.reset(stream, Code.CONNECT_ERROR)
    wire.run()
    assert not [event for event in wire.events[wire.client] + wire.events[wire.server] if isinstance(event, StreamReset)]
    assert wire.open() == stream + 2


def test_a_drain_loses_no_request_that_was_on_its_way() -> None:
    wire = Wire(0)
    wire.open()
    wire.server.drain()
    crossing = wire.client.open_stream(REQUEST)
    wire.run()
    assert [type(event) for event in wire.events[wire.server]][-1] is RequestReceived
    codes = [(event.last_stream_id, event.code) for event in wire.events[wire.client] if isinstance(event, GoAway)]
    assert codes == [(2**31 - 1, 0), (crossing, 0)]
    assert not wire.client.can_open
    for stream in (crossing - 2, crossing):
        wire.client.reset(stream, Code.CANCEL)
    wire.run()
    assert wire.client.finished
    assert wire.server.finished


def test_a_settings_table_of_zero_is_kept_to_by_our_encoder() -> None:
    wire = Wire(0, server=LocalSettings(header_table=0), client=LocalSettings(header_table=0))
    for _ in range(3):
        wire.open()
