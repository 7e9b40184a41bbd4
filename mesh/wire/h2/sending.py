"""What our side asks for: streams, answers, DATA headers, resets, GOAWAY. Nothing here raises PeerError.

**Order.** Bytes must leave in the order of the calls. DATA frames are written by the caller into its own buffer; all other
frames wait in here. So append `take_output()` to that buffer just before each `write_data_header`, and once at the end of the
turn. (Then HEADERS precede the DATA of their stream, and END_STREAM follows it.)

**Back-pressure.** Take the output only when there is room for it: what the peer makes us queue is bounded in here.

A call that names a stream which was open and is not any more does nothing: `receive` returns several events, and a later one
may have ended the stream of an earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.model.errors import BugError
from mesh.wire.h2 import frames
from mesh.wire.h2.core import Core
from mesh.wire.h2.frames import END_STREAM, HEADER, MAX_STREAM_ID, Code
from mesh.wire.h2.headers import NO_TABLE, encode
from mesh.wire.h2.streams import Stream

WriteBuffer = bytearray | memoryview
"""A writable buffer."""

_pack_into = HEADER.pack_into


class Sending(Core):
    """The calls of our side."""

    __slots__ = ()

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def peer_max_streams(self) -> int:
        """How many streams the peer takes at once (100 until it has said)."""
        return self._peer.max_streams

    @property
    def can_open(self) -> bool:
        """Client: whether `open_stream` may be called now."""
        return (
            self._client
            and self._failure is None
            and not self.draining
            and self._peer_last is None
            and len(self._streams) < self._peer.max_streams
            and self._next_id <= MAX_STREAM_ID
        )

    @property
    def finished(self) -> bool:
        """The connection has nothing left to do: it failed, or no stream is open and none will be (GOAWAY)."""
        no_more = self._final is not None or (self._client and self._peer_last is not None)
        return self._failure is not None or (no_more and not self._streams)

    def open_stream(self, headers: Sequence[tuple[bytes, bytes]]) -> int:
        """Client: queues the request (pseudo-headers first) and returns the new stream's id."""
        if not self.can_open:
            raise BugError("open_stream although can_open is false")
        stream_id = self._next_id
        self._next_id = stream_id + 2
        self._highest = stream_id
        self._streams[stream_id] = Stream(self._local.stream_window, self._peer.initial_window)
        self._send_headers(stream_id, headers, False)
        return stream_id

    def respond(self, stream_id: int, headers: Sequence[tuple[bytes, bytes]], end_stream: bool = False) -> None:
        """Server: queues the final response (`:status` first). With `end_stream` the stream is over, both ways.

        A request that is not wanted any more is stopped by RST_STREAM(NO_ERROR) behind the response (RFC 9113 §8.1): a
        client that ignored the refusal would otherwise hold a stream for ever.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return self._known(stream_id)
        if self._client or stream.answered:
            raise BugError(f"stream {stream_id} cannot be answered twice, or by a client")
        stream.answered = True
        self._send_headers(stream_id, headers, end_stream)
        if end_stream:
            if stream.receiving:
                self._reset_now(stream_id, Code.NO_ERROR)
            else:
                del self._streams[stream_id]
        return None

    def _send_headers(self, stream_id: int, headers: Sequence[tuple[bytes, bytes]], end_stream: bool) -> None:
        block = encode(headers)
        if self._first_block:
            self._first_block = False
            block = NO_TABLE + block
        self._out += frames.header_block(stream_id, block, end_stream, self._peer.max_frame)

    def sendable(self, stream_id: int) -> int:
        """How many bytes one DATA frame of this stream may carry now: 0 means wait for WindowOpened (of it or of stream 0)."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.sending:
            return 0
        size = stream.send_window
        if size > self._send_window:
            size = self._send_window
        if size > self._peer.max_frame:
            return self._peer.max_frame
        return size if size > 0 else 0

    def write_data_header(self, buffer: WriteBuffer, offset: int, stream_id: int, length: int, end_stream: bool = False) -> None:
        """Packs a DATA header of nine bytes at `buffer[offset:]`, for `length` bytes of payload that the caller puts behind it.

        `length` is at most `sendable(stream_id)`; 0 only with `end_stream`.
        """
        stream = self._streams.get(stream_id)
        if stream is None or not stream.sending or (not self._client and not stream.answered):
            raise BugError(f"DATA on stream {stream_id}, which is not open for sending")
        if not 0 < length <= stream.send_window or length > self._send_window or length > self._peer.max_frame:
            self._check_empty(stream_id, length, end_stream)
        _pack_into(buffer, offset, length << 8, 1 if end_stream else 0, stream_id)
        stream.send_window -= length
        self._send_window -= length
        self._frames_sent += 1
        self._octets_sent += length
        if end_stream:
            self._close_sending(stream_id, stream)

    def _check_empty(self, stream_id: int, length: int, end_stream: bool) -> None:
        """Empty DATA may end a stream even where no window is left. Anything else that brought us here breaks the contract."""
        if length or not end_stream:
            raise BugError(f"{length} bytes of DATA on stream {stream_id}, sendable are {self.sendable(stream_id)}")

    def end_stream(self, stream_id: int) -> None:
        """Queues an empty DATA frame with END_STREAM: our half is closed (the peer's app sees FIN)."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return self._known(stream_id)
        if not stream.sending:
            raise BugError(f"stream {stream_id} was ended twice")
        if not self._client and not stream.answered:
            raise BugError(f"stream {stream_id} was ended before it was answered")
        self._out += frames.frame(frames.DATA, END_STREAM, stream_id)
        self._close_sending(stream_id, stream)
        return None

    def reset(self, stream_id: int, code: int = Code.CANCEL) -> None:
        """Queues RST_STREAM: the stream is over, both ways. No event follows."""
        if stream_id in self._streams:
            self._reset_now(stream_id, code)
        else:
            self._known(stream_id)

    def consumed(self, stream_id: int, length: int) -> None:
        """The app took `length` bytes of this stream's DATA: the peer may send as many more.

        Told by WINDOW_UPDATE when half of the window has been taken, so that neither side works for every chunk.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return self._known(stream_id)
        if not stream.receiving:
            return None
        uncredited = stream.uncredited + length
        full = self._local.stream_window
        if length < 0 or uncredited > full - stream.receive_window:
            raise BugError(f"{length} bytes of stream {stream_id} consumed, which were not received")
        if uncredited * 2 >= full:
            stream.receive_window += uncredited
            self._out += frames.window_update(stream_id, uncredited)
            uncredited = 0
        stream.uncredited = uncredited
        return None

    def goaway(self, code: int = Code.NO_ERROR, debug: bytes = b"") -> None:
        """Queues GOAWAY with the last stream that was taken: later ones are ignored, and open ones may finish."""
        self._final = self._last_taken()
        self.draining = True
        self._out += frames.goaway(self._final, code, debug)

    def take_output(self) -> bytes:
        """The control frames queued so far, in order; empty if there are none."""
        if not self._out:
            return b""
        out = bytes(self._out)
        self._out.clear()
        return out
