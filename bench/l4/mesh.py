"""Culvert's turn, and the place where all turns are held: a playground of two nodes with a pod on each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.l4.load import BenchError, Target, wait_ready
from bench.l4.peers import Place
from culvert.playground.layout import STATE_ROOT, Layout

NAME = "bench"
NAMESPACE = "bench"
MODE = "istio.io/dataplane-mode"
MANIFESTS = Path(__file__).with_name("manifests")
SECONDS = 30.0


def culvert(*arguments: str) -> None:
    """Raises BenchError."""
    command = [sys.executable, "-m", "culvert", arguments[0], "--name", NAME, *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise BenchError(f"culvert {' '.join(arguments)}: {(done.stderr or done.stdout).strip()[-600:]}")


@contextmanager
def playground(scratch: Path, envoy: str) -> Iterator[Place]:
    """Two nodes, the whole mesh running, nothing enrolled yet: every turn finds the same machine."""
    culvert("down")  # a run that was killed leaves its playground
    try:
        culvert("up", "-f", str(MANIFESTS), "--nodes", "2")
        pods = {pod["name"]: pod for pod in status()["pods"] if pod["namespace"] == NAMESPACE}
        yield Place(pods["client"]["netns"], pods["server"]["netns"], pods["server"]["ips"][0], scratch, envoy)
    finally:
        culvert("down")


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_layout().status.read_text())
    return found


@contextmanager
def culvert_turn(place: Place) -> Iterator[tuple[Target, list[int]]]:
    """Both pods in the mesh for as long as the context lasts: redirected by the kernel, judged by policy, logged to a file."""
    culvert("label", "namespace", NAMESPACE, f"{MODE}=ambient")
    try:
        _wait_redirection("enabled")
        wait_ready(place.client, place.direct)
        _prove_meshed(place)
        yield place.direct, [process["pid"] for process in status()["processes"] if process["kind"] == "ztunnel"]
    finally:
        culvert("label", "namespace", NAMESPACE, f"{MODE}-")
        _wait_redirection("")


def others() -> dict[str, int]:
    """The mesh's processes that no byte passes through, by name: they are shown beside the table, not in it."""
    return {process["name"]: process["pid"] for process in status()["processes"] if process["kind"] != "ztunnel"}


def _wait_redirection(wanted: str) -> None:
    deadline = time.monotonic() + SECONDS
    while any(pod["mesh"] != wanted for pod in status()["pods"] if pod["namespace"] == NAMESPACE):
        if time.monotonic() > deadline:
            raise BenchError(f"the pods' redirection did not become {wanted or 'empty'!r} within {SECONDS:g} s")
        time.sleep(0.05)


def _prove_meshed(place: Place) -> None:
    """A benchmark of a mesh that is not in the way would be a good one: both tunnels must log the connection, with both identities."""
    deadline = time.monotonic() + SECONDS
    logs = {node: _layout().logs / f"{node}.ztunnel.log" for node in ("node-1", "node-2")}
    marks = {node: path.stat().st_size for node, path in logs.items()}
    wanted = [f"/ns/{NAMESPACE}/sa/client".encode(), f"/ns/{NAMESPACE}/sa/server".encode()]
    while True:
        wait_ready(place.client, place.direct)
        time.sleep(0.2)
        fresh = [logs[node].read_bytes()[mark:] for node, mark in marks.items()]
        if all(word in text for text in fresh for word in wanted):
            return
        if time.monotonic() > deadline:
            raise BenchError("the calls do not go through the mesh: the tunnels' access logs do not name them")


def _layout() -> Layout:
    return Layout(NAME, STATE_ROOT / NAME)
