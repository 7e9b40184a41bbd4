"""The root of the cgroup2 hierarchy, where the programs are attached: found in /proc/mounts, mounted privately where it is nowhere."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

from agent.bpf.pins import mount

_MNT_DETACH = 2


def find_cgroup2(mounts: str = "/proc/mounts") -> str | None:
    """The mount point of a cgroup2 file system, or None. Where there are several the shortest path: it is the host's."""
    points = [fields[1] for line in Path(mounts).read_text().splitlines() if (fields := line.split())[2] == "cgroup2"]
    return min(points, key=len, default=None)


def open_root(path: str | None = None) -> int:
    """A descriptor of the hierarchy's root. The caller closes it. Raises OSError.

    Without a mount anywhere, one is made, opened and taken away again: there is one cgroup2 hierarchy per kernel, so any mount is it.
    """
    if path := path or find_cgroup2():
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with tempfile.TemporaryDirectory(prefix="culvert-cgroup2-") as point:
        mount("cgroup2", point, "cgroup2")
        try:
            return os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            ctypes.CDLL(None).umount2(point.encode(), _MNT_DETACH)
