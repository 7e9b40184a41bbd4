"""One program kept running: started in its namespaces, restarted by policy with back-off, found again after the supervisor's own death.

States: Waiting → Running → (BackOff → Running)* → Exited | Stopped. Each process that is started is written to a pid file before anything
waits for it, so that a later supervisor, or `down`, knows it. A process that we did not start ourselves (adopted) tells us when it
ends, by its pidfd, but not how: its exit code stays unknown and counts as a failure.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from culvert.playground import netns
from culvert.playground.files import read_json, write_json
from culvert.playground.launch import Program, Worker
from culvert.playground.processes import ProcessId, identify, in_session, open_pidfd, send

CANNOT_START = 127
AT_HOME_TRIES = 3


class KeeperState(Enum):
    WAITING = "Waiting"
    RUNNING = "Running"
    BACK_OFF = "BackOff"
    EXITED = "Exited"
    STOPPED = "Stopped"


@dataclass(frozen=True, slots=True)
class BackOff:
    """Seconds: the first delay, its ceiling after doubling, and how long a process must live for the count to begin anew."""

    first: float
    ceiling: float
    forgiven_after: float

    def next(self, previous: float, lived: float) -> float:
        if previous == 0 or lived >= self.forgiven_after:
            return self.first
        return min(previous * 2, self.ceiling)


@dataclass(frozen=True, slots=True)
class Restarting:
    """`policy` is Always, OnFailure or Never."""

    policy: str
    back_off: BackOff


# Shorter than a kubelet's 10 s … 300 s: a person is waiting.
POD_BACK_OFF = BackOff(1.0, 30.0, 60.0)
MESH_BACK_OFF = BackOff(0.25, 5.0, 30.0)


class Keeper:
    """`make` gives the program anew at every start. `changed` is called after every change of state, from the event loop."""

    def __init__(
        self, name: str, worker: Worker, pids: Path, make: Callable[[], Program], restarting: Restarting, changed: Callable[[], None]
    ) -> None:
        self.name = name
        self.state = KeeperState.WAITING
        self.process: ProcessId | None = None
        self.restarts = 0
        self.exit_code: int | None = None
        self.since = time.time()
        self.detail = ""
        self._worker = worker
        self._make = make
        self._policy = restarting.policy
        self._back_off = restarting.back_off
        self._changed = changed
        self._pid_file = pids / f"{name}.json"
        self._stopping = asyncio.Event()
        self._because = ""

    async def run(self) -> int | None:
        """Until the policy is satisfied or `stop` is called. The last exit code; None where it is not known."""
        delay = 0.0
        popen = None
        adopted = self._adopt()
        if self.state is KeeperState.EXITED:
            return self.exit_code
        while True:
            begun = time.monotonic()
            if not adopted:
                popen = await self._start()
            adopted = False
            if self.process is not None:
                if self._stopping.is_set():  # asked to stop while it was being started
                    _signal_group(self.process, signal.SIGKILL)
                await wait_gone(self.process)
                self.exit_code = popen.wait() if popen is not None else None
                self._sweep(self.process.pid)
            elif popen is not None:
                self.exit_code = popen.wait()
            ended, self.process = self.process, None
            if self._stopping.is_set():
                return self._finish(KeeperState.STOPPED)
            if self._policy == "Never" or (self._policy == "OnFailure" and self.exit_code == 0):
                self._remember(ended, finished=self.exit_code)
                return self._finish(KeeperState.EXITED)
            delay = self._back_off.next(delay, time.monotonic() - begun)
            self._set(KeeperState.BACK_OFF, self._why())
            try:
                await asyncio.wait_for(self._stopping.wait(), delay)
                return self._finish(KeeperState.STOPPED)
            except TimeoutError:
                self.restarts += 1

    async def end(self, because: str, grace: float) -> None:
        """End the process that runs now; the policy then restarts it. `because` is shown."""
        self._because = because
        if self.process is not None:
            await _end(self.process, grace)

    async def stop(self, grace: float) -> None:
        """SIGTERM, SIGKILL after `grace` seconds; not started again."""
        self._stopping.set()
        if self.process is not None:
            await _end(self.process, grace)

    def forget(self) -> None:
        """Remove the pid file: the process is gone for good."""
        self._pid_file.unlink(missing_ok=True)

    def _adopt(self) -> bool:
        known = read_json(self._pid_file)
        if not isinstance(known, dict):
            return False
        self.restarts = int(known["restarts"])
        process = ProcessId(int(known["pid"]), int(known["start"]))
        if identify(process.pid) != process:
            self._sweep(process.pid)
            # It ended while nobody looked. What must run at most once does not run again.
            if "finished" in known or self._policy == "Never":
                self.exit_code = known.get("finished")
                self._set(KeeperState.EXITED, self._why())
            else:
                self.restarts += 1
            return False
        if not self._at_home(process):
            # Its namespace was taken away and made anew: it runs, and nobody can reach it.
            _signal_group(process, signal.SIGKILL)
            self.restarts += 1
            return False
        self.process = process
        self._set(KeeperState.RUNNING, "adopted")
        return True

    def _at_home(self, process: ProcessId) -> bool:
        home = netns.inode(self._make().netns)
        with suppress(OSError):
            for _ in range(AT_HOME_TRIES):
                if os.stat(f"/proc/{process.pid}/ns/net").st_ino == home:
                    return True
                time.sleep(0.01)  # the node tunnel visits pods, for microseconds at a time
        return False

    async def _start(self) -> subprocess.Popen[bytes] | None:
        self._because = ""
        program = self._make()
        try:
            popen = await self._worker.start(program)
        except OSError as error:
            self.exit_code = CANNOT_START
            self._because = f"cannot start {program.argv[0]}: {error.strerror or error} ({error.filename or program.cwd})"
            return None
        self.process = identify(popen.pid, zombies=True)
        self._remember(self.process)
        self._set(KeeperState.RUNNING, "")
        return popen

    def _remember(self, process: ProcessId | None, **more: int | None) -> None:
        if process is not None:
            write_json(self._pid_file, {"pid": process.pid, "start": process.start, "restarts": self.restarts, **more})

    def _sweep(self, leader: int) -> None:
        """Whoever a program left behind goes with it, as in a container: they may still hold its ports."""
        inode = netns.inode(self._make().netns)
        for left in in_session(leader, inode) if inode is not None else []:
            send(left, signal.SIGKILL)

    def _why(self) -> str:
        if self._because:
            return self._because
        if self.exit_code is None:
            return "ended; the exit code is not known"
        return f"killed by {signal.Signals(-self.exit_code).name}" if self.exit_code < 0 else f"exited with {self.exit_code}"

    def _finish(self, state: KeeperState) -> int | None:
        self._set(state, self._why())
        return self.exit_code

    def _set(self, state: KeeperState, detail: str) -> None:
        self.state, self.detail, self.since = state, detail, time.time()
        self._changed()


async def _end(process: ProcessId, grace: float) -> None:
    _signal_group(process, signal.SIGTERM)
    try:
        await asyncio.wait_for(wait_gone(process), grace)
    except TimeoutError:
        _signal_group(process, signal.SIGKILL)
        await wait_gone(process)


async def wait_gone(process: ProcessId) -> None:
    """Until exactly this process has ended. No polling: its pidfd becomes readable."""
    fd = open_pidfd(process)
    if fd is None:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _signal_group(process: ProcessId, number: signal.Signals) -> None:
    """The whole process group: each program is started as the leader of its own session."""
    fd = open_pidfd(process)
    if fd is None:
        return
    try:
        # While the leader is held by its pidfd and lives, its group id cannot be anybody else's.
        os.killpg(process.pid, number)
    except ProcessLookupError:
        send(process, number)
    finally:
        os.close(fd)
