"""Driving a playground by its command line, and looking for what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from culvert.playground.layout import STATE_ROOT, Layout
from culvert.playground.netns import with_prefix

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = Path(__file__).parent / "manifests"
PINS = Path("/sys/fs/bpf/culvert")


class Playground:
    """One playground of a test's own name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.layout = Layout(name, STATE_ROOT / name)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "culvert", arguments[0], "--name", self.name, *arguments[1:]]

    def run(self, *arguments: str, code: int = 0, seconds: float = 90) -> str:
        """A command's standard output. Its exit code must be `code`."""
        done = subprocess.run(self.command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == code, f"culvert {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def in_pod(self, pod: str, *program: str, code: int = 0) -> str:
        """`pod` is `namespace/name` or `namespace/deploy/name`."""
        namespace, _, name = pod.partition("/")
        return self.run("exec", "-n", namespace, name, "--", *program, code=code)

    def fetch(self, pod: str, url: str, *options: str, times: int = 1) -> list[tuple[str, str]]:
        """(who answered, whom it saw) for each of `times` requests, from one process in the pod."""
        script = f'for i in $(seq {times}); do curl -s --fail -m 5 {" ".join(options)} "$0"; done'
        lines = self.in_pod(pod, "sh", "-c", script, url).splitlines()
        return [(line.split()[0], line.split()[1]) for line in lines]

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.layout.status.read_text())
        return found

    def pod(self, name: str) -> dict[str, Any]:
        return next(pod for pod in self.status["pods"] if pod["name"] == name)

    def pods_of(self, deployment: str) -> list[dict[str, Any]]:
        return [pod for pod in self.status["pods"] if pod["owner"] == f"Deployment/{deployment}"]

    def pids(self) -> dict[str, int]:
        """Process ids by name, of everything but the supervisor."""
        found = {process["name"]: process["pid"] for process in self.status["processes"]}
        return found | {f"{pod['name']}/{item['name']}": item["pid"] for pod in self.status["pods"] for item in pod["containers"]}

    def supervisor(self) -> int:
        return int(self.layout.supervisor_pid.read_text().partition("@")[0])

    def remains(self) -> list[str]:
        """What is left of this playground on the machine: namespaces, processes, mounts, pins, files, links in the root namespace."""
        found = [f"namespace {name}" for name in with_prefix(self.layout.prefix)]
        if PINS.is_dir():
            found += [f"pin {entry}" for entry in PINS.iterdir() if entry.name.startswith(self.layout.prefix)]
        found += [f"file {path}" for path in (self.layout.state, self.layout.lock) if path.exists()]
        found += [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if f"/{self.layout.prefix}" in line]
        links = {"wire0", "cni0", "control", "node-1", "node-2"}
        found += [f"link {name}" for name in os.listdir("/sys/class/net") if name in links]
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if str(self.layout.state).encode() in words and int(pid) != os.getpid():
                found.append(f"process {pid}")
        return found


def wait(what: str, ready: Callable[[], Any], seconds: float = 15) -> Any:
    """Poll until `ready` gives something true; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = ready()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)
