"""Inbound in plaintext: a connection from outside the mesh, steered by the kernel to 15006, on to the app if policy lets it.

The same evaluation as over HBONE, with no identity: a policy that asks for one denies, and PeerAuthentication STRICT is such a policy. A
denied connection is reset without a byte. The app sees the client's own address.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from mesh.io.relay import Relay, splice
from mesh.io.sockets import original_destination, reset, socket_address
from mesh.model import policy
from mesh.model.inbound import meant_service
from mesh.model.reasons import Reason
from mesh.model.workload import PLAINTEXT_PORT, TUNNEL_PORTS, NetworkAddress, SocketAddress, Workload
from ztunnel.arrival import admit, refuse
from ztunnel.connections import Connection
from ztunnel.dial import Connect
from ztunnel.judge import judge

if TYPE_CHECKING:
    from ztunnel.deps import Deps
    from ztunnel.pods import Pod


def steered(deps: Deps, pod: Pod, sock: socket.socket, peer: SocketAddress | None) -> None:
    """A connection was accepted by the 15006 listener."""
    # Steered by sk_lookup it carries its true destination; redirected by iptables, conntrack knows it; else it asks for 15006.
    local = socket_address(sock.getsockname())
    destination = local
    if local is not None and local.port == PLAINTEXT_PORT:
        destination = original_destination(sock) or local
    if peer is None or destination is None:
        refuse(deps, True, sock, Reason.NO_ORIGINAL_DESTINATION, "", peer, local)
    elif destination.port in TUNNEL_PORTS:
        refuse(deps, True, sock, Reason.SELF_CALL, f"{destination} is the tunnel's own", peer, destination)
    elif deps.registry.full(pod.uid):
        refuse(deps, True, sock, Reason.TOO_MANY_CONNECTIONS, "", peer, destination)
    else:
        admit(
            deps,
            pod,
            True,
            sock,
            peer,
            destination,
            lambda workload: InboundPlaintext(deps, pod, sock, workload, peer, destination).start(),
        )


class InboundPlaintext(Connection):
    """One connection. It holds a connect, or a relay."""

    __slots__ = ("_connect", "_deps", "_relay", "_sock", "question", "workload")

    inbound = True

    def __init__(
        self, deps: Deps, pod: Pod, sock: socket.socket, workload: Workload, peer: SocketAddress, destination: SocketAddress
    ) -> None:
        super().__init__(deps.registry, pod, peer, destination)
        self.workload = self.destination_workload = workload
        self.question: policy.Connection | None = None
        self._deps = deps
        self._sock: socket.socket | None = sock
        self._connect: Connect | None = None
        self._relay: Relay | None = None

    @property
    def policy_input(self) -> policy.Connection | None:
        return self.question

    def start(self) -> None:
        state, workload = self._deps.view.state, self.workload
        peer, destination = self.source, self.destination
        self.source_workload = state.workload_at(NetworkAddress(workload.network, peer.ip))  # by address only: for telemetry
        self.service = meant_service(workload, destination.port, None, state)
        self.opened()
        self.question = policy.Connection(None, peer.ip, destination.ip, destination.port)
        verdict = judge(state, workload, self.question)
        if not verdict.allowed:
            self._fail(verdict.reason, verdict.policy)
            return
        spoofed = None if peer.ip == destination.ip else peer.ip
        pod, within = self.pod, self._deps.config.connect_timeout
        connect = Connect(pod.namespace, pod.mark, spoofed, destination, within, self._on_connected, self._fail)
        if self._sock is not None:
            self._connect = connect

    def _on_connected(self, sock: socket.socket) -> None:
        self._connect = None
        ours, self._sock = self._sock, None
        if ours is None:
            reset(sock)
            return
        self.established = True
        self._relay = splice(ours, sock, self, self._on_done)

    def _on_done(self, reason: Reason) -> None:
        self._relay = None  # or the two would keep each other until the next collection
        self.finished(reason)

    def _fail(self, reason: Reason, detail: str) -> None:
        self._connect = None
        sock, self._sock = self._sock, None
        if sock is not None:
            reset(sock)
        self.finished(reason, detail)

    def abort(self, reason: Reason) -> None:
        if self._relay is not None:
            self._relay.abort(reason)
            return
        if self._connect is not None:
            self._connect.cancel()
        self._fail(reason, "")
