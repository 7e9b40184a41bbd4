"""The state that the halves of a connection share, and the two ways in which a peer can be wrong.

`Core` → `Sending` (what our side asks for) → `Blocks`, `Control` (what the peer's frames do) → `Reading` (the loop) → `H2Connection`
(the timers): one class, cut by phase into one file each, since every part works on the same streams and windows and the loop
cannot afford to go through other objects.
"""

from __future__ import annotations

from mesh.model.errors import BugError, PeerError
from mesh.model.reasons import Reason
from mesh.wire.h2 import frames
from mesh.wire.h2.events import Event, StreamReset
from mesh.wire.h2.frames import DEFAULT_WINDOW, Code
from mesh.wire.h2.headers import HeaderDecoder
from mesh.wire.h2.limits import Budget, Limits
from mesh.wire.h2.settings import LocalSettings, PeerSettings
from mesh.wire.h2.streams import ResetStreams, Stream


class Core:
    """State. Names without a meaning of their own in RFC 9113:

    `_out`: control bytes not taken yet. `_first_block`: no header block has been sent. `_highest`: the highest stream id that was
    opened, by whichever side is the client. `_final`: the last stream id that our definite GOAWAY named. `_failure`: why
    the connection is over.
    """

    __slots__ = (
        "_client",
        "_decoder",
        "_empties",
        "_failure",
        "_final",
        "_first_block",
        "_frames_sent",
        "_highest",
        "_ignored",
        "_limits",
        "_local",
        "_next_id",
        "_now",
        "_octets_sent",
        "_out",
        "_peer",
        "_peer_last",
        "_pings",
        "_receive_window",
        "_reset",
        "_resets",
        "_send_window",
        "_settings",
        "_settings_acked",
        "_streams",
        "_updates",
        "draining",
    )

    def __init__(self, client: bool, settings: LocalSettings, limits: Limits) -> None:
        self._client = client
        self._local = settings
        self._limits = limits
        self._peer = PeerSettings()
        self._decoder = HeaderDecoder(settings.max_header_list)
        self._streams: dict[int, Stream] = {}
        self._reset = ResetStreams(limits.remembered_resets)
        self._highest = 0
        self._next_id = 1
        self._final: int | None = None
        self._peer_last: int | None = None
        self._send_window = DEFAULT_WINDOW
        self._receive_window = settings.connection_window
        self._out = bytearray()
        self._first_block = True
        self._settings_acked = False
        self._failure: PeerError | None = None
        self._now = 0.0
        self._resets = Budget(limits.resets)
        self._settings = Budget(limits.settings)
        self._pings = Budget(limits.pings)
        self._empties = Budget(limits.empties)
        self._ignored = Budget(limits.ignored)
        self._updates = 0
        self._frames_sent = 0
        self._octets_sent = 0
        self.draining = False

    def _fault(self, code: Code, detail: str, reason: Reason = Reason.H2_PROTOCOL) -> PeerError:
        """The connection is over: queues GOAWAY and returns the exception to raise."""
        self._out += frames.goaway(self._last_taken(), code, detail.encode()[:200])
        self._failure = PeerError(reason, f"{code.name}: {detail}")
        self._streams.clear()
        return self._failure

    def _last_taken(self) -> int:
        """The last stream of the peer's that we looked at; it never grows again once it was said (RFC 9113 §6.8)."""
        last = 0 if self._client else self._highest
        return last if self._final is None else min(last, self._final)

    def _flood(self, what: str) -> PeerError:
        return self._fault(Code.ENHANCE_YOUR_CALM, what, Reason.H2_FLOOD)

    def _spend(self, budget: Budget, what: str) -> None:
        if not budget.spend(self._now):
            raise self._flood(what)

    def _stream_fault(self, stream_id: int, code: Code, events: list[Event], what: str) -> None:
        """The peer broke the rules of one stream: the stream is reset, the connection goes on, within the budget of such."""
        self._spend(self._resets, f"too many streams that had to be reset, the last for {what}")
        if stream_id in self._streams:
            events.append(StreamReset(stream_id, code, True))
        self._reset_now(stream_id, code)

    def _reset_now(self, stream_id: int, code: int) -> None:
        """RST_STREAM for a stream that may or may not be open."""
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            if stream_id not in self._reset:
                self._reset.add(stream_id, self._local.stream_window)
        elif stream.receiving:
            self._reset.add(stream_id, stream.receive_window)
        self._out += frames.rst_stream(stream_id, code)

    def _close_receiving(self, stream_id: int, stream: Stream) -> None:
        stream.receiving = False
        if not stream.sending:
            del self._streams[stream_id]

    def _close_sending(self, stream_id: int, stream: Stream) -> None:
        stream.sending = False
        if not stream.receiving:
            del self._streams[stream_id]

    def _known(self, stream_id: int) -> None:
        """Our caller names a stream that is not open: forgiven if it was once, since events of one batch are read one by one."""
        if stream_id <= 0 or stream_id > self._highest or not stream_id & 1:
            raise BugError(f"stream {stream_id} was never open")
