"""The reading loop: what one read of the socket returned, cut into frames without waiting for them and without a copy.

DATA, nearly all of it, is handled in the loop itself: each piece that is there becomes an event with a slice of the caller's view.
Every other frame is short and is collected whole (`_pending`, bounded by `_admit`) before `Control` sees it. Between two calls the
machine is at one of:

- inside DATA: `_left` bytes to deliver, then `_skip` of padding;
- inside something to ignore: `_skip`;
- inside a header or a control frame: `_pending`, up to `_needed` bytes;
- between frames, with nothing of these.
"""

from __future__ import annotations

from mesh.wire.h2 import frames
from mesh.wire.h2.blocks import NOTHING
from mesh.wire.h2.control import Control
from mesh.wire.h2.events import DataReceived, Event
from mesh.wire.h2.frames import HEADER, HEADER_SIZE, PADDED, PREFACE, STREAM_MASK, Code
from mesh.wire.h2.limits import Limits
from mesh.wire.h2.settings import LocalSettings
from mesh.wire.h2.streams import Stream

_unpack_from = HEADER.unpack_from
_NO_STREAMS: dict[int, Stream] = {}


class Reading(Control):
    """`_preface`: what is missing of the client's magic. `_heard`: when the peer last sent anything."""

    __slots__ = ("_heard", "_left", "_left_end", "_left_stream", "_needed", "_pending", "_preface", "_skip")

    def __init__(self, client: bool, settings: LocalSettings, limits: Limits) -> None:
        super().__init__(client, settings, limits)
        self._preface = b"" if client else PREFACE
        self._left = 0
        self._left_stream = 0
        self._left_end = False
        self._skip = 0
        self._pending = bytearray()
        self._needed = HEADER_SIZE
        self._heard = 0.0

    def receive(self, view: memoryview, now: float) -> list[Event]:
        """The events of the bytes in `view`. The only exception is PeerError: GOAWAY is queued, the connection is over.

        Events of the same call are lost with the exception; that costs streams of a peer that broke the protocol.
        """
        if self._failure is not None:
            raise self._failure
        self._now = self._heard = now
        events: list[Event] = []
        end = len(view)
        pos = 0
        if self._left or self._skip or self._pending or self._preface:
            pos = self._resume(view, end, events)
        max_frame = self._local.max_frame
        # While a header block is open no frame but CONTINUATION may come: then no stream is found here, and `_begin` sees to it.
        streams = _NO_STREAMS if self._block_stream else self._streams
        while end - pos >= HEADER_SIZE:
            word, flags, stream_id = _unpack_from(view, pos)
            pos += HEADER_SIZE
            if not word & 0xFF and (stream := streams.get(stream_id)) is not None:
                length = word >> 8
                if (
                    0 < length <= stream.receive_window
                    and length <= self._receive_window
                    and length <= max_frame
                    and stream.receiving
                    and not flags & PADDED
                    and (stream.answered or not self._client)
                ):
                    stream.receive_window -= length
                    self._receive_window -= length
                    stop = pos + length
                    if stop > end:
                        if pos < end:
                            events.append(DataReceived(stream_id, view[pos:], False))
                        self._left = stop - end
                        self._left_stream = stream_id
                        self._left_end = bool(flags & 1)
                        pos = end
                        break
                    if flags & 1:
                        events.append(DataReceived(stream_id, view[pos:stop], True))
                        self._close_receiving(stream_id, stream)
                    else:
                        events.append(DataReceived(stream_id, view[pos:stop], False))
                    pos = stop
                    continue
            pos = self._begin(word & 0xFF, word >> 8, flags, stream_id & STREAM_MASK, view, pos, end, events)
            if self._left or self._skip or self._pending:
                pos = self._resume(view, end, events, pos)
            streams = _NO_STREAMS if self._block_stream else self._streams
        if pos < end:
            self._pending += view[pos:]
        spent = self._local.connection_window - self._receive_window
        if spent * 2 >= self._local.connection_window:
            self._receive_window += spent
            self._out += frames.window_update(0, spent)
        if len(self._out) > self._limits.max_queued_output:
            raise self._flood("answers that are not read")
        return events

    def _resume(self, view: memoryview, end: int, events: list[Event], pos: int = 0) -> int:
        """Goes on where the last call stopped, up to a frame boundary or the end of the view. Returns the position reached."""
        if self._preface:
            pos = self._match_preface(view, end)
        while pos < end:
            if self._left:
                stop = min(end, pos + self._left)
                self._left -= stop - pos
                self._deliver(self._left_stream, view[pos:stop], self._left_end and not self._left, events)
                pos = stop
            elif self._skip:
                step = min(end - pos, self._skip)
                self._skip -= step
                pos += step
            elif self._pending:
                take = min(end - pos, self._needed - len(self._pending))
                self._pending += view[pos : pos + take]
                pos += take
                if len(self._pending) == self._needed:
                    pos = self._collected(view, pos, end, events)
            else:
                break
        return pos

    def _match_preface(self, view: memoryview, end: int) -> int:
        """Server: the client's magic, which may come in pieces."""
        size = min(end, len(self._preface))
        if view[:size] != self._preface[:size]:
            start = bytes(view[:24]) if len(self._preface) == len(PREFACE) else b"(a part)"
            raise self._fault(Code.PROTOCOL_ERROR, f"the connection does not begin with HTTP/2's preface but with {start!r}")
        self._preface = self._preface[size:]
        return size

    def _collected(self, view: memoryview, pos: int, end: int, events: list[Event]) -> int:
        """`_pending` is complete: a frame header, a header with the padding length behind it, or a whole control frame."""
        pending = bytes(self._pending)
        word, flags, stream_id = _unpack_from(pending)
        kind, length, stream_id = word & 0xFF, word >> 8, stream_id & STREAM_MASK
        self._pending.clear()
        self._needed = HEADER_SIZE
        if len(pending) == HEADER_SIZE:
            return self._begin(kind, length, flags, stream_id, view, pos, end, events)
        if kind == frames.DATA:
            self._padded(length, pending[HEADER_SIZE], flags, stream_id, events)
        else:
            self._control(kind, flags, stream_id, pending[HEADER_SIZE:], events)
        return pos

    def _begin(self, kind: int, length: int, flags: int, stream_id: int, view: memoryview, pos: int, end: int, events: list[Event]) -> int:
        """A frame whose header has been read and whose payload begins at `pos`. Returns the position behind what it took."""
        if kind == frames.DATA:
            if not self._greeted or self._block_stream or length > self._local.max_frame:
                self._admit(kind, flags, stream_id, length)
            if not flags & PADDED:
                self._data(length, 0, flags, stream_id, events)
                return pos
            if not length:
                raise self._fault(Code.FRAME_SIZE_ERROR, "padded DATA without a padding length")
            if pos < end:
                self._padded(length, view[pos], flags, stream_id, events)
                return pos + 1
            self._pending += HEADER.pack(length << 8 | kind, flags, stream_id)
            self._needed = HEADER_SIZE + 1
            return pos
        if self._admit(kind, flags, stream_id, length) < 0:
            self._skip = length
            return pos
        stop = pos + length
        if stop <= end:
            self._control(kind, flags, stream_id, bytes(view[pos:stop]), events)
            return stop
        self._pending += HEADER.pack(length << 8 | kind, flags, stream_id)
        self._pending += view[pos:end]
        self._needed = HEADER_SIZE + length
        return end

    def _padded(self, length: int, padding: int, flags: int, stream_id: int, events: list[Event]) -> None:
        if padding >= length:
            raise self._fault(Code.PROTOCOL_ERROR, "DATA shorter than its padding")
        self._data(length, 1 + padding, flags, stream_id, events)

    def _data(self, length: int, overhead: int, flags: int, stream_id: int, events: list[Event]) -> None:
        """A DATA frame that the loop did not take: `overhead` bytes of its `length` are padding. Sets `_left` and `_skip`.

        Whatever becomes of it, all of `length` counts for the connection's window (RFC 9113 §6.9).
        """
        size = length - overhead
        padding = overhead - 1 if overhead else 0
        if length > self._receive_window:
            raise self._fault(Code.FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
        self._receive_window -= length
        stream = self._streams.get(stream_id)
        if stream is None:
            self._skip = size + padding
            return self._stray(length, flags, stream_id, events)
        fault: tuple[Code, str] | None = None
        if not stream.receiving:
            fault = Code.STREAM_CLOSED, "DATA after END_STREAM"
        elif self._client and not stream.answered:
            fault = Code.PROTOCOL_ERROR, "DATA before the response"
        elif length > stream.receive_window:
            fault = Code.FLOW_CONTROL_ERROR, "DATA beyond the stream's window"
        if fault is not None:
            self._skip = size + padding
            return self._stream_fault(stream_id, fault[0], events, fault[1])
        stream.receive_window -= length
        self._skip = padding
        if overhead:
            self.consumed(stream_id, overhead)
        if size:
            self._left, self._left_stream, self._left_end = size, stream_id, bool(flags & frames.END_STREAM)
        elif flags & frames.END_STREAM:
            self._deliver(stream_id, NOTHING, True, events)
        else:
            self._spend(self._empties, "DATA without data")
        return None

    def _stray(self, length: int, flags: int, stream_id: int, events: list[Event]) -> None:
        """DATA for a stream that is not open: on its way when we reset it, or a fault."""
        if stream_id in self._reset:
            if not self._reset.debit(stream_id, length):
                raise self._fault(Code.FLOW_CONTROL_ERROR, f"DATA beyond the window of stream {stream_id}, which was reset")
            if flags & frames.END_STREAM:
                self._reset.discard(stream_id)
            elif not length:
                self._spend(self._empties, "DATA without data")
            return
        self._require_known(stream_id, "DATA")
        self._stream_fault(stream_id, Code.STREAM_CLOSED, events, "DATA on a closed stream")

    def _deliver(self, stream_id: int, data: memoryview, end_stream: bool, events: list[Event]) -> None:
        """A piece of DATA, unless the stream was reset between its pieces."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        events.append(DataReceived(stream_id, data, end_stream))
        if end_stream:
            self._close_receiving(stream_id, stream)
