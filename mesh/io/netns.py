"""Network namespaces: an open file descriptor, the two names a namespace has, and running a function inside it.

The thread rule. A Linux *thread* is in a network namespace, not a process, and `setns` moves only the thread that calls it. So:
- `Namespace.run(fn)` is synchronous from beginning to end. Never await inside: another task would run in the pod's namespace.
- A socket belongs for ever to the namespace that it was made in. Make it inside `run`, use it anywhere, from any thread.
- Never start a thread inside `run`: a new thread begins in the namespace of the thread that made it, and stays there.
- Nobody calls `setns(2)` but this module, or the return trip goes to the wrong place.

The two names. `cookie` is a number that the kernel gives to a namespace once and never again while it runs: the key that the BPF
programs use. `inode` is the number that `ls -l /proc/<pid>/ns/net` shows: it may be given again after the namespace is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
SO_NETNS_COOKIE = 71

_libc = ctypes.CDLL(None, use_errno=True)


class _Home:
    """The namespace that a thread began in. Closes its descriptor when the thread ends and its local data goes."""

    def __init__(self) -> None:
        self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.fd)


class _Thread(threading.local):
    """`here` is the descriptor of the namespace in which this thread is now."""

    here: int | None = None
    home: _Home | None = None

    def enter_home(self) -> int:
        if self.here is None:
            self.home = _Home()
            self.here = self.home.fd
        return self.here


_thread = _Thread()


class Namespace:
    """A network namespace that is held open. Owns its descriptor: `close()` it, or use it as a context manager."""

    def __init__(self, fd: int) -> None:
        """Takes over `fd`, which must be open on a network namespace (whether it is one shows at the first `run`: OSError EINVAL)."""
        self._fd = fd

    @classmethod
    def open(cls, path: str) -> Namespace:
        """Open `/run/netns/<name>` or `/proc/<pid>/ns/net`. Raises OSError, FileNotFoundError where the namespace is gone."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))  # a FIFO in its place must not block

    @classmethod
    def current(cls) -> Namespace:
        """The namespace of the calling thread."""
        return cls.open("/proc/thread-self/ns/net")

    @property
    def fd(self) -> int:
        """The descriptor, to be sent to another process or put into a BPF link. Raises ValueError after `close`."""
        if self._fd < 0:
            raise ValueError("the namespace is closed")
        return self._fd

    @cached_property
    def cookie(self) -> int:
        """The kernel's cookie, 64 bits, unique until reboot. Raises OSError where `fd` is not a network namespace."""
        return self.run(_own_cookie)

    @cached_property
    def inode(self) -> int:
        return os.fstat(self.fd).st_ino

    def run(self, fn: Callable[[], T]) -> T:
        """Call `fn` in this namespace and come back, also when it raises. Nests. Costs two system calls.

        Raises what `fn` raises, and OSError where the namespace cannot be entered (nothing was called then).
        """
        before = _thread.enter_home()
        _setns(self.fd)
        _thread.here = self._fd
        try:
            return fn()
        finally:
            try:
                _setns(before)
            except OSError as error:
                # To go on would be to make this process's own sockets inside somebody's pod: nothing is worse.
                os.write(2, f"cannot leave network namespace {self.inode}: {error}; aborting\n".encode())
                os.abort()
            _thread.here = before

    def close(self) -> None:
        """Let go of the namespace. Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Namespace net:[{self.inode}]>" if self._fd >= 0 else "<Namespace closed>"


def _own_cookie() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        (cookie,) = struct.unpack("=Q", probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))
    return int(cookie)


def _setns(fd: int) -> None:
    # os.setns came with Python 3.12.
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")
