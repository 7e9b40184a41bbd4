"""Starting programs inside namespaces, from one worker thread.

`setns`, `unshare` and mounts move the thread that calls them. The supervisor's event loop must never be elsewhere, so all such work is
done by this one thread, one piece at a time, and each piece comes back to where it began. A program that is started while the thread
is away begins its life there: no helper program is needed between us and it, and its pid is the pid that we know.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from culvert.playground.kernel import CLONE_FS, CLONE_NEWNS, CLONE_NEWUTS, MS_BIND, MS_REC, MS_SLAVE, mount, sethostname, setns, unshare
from culvert.playground.layout import netns_path
from mesh.io.netns import Namespace

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class View:
    """What a pod sees of its own."""

    hosts: Path
    resolver: Path
    hostname: str


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, where. `view` is what this process sees differently from the rest of the machine."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    netns: str
    log: Path
    cwd: str = "/"
    view: View | None = None
    user: int | None = None
    group: int | None = None


class Worker:
    """The thread. `run` calls a function there; `start` starts a program."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="namespaces", initializer=_detach)

    async def run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    async def start(self, program: Program) -> subprocess.Popen[bytes]:
        """Raises OSError: the program or its directory does not exist, a namespace is gone."""
        return await self.run(lambda: in_netns(program.netns, lambda: _start(program)))

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


def in_netns(netns: str, function: Callable[[], T]) -> T:
    """Call a function in a named network namespace. Raises FileNotFoundError if there is none of that name."""
    with Namespace.open(str(netns_path(netns))) as namespace:
        return namespace.run(function)


def _detach() -> None:
    # A mount namespace can only be entered by a thread whose root and working directory are its own.
    unshare(CLONE_FS)


def _start(program: Program) -> subprocess.Popen[bytes]:
    if program.view is None:
        return _popen(program)
    here = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    here_uts = os.open("/proc/thread-self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            enter_private_view(program.view)
            return _popen(program)
        finally:
            setns(here_uts, CLONE_NEWUTS)
            setns(here, CLONE_NEWNS)
    finally:
        os.close(here)
        os.close(here_uts)


def enter_private_view(view: View) -> None:
    """Give the calling thread a mount namespace with its own /etc/hosts and /etc/resolv.conf, and a host name of its own."""
    unshare(CLONE_NEWNS | CLONE_NEWUTS)
    # Slave: what is mounted or unmounted outside shows inside, never the other way round.
    mount("none", "/", MS_REC | MS_SLAVE)
    for source, target in ((view.hosts, "/etc/hosts"), (view.resolver, "/etc/resolv.conf")):
        if os.path.exists(target):  # a machine without a resolver has no such file, or a link to nowhere
            mount(str(source), target, MS_BIND)
    sethostname(view.hostname)


def _popen(program: Program) -> subprocess.Popen[bytes]:
    log = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            program.argv,
            env=dict(program.env),
            cwd=program.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=program.user,
            group=program.group,
            extra_groups=[] if program.user is not None else None,
        )
    finally:
        os.close(log)
