"""Listeners that survive: accepting goes on when the process runs out of descriptors, and connections that run are not affected."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from mesh.io.sockets import reset, socket_address
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress

ACCEPTS_PER_TURN: Final = 64
BACKOFF: Final = 0.1  # seconds without accepting after the descriptors ran out

_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# accept(2): errors of the connection that was waiting, not of the listener.
_ACCEPT_AGAIN: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.EPERM,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EINTR,
    }
)


class Spare:
    """One descriptor held back, so that a listener of a process that has none left can still take a connection and refuse it.

    Without it the connection stays in the backlog, the listener stays readable, and the loop turns for nothing while the app hangs.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._take()

    def refuse(self, listening: socket.socket) -> bool:
        """Accept one waiting connection and reset it. False if there was none, or no descriptor to do it with."""
        if self._descriptor is None:
            self._take()
        if self._descriptor is None:
            return False
        os.close(self._descriptor)
        self._descriptor = None
        try:
            sock, _ = listening.accept()
            reset(sock)
        except OSError:
            return False
        finally:
            self._take()
        return True

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self) -> None:
        try:
            self._descriptor = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._descriptor = None


class Acceptor:
    """Accepts on one listening socket, which it owns, until closed.

    `on_accept(sock, address)` gets each connection, non-blocking, with no other option set; it must not raise. `on_refused(reason)`
    is told of each connection that was refused for want of descriptors, and of each error of the listener itself.
    """

    def __init__(
        self,
        listening: socket.socket,
        on_accept: Callable[[socket.socket, SocketAddress | None], None],
        on_refused: Callable[[Reason], None],
        spare: Spare,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._on_accept = on_accept
        self._on_refused = on_refused
        self._spare = spare
        self._pause: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Stop accepting. Connections that wait in the backlog are reset by the kernel."""
        if self._listening.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._listening.fileno())
        self._listening.close()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._listening.fileno() < 0:  # closed by what we called
                return
            try:
                sock, name = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _ACCEPT_AGAIN:
                    continue
                self._back_off(error)
                return
            sock.setblocking(False)
            self._on_accept(sock, socket_address(name))

    def _back_off(self, error: OSError) -> None:
        """Refuse what waits, then leave the listener alone for a while: connections that run are not affected."""
        exhausted = error.errno in _OUT_OF_DESCRIPTORS
        refused = 0
        while exhausted and refused < ACCEPTS_PER_TURN and self._spare.refuse(self._listening):
            refused += 1
            self._on_refused(Reason.FDS_EXHAUSTED)
        if not refused:
            self._on_refused(Reason.FDS_EXHAUSTED if exhausted else Reason.INTERNAL)
        self._loop.remove_reader(self._listening.fileno())
        self._pause = self._loop.call_later(BACKOFF, self._resume)
