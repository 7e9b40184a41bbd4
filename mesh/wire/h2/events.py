"""What `H2Connection.receive` tells its caller. Small slotted classes: one is made per DATA frame, so they stay plain."""

from __future__ import annotations

Headers = tuple[tuple[bytes, bytes], ...]


class RequestReceived:
    """Server: a peer opened a stream. The header block is well formed; its method may be any, so that the caller can answer 400."""

    __slots__ = ("end_stream", "headers", "stream_id")

    def __init__(self, stream_id: int, headers: Headers, end_stream: bool) -> None:
        self.stream_id = stream_id
        self.headers = headers
        self.end_stream = end_stream


class ResponseReceived:
    """Client: the final response headers (1xx are not reported). `headers` holds exactly one `:status` of three digits."""

    __slots__ = ("end_stream", "headers", "stream_id")

    def __init__(self, stream_id: int, headers: Headers, end_stream: bool) -> None:
        self.stream_id = stream_id
        self.headers = headers
        self.end_stream = end_stream


class DataReceived:
    """A piece of a DATA frame, as much of it as has arrived.

    `data` is a slice of the view given to `receive`: valid only until the next call. It is empty only if `end_stream` is
    set. Report its length to `consumed` when the bytes have left.
    """

    __slots__ = ("data", "end_stream", "stream_id")

    def __init__(self, stream_id: int, data: memoryview, end_stream: bool) -> None:
        self.stream_id = stream_id
        self.data = data
        self.end_stream = end_stream


class StreamReset:
    """A stream is gone, both ways. `local` says that we reset it, because the peer broke the rules of this one stream."""

    __slots__ = ("code", "local", "stream_id")

    def __init__(self, stream_id: int, code: int, local: bool = False) -> None:
        self.stream_id = stream_id
        self.code = code
        self.local = local


class WindowOpened:
    """The send window of a stream (or of the connection: 0) was exhausted and is not any more; ask `sendable` again."""

    __slots__ = ("stream_id",)

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id


class GoAway:
    """The peer takes no new streams. Ours above `last_stream_id` follow as StreamReset(REFUSED_STREAM): it never saw them."""

    __slots__ = ("code", "last_stream_id")

    def __init__(self, last_stream_id: int, code: int) -> None:
        self.last_stream_id = last_stream_id
        self.code = code


class SettingsChanged:
    """The peer sent SETTINGS: `peer_max_streams` and `can_open` may differ now."""

    __slots__ = ()


class PingAcked:
    """The peer answered our PING, `rtt` seconds after it was queued."""

    __slots__ = ("rtt",)

    def __init__(self, rtt: float) -> None:
        self.rtt = rtt


Event = RequestReceived | ResponseReceived | DataReceived | StreamReset | WindowOpened | GoAway | SettingsChanged | PingAcked
