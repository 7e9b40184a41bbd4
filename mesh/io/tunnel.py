"""Tunnels between workloads: `dial` makes the client's end, `accept` the server's, both on a socket that the caller has made.

    tunnel = await dial(sock, credentials, accepted, deadline)
    stream = await tunnel.connect([(b":method", b"CONNECT"), (b":authority", b"10.0.0.7:80")])
    if stream.status == 200:
        stream.splice(app_socket, counters, done)

    await accept(sock, credentials, on_request)     # on_request(incoming): incoming.accept(headers).splice(...) or .reject(401)

`mux.py` is the connection, `stream.py` one stream of it, `channel.py` TLS on a socket, `stage.py` the buffer of a turn.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from mesh.io.channel import Channel
from mesh.io.incoming import Incoming
from mesh.io.mux import Tunnel
from mesh.io.sockets import finish_connect, peer_address, tune
from mesh.io.stream import Stream
from mesh.io.tls import Credentials, client_identity, server_identity
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.reasons import Reason

__all__ = ["Incoming", "Stream", "Tunnel", "accept", "dial"]

HANDSHAKE_TIMEOUT: Final = 10.0  # seconds for TLS, and again for the peer's SETTINGS
MAX_HANDSHAKES: Final = 2048  # inbound TLS handshakes at a time; a peer over it is refused

_handshakes = 0


async def dial(sock: socket.socket, credentials: Credentials, accepted: frozenset[Identity], deadline: float | None) -> Tunnel:
    """The client's end on `sock`, which is connected or connecting and belongs to the tunnel from now on.

    Returns when the server has proved to be one of `accepted` and its SETTINGS have come, which also shows that it accepts us. `deadline`
    (`loop.time()`) bounds all of it. Raises PeerError; the socket is closed then, and when cancelled.
    """
    channel: Channel | None = None
    try:
        await finish_connect(sock, deadline)
        tune(sock)
        channel = Channel(sock, credentials.client, server_side=False)
        await channel.handshake(_bounded(deadline))
        identity = server_identity(channel.tls, accepted)
        tunnel = Tunnel(channel, True, identity, peer_address(sock), None)
    except OSError as error:
        _discard(sock, channel)
        raise PeerError(Reason.CONNECT_FAILED, error.strerror or str(error)) from error
    except BaseException:
        _discard(sock, channel)
        raise
    tunnel.start(sock.fileno())
    try:
        async with asyncio.timeout_at(_bounded(deadline)):
            await tunnel.ready
    except TimeoutError as error:
        tunnel.close(Reason.H2_TIMEOUT)
        raise PeerError(Reason.H2_TIMEOUT, "no SETTINGS") from error
    except asyncio.CancelledError:
        tunnel.close(Reason.OK)
        raise
    if tunnel.closed.done():
        raise _refused(tunnel)
    return tunnel


async def accept(
    sock: socket.socket, credentials: Credentials, on_request: Callable[[Incoming], None], deadline: float | None = None
) -> Tunnel:
    """The server's end on `sock`, a connection that was accepted; it belongs to the tunnel from now on.

    Returns when the client has proved an identity of our trust domain. Every request is then given to `on_request`, which must not raise.
    Raises PeerError; the socket is closed then, and when cancelled.
    """
    global _handshakes
    channel: Channel | None = None
    if _handshakes >= MAX_HANDSHAKES:
        sock.close()
        raise PeerError(Reason.TOO_MANY_CONNECTIONS, f"{_handshakes} TLS handshakes are going on")
    _handshakes += 1
    try:
        tune(sock)
        address = peer_address(sock)
        channel = Channel(sock, credentials.server, server_side=True)
        await channel.handshake(_bounded(deadline))
        identity = client_identity(channel.tls, credentials.identity.trust_domain)
        tunnel = Tunnel(channel, False, identity, address, on_request)
    except OSError as error:  # the peer has gone before we began
        _discard(sock, channel)
        raise PeerError(Reason.TLS_HANDSHAKE, error.strerror or str(error)) from error
    except BaseException:
        _discard(sock, channel)
        raise
    finally:
        _handshakes -= 1
    tunnel.start(sock.fileno())
    return tunnel


def _bounded(deadline: float | None) -> float:
    latest = asyncio.get_running_loop().time() + HANDSHAKE_TIMEOUT
    return latest if deadline is None else min(deadline, latest)


def _discard(sock: socket.socket, channel: Channel | None) -> None:
    if channel is not None:
        channel.close()
    else:
        sock.close()


def _refused(tunnel: Tunnel) -> PeerError:
    """Why a tunnel ended before it was ready. With TLS 1.3 this is how a client learns that its own certificate was refused."""
    error = tunnel.error
    if error is None:
        return PeerError(tunnel.closed.result(), "the peer closed the connection right after the handshake")
    if error.reason is Reason.TUNNEL_LOST:
        return PeerError(Reason.TLS_HANDSHAKE, f"after the handshake: {error.detail}")
    return error
