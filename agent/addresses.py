"""Being told that a namespace's addresses changed: one netlink socket inside it, on the event loop."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from mesh.io.netns import Namespace

_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV6_IFADDR = 0x100


class NetlinkAddressWatch:
    """Calls `changed` when an address of any interface in `namespace` appears or goes: that, not what. OSError at the start only."""

    def __init__(self, namespace: Namespace, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._socket = namespace.run(_open)
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _readable(self) -> None:
        try:
            self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # which says that messages were lost: something changed
                self.close()
                return
        self._changed()


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        sock.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
    except BaseException:
        sock.close()
        raise
    return sock
