"""What the peer's frames do, all but DATA (RFC 9113 §6.2-§6.10). Called with a whole payload each, already bounded in size.

A fault of the connection is raised (`_fault`, `_flood`); a fault of one stream resets that stream (`_stream_fault`).
"""

from __future__ import annotations

from mesh.wire.h2 import frames
from mesh.wire.h2.events import (
    DataReceived,
    Event,
    GoAway,
    Headers,
    PingAcked,
    RequestReceived,
    ResponseReceived,
    SettingsChanged,
    StreamReset,
    WindowOpened,
)
from mesh.wire.h2.frames import ACK, END_HEADERS, END_STREAM, HAS_PRIORITY, LONG, MAX_STREAM_ID, PADDED, STREAM_MASK, TWO_LONGS, Code
from mesh.wire.h2.headers import BlockError, request_fault, response_fault, trailers_fault
from mesh.wire.h2.limits import Limits, window_updates_allowed
from mesh.wire.h2.sending import Sending
from mesh.wire.h2.settings import LocalSettings
from mesh.wire.h2.streams import Stream, widened

KEEPALIVE = b"culvert."
DRAIN = b"draining"
NOTHING = memoryview(b"")


class Control(Sending):
    """The peer's control frames. `_block*`: a header block of which CONTINUATION frames are missing; no other frame may come."""

    __slots__ = ("_block", "_block_end_stream", "_block_frames", "_block_stream", "_greeted", "_late_resets", "_ping_sent")

    def __init__(self, client: bool, settings: LocalSettings, limits: Limits) -> None:
        super().__init__(client, settings, limits)
        self._greeted = False
        self._block = bytearray()
        self._block_stream = 0
        self._block_frames = 0
        self._block_end_stream = False
        self._late_resets = 0
        self._ping_sent: float | None = None

    def _admit(self, kind: int, flags: int, stream_id: int, length: int) -> int:
        """Checks a frame's header before its payload is buffered. Returns how much to buffer; less than `length`: skip it all."""
        if not self._greeted and (kind != frames.SETTINGS or flags & ACK):
            raise self._fault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if length > self._local.max_frame:
            raise self._fault(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if self._block_stream and (kind != frames.CONTINUATION or stream_id != self._block_stream):
            raise self._fault(Code.PROTOCOL_ERROR, "a header block was interrupted by another frame")
        if kind in (frames.HEADERS, frames.CONTINUATION):
            if len(self._block) + length > self._local.max_header_list + 256:
                raise self._flood(f"a header block of more than {self._local.max_header_list} bytes")
        elif kind > frames.CONTINUATION or kind == frames.PRIORITY:
            self._spend(self._ignored, "frames without a meaning")
            if kind == frames.PRIORITY and (length != 5 or not stream_id):
                raise self._fault(Code.FRAME_SIZE_ERROR if stream_id else Code.PROTOCOL_ERROR, "PRIORITY")
            return -1
        elif length > self._limits.max_control_frame:
            raise self._flood(f"a control frame of {length} bytes")
        return length

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        """One whole frame that `_admit` let in."""
        if kind == frames.HEADERS:
            self._on_headers(flags, stream_id, payload, events)
        elif kind == frames.WINDOW_UPDATE:
            self._on_window_update(stream_id, payload, events)
        elif kind == frames.RST_STREAM:
            self._on_reset(stream_id, payload, events)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, stream_id, payload, events)
        elif kind == frames.PING:
            self._on_ping(flags, stream_id, payload, events)
        elif kind == frames.GOAWAY:
            self._on_goaway(stream_id, payload, events)
        elif kind == frames.CONTINUATION:
            self._on_continuation(flags, payload, events)
        else:
            raise self._fault(Code.PROTOCOL_ERROR, "PUSH_PROMISE")

    # Header blocks.

    def _on_headers(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if not stream_id & 1:
            raise self._fault(Code.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        start, stop = 0, len(payload)
        if flags & PADDED:
            if not payload:
                raise self._fault(Code.FRAME_SIZE_ERROR, "padded HEADERS without a padding length")
            start, stop = 1, stop - payload[0]
        if flags & HAS_PRIORITY:
            start += 5
        if start > stop:
            raise self._fault(Code.PROTOCOL_ERROR, "HEADERS shorter than its padding and priority")
        if flags & END_HEADERS:
            self._on_block(stream_id, payload[start:stop], bool(flags & END_STREAM), events)
            return
        self._block_stream = stream_id
        self._block_frames = 0
        self._block_end_stream = bool(flags & END_STREAM)
        self._block += payload[start:stop]

    def _on_continuation(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if not self._block_stream:
            raise self._fault(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block_frames += 1
        if self._block_frames > self._limits.max_continuations:
            raise self._flood(f"more than {self._limits.max_continuations} CONTINUATION frames")
        self._block += payload
        if flags & END_HEADERS:
            block, stream_id = bytes(self._block), self._block_stream
            self._block.clear()
            self._block_stream = 0
            self._on_block(stream_id, block, self._block_end_stream, events)

    def _on_block(self, stream_id: int, block: bytes, end_stream: bool, events: list[Event]) -> None:
        """A whole header block. It is decoded whatever becomes of its stream, since it may change the compression state."""
        try:
            headers = self._decoder.decode(block)
        except BlockError as error:
            raise self._fault(Code.COMPRESSION_ERROR, str(error)) from error
        stream = self._streams.get(stream_id)
        if stream is not None:
            if self._client and not stream.answered:
                self._on_response(stream_id, stream, headers, end_stream, events)
            else:
                self._on_trailers(stream_id, stream, headers, end_stream, events)
        elif stream_id in self._reset:
            if end_stream:
                self._reset.discard(stream_id)
        elif stream_id <= self._highest:
            if not self._reset.forgot:
                raise self._fault(Code.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which is closed")
            self._stream_fault(stream_id, Code.STREAM_CLOSED, events, "HEADERS on a closed stream")
        elif self._client:
            raise self._fault(Code.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, which is idle")
        else:
            self._on_request(stream_id, headers, end_stream, events)

    def _on_request(self, stream_id: int, headers: Headers, end_stream: bool, events: list[Event]) -> None:
        if self._final is not None and stream_id > self._final:
            # Our GOAWAY crossed this request: the peer knows from it that we never looked, and may retry elsewhere.
            self._spend(self._resets, "requests after GOAWAY")
            self._highest = stream_id
            self._reset.add(stream_id, self._local.stream_window)
            return
        self._highest = stream_id
        if len(self._streams) >= self._local.max_streams:
            self._stream_fault(stream_id, Code.REFUSED_STREAM, events, "more streams than announced")
            return
        if fault := request_fault(headers):
            self._stream_fault(stream_id, Code.PROTOCOL_ERROR, events, f"malformed request: {fault}")
            return
        stream = Stream(self._local.stream_window, self._peer.initial_window)
        stream.receiving = not end_stream
        self._streams[stream_id] = stream
        events.append(RequestReceived(stream_id, headers, end_stream))

    def _on_response(self, stream_id: int, stream: Stream, headers: Headers, end_stream: bool, events: list[Event]) -> None:
        if fault := response_fault(headers):
            self._stream_fault(stream_id, Code.PROTOCOL_ERROR, events, f"malformed response: {fault}")
        elif headers[0][1][:1] == b"1":
            if end_stream or headers[0][1] == b"101":
                self._stream_fault(stream_id, Code.PROTOCOL_ERROR, events, "an interim response that ends or upgrades")
            else:
                self._spend(self._ignored, "interim responses")
        else:
            stream.answered = True
            events.append(ResponseReceived(stream_id, headers, end_stream))
            if end_stream:
                self._close_receiving(stream_id, stream)

    def _on_trailers(self, stream_id: int, stream: Stream, headers: Headers, end_stream: bool, events: list[Event]) -> None:
        if not stream.receiving:
            self._stream_fault(stream_id, Code.STREAM_CLOSED, events, "HEADERS after END_STREAM")
        elif not end_stream:
            self._stream_fault(stream_id, Code.PROTOCOL_ERROR, events, "trailers that do not end the stream")
        elif fault := trailers_fault(headers):
            self._stream_fault(stream_id, Code.PROTOCOL_ERROR, events, f"malformed trailers: {fault}")
        else:
            events.append(DataReceived(stream_id, NOTHING, True))
            self._close_receiving(stream_id, stream)

    # Streams and windows.

    def _require(self, right: bool, code: Code, what: str) -> None:
        if not right:
            raise self._fault(code, what)

    def _require_known(self, stream_id: int, what: str) -> None:
        if not stream_id & 1 or stream_id > self._highest:
            raise self._fault(Code.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is idle")

    def _on_reset(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._require(len(payload) == 4, Code.FRAME_SIZE_ERROR, "RST_STREAM")
        self._require_known(stream_id, "RST_STREAM")
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            # Both sides may reset a stream at once, and some peers reset after both ends: one per stream is honest.
            self._reset.discard(stream_id)
            self._late_resets += 1
            if self._late_resets > self._limits.ignored.burst + (self._highest >> 1):
                raise self._flood("RST_STREAM for closed streams")
            return
        if not self._client and not stream.answered:
            self._spend(self._resets, "streams reset before they were answered")
        events.append(StreamReset(stream_id, LONG.unpack(payload)[0]))

    def _on_window_update(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._require(len(payload) == 4, Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE")
        self._updates += 1
        if self._updates > window_updates_allowed(self._highest >> 1, self._frames_sent, self._octets_sent):
            raise self._flood("more WINDOW_UPDATE frames than what we sent can explain")
        increment = LONG.unpack(payload)[0] & STREAM_MASK
        if not stream_id:
            window = widened(self._send_window, increment)
            self._require(increment > 0, Code.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            if window is None:
                raise self._fault(Code.FLOW_CONTROL_ERROR, "the connection window passes 2^31-1")
            if self._send_window <= 0 < window:
                events.append(WindowOpened(0))
            self._send_window = window
            return None
        stream = self._streams.get(stream_id)
        if stream is None:
            return self._require_known(stream_id, "WINDOW_UPDATE")
        window = widened(stream.send_window, increment)
        if not increment:
            self._stream_fault(stream_id, Code.PROTOCOL_ERROR, events, "WINDOW_UPDATE by 0")
        elif window is None:
            self._stream_fault(stream_id, Code.FLOW_CONTROL_ERROR, events, "a window that passes 2^31-1")
        else:
            if stream.send_window <= 0 < window and stream.sending:
                events.append(WindowOpened(stream_id))
            stream.send_window = window
        return None

    # The connection.

    def _on_settings(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._require(not stream_id, Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        self._spend(self._settings, "SETTINGS")
        if flags & ACK:
            self._require(not payload, Code.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            if not self._settings_acked:
                self._settings_acked = True
                self._decoder.allow_table(self._local.header_table)
            return
        self._require(len(payload) % 6 == 0, Code.FRAME_SIZE_ERROR, "SETTINGS")
        if len(payload) > self._limits.max_setting_frame:
            raise self._flood("SETTINGS with too many values")
        before = self._peer.initial_window
        if (fault := self._peer.apply(payload, self._client)) is not None:
            raise self._fault(*fault)
        self._greeted = True
        self._out += frames.SETTINGS_ACK
        self._shift_windows(self._peer.initial_window - before, events)
        events.append(SettingsChanged())

    def _shift_windows(self, change: int, events: list[Event]) -> None:
        """INITIAL_WINDOW_SIZE also moves the windows of open streams, below zero if need be (RFC 9113 §6.9.2)."""
        if not change:
            return
        for stream_id, stream in self._streams.items():
            window = widened(stream.send_window, change)
            if window is None:
                raise self._fault(Code.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE lifts a stream's window past 2^31-1")
            if stream.send_window <= 0 < window and stream.sending:
                events.append(WindowOpened(stream_id))
            stream.send_window = window

    def _on_ping(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._require(not stream_id, Code.PROTOCOL_ERROR, "PING on a stream")
        self._require(len(payload) == 8, Code.FRAME_SIZE_ERROR, "PING")
        if not flags & ACK:
            self._spend(self._pings, "PING")
            self._out += frames.frame(frames.PING, ACK, 0, payload)
        elif payload == KEEPALIVE and self._ping_sent is not None:
            events.append(PingAcked(self._now - self._ping_sent))
            self._ping_sent = None
        elif payload == DRAIN and self.draining and self._final is None:
            self.goaway()
        else:
            self._spend(self._ignored, "acknowledgements of no PING")

    def _on_goaway(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._require(not stream_id, Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        self._require(len(payload) >= 8, Code.FRAME_SIZE_ERROR, "GOAWAY")
        self._spend(self._ignored, "GOAWAY")
        last, code = TWO_LONGS.unpack_from(payload)
        last &= STREAM_MASK
        self._require(
            last <= (MAX_STREAM_ID if self._peer_last is None else self._peer_last), Code.PROTOCOL_ERROR, "GOAWAY that takes back"
        )
        self._peer_last = last
        events.append(GoAway(last, code))
        if self._client:
            for lost in [number for number in self._streams if number > last]:
                del self._streams[lost]
                events.append(StreamReset(lost, Code.REFUSED_STREAM))
