"""What a run makes on the machine outside its own processes, written down before it is made, so that its successor can remove it.

A run that ends in order removes its things itself. One that was killed leaves a record: a JSON file below `RECORDS` that names its owner
(pid and start time) and all that it made. `sweep()` looks for records whose owner is gone and removes what they name: processes only by
pid *and* start time, or because they are inside a network namespace of the record; links, namespaces, cgroups and the directory by names
that hold the record's random id. Removing is repeatable: a sweep that is killed is done again by the next one.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from culvert.playground.processes import ProcessId, alive, end_all, identify, in_namespaces, send

RECORDS = Path("/run/culvert-tests")
NETNS = Path("/run/netns")
CGROUPS = Path("/sys/fs/cgroup")
KINDS = ("processes", "namespaces", "links", "cgroups")
PREFIX = "culvert-cluster-"
SECONDS = 15.0


class Record:
    """`id`: eight random hex digits that every name of this run holds. `directory` is the run's own and goes with it."""

    def __init__(self) -> None:
        RECORDS.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.id = secrets.token_hex(4)
        self.directory = Path(tempfile.gettempdir()) / f"{PREFIX}{self.id}"
        self._path = RECORDS / f"{self.id}.json"
        owner = identify(os.getpid())
        self._content = {"owner": str(owner), "directory": str(self.directory), **{kind: [] for kind in KINDS}}
        self._write()
        self.directory.mkdir(mode=0o700)

    def process(self, process: ProcessId | None) -> None:
        self._add("processes", str(process))

    def namespace(self, name: str) -> str:
        return self._add("namespaces", name)

    def link(self, name: str) -> str:
        return self._add("links", name)

    def cgroup(self, name: str) -> str:
        """The same name in every hierarchy."""
        return self._add("cgroups", name)

    def clean(self) -> None:
        _clean(self._path)

    def _add(self, kind: str, name: str) -> str:
        assert kind == "processes" or self.id in name, f"{name} does not say whose it is"
        names = self._content[kind]
        assert isinstance(names, list)
        names.append(name)
        self._write()
        return name

    def _write(self) -> None:
        unfinished = self._path.with_suffix(".new")
        unfinished.write_text(json.dumps(self._content))
        os.replace(unfinished, self._path)


def sweep() -> list[str]:
    """Remove what dead owners left; the ids of their records."""
    found = []
    for path in sorted(RECORDS.glob("*.json")):
        with _claimed(path) as content:
            owner = ProcessId.parse(content.get("owner", "")) if content else None
            if owner is not None and not alive(owner):
                _clean(path)
                found.append(path.stem)
    return found


@contextmanager
def _claimed(path: Path) -> Iterator[dict[str, str]]:
    """The record, if no other sweep is at it; else empty."""
    with open(RECORDS / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            content = {}
        yield content


def _clean(path: Path) -> None:
    content = json.loads(path.read_text())
    for text in content["processes"]:
        process = ProcessId.parse(text)
        if process is not None:
            send(process, signal.SIGKILL)
    namespaces = [NETNS / name for name in content["namespaces"]]
    inodes = {path.stat().st_ino for path in namespaces if path.exists()}
    if inodes:
        left = end_all(in_namespaces(inodes), 0.0)
        assert not left, f"{left} cannot be ended"
    for name in content["namespaces"]:
        if (NETNS / name).exists():
            subprocess.run(["ip", "netns", "del", name], check=True)
    for name in content["links"]:
        # Its peer's namespace may take it along at any moment.
        subprocess.run(["ip", "link", "del", name], check=False, stderr=subprocess.DEVNULL)
    for name in content["cgroups"]:
        for cgroup in _hierarchies(name):
            _remove_cgroup(cgroup)
    directory = Path(content["directory"])
    assert directory.name == f"{PREFIX}{path.stem}"
    for mount in sorted(_mounts_below(directory), reverse=True):
        subprocess.run(["umount", "-l", mount], check=True)
    subprocess.run(["rm", "-rf", "--one-file-system", directory], check=True)
    path.unlink()


def _hierarchies(name: str) -> list[Path]:
    """Under cgroup v1 each controller has a tree of its own, with cgroup2 beside them; under v2 there is one."""
    parents = [CGROUPS] if (CGROUPS / "cgroup.controllers").exists() else sorted(CGROUPS.iterdir())
    return [parent / name for parent in parents if (parent / name).is_dir()]


def _remove_cgroup(root: Path) -> None:
    """Once its processes are gone, which takes the kernel a moment after their namespace has ended."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            for folder, _, _ in os.walk(root, topdown=False):
                os.rmdir(folder)
        except OSError:
            if not root.exists():
                return
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def remains(id: str) -> list[str]:
    """What the machine still has of the record of this id, for tests of the cleaning."""
    found = [f"record {path}" for path in RECORDS.glob(f"{id}*")]
    found += [f"namespace {path}" for path in NETNS.glob(f"*{id}*")]
    found += [f"link {name}" for name in os.listdir("/sys/class/net") if id in name]
    found += [f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if id in line]
    found += [f"cgroup {path}" for path in (*CGROUPS.glob(f"*{id}*"), *CGROUPS.glob(f"*/*{id}*"))]
    found += [f"directory {path}" for path in Path(tempfile.gettempdir()).glob(f"*{id}*")]
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            if id.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(f"process {pid}")
    return found


def _mounts_below(directory: Path) -> list[str]:
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{directory}/")]


if __name__ == "__main__":
    for swept in sweep():
        print(f"removed what {PREFIX}{swept} had left")
