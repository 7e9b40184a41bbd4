"""Named network namespaces, as `ip netns` keeps them: a file under /run/netns with the namespace bind-mounted on it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

from culvert.playground.kernel import CLONE_NEWNET, MS_BIND, MS_REC, MS_SHARED, mount, umount, unshare
from culvert.playground.layout import NETNS_ROOT, netns_path


def create(name: str) -> None:
    """Make the namespace and its name. Raises FileExistsError if the name is taken."""
    _prepare_root()
    path = netns_path(name)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600))
    failures: list[OSError] = []
    # In a thread of its own, which ends right after: only a thread that never comes back may leave its namespace for good.
    thread = threading.Thread(target=_make, args=(path, failures))
    thread.start()
    thread.join()
    if failures:
        path.unlink(missing_ok=True)
        raise failures[0]


def _make(path: Path, failures: list[OSError]) -> None:
    try:
        unshare(CLONE_NEWNET)
        mount("/proc/thread-self/ns/net", str(path), MS_BIND)
    except OSError as error:
        failures.append(error)


def _prepare_root() -> None:
    """/run/netns must be a shared mount: pods have mount namespaces of their own, and unmounting here must reach their copies."""
    NETNS_ROOT.mkdir(parents=True, exist_ok=True)
    try:
        mount("none", str(NETNS_ROOT), MS_SHARED | MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: not a mount point yet
            raise
        mount(str(NETNS_ROOT), str(NETNS_ROOT), MS_BIND | MS_REC)
        mount("none", str(NETNS_ROOT), MS_SHARED | MS_REC)


def delete(name: str) -> None:
    """Remove the name; the namespace ends with its last process or socket. Nothing there is no error."""
    path = netns_path(name)
    with contextlib.suppress(OSError):  # a file without a mount: what a crash between the two steps of `create` leaves
        umount(str(path))
    path.unlink(missing_ok=True)


def with_prefix(prefix: str) -> list[str]:
    """The names that begin so, sorted."""
    try:
        return sorted(name for name in os.listdir(NETNS_ROOT) if name.startswith(prefix))
    except FileNotFoundError:
        return []


def inode(name: str) -> int | None:
    """What /proc/<pid>/ns/net shows for those inside; None if there is no such namespace."""
    try:
        found = os.stat(netns_path(name))
    except FileNotFoundError:
        return None
    # A plain file on the file system of /run is a leftover name, not a namespace.
    return found.st_ino if found.st_dev != os.stat(NETNS_ROOT).st_dev else None
