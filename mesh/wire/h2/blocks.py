"""Header blocks: collected from HEADERS and CONTINUATION, decoded, and told apart as request, response or trailers (RFC 9113 §4.3, §8).

A block is decoded whatever becomes of its stream: compression is shared by the whole connection.
"""

from __future__ import annotations

from mesh.wire.h2.events import DataReceived, Event, Headers, RequestReceived, ResponseReceived
from mesh.wire.h2.frames import END_HEADERS, END_STREAM, HAS_PRIORITY, PADDED, Code
from mesh.wire.h2.headers import BlockError, request_fault, response_fault, trailers_fault
from mesh.wire.h2.limits import Limits
from mesh.wire.h2.sending import Sending
from mesh.wire.h2.settings import LocalSettings
from mesh.wire.h2.streams import Stream

NOTHING = memoryview(b"")


class Blocks(Sending):
    """`_block*`: a header block of which CONTINUATION frames are missing; until they are here no other frame may come."""

    __slots__ = ("_block", "_block_end_stream", "_block_frames", "_block_stream")

    def __init__(self, client: bool, settings: LocalSettings, limits: Limits) -> None:
        super().__init__(client, settings, limits)
        self._block = bytearray()
        self._block_stream = 0
        self._block_frames = 0
        self._block_end_stream = False

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
