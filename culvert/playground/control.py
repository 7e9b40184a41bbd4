"""The CLI's side of the supervisor: start it, find it, wait for what it reports."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from culvert.playground.files import read_json
from culvert.playground.layout import Layout
from culvert.playground.processes import ProcessId, alive, end_all, everyone, identify
from culvert.playground.spec import PlaygroundSpec
from mesh.model.errors import CulvertError

POLL_SECONDS = 0.05
MODULE = "culvert.playground.supervisor"


class NotRunning(CulvertError):  # noqa: N818 - reads as what happened
    """There is no playground of this name, or its supervisor is gone."""


@contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """One CLI at a time changes a playground; another one waits. Ends with the process that holds it, however that ends."""
    layout.state.parent.mkdir(parents=True, exist_ok=True)
    fd = _lock(layout.lock)
    try:
        yield
    finally:
        os.close(fd)


def _lock(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        # `down` removes the file while it holds it: who waited meanwhile has a lock on a file that is gone.
        if path.exists() and os.fstat(fd).st_ino == path.stat().st_ino:
            return fd
        os.close(fd)


def supervisor_process(layout: Layout) -> ProcessId | None:
    """The running supervisor: from its pid file, else by its command line (killed before it could write the file)."""
    try:
        recorded = ProcessId.parse(layout.supervisor_pid.read_text())
    except FileNotFoundError:
        recorded = None
    if recorded is not None and alive(recorded):
        return recorded
    return next((process for name, state, process in _supervisors() if (name, state) == (layout.name, layout.state)), None)


def elsewhere(layout: Layout) -> Path | None:
    """The state directory of a running playground of this name, where it is another one: what carries the name belongs to that one."""
    return next((state for name, state, _ in _supervisors() if name == layout.name and state != layout.state), None)


def _supervisors() -> Iterator[tuple[str, Path, ProcessId]]:
    """Of all playgrounds on this machine: name, state directory, process."""
    for pid in everyone():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[-4:-3] == [MODULE] and (process := identify(pid)) is not None:
            yield words[-3], Path(words[-2]), process


def ensure_supervisor(layout: Layout, spec: PlaygroundSpec) -> None:
    if supervisor_process(layout) is not None:
        return
    layout.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(layout.supervisor_log, "ab") as log:
        subprocess.Popen(
            [spec.python, "-m", MODULE, layout.name, str(layout.state)],
            env={"PATH": spec.path, "PYTHONPATH": spec.source, "LANG": "C.UTF-8"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def stop_supervisor(layout: Layout) -> None:
    process = supervisor_process(layout)
    if process is not None:
        end_all([process], 5.0)


def read_status(layout: Layout) -> dict[str, Any]:
    """The supervisor's last word. Raises NotRunning where there is none."""
    found = read_json(layout.status)
    if not isinstance(found, dict):
        raise NotRunning(_not_up(layout))
    return found


def wait_status(layout: Layout, generation: int, done: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
    """Poll the status (one small local file) until it reflects `generation` and `done` says so. Raises TimeoutError, NotRunning."""
    deadline = time.monotonic() + seconds
    began = time.monotonic()
    while True:
        found = read_json(layout.status)
        if isinstance(found, dict) and found["observed"] >= generation and done(found):
            return found
        if time.monotonic() > deadline:
            raise TimeoutError
        if time.monotonic() - began > 2.0 and supervisor_process(layout) is None:
            again = f"start it again with: culvert up {layout.options}"
            raise NotRunning(f"the supervisor is not running, and nothing takes effect without it; {again} (log: {layout.supervisor_log})")
        time.sleep(POLL_SECONDS)


def load_spec(layout: Layout) -> PlaygroundSpec:
    spec = PlaygroundSpec.load(layout)
    if spec is None:
        raise NotRunning(_not_up(layout))
    return spec


def _not_up(layout: Layout) -> str:
    other = elsewhere(layout)
    if other is not None:
        return f"no playground {layout.name} keeps its state in {layout.state}; the one of this name needs: --state {other}"
    return f"no playground {layout.name} is up; start it with: culvert up -f DIRECTORY {layout.options}"
