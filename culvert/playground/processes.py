"""Processes by pid *and* start time, so that a recycled pid is never signalled, and by network namespace, so that none is forgotten."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class ProcessId:
    """`start` is in clock ticks since boot: field 22 of /proc/<pid>/stat. A pid comes back, the pair does not."""

    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.pid}@{self.start}"

    @classmethod
    def parse(cls, text: str) -> ProcessId | None:
        """The inverse of str(); None for anything else."""
        pid, _, start = text.strip().partition("@")
        return cls(int(pid), int(start)) if pid.isdecimal() and start.isdecimal() else None


def parse_stat(text: str) -> tuple[str, int] | None:
    """State letter and start time from /proc/<pid>/stat, whose second field is a name that may hold spaces and parentheses."""
    fields = text.rpartition(")")[2].split()
    return (fields[0], int(fields[19])) if len(fields) > 19 else None


def identify(pid: int, *, zombies: bool = False) -> ProcessId | None:
    """The process that has this pid now; None if there is none, or only its zombie unless those count (our own children)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            parsed = parse_stat(file.read())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return ProcessId(pid, parsed[1]) if parsed and (zombies or parsed[0] not in "ZX") else None


def alive(process: ProcessId) -> bool:
    return identify(process.pid) == process


def open_pidfd(process: ProcessId) -> int | None:
    """A descriptor of exactly this process, readable at its end; None if it is gone. The caller closes it."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    # The descriptor is of whoever had the pid when it was opened: look again before trusting it.
    if identify(process.pid) != process:
        os.close(fd)
        return None
    return fd


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Signal exactly this process. False if it is gone."""
    fd = open_pidfd(process)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def everyone() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            yield int(name)


def in_namespaces(inodes: Collection[int], spare: Collection[ProcessId] = ()) -> list[ProcessId]:
    """Every process whose main thread is in one of these network namespaces now, but for `spare` and ourselves.

    The node tunnel visits pods' namespaces for microseconds at a time: name it in `spare`, or look twice (`settled_in_namespaces`).
    """
    found = []
    for pid in everyone():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and os.stat(f"/proc/{pid}/ns/net").st_ino in inodes:
                process = identify(pid)
                if process is not None and process not in spare:
                    found.append(process)
    return found


def in_session(leader: int, netns_inode: int) -> list[ProcessId]:
    """The session that `leader` began, without it, within one network namespace: elsewhere its number may be somebody else's by now."""
    found = []
    for pid in everyone():
        with contextlib.suppress(OSError):
            if pid != leader and os.getsid(pid) == leader and os.stat(f"/proc/{pid}/ns/net").st_ino == netns_inode:
                process = identify(pid)
                if process is not None:
                    found.append(process)
    return found


def settled_in_namespaces(inodes: Collection[int], spare: Collection[ProcessId] = ()) -> list[ProcessId]:
    """Those found there on both of two looks: a visitor is very unlikely to be met twice."""
    first = set(in_namespaces(inodes, spare))
    if not first:
        return []
    time.sleep(POLL_SECONDS)
    return [process for process in in_namespaces(inodes, spare) if process in first]


def end_all(processes: Iterable[ProcessId], grace: float) -> list[ProcessId]:
    """SIGTERM to all, SIGKILL after `grace` seconds to those that remain. Returns whoever even that did not end within 5 s."""
    left = [process for process in processes if send(process, signal.SIGTERM)]
    left = _wait_gone(left, grace)
    for process in left:
        send(process, signal.SIGKILL)
    return _wait_gone(left, 5.0)


def _wait_gone(processes: list[ProcessId], seconds: float) -> list[ProcessId]:
    deadline = time.monotonic() + seconds
    left = [process for process in processes if alive(process)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        left = [process for process in left if alive(process)]
    return left
