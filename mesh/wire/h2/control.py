"""What the peer's frames do, all but DATA and header blocks (RFC 9113 §6.3-§6.9). Called with whole payloads.

A fault of the connection is raised (`_fault`, `_flood`); a fault of one stream resets that stream (`_stream_fault`).
"""

from __future__ import annotations

from mesh.wire.h2 import frames
from mesh.wire.h2.blocks import Blocks
from mesh.wire.h2.events import Event, GoAway, PingAcked, SettingsChanged, StreamReset, WindowOpened
from mesh.wire.h2.frames import ACK, LONG, MAX_STREAM_ID, STREAM_MASK, TWO_LONGS, Code
from mesh.wire.h2.limits import Limits, window_updates_allowed
from mesh.wire.h2.settings import LocalSettings
from mesh.wire.h2.streams import widened

KEEPALIVE = b"culvert."
DRAIN = b"draining"


class Control(Blocks):
    """`_greeted`: the peer's SETTINGS were here. `_late_resets`: RST_STREAM for closed streams. `_ping_sent`: when, if not answered."""

    __slots__ = ("_greeted", "_late_resets", "_ping_sent")

    def __init__(self, client: bool, settings: LocalSettings, limits: Limits) -> None:
        super().__init__(client, settings, limits)
        self._greeted = False
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
