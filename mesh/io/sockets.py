"""TCP sockets as the tunnel needs them: options, marks, transparent sources, listeners, and connects with a deadline.

All sockets here are non-blocking. `deadline` is always a moment of the running loop's clock (`loop.time()`), or None for no limit.
Whoever is given a socket owns it: a function that fails, also by cancellation, has closed what it was given or made.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import itertools
import os
import socket
import struct
from functools import lru_cache
from typing import Final

from mesh.model.errors import PeerError
from mesh.model.reasons import Reason
from mesh.model.workload import IPAddress, SocketAddress

# Numbers of Linux that the socket module does not name.
IP_TRANSPARENT: Final = 19
IPV6_TRANSPARENT: Final = 75
IP_BIND_ADDRESS_NO_PORT: Final = 24
SO_ORIGINAL_DST: Final = 80  # also IP6T_SO_ORIGINAL_DST, at level IPPROTO_IPV6

# Source ports for connections in a client's name. A client that came in by plaintext has its own connection to the same pod and port,
# and the kernel tells the two apart by the source port alone: a delivery from the port of such a connection reaches that one instead
# of the app, and both break. So they are taken from where Linux takes none for clients (net.ipv4.ip_local_port_range).
DELIVERY_PORTS: Final = range(61000, 65536)
DELIVERY_PORT_TRIES: Final = 8
_delivery_ports = itertools.cycle(DELIVERY_PORTS)

KEEPALIVE_IDLE: Final = 180  # seconds; Istio's values
KEEPALIVE_INTERVAL: Final = 180
KEEPALIVE_PROBES: Final = 9
BACKLOG: Final = 4096

_LINGER_RESET: Final = struct.pack("ii", 1, 0)


def stream_socket(version: int, mark: int | None = None) -> socket.socket:
    """A non-blocking TCP socket for IP `version` (4 or 6), in the calling thread's network namespace. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if mark is not None:
            # As bytes: the upper half of the marks does not fit in the int that setsockopt takes.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", mark))
    except BaseException:
        sock.close()
        raise
    return sock


def tune(sock: socket.socket, keepalive: bool = True) -> None:
    """Non-blocking, without Nagle's delay, and probed when silent, so that a vanished peer is noticed. Not IP: only the first."""
    sock.setblocking(False)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keepalive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def reset(sock: socket.socket) -> None:
    """Close so that the peer sees a reset, never an end of stream: for data that was cut short. Safe on a closed socket."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    except OSError:
        pass
    sock.close()


def bind_source(sock: socket.socket, source: IPAddress, tries: int = DELIVERY_PORT_TRIES) -> None:
    """Make `source` the local address, although it is not ours (needs CAP_NET_ADMIN), with the next of DELIVERY_PORTS. Raises OSError.

    Where `tries` of them in a row are taken (somebody listens there), the kernel chooses a port when the socket connects. A port may
    serve several destinations; that it serves this one already shows only when the socket connects, as EADDRNOTAVAIL.
    """
    if source.version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port is taken for all destinations, and for a minute after
    for port in itertools.islice(_delivery_ports, tries):
        try:
            sock.bind((str(source), port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
    # Without this the kernel takes a port for this socket alone, and 28 thousand of them are all there are for ALL destinations together.
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((str(source), 0))


def listener(port: int, host: str = "", mark: int | None = None, transparent: bool = False, dual_stack: bool = True) -> socket.socket:
    """A listening socket in the calling thread's network namespace: `[::]` serving IPv4 too where there is IPv6, else `0.0.0.0`.

    With `host` it is bound to that address alone. SO_REUSEPORT is set, so that the next generation of a process can listen beside
    this one. What `tune` sets is set here for all accepted sockets, which inherit it. The mark is set before `listen`: the kernel
    programs look at it in that moment. Raises OSError.
    """
    version = ipaddress.ip_address(host).version if host else 6 if dual_stack and socket.has_ipv6 else 4
    try:
        return _listener(version, port, host, mark, transparent)
    except OSError as error:
        if host or version == 4 or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return _listener(4, port, host, mark, transparent)


def _listener(version: int, port: int, host: str, mark: int | None, transparent: bool) -> socket.socket:
    sock = stream_socket(version, mark)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        tune(sock)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if host else 0)
        if transparent:
            sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
            if version == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        sock.bind((host or ("::" if version == 6 else "0.0.0.0"), port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def original_destination(sock: socket.socket) -> SocketAddress | None:
    """Where the app wanted to go before its connection was redirected to us, or None if the kernel does not know."""
    try:
        raw = sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
        return SocketAddress(_ip(raw[4:8]), int.from_bytes(raw[2:4], "big"))
    except (OSError, ValueError):
        pass
    try:
        raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        return SocketAddress(_ip(raw[8:24]), int.from_bytes(raw[2:4], "big"))
    except (OSError, ValueError):
        return None


def peer_address(sock: socket.socket) -> SocketAddress | None:
    """The peer's address, IPv4 where it is IPv4 seen through a dual-stack socket; None once the peer is gone or has no IP address."""
    try:
        name = sock.getpeername()
    except OSError:
        return None
    return socket_address(name)


def socket_address(name: object) -> SocketAddress | None:
    """What accept, getpeername and getsockname return, as an address of ours; None for other families than IP."""
    if not isinstance(name, tuple) or len(name) < 2:
        return None
    return SocketAddress(_ip(str(name[0])), int(name[1]))


@lru_cache(maxsize=8192)
def _ip(value: str | bytes) -> IPAddress:
    """An address from its text (a zone is left out) or its bytes, IPv4 where it is v4-mapped. The same few come again and again."""
    ip = ipaddress.ip_address(value.partition("%")[0] if isinstance(value, str) else value)
    return (ip.ipv4_mapped if ip.version == 6 else None) or ip


async def wait_ready(sock: socket.socket, write: bool = False) -> None:
    """Return when `sock` can be read (or written). Only one waiter per socket and direction."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    descriptor = sock.fileno()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(descriptor, _wake, ready)
    try:
        await ready
    finally:
        remove(descriptor)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def connect(sock: socket.socket, address: SocketAddress, deadline: float | None) -> socket.socket:
    """Connect `sock`; return it. On any failure it is closed, and PeerError(CONNECT_FAILED, CONNECT_TIMEOUT or FDS_EXHAUSTED) is raised."""
    try:
        begin_connect(sock, address)
        await finish_connect(sock, deadline)
    except BaseException:
        sock.close()
        raise
    return sock


def begin_connect(sock: socket.socket, address: SocketAddress) -> None:
    """Send the SYN. Raises PeerError; the socket stays the caller's."""
    code = sock.connect_ex((str(address.ip), address.port))
    if code not in (0, errno.EINPROGRESS):
        raise _connect_error(code)


async def finish_connect(sock: socket.socket, deadline: float | None) -> None:
    """Wait for the answer to the SYN. Raises PeerError; the socket stays the caller's."""
    try:
        async with asyncio.timeout_at(deadline):
            await wait_ready(sock, write=True)
    except TimeoutError as error:
        raise PeerError(Reason.CONNECT_TIMEOUT) from error
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise _connect_error(code)


def _connect_error(code: int) -> PeerError:
    reason = Reason.CONNECT_TIMEOUT if code == errno.ETIMEDOUT else Reason.CONNECT_FAILED
    return PeerError(reason, os.strerror(code))
