"""One peer's turn: what the client measures, and what the tunnels' processes cost meanwhile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}
NEW_CLIENTS, NEW_TOTAL, NEW_SECONDS = 16, 6000, 15
BULK_SECONDS = 60


class BenchError(Exception):
    """A measurement that is not one: the load tool failed, or answers were wrong."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the client sends: the address that it connects to, for requests and for uploads."""

    host: str
    port: int
    upload_port: int


def measure(netns: str, target: Target, tunnels: Sequence[int], seconds: int, big: Path) -> dict[str, float]:
    """All metrics of one turn. `tunnels` are the pids whose memory and CPU count; none of them: those metrics are left out."""
    url = f"http://{target.host}:{target.port}"
    one = _wrk(netns, url, 1, seconds)
    before = cpu_seconds(tunnels)
    many = _wrk(netns, url, 32, seconds)
    cpu = cpu_seconds(tunnels) - before
    size = big.stat().st_size
    down = float(
        _run(
            netns, ["curl", "-sf", "-m", str(BULK_SECONDS), "-o", "/dev/null", "-w", "%{size_download} %{speed_download}", f"{url}/big"]
        ).split()[1]
    )
    upload = ["curl", "-sf", "-m", str(BULK_SECONDS), "-H", "Expect:", "-T", str(big), "-w", "%{size_upload} %{speed_upload}"]
    up = _run(netns, [*upload, f"http://{target.host}:{target.upload_port}/"]).split()
    if int(up[0]) != size:
        raise BenchError(f"uploaded {up[0]} of {size} bytes")
    script = [sys.executable, str(HERE / "connections.py"), target.host, str(target.port)]
    new = json.loads(_run(netns, [*script, str(NEW_CLIENTS), str(NEW_TOTAL), str(NEW_SECONDS)]))
    if new["failed"]:
        raise BenchError(f"{new['failed']} of {NEW_TOTAL} new connections failed")
    values = {
        "rps_1": one["rps"],
        "p50_1": one["p50"],
        "rps_32": many["rps"],
        "p99_32": many["p99"],
        "bulk_down": down / 1e6,
        "bulk_up": float(up[1]) / 1e6,
        "new_connections": new["per_second"],
    }
    if tunnels:
        values["rss"] = sum(map(resident, tunnels)) / 1e6
        values["cpu_per_100k"] = cpu / many["requests"] * 100_000
    return values


def wait_ready(netns: str, target: Target, seconds: float = 15.0) -> None:
    """Until a request through the tunnels is answered. Raises BenchError."""
    deadline = time.monotonic() + seconds
    command = [*_enter(netns), "curl", "-sf", "-m", "2", "-o", "/dev/null", f"http://{target.host}:{target.port}/"]
    while subprocess.run(command, check=False).returncode:
        if time.monotonic() > deadline:
            raise BenchError(f"no answer from {target.host}:{target.port} within {seconds:g} s")
        time.sleep(0.1)


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of these processes so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident(pid: int) -> int:
    """Bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"process {pid} is gone")


def _wrk(netns: str, url: str, connections: int, seconds: int) -> dict[str, float]:
    """Requests per second, how many, and percentiles in microseconds."""
    text = _run(netns, ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"{url}/"])
    if "Non-2xx" in text or "Socket errors" in text:
        raise BenchError(f"wrk at {connections} connections: {text}")
    percentiles = {
        name: float(value) * UNITS[unit] for name, value, unit in re.findall(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s)$", text, re.MULTILINE)
    }
    rps = re.search(r"Requests/sec:\s+([\d.]+)", text)
    requests = re.search(r"(\d+) requests in", text)
    if not rps or not requests:
        raise BenchError(f"wrk said {text!r}")
    return {"rps": float(rps[1]), "requests": float(requests[1]), "p50": percentiles["50"], "p99": percentiles["99"]}


def _enter(netns: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{netns}", "--"]


def _run(netns: str, command: list[str]) -> str:
    done = subprocess.run([*_enter(netns), *command], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise BenchError(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout
