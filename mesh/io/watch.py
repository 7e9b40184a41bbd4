"""Being told that directories changed: inotify by ctypes, on the event loop. It says that something changed, never what.

So an overflow of the kernel's queue loses nothing: the caller reads the directories again. That a directory was replaced by another is not
seen; callers also look from time to time, and `renew`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable, Iterable
from pathlib import Path

IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
IN_ONLYDIR = 0x01000000
_MASK = IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR

_libc = ctypes.CDLL(None, use_errno=True)


class DirectoryWatch:
    """Calls `changed` (on the loop, never twice for one batch of events) when something in one of the directories did.

    With `must_exist`, OSError where one of them is not there; without, it is watched from the `renew` after it came. OSError also where
    the kernel offers no more watches.
    """

    def __init__(self, directories: Iterable[str | Path], changed: Callable[[], None], *, must_exist: bool = False) -> None:
        self._directories = tuple(directories)
        self._changed = changed
        self._must_exist = must_exist
        self._loop = asyncio.get_running_loop()
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _error("inotify_init1")
        try:
            self.renew()
        except OSError:
            os.close(self._fd)
            raise
        self._loop.add_reader(self._fd, self._readable)

    def renew(self) -> None:
        """Watch what now stands at the directories' paths; adding the same again changes nothing."""
        for directory in self._directories:
            if _libc.inotify_add_watch(self._fd, os.fsencode(directory), _MASK) < 0 and self._must_exist:
                raise _error(str(directory))

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 65536)
        self._changed()


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
