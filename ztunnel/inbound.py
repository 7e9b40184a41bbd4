"""Inbound over HBONE: a CONNECT stream from another tunnel, from 15008 to the app.

    TLS with the pod's certificate → CONNECT → own workload → authority is this pod (`model.inbound`) → policy → connect to the app, with
    the client's address as source → 200 → stream joined with the app's socket

Answers: 400 for what is no request to this pod, 401 where policy denies, 503 where the pod or its app is not there; 200 only once the app
has accepted. Before any of these the peer has proved an identity of our trust domain, or there is no HTTP at all.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING

from mesh.io.log import Log
from mesh.io.sockets import reset, socket_address
from mesh.io.stream import Stream
from mesh.io.tunnel import Incoming, Tunnel, accept
from mesh.model import policy
from mesh.model.errors import PeerError
from mesh.model.inbound import Refused, inbound
from mesh.model.reasons import Reason
from mesh.model.workload import NetworkAddress, SocketAddress, Workload
from mesh.wire import hbone as wire
from mesh.wire.proxy_protocol import proxy_header
from ztunnel.connections import Connection
from ztunnel.dial import Connect
from ztunnel.judge import judge

if TYPE_CHECKING:
    from ztunnel.deps import Deps
    from ztunnel.pods import Pod

log = Log("tunnel")

MAX_TUNNELS = 4096  # inbound HBONE connections to one pod
MAX_BEGINNING = 512  # ... that have not proved anything yet: silent peers of one pod must not use up what all pods share

_STATUS = {
    Reason.AUTHORITY_MISMATCH: wire.STATUS_BAD_REQUEST,
    Reason.POLICY_DENY: wire.STATUS_DENIED,
    Reason.POLICY_NO_ALLOW: wire.STATUS_DENIED,
    Reason.POLICY_MISSING: wire.STATUS_DENIED,
    Reason.POLICY_UNENFORCEABLE: wire.STATUS_DENIED,
    Reason.POLICY_REVOKED: wire.STATUS_DENIED,
    Reason.MTLS_REQUIRED: wire.STATUS_DENIED,
}
"""What is not here is answered 503."""

_MISBEHAVIOUR = frozenset({Reason.H2_PROTOCOL, Reason.H2_FLOOD, Reason.H2_TIMEOUT})


async def serve(deps: Deps, pod: Pod, sock: socket.socket, peer: SocketAddress | None) -> None:
    """A connection was accepted on 15008: shake hands, then every request on it is an `InboundHbone`."""
    local = socket_address(sock.getsockname())
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deps.config.handshake_timeout
    handed_over = False
    pod.beginning += 1
    try:
        if peer is None or local is None:
            raise PeerError(Reason.INTERNAL, "the connection has no IP address")
        if len(pod.tunnels) >= MAX_TUNNELS:
            raise PeerError(Reason.TOO_MANY_CONNECTIONS, f"{MAX_TUNNELS} tunnels to this pod")
        if pod.beginning > MAX_BEGINNING:
            raise PeerError(Reason.TOO_MANY_CONNECTIONS, f"{MAX_BEGINNING} peers of this pod are still shaking hands")
        workload = await deps.view.wait_workload(pod.info, deps.config.workload_timeout)
        if workload is None:
            raise PeerError(Reason.UNKNOWN_WORKLOAD, f"{pod.info.namespace}/{pod.info.name}")
        credentials = await deps.certificates.obtain(workload.identity, deps.config.workload_timeout)
        handed_over = True
        tunnel = await accept(sock, credentials, partial(_on_request, deps, pod, peer, local), deadline)
    except PeerError as error:
        deps.registry.refused(True, error.reason, error.detail, peer, local)
        return
    finally:
        pod.beginning -= 1
        if not handed_over:
            reset(sock)
    if pod.stopped:
        tunnel.close(Reason.POD_REMOVED)
        return
    pod.tunnels.add(tunnel)
    tunnel.closed.add_done_callback(partial(_on_tunnel_closed, deps, pod, tunnel, local))
    if pod.draining:
        tunnel.drain()


def _on_tunnel_closed(deps: Deps, pod: Pod, tunnel: Tunnel, local: SocketAddress, closed: asyncio.Future[Reason]) -> None:
    pod.tunnels.discard(tunnel)
    if tunnel.error is None:
        return
    if closed.result() in _MISBEHAVIOUR:
        # Its streams, if it had any, end as `tunnel_lost`: what the peer did to deserve it is said here.
        deps.registry.refused(True, closed.result(), f"{tunnel.peer_identity}: {tunnel.error.detail}", tunnel.peer_address, local)
    else:
        log.debug("tunnel ended", peer=tunnel.peer_identity, address=tunnel.peer_address, reason=closed.result().word, error=tunnel.error)


def _on_request(deps: Deps, pod: Pod, peer: SocketAddress, local: SocketAddress, incoming: Incoming) -> None:
    try:
        _begin(deps, pod, peer, local, incoming)
    except Exception:
        log.exception("a bug ends one stream", peer=incoming.peer_identity, address=peer)
        deps.registry.refused(True, Reason.INTERNAL, "", peer, local)
        if incoming.gone is None:
            incoming.reject(wire.STATUS_UNAVAILABLE)


def _begin(deps: Deps, pod: Pod, peer: SocketAddress, local: SocketAddress, incoming: Incoming) -> None:
    registry = deps.registry
    request = wire.read_request(incoming.headers)
    if isinstance(request, wire.Refused):
        incoming.reject(request.status)
        registry.refused(True, request.reason, request.detail, peer, local)
        return
    workload = deps.view.workload_of(pod.info)
    if workload is None or pod.stopped:
        incoming.reject(wire.STATUS_UNAVAILABLE)
        registry.refused(True, Reason.UNKNOWN_WORKLOAD, f"{pod.info.namespace}/{pod.info.name}", peer, local)
        return
    if registry.full(pod.uid):
        incoming.reject(wire.STATUS_UNAVAILABLE)
        registry.refused(True, Reason.TOO_MANY_CONNECTIONS, "", peer, local)
        return
    InboundHbone(deps, pod, incoming, peer, local, workload).start(request)


class InboundHbone(Connection):
    """One stream. At any time it holds at most one of: an unanswered request (with or without a connect), a joined stream."""

    __slots__ = ("_connect", "_deps", "_incoming", "_stream", "question", "workload")

    inbound = True
    hbone = True
    client_sends = False

    def __init__(self, deps: Deps, pod: Pod, incoming: Incoming, peer: SocketAddress, local: SocketAddress, workload: Workload) -> None:
        super().__init__(deps.registry, pod, peer, local)
        self.workload = self.destination_workload = workload
        self.destination_identity = workload.identity
        self.source_identity = incoming.peer_identity
        self.question: policy.Connection | None = None
        self._deps = deps
        self._incoming: Incoming | None = incoming
        self._connect: Connect | None = None
        self._stream: Stream | None = None

    @property
    def policy_input(self) -> policy.Connection | None:
        return self.question

    def start(self, request: wire.ConnectRequest) -> None:
        state = self._deps.view.state
        workload, local, peer = self.workload, self.destination, self.source
        source = state.workload_at(NetworkAddress(workload.network, peer.ip))
        if source is not None and source.identity == self.source_identity:
            self.source_workload = source
        else:
            self.claimed = request.baggage  # behind a waypoint or gateway, the address is not the client's
        host, port = request.authority.host, request.authority.port
        self.target = request.authority.address
        decision = inbound(workload, local.ip, host, port, request.forwarded_host, state)
        if isinstance(decision, Refused):
            self.opened()
            self._fail(decision.reason, decision.detail)
            return
        self.original = self.target = decision.meant
        self.service = decision.service
        self.opened()
        self.question = policy.Connection(self.source_identity, peer.ip, local.ip, decision.meant.port)
        verdict = judge(state, workload, self.question)
        if not verdict.allowed:
            self._fail(verdict.reason, _which(verdict))
            return
        assert self._incoming is not None
        self._incoming.on_gone = self._on_gone
        to_loopback = decision.target.ip.is_loopback
        spoofed = None if to_loopback or peer.ip == decision.target.ip else peer.ip
        announced = proxy_header(peer, decision.meant, str(self.source_identity)) if decision.announce else b""
        pod, within = self.pod, self._deps.config.connect_timeout
        connect = Connect(pod.namespace, pod.mark, spoofed, decision.target, within, partial(self._on_connected, announced), self._fail)
        if self._incoming is not None:
            self._connect = connect

    def _on_connected(self, announced: bytes, sock: socket.socket) -> None:
        self._connect = None
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            reset(sock)
            return
        if announced:
            try:
                sock.send(announced)  # into the empty buffer of a new socket: it is taken whole, or the connection is broken
            except OSError as error:
                reset(sock)
                self._incoming = incoming
                self._fail(Reason.CONNECT_FAILED, error.strerror or str(error))
                return
        self.established = True
        baggage = self.pod.baggage_of(self.workload) if self._deps.config.response_baggage else ""
        self._stream = incoming.accept(((b"baggage", baggage.encode("ascii")),) if baggage else ())
        self._stream.splice(sock, self, self.finished)

    def _on_gone(self, reason: Reason) -> None:
        """The peer took its request back while we connected."""
        self._incoming = None
        if self._connect is not None:
            self._connect.cancel()
        self.finished(reason)

    def _fail(self, reason: Reason, detail: str) -> None:
        self._connect = None
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.reject(_STATUS.get(reason, wire.STATUS_UNAVAILABLE))
        self.finished(reason, detail)

    def abort(self, reason: Reason) -> None:
        if self._stream is not None:
            self._stream.abort(reason)
            return
        if self._connect is not None:
            self._connect.cancel()
        self._fail(reason, "")


def _which(verdict: policy.Decision) -> str:
    """The policy, and the rule of it, that denied."""
    return verdict.policy + (f" rule[{verdict.rule}]" if verdict.rule is not None else "")
