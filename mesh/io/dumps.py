"""Keeps the memory of a process that holds private keys out of core dumps, and out of the hands of its own user's other processes.

A limit of 0 alone is not enough: the kernel does not honour it where dumps are piped to a program (core(5), `kernel.core_pattern`). Who is
not dumpable (prctl(2), PR_SET_DUMPABLE) is not dumped at all, and only somebody with CAP_SYS_PTRACE reads its memory through /proc.
"""

from __future__ import annotations

import ctypes
import os
import resource

PR_SET_DUMPABLE = 4

_libc = ctypes.CDLL(None, use_errno=True)


def forbid_dumps() -> None:
    """From now on, and for whatever this process starts the limit alone. Raises OSError."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"core dumps cannot be forbidden: {os.strerror(number)}")
