"""Where an instance's maps and links are pinned, and what to do with the pins of the past.

    /sys/fs/bpf/culvert/<instance>/          mode 0700; an flock on it says that an agent of this instance is alive
        maps/cvt_pods …                      every map of the object
        links/cvt_connect4 …                 the links at the cgroup's root, by program name
        steer/<namespace cookie>             one sk_lookup link per enrolled namespace

Pins keep everything working while no agent runs. bpffs knows no dots in names, so a node name's dots are written as underscores,
which no node name contains.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from agent.bpf import libbpf
from agent.bpf.links import Link
from agent.bpf.maps import Layout
from mesh.model.errors import CulvertError

DEFAULT_ROOT = "/sys/fs/bpf/culvert"

REMEDY = "start the version that made them, or run `culvert uninstall --all` on this node (which takes its pods out of the mesh)"

_INSTANCE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")
_BPFFS_MAGIC = 0xCAFE4A11
_MS_NOSUID_NODEV_NOEXEC = 0b1110


class AdoptionError(CulvertError):
    """The pins are of another layout than this agent's programs. The old programs stay attached, and go on working."""


class BusyError(CulvertError):
    """Another living process holds this instance."""


class Pins:
    """The pins of one instance. Holds the lock until `close`."""

    def __init__(self, root: str, instance: str) -> None:
        """Makes the directories. Raises BusyError, ValueError (a name that cannot be a directory), OSError."""
        self.directory = instance_directory(root, instance)
        mount_bpffs(self.directory)
        for part in ("", "maps", "links", "steer"):
            (self.directory / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(self.directory)

    def map_path(self, name: str) -> str:
        return str(self.directory / "maps" / name)

    def link_path(self, name: str) -> str:
        return str(self.directory / "links" / name)

    def steer_path(self, cookie: int) -> str:
        return str(self.directory / "steer" / str(cookie))

    def open_map(self, name: str) -> int | None:
        """A new descriptor of a pinned map, or None. Raises BpfError."""
        try:
            return libbpf.get(self.map_path(name))
        except FileNotFoundError:
            return None

    def open_maps(self, wanted: dict[str, Layout]) -> dict[str, int]:
        """Descriptors of those maps that are pinned. Raises AdoptionError naming every map whose layout is not the wanted one."""
        found = {name: fd for name in wanted if (fd := self.open_map(name)) is not None}
        differing = [name for name, fd in found.items() if Layout.of_fd(fd) != wanted[name]]
        if differing:
            for fd in found.values():
                os.close(fd)
            raise AdoptionError(
                f"the maps {', '.join(sorted(differing))} pinned under {self.directory} have another layout than this agent's programs; "
                + REMEDY
            )
        return found

    def steered(self) -> list[int]:
        """The namespace cookies that have a steering link."""
        return sorted(int(name) for name in os.listdir(self.directory / "steer") if name.isdecimal())

    def drop_unknown(self, maps: set[str], links: set[str]) -> list[str]:
        """Remove pins that this version does not know, detaching the links. Returns their names."""
        stale = [self.directory / "maps" / name for name in os.listdir(self.directory / "maps") if name not in maps]
        for path in stale:
            path.unlink()
        for name in os.listdir(self.directory / "links"):
            if name not in links:
                remove_link(self.link_path(name))
                stale.append(self.directory / "links" / name)
        return [path.name for path in stale]

    def close(self) -> None:
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def instance_directory(root: str, instance: str) -> Path:
    """Raises ValueError where `instance` is not made of letters, digits, dots and hyphens."""
    if not _INSTANCE.fullmatch(instance):
        raise ValueError(f"instance {instance!r} is not accepted; accepted: letters, digits, '.' and '-', as in a node's name")
    return Path(root) / instance.replace(".", "_")


def remove_link(path: str) -> None:
    """Detach the link pinned at `path`, even if somebody else holds it too, and remove the pin. Quiet where there is none."""
    with contextlib.suppress(FileNotFoundError), Link.pinned(path) as link:
        with contextlib.suppress(OSError):  # its cgroup or namespace is gone already
            link.detach()
        os.unlink(path)


def uninstall(instance: str, bpffs_root: str = DEFAULT_ROOT) -> bool:
    """Detach every program of `instance` and remove its maps. False where there was nothing.

    Outbound capture ends first. A connection that is already captured goes on as long as its tunnel does. Raises BusyError while an agent
    of the instance runs, OSError.
    """
    directory = instance_directory(bpffs_root, instance)
    if not directory.is_dir():
        return False
    lock = _lock(directory)
    try:
        for part in ("links", "steer"):
            for path in _entries(directory / part):
                remove_link(str(path))
        for path in _entries(directory / "maps"):
            path.unlink()
        for part in ("maps", "links", "steer"):
            with contextlib.suppress(FileNotFoundError):
                (directory / part).rmdir()
        directory.rmdir()
        with contextlib.suppress(OSError):  # other instances are there
            directory.parent.rmdir()
    finally:
        os.close(lock)
    return True


def _entries(directory: Path) -> Iterator[Path]:
    # Capture (cvt_connect*) goes first, so that nothing new is redirected while the rest is taken down.
    with contextlib.suppress(FileNotFoundError):
        yield from sorted(directory.iterdir())


def _lock(directory: Path) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise BusyError(f"an agent of this instance is running: {directory} is locked") from None
    return fd


class _StatFs(ctypes.Structure):
    _fields_ = (("type", ctypes.c_long), ("rest", ctypes.c_long * 31))


def is_bpffs(path: Path) -> bool:
    """Whether `path`, or its nearest existing parent, lies in a BPF file system."""
    libc = ctypes.CDLL(None, use_errno=True)
    while not path.exists():
        path = path.parent
    raw = _StatFs()
    if libc.statfs(os.fsencode(path), ctypes.byref(raw)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return int(raw.type) == _BPFFS_MAGIC


def mount_bpffs(path: Path) -> None:
    """Make sure that `path` will lie in a BPF file system: mounts one at /sys/fs/bpf where there is none. Raises OSError."""
    if is_bpffs(path):
        return
    point = Path("/sys/fs/bpf")
    if point != path and point not in path.parents:
        raise OSError(22, f"{path} is not in a BPF file system, and not below {point}, where one could be mounted")
    mount("bpf", str(point), "bpf")


def mount(source: str, target: str, kind: str) -> None:
    """mount(2). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(_MS_NOSUID_NODEV_NOEXEC), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind} at {target}: {os.strerror(number)}")
