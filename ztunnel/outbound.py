"""Outbound: a connection that the kernel captured from an app of ours, from 15001 to where it wanted to go.

    accepted → original destination → own workload (awaited) → decision of `model.route` → one of
      passthrough, direct   plain TCP from the pod's namespace                                 → relay
      HBONE                 own certificate → tunnel from the pool, or a dial → CONNECT → 200    → stream joined with the app's socket
      refused               reset, with a reason

The app was connected as soon as we accepted: whatever fails after that, it sees a reset, never an orderly end. All of it is callbacks; only
waiting for the control plane or the CA, and dialling a tunnel, are tasks.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from mesh.io.log import Log
from mesh.io.relay import Relay, splice
from mesh.io.sockets import original_destination, reset, socket_address
from mesh.io.stream import Stream
from mesh.io.tls import Credentials
from mesh.io.tunnel import Tunnel, dial
from mesh.model import route
from mesh.model.errors import PeerError
from mesh.model.reasons import Reason
from mesh.model.workload import OUTBOUND_PORT, SocketAddress, Workload
from mesh.wire.hbone import connect_headers, read_response, traceparent
from ztunnel.arrival import admit, refuse
from ztunnel.connections import Connection
from ztunnel.dial import Connect, begin
from ztunnel.pool import Key, Use, Wait

if TYPE_CHECKING:
    from ztunnel.deps import Deps
    from ztunnel.pods import Pod

log = Log("tunnel")

_LOOPBACK = ("127.", "::ffff:127.")  # how getsockname writes it, beside ::1

ATTEMPTS = 3
"""How often a stream is offered before the connection is refused: only a tunnel that took no notice of it is followed by another."""


def capture(deps: Deps, pod: Pod, sock: socket.socket, peer: SocketAddress | None) -> None:
    """A connection was accepted on 15001."""
    registry = deps.registry
    local = sock.getsockname()
    # The kernel redirects to loopback; who reaches this port in any other way was not captured.
    if peer is None or not (local[0] == "::1" or local[0].startswith(_LOOPBACK)):
        refuse(deps, False, sock, Reason.NO_ORIGINAL_DESTINATION, "the connection did not come over loopback", peer, socket_address(local))
        return
    destination = original_destination(sock)
    if destination is None or (destination.port == OUTBOUND_PORT and destination.ip.is_loopback):
        refuse(deps, False, sock, Reason.NO_ORIGINAL_DESTINATION, "", peer, socket_address(local))
        return
    if registry.full(pod.uid):
        refuse(deps, False, sock, Reason.TOO_MANY_CONNECTIONS, "", peer, destination)
        return
    admit(deps, pod, False, sock, peer, destination, lambda workload: Outbound(deps, pod, sock, workload, peer, destination).start())


class Outbound(Connection):
    """One captured connection. At any time it holds at most one of: a connect, a place in the pool's queue, a stream, a relay."""

    __slots__ = (
        "_attempts",
        "_connect",
        "_decision",
        "_deps",
        "_key",
        "_relay",
        "_sock",
        "_spliced",
        "_stream",
        "_tunnel",
        "hbone",
        "workload",
    )

    def __init__(
        self, deps: Deps, pod: Pod, sock: socket.socket, workload: Workload, peer: SocketAddress, destination: SocketAddress
    ) -> None:
        super().__init__(deps.registry, pod, _seen_from_outside(workload, peer, destination), destination)
        self.source_workload = workload
        self.source_identity = None
        self.workload = workload
        self.hbone = False
        self._deps = deps
        self._sock: socket.socket | None = sock
        self._decision: route.Hbone | None = None
        self._connect: Connect | None = None
        self._key: Key | None = None  # while it waits in the pool
        self._tunnel: Tunnel | None = None
        self._stream: Stream | None = None
        self._relay: Relay | None = None
        self._spliced = False
        self._attempts = 0

    def start(self) -> None:
        decision = route.outbound(self.workload, self.destination, self._deps.view.state, self._deps.choose)
        self.service = decision.service
        match decision:
            case route.Refused(reason, detail, workload):
                self.destination_workload = workload
                self.opened()
                self._fail(reason, detail)
            case route.Hbone():
                self._decision = decision
                self.hbone = True
                self.target = decision.target
                self.destination = decision.hop
                self.source_identity = self.workload.identity
                self.destination_workload = decision.workload
                self.destination_identity = decision.workload.identity  # as expected; as proved, once it is
                self.opened()
                self._start_hbone()
            case route.Direct(target, workload):
                self.destination_workload = workload
                self._start_plain(target)
            case route.Passthrough(target):
                self._start_plain(target)

    # Plain TCP

    def _start_plain(self, target: SocketAddress) -> None:
        self.destination = target
        self.opened()
        pod, within = self.pod, self._deps.config.connect_timeout
        connect = Connect(pod.namespace, pod.mark, None, target, within, self._on_connected, self._fail)
        if not self.ended and self._relay is None:
            self._connect = connect

    def _on_connected(self, sock: socket.socket) -> None:
        self._connect = None
        ours, self._sock = self._sock, None
        if ours is None:
            sock.close()
            return
        self.established = True
        self._relay = splice(ours, sock, self, self._on_done)

    # HBONE

    def _start_hbone(self) -> None:
        credentials = self._deps.certificates.current(self.workload.identity)
        if credentials is None:
            self.pod.spawn(self._when_certified())
        else:
            self._check_out(credentials)

    async def _when_certified(self) -> None:
        try:
            credentials = await self._deps.certificates.obtain(self.workload.identity, self._deps.config.workload_timeout)
        except PeerError as error:
            self._fail(error.reason, error.detail)
        else:
            if not self.ended:
                self._check_out(credentials)

    def _check_out(self, credentials: Credentials) -> None:
        decision = self._decision
        assert decision is not None  # only HBONE gets here
        self._attempts += 1
        key = Key(credentials.identity, self.pod.uid, decision.accepted, decision.hop)
        answer = self._deps.pool.check_out(key, self)
        if isinstance(answer, Use):
            self.open_on(answer.tunnel)
        elif isinstance(answer, Wait):
            self._key = key
            for _ in range(answer.dials):
                self.pod.spawn(_dial(self._deps, self.pod, key, credentials))
        else:
            self._fail(answer.reason, "the pool of tunnels is full")

    def open_on(self, tunnel: Tunnel) -> None:
        """A tunnel is there: ask for a stream on it."""
        self._key = None
        decision = self._decision
        if self.ended or decision is None:
            return
        headers = connect_headers(
            decision.authority,
            source=self.source,
            traceparent=traceparent(self._deps.trace()),
            baggage=self.pod.baggage_of(self.workload),
            service_host=self.service.hostname if self.service is not None else "",
        )
        try:
            self._stream = tunnel.open(headers, self._on_answer)
        except PeerError as error:
            self._deps.pool.stream_ended(tunnel, self._deps.registry.clock())
            self._try_again(error.reason, error.detail)
        else:
            self._tunnel = tunnel

    def _try_again(self, reason: Reason, detail: str) -> None:
        """The tunnel took no notice of us: nothing was lost, another may serve."""
        credentials = self._deps.certificates.current(self.workload.identity)
        if self._attempts >= ATTEMPTS or credentials is None:
            self._fail(reason, detail)
        else:
            self._check_out(credentials)

    def _on_answer(self, stream: Stream) -> None:
        tunnel, sock = self._tunnel, self._sock
        if self.ended or sock is None or tunnel is None:
            return
        if stream.status == 200:
            self.established = self._spliced = True
            self.destination_identity = tunnel.peer_identity
            self._sock = self._decision = None  # an idle connection keeps what it needs and no more
            stream.splice(sock, self, self._on_done)
            return
        self._stream = self._tunnel = None
        self._deps.pool.stream_ended(tunnel, self._deps.registry.clock())
        if stream.status:
            self._fail(read_response(stream.headers).reason, f"{tunnel.peer_address} answered {stream.status}")
        elif stream.reason is Reason.GOAWAY:
            self._try_again(Reason.GOAWAY, "")
        else:
            self._fail(stream.reason or Reason.TUNNEL_LOST, str(tunnel.error or ""))

    # The end

    def _on_done(self, reason: Reason) -> None:
        """The engine has closed the sockets."""
        tunnel, detail = self._tunnel, ""
        self._relay = self._stream = None  # or the two would keep each other until the next collection
        if tunnel is not None:
            self._deps.pool.stream_ended(tunnel, self._deps.registry.clock())
            if reason is Reason.TUNNEL_LOST and tunnel.error is not None:
                detail = str(tunnel.error)
        self.finished(reason, detail)

    def failed(self, reason: Reason, detail: str) -> None:
        """The dial that it waited for did not come through."""
        self._key = None
        self._fail(reason, detail)

    def _fail(self, reason: Reason, detail: str) -> None:
        self._connect = None
        sock, self._sock = self._sock, None
        if sock is not None:
            reset(sock)
        self.finished(reason, detail)

    def abort(self, reason: Reason) -> None:
        if self._relay is not None:
            self._relay.abort(reason)
        elif self._spliced and self._stream is not None:
            self._stream.abort(reason)
        else:
            if self._connect is not None:
                self._connect.cancel()
            if self._key is not None:
                self._deps.pool.cancelled(self._key, self)
                self._key = None
            self._fail(reason, "")
            if self._stream is not None:
                self._stream.abort(reason)
            if self._tunnel is not None:
                self._deps.pool.stream_ended(self._tunnel, self._deps.registry.clock())


