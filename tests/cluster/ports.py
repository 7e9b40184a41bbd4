"""Loopback ports that stay ours from before a program binds them until after its last restart.

Asking the kernel for a free port and closing it again is a race: between the two, and while a server is down for its restart, any
client on the machine may be given the same number. So ports come from below the range that clients get (32768 and up), and each is
held by a lock on one byte of a file that all runs share. The kernel lets go of the lock when the process that holds it dies, however it
dies.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import struct
import tempfile
from pathlib import Path

FIRST, LAST = 20000, 32000
TRIES = 500


class Reserved:
    """One number, from `take()` until `release()`."""

    def __init__(self, number: int, lock: int) -> None:
        self.number = number
        self._lock = lock

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def take() -> Reserved:
    for _ in range(TRIES):
        number = random.randint(FIRST, LAST)
        lock = try_lock("ports", number)
        if lock is None:
            continue
        if _is_free(number):
            return Reserved(number, lock)
        os.close(lock)
    raise AssertionError(f"no free port from {FIRST} to {LAST} in {TRIES} tries")


def try_lock(what: str, number: int) -> int | None:
    """A descriptor that holds number `number` of `what` for this process (a forked child does not inherit it); None if another has it."""
    directory = Path(tempfile.gettempdir()) / f"culvert-tests-{os.getuid()}"
    directory.mkdir(exist_ok=True, mode=0o700)
    lock = os.open(directory / f"{what}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    # Of the open file, not of the process: within one process, too, a number is taken once. struct flock, fcntl(2).
    byte = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
    try:
        fcntl.fcntl(lock, fcntl.F_OFD_SETLK, byte)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _is_free(number: int) -> bool:
    """UDP too: Consul speaks both on one number."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as sock:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", number))
            except OSError:
                return False
    return True
