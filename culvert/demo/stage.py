"""What the tour stands on: a playground that is driven by its own commands, its status, its logs and its wire."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from culvert.playground.layout import STATE_ROOT, Layout
from culvert.verify.capture import Capture
from culvert.verify.packets import parse
from culvert.verify.streams import Flow, Segment, flows
from culvert.verify.world import read_cluster
from mesh.model.errors import CulvertError

T = TypeVar("T")

COMMAND_SECONDS = 60.0
POLL_SECONDS = 0.05


class NotAsTold(CulvertError):  # noqa: N818 - reads as what happened
    """A step of the tour did not go as the tour says it goes."""


def told(condition: object, otherwise: str) -> None:
    """What the tour claims, checked. Raises NotAsTold."""
    if not condition:
        raise NotAsTold(otherwise)


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished command: `code` is its exit code."""

    code: int
    out: str
    error: str


class Stage:
    """One playground. All its methods raise NotAsTold when the playground does not do what it should."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.layout = Layout(name, STATE_ROOT / name)

    # Commands

    def culvert(self, *arguments: str, check: bool = True, quiet: bool = True) -> Ran:
        """`culvert …` of this playground. With `quiet` off its output goes straight to the terminal."""
        command = [sys.executable, "-m", "culvert", *self._named(arguments)]
        try:
            done = subprocess.run(command, capture_output=quiet, text=True, timeout=COMMAND_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise NotAsTold(f"culvert {' '.join(arguments)} did not end within {COMMAND_SECONDS:g} s") from error
        ran = Ran(done.returncode, done.stdout or "", done.stderr or "")
        if check:
            told(ran.code == 0, f"culvert {' '.join(arguments)} ended with {ran.code}: {(ran.error or ran.out).strip()[-800:]}")
        return ran

    def _named(self, arguments: tuple[str, ...]) -> list[str]:
        """The playground's name goes behind the command, before what belongs to a program in a pod."""
        return [arguments[0], "--name", self.name, *arguments[1:]]

    def execute(self, pod: str, *program: str, check: bool = True) -> Ran:
        """Run a program in a pod, given as `namespace/name`."""
        namespace, _, name = pod.partition("/")
        return self.culvert("exec", "-n", namespace, name, "--", *program, check=check)

    def python(self, pod: str, code: str, *, check: bool = True) -> Ran:
        """A few lines of Python in a pod, in the directory of the bookstore's programs."""
        return self.execute(pod, "python3", "-c", f"import sys; sys.path.insert(0, 'apps')\n{code}", check=check)

    # What is running

    def status(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.layout.status.read_text())
        return value

    def pods(self, namespace: str) -> list[dict[str, Any]]:
        return [pod for pod in self.status()["pods"] if pod["namespace"] == namespace]

    def pids(self, namespace: str) -> dict[str, int]:
        """Container processes by pod and container: the same before and after means that nothing was restarted."""
        return {f"{pod['name']}/{container['name']}": container["pid"] for pod in self.pods(namespace) for container in pod["containers"]}

    def apart(self, namespace: str, source: str, destination: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """A pod of each app, on different nodes, so that what they say crosses the wire."""
        pods = [pod for pod in self.pods(namespace) if pod["ready"]]
        for one in pods:
            for other in pods:
                if one["labels"].get("app") == source and other["labels"].get("app") == destination and one["node"] != other["node"]:
                    return one, other
        raise NotAsTold(f"no ready pods of {source} and {destination} on different nodes")

    def wait(self, what: str, ready: Callable[[], T], seconds: float = 20.0) -> T:
        """Until `ready` returns something true."""
        deadline = time.monotonic() + seconds
        while True:
            value = ready()
            if value:
                return value
            told(time.monotonic() < deadline, f"waited {seconds:g} s for {what}")
            time.sleep(POLL_SECONDS)

    # Logs

    def log_size(self, node: str) -> int:
        path = self._tunnel_log(node)
        return path.stat().st_size if path.exists() else 0

    def access_lines(self, node: str, since: int) -> list[dict[str, Any]]:
        """Access-log lines of a node's tunnel after this many bytes."""
        with self._tunnel_log(node).open("rb") as file:
            file.seek(since)
            lines = file.read().splitlines()
        found = []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("scope") == "access":
                found.append(entry)
        return found

    def _tunnel_log(self, node: str) -> Path:
        return self.layout.logs / f"{node}.ztunnel.log"

    # The wire

    def watch(self, action: Callable[[], T]) -> tuple[T, list[bytes], list[Flow]]:
        """Do something while the nodes' uplinks are captured: its result, the frames, and the TCP flows as the first node saw them."""
        cluster = read_cluster(self.layout.state)
        with Capture(cluster.nodes) as capture:
            result = action()
            time.sleep(0.2)
        told(not any(captured.lost for captured in capture.results), "the capture lost frames")
        frames = capture.results[0].frames
        return result, frames, flows(segment for frame in frames if isinstance(segment := parse(frame), Segment))


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