async def _dial(deps: Deps, pod: Pod, key: Key, credentials: Credentials) -> None:
    """Make one tunnel for the pool, and serve who waits for it."""
    pool, loop = deps.pool, asyncio.get_running_loop()
    try:
        sock = begin(pod.namespace, pod.mark, key.hop)
        tunnel = await dial(sock, credentials, key.accepted, loop.time() + deps.config.connect_timeout)
    except PeerError as error:
        detail = f"{key.hop}: {error.detail}" if error.detail else str(key.hop)
        for waiter in pool.failed(key):
            waiter.failed(error.reason, detail)
        return
    except BaseException:
        for waiter in pool.failed(key):
            waiter.failed(Reason.POD_REMOVED if pod.stopped else Reason.INTERNAL, "")
        raise
    tunnel.closed.add_done_callback(lambda _: pool.lost(tunnel))
    for waiter in pool.dialled(key, tunnel, loop.time()):
        try:
            waiter.open_on(tunnel)
        except Exception:
            log.exception("a bug ends one connection", connection=waiter)
            waiter.failed(Reason.INTERNAL, "")


def _seen_from_outside(workload: Workload, peer: SocketAddress, destination: SocketAddress) -> SocketAddress:
    """The app's own address: what it connected from before the redirect put loopback there."""
    if peer.ip.is_loopback:
        for ip in workload.addresses:
            if ip.version == destination.ip.version:
                return SocketAddress(ip, peer.port)
    return peer
