"""Being told that directories changed: inotify by ctypes, on the event loop. It says that something changed, never what."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable, Iterable
from pathlib import Path

IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_MASK = IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Calls `changed` when something in one of the directories did. OSError where the kernel offers no more watches.

    A directory that is not there, or is replaced by another, is not seen: callers also look from time to time, and `renew`.
    """

    def __init__(self, directories: Iterable[Path], changed: Callable[[], None]) -> None:
        self._directories = tuple(directories)
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._loop.add_reader(self._fd, self._readable)
        self.renew()

    def renew(self) -> None:
        """Watch what now stands at the directories' paths; adding the same again changes nothing."""
        for directory in self._directories:
            _libc.inotify_add_watch(self._fd, os.fsencode(directory), _MASK)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 65536)
        self._changed()
