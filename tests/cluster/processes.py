"""A program under test's control: its log in a file, its readiness awaited with a deadline, its end certain.

A program dies with the process that started it, even if that is killed: the kernel sends it SIGKILL (PR_SET_PDEATHSIG). The rule is
of the *thread* that started it, so start programs from a thread that lives as long as they do; pytest's main thread is one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from culvert.playground.processes import ProcessId, identify

LOG_END = 40  # lines
POLL_SECONDS = 0.02
GRACE_SECONDS = 10.0

T = TypeVar("T")


class Program:
    """`arguments[0]` is the program's path. The log is kept over restarts, and appended to."""

    def __init__(self, name: str, arguments: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.arguments = [str(argument) for argument in arguments]
        self.log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and not _ended(self._process.pid)

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def identity(self) -> ProcessId | None:
        """Pid and start time: what may still be signalled when this process is long gone and its numbers are others'."""
        return identify(self.pid) if self._process is not None else None

    def start(self) -> None:
        assert not self.running, f"{self.name} runs already"
        # A session of its own: Ctrl-C at the terminal reaches pytest first, whose fixtures then end things in order.
        command = ["setpriv", "--pdeathsig", "KILL", "--", *self.arguments]
        environment = {**os.environ, **self._environment} if self._environment else None
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=environment
            )

    def wait_until(self, what: str, condition: Callable[[], T], seconds: float) -> T:
        """What `condition` gives once it is true. AssertionError with the log's end when time is up or the program ended."""
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            assert self.running, f"{self.name} ended while we waited for {what}\n{self.log_end()}"
            assert time.monotonic() < deadline, f"{self.name}: waited {seconds:g} s for {what}\n{self.log_end()}"
            time.sleep(POLL_SECONDS)
        return answer

    def stop(self, number: signal.Signals = signal.SIGTERM, grace: float = GRACE_SECONDS) -> None:
        """The program and whatever it started in its session. SIGKILL after `grace` seconds. Nothing happens if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        os.killpg(process.pid, number)
        deadline = time.monotonic() + grace
        while not _ended(process.pid) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def log_end(self, lines: int = LOG_END) -> str:
        if not self.log.exists():
            return f"({self.log} was never written)"
        return "\n".join([f"--- the end of {self.log}", *self.log.read_text(errors="replace").splitlines()[-lines:]])


def _ended(pid: int) -> bool:
    """Asked without reaping: as long as the zombie is there, its number is nobody else's, and its process group may be signalled."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody listens there."""
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((host, port)) == 0


def eventually(what: str, condition: Callable[[], T], seconds: float = 15.0) -> T:
    """What `condition` gives once it is true; AssertionError after `seconds`. For state that is another process's to change."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(POLL_SECONDS)
    return answer
