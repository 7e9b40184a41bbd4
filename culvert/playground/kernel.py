"""The few system calls that Python 3.11 has no name for, with OSError where they fail."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MNT_DETACH = 0x2

IN_CLOSE_WRITE = 0x8
IN_MOVED = 0xC0
IN_CREATE = 0x100
IN_DELETE = 0x200
_IN_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Give the calling thread namespaces (or file system state) of its own."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Move the calling thread. Not for network namespaces: those are `mesh.io.netns.Namespace.run`'s."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, flags: int) -> None:
    """bind, remount and propagation changes only: no file system type, no data."""
    _check(_libc.mount(source.encode(), target.encode(), None, flags, None), f"mount {source} on {target}")


def umount(target: str) -> None:
    """Detach at once; the mount itself ends with its last user. Not being mounted is an error (EINVAL)."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def sethostname(name: str) -> None:
    raw = name.encode()[:64]
    _check(_libc.sethostname(raw, len(raw)), "sethostname")


class Watch:
    """inotify over a few directories: readable when something in them was written, made, moved or removed."""

    def __init__(self) -> None:
        self.fd = _check(_libc.inotify_init1(_IN_FLAGS), "inotify_init1")

    def add(self, directory: os.PathLike[str]) -> None:
        mask = IN_CLOSE_WRITE | IN_MOVED | IN_CREATE | IN_DELETE
        _check(_libc.inotify_add_watch(self.fd, os.fsencode(directory), mask), f"inotify_add_watch {directory}")

    def drain(self) -> Iterator[str]:
        """The names of what changed since the last call. Never blocks."""
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            _, _, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            yield data[offset : offset + length].rstrip(b"\0").decode(errors="replace")
            offset += length

    def close(self) -> None:
        os.close(self.fd)
