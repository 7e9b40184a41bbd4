"""Plain TCP connects from inside a pod's namespace, by callbacks: no task, no future, and no wait where none is needed.

To an app of the pod itself the kernel has the answer before `connect` returns: asking a second time shows it, and saves a turn of the loop.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from mesh.io.sockets import DELIVERY_PORT_TRIES, bind_source, stream_socket, tune
from mesh.model.errors import PeerError
from mesh.model.reasons import Reason
from mesh.model.workload import IPAddress, SocketAddress

if TYPE_CHECKING:
    from mesh.io.netns import Namespace

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_WAITING = frozenset({errno.EINPROGRESS, errno.EALREADY})
_DONE = frozenset({0, errno.EISCONN})

# What a connect ends with: a socket, or a reason and a sentence about it.
OnConnected = Callable[[socket.socket], None]
OnFailed = Callable[[Reason, str], None]


class Connect:
    """One connect under way. `cancel` ends it in silence."""

    __slots__ = ("_address", "_connected", "_failed", "_loop", "_sock", "_timer")

    def __init__(
        self,
        namespace: Namespace,
        mark: int,
        source: IPAddress | None,
        address: SocketAddress,
        within: float,
        connected: OnConnected,
        failed: OnFailed,
    ) -> None:
        """Connect to `address` from `source` (None: whatever the kernel chooses), `within` seconds. One of the two callbacks follows,

        perhaps before this returns.
        """
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._connected = connected
        self._failed = failed
        self._timer: asyncio.TimerHandle | None = None
        self._sock: socket.socket | None = None
        try:
            code = self._try(namespace, mark, source)
            if code == errno.EADDRNOTAVAIL and source is not None:
                code = self._try_other_ports(namespace, mark, source)
        except OSError as error:
            self._fail(reason_of(error), error.strerror or str(error))
            return
        if code in _WAITING:
            self._wait(within)
        else:
            self._settle(code)

    def cancel(self) -> None:
        sock = self._release()
        if sock is not None:
            sock.close()

    def _try(self, namespace: Namespace, mark: int, source: IPAddress | None, tries: int = DELIVERY_PORT_TRIES) -> int:
        """Open a socket and send the SYN; an errno. Raises OSError."""
        sock = self._sock = open_socket(namespace, mark, self._address.ip.version)
        if source is not None:
            bind_source(sock, source, tries)
        # A delivery never leaves this machine: its other end cannot vanish without the kernel's knowledge.
        tune(sock, keepalive=source is None)
        target = (str(self._address.ip), self._address.port)
        code = sock.connect_ex(target)
        return sock.connect_ex(target) if code == errno.EINPROGRESS else code

    def _try_other_ports(self, namespace: Namespace, mark: int, source: IPAddress) -> int:
        """The source port serves another connection from this client to this address: the next ones, and last one that the kernel finds."""
        code = errno.EADDRNOTAVAIL
        for tries in (*itertools.repeat(DELIVERY_PORT_TRIES, DELIVERY_PORT_TRIES), 0):
            if code != errno.EADDRNOTAVAIL:
                break
            sock, self._sock = self._sock, None
            if sock is not None:
                sock.close()
            code = self._try(namespace, mark, source, tries)
        return code

    def _wait(self, within: float) -> None:
        assert self._sock is not None
        self._loop.add_writer(self._sock.fileno(), self._on_writable)
        why = f"{self._address} did not answer in {within:g} s"
        self._timer = self._loop.call_later(within, self._fail, Reason.CONNECT_TIMEOUT, why)

    def _on_writable(self) -> None:
        assert self._sock is not None
        self._settle(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _settle(self, code: int) -> None:
        if code in _DONE:
            sock = self._release()
            if sock is not None:
                self._connected(sock)
        else:
            reason = Reason.CONNECT_TIMEOUT if code == errno.ETIMEDOUT else Reason.CONNECT_FAILED
            self._fail(reason, f"{self._address}: {os.strerror(code)}")

    def _fail(self, reason: Reason, detail: str) -> None:
        sock = self._release()
        if sock is not None:
            sock.close()
        self._failed(reason, detail)

    def _release(self) -> socket.socket | None:
        """Stop watching; the socket is the caller's."""
        sock, self._sock = self._sock, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if sock is not None:
                self._loop.remove_writer(sock.fileno())
        return sock


def open_socket(namespace: Namespace, mark: int, version: int) -> socket.socket:
    """A marked, non-blocking TCP socket that belongs to `namespace`. Raises OSError."""
    return namespace.run(lambda: stream_socket(version, mark))


def reason_of(error: OSError) -> Reason:
    """Why a socket could not be made or connected."""
    return Reason.FDS_EXHAUSTED if error.errno in _EXHAUSTED else Reason.CONNECT_FAILED


def begin(namespace: Namespace, mark: int, address: SocketAddress) -> socket.socket:
    """A socket of `namespace` whose connect to `address` is under way, for `mesh.io.tunnel.dial`. Raises PeerError."""
    try:
        sock = open_socket(namespace, mark, address.ip.version)
    except OSError as error:
        raise PeerError(reason_of(error), error.strerror or str(error)) from error
    code = sock.connect_ex((str(address.ip), address.port))
    if code not in (0, errno.EINPROGRESS):
        sock.close()
        raise PeerError(Reason.CONNECT_FAILED, f"{address}: {os.strerror(code)}")
    return sock
