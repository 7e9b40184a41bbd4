"""One end of a tunnel: many CONNECT streams over one HTTP/2 connection over mutual TLS. `tunnel.py` makes them.

Everything runs in callbacks of the event loop: the socket is readable → decrypt → h2 events → each stream; the apps' sockets are
readable → frames in the stage (`stage.py`). `_flush`, at most once a turn, encrypts all that became ready and sends it in one call.

When the kernel does not take the ciphertext, the tunnel is `congested`: streams that want to read their app stop (`paused`), and h2's
own frames wait in h2, which bounds them. The tunnel's socket is always read, whatever else is stuck: what arrives is bounded by the
streams' windows, and two ends that both wait to write would otherwise wait for ever.

Every end has one Reason: `closed` is a future of it. A tunnel that breaks takes its streams with it (Reason.TUNNEL_LOST, apps see a
reset); a bug in a callback closes the tunnel that it happened in, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
from collections.abc import Callable, Sequence
from typing import Final

from mesh.io.channel import Channel
from mesh.io.incoming import Incoming
from mesh.io.stage import Stage
from mesh.io.stream import Stream
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress
from mesh.wire.h2 import (
    CLIENT_SETTINGS,
    SERVER_SETTINGS,
    Code,
    DataReceived,
    Event,
    GoAway,
    H2Connection,
    Limits,
    RequestReceived,
    ResponseReceived,
    SettingsChanged,
    StreamReset,
    WindowOpened,
)

LIMITS: Final = Limits()
NOTHING: Final = memoryview(b"")
_STAGE: Final = Stage()

log = logging.getLogger(__name__)

HeaderList = Sequence[tuple[bytes, bytes]]


class Tunnel:
    """One end of a connection between two tunnels; made by `dial` and `accept`."""

    def __init__(
        self,
        channel: Channel,
        client: bool,
        peer_identity: Identity,
        peer: SocketAddress | None,
        on_request: Callable[[Incoming], None] | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.h2 = H2Connection(client=client, settings=CLIENT_SETTINGS if client else SERVER_SETTINGS, limits=LIMITS)
        self.stage = _STAGE
        self.client = client
        self.peer_identity = peer_identity
        self.peer_address = peer
        self.closed: asyncio.Future[Reason] = self.loop.create_future()
        self.error: PeerError | None = None  # what broke it, with details for the log
        self.streams: dict[int, Stream] = {}
        self.paused: list[Stream] = []  # want to read their app, and wait for the congestion to end
        self.starved: set[Stream] = set()  # ... and wait for a window
        self.ready: asyncio.Future[None] = self.loop.create_future()  # the peer's SETTINGS have come
        self.channel = channel
        self._on_request = on_request
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._send_error: PeerError | None = None
        self._busiest: Stream | None = None  # the last that sent something
        self._goaway = False  # the peer takes no new streams
        self._descriptor = -1
        channel.on_broken = self._lost
        channel.on_drained = self._on_drained

    def __repr__(self) -> str:
        state = "closed" if self.closed.done() else "draining" if self.h2.draining or self._goaway else "open"
        return (
            f"<Tunnel {'to' if self.client else 'from'} {self.peer_identity} at {self.peer_address}: {state}, {len(self.streams)} streams>"
        )

    # For the owner

    @property
    def open_streams(self) -> int:
        return len(self.streams)

    @property
    def can_open(self) -> bool:
        """Client: whether `connect` may be called: not closed, not draining, below the peer's maximum of streams."""
        return not self.closed.done() and self.h2.can_open

    @property
    def congested(self) -> bool:
        """The kernel does not take more ciphertext for now."""
        return self.channel.congested

    @property
    def queued(self) -> int:
        """Bytes of ciphertext that wait for the kernel."""
        return self.channel.queued

    async def connect(self, headers: HeaderList) -> Stream:
        """Open a stream and wait for its answer: `Stream.status` says which; one other than 200 has ended already.

        Raises PeerError: GOAWAY (the peer took no notice of the request: it may be tried on another tunnel), TUNNEL_LOST,
        TOO_MANY_CONNECTIONS, RESET_BY_DESTINATION. When cancelled the stream is reset.
        """
        answered: asyncio.Future[None] = self.loop.create_future()

        def on_open(stream: Stream) -> None:
            if not answered.done():
                answered.set_result(None)

        stream = self.open(headers, on_open)
        try:
            await answered
        except asyncio.CancelledError:
            stream.abort(Reason.OK)
            raise
        if not stream.status and stream.reason is not None:
            raise PeerError(stream.reason)
        return stream

    def open(self, headers: HeaderList, on_open: Callable[[Stream], None]) -> Stream:
        """As `connect`, without a future: `on_open(stream)` is called when there is an answer (`status`) or an end (`reason`)."""
        if not self.can_open:
            if self.closed.done():
                raise PeerError(Reason.TUNNEL_LOST, "the tunnel is closed")
            draining = self._goaway or self.h2.draining
            raise PeerError(Reason.GOAWAY if draining else Reason.TOO_MANY_CONNECTIONS, "the tunnel takes no more streams")
        stream_id = self.h2.open_stream(headers)
        stream = self.streams[stream_id] = Stream(self, stream_id, on_open)
        self.schedule_flush()
        return stream

    def drain(self) -> None:
        """No new streams; those that are open may finish, then the tunnel closes itself."""
        if not self.closed.done():
            self.h2.drain()
            self.schedule_flush()
            if self.client:
                self._close_if_finished()

    def close(self, reason: Reason) -> None:
        """Close at once; streams that are open are reset, with this reason (TUNNEL_LOST if it is OK)."""
        if not self.closed.done():
            self.h2.goaway(Code.INTERNAL_ERROR if reason is Reason.INTERNAL else Code.NO_ERROR)
            self._shut(reason, Reason.TUNNEL_LOST if reason is Reason.OK else reason)

    def abort(self, reason: Reason) -> None:
        """The same, by the name that everything which can be drained has."""
        self.close(reason)

    # For streams and the stage

    def schedule_flush(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._flush)

    def flush_after(self, stream: Stream) -> None:
        """`stream` has put frames into the stage. They wait for those of other streams until the end of the turn, unless it is the only
        one that was busy lately: then nobody else is to be expected, and it is spared the wait."""
        if stream is self._busiest and not self._scheduled:
            self._flush()
        else:
            self._busiest = stream
            self.schedule_flush()

    def send_failed(self, error: PeerError) -> None:
        """The next flush sees to it."""
        self._send_error = error
        self.schedule_flush()

    def forget(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        self.starved.discard(stream)
        if self._busiest is stream:
            self._busiest = None
        if not self.streams and not self.closed.done() and self.h2.finished:
            self.loop.call_soon(self._close_if_finished)

    # Callbacks

    def start(self, descriptor: int) -> None:
        """Begin, with what the handshake left in the buffers."""
        self._descriptor = descriptor
        self.h2.start(self.loop.time())
        self.schedule_flush()
        self.loop.add_reader(descriptor, self._on_readable)
        self._arm()
        self._on_readable(self.channel.decrypt)

    def _on_readable(self, receive: Callable[[], memoryview] | None = None) -> None:
        channel, streams = self.channel, self.streams
        try:
            data = receive() if receive is not None else channel.receive()
            if data:
                for event in self.h2.receive(data, self.loop.time()):
                    if type(event) is DataReceived:
                        stream = streams.get(event.stream_id)
                        if stream is not None:
                            stream.on_data(event.data, event.end_stream)
                    else:
                        self._handle_control(event)
                if self._goaway or self.h2.draining:
                    self._close_if_finished()
                # Answers and credits leave at once, unless more is about to leave anyway or there is no room.
                if not self._scheduled and not channel.congested and (control := self.h2.take_output()):
                    channel.write(control)
                    channel.flush()
            if channel.eof and not self.closed.done():
                self._on_end()
        except PeerError as error:
            self._lost(error)
        except Exception:
            log.exception("a bug in %r closes it", self)
            self._lost(PeerError(Reason.INTERNAL))

    def _handle_control(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._on_request_received(event)
            case ResponseReceived():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    stream.on_response(event.headers, event.end_stream)
            case StreamReset():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    stream.on_reset(event.code, event.local)
            case WindowOpened():
                self._on_window(event.stream_id)
            case SettingsChanged():
                if not self.ready.done():
                    self.ready.set_result(None)
            case GoAway():
                self._goaway = True

    def _on_request_received(self, event: RequestReceived) -> None:
        if self._on_request is None or self.closed.done():
            return
        stream = self.streams[event.stream_id] = Stream(self, event.stream_id)
        if event.end_stream:
            stream.on_data(NOTHING, True)
        self._on_request(Incoming(self, stream, event.headers, event.end_stream))

    def _on_window(self, stream_id: int) -> None:
        if stream_id:
            stream = self.streams.get(stream_id)
            if stream is not None and stream in self.starved:
                self.starved.discard(stream)
                stream.resume()
            return
        starved, self.starved = self.starved, set()
        for stream in starved:
            stream.resume()

    def _on_drained(self) -> None:
        """The congestion is over."""
        paused, self.paused = self.paused, []
        for stream in paused:
            stream.resume()
        self.schedule_flush()

    def _flush(self) -> None:
        self._scheduled = False
        if self.closed.done():
            return
        stage, channel = self.stage, self.channel
        try:
            control = b"" if channel.congested else self.h2.take_output()
            if stage.owner is self:
                if control:
                    stage.add(control)
                if stage.filled:
                    channel.write(stage.take())
            elif control:
                channel.write(control)
            if self._send_error is not None:
                raise self._send_error
            channel.flush()
        except PeerError as error:
            self._lost(error)

    def _arm(self) -> None:
        deadline = self.h2.next_deadline()
        if deadline is not None:
            self._timer = self.loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        """Keepalive; every ten seconds on a quiet tunnel, as a rule."""
        try:
            self.h2.on_timer(self.loop.time())
        except PeerError as error:
            self._lost(error)
            return
        self._sweep()
        self.schedule_flush()
        self._arm()

    def _sweep(self) -> None:
        """Find apps that broke while their socket was not watched for reading: they ended their side, or are held back.

        Without this such a stream would stay until the other end does something, perhaps for ever.
        """
        unwatched = {stream.descriptor: stream for stream in self.streams.values() if stream.descriptor >= 0 and not stream.reading}
        if not unwatched:
            return
        poll = select.poll()
        for descriptor in unwatched:
            poll.register(descriptor, 0)  # errors are always reported
        for descriptor, events in poll.poll(0):
            if events & select.POLLERR:
                unwatched[descriptor].on_app_broke()

    # The end

    def _on_end(self) -> None:
        """The peer has closed its side."""
        if self.streams or not self.channel.clean:
            self._lost(PeerError(Reason.TUNNEL_LOST, "closed by the peer" if self.channel.clean else "cut off by the peer"))
        else:
            self._shut(Reason.GOAWAY if self._goaway else Reason.OK, Reason.TUNNEL_LOST)

    def _lost(self, error: PeerError) -> None:
        if not self.closed.done():
            self.error = error
            self._shut(error.reason, Reason.TUNNEL_LOST)

    def _close_if_finished(self) -> None:
        if self.closed.done() or self.streams or not self.h2.finished:
            return
        self._shut(Reason.GOAWAY if self._goaway else Reason.DRAINING, Reason.TUNNEL_LOST)

    def _shut(self, reason: Reason, for_streams: Reason) -> None:
        self.closed.set_result(reason)
        if not self.ready.done():
            self.ready.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
        self.loop.remove_reader(self._descriptor)
        if self.stage.owner is self:
            self.stage.commit()
        for stream in list(self.streams.values()):
            stream.finish(for_streams)
        self.paused.clear()
        self.starved.clear()
        with contextlib.suppress(PeerError):
            if not self.channel.congested and (control := self.h2.take_output()):
                self.channel.write(control)
        self.channel.close()
