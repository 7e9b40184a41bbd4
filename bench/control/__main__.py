"""`python -m bench.control`: the control plane on one core, its clients on another, at several sizes; one table, one JSON file."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console

from bench.control.mesh import NODES, PODS_PER_POLICY, PODS_PER_SERVICE, Size, pod
from bench.results import Metric, Results

CLIENTS = 200
CHANGES = 40
SIGNATURES = 3000
METRICS = [
    Metric("cold", "s", "cold: all objects handed over → every client has everything", "lower"),
    Metric("resolved", "s", "  of which resolving and encoding", "lower"),
    Metric("change_p50", "ms", "one endpoint changes → a client has it, median", "lower"),
    Metric("change_p99", "ms", "the same, 99th percentile of all clients and changes", "lower"),
    Metric("change_worst", "ms", "the same, worst", "lower"),
    Metric("cpu_change_client", "us", "CPU of the control plane per change and client", "lower"),
    Metric("computed", "", "queries computed per change", "lower"),
    Metric("rss", "MB", "resident after all that", "lower"),
    Metric("csr", "1/s", "certificates signed, as asked for by one busy process", "higher"),
    Metric("csr_core", "1/s", "certificates signed per second of the control plane's CPU", "higher"),
]
RESULTS = Path(__file__).parents[1] / "results/control.json"
ROOT = Path(__file__).parents[2]


class Child:
    """One of the two processes: a command in, an answer out."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        self.tell(do, **fields)
        return self.hear()

    def tell(self, do: str, **fields: Any) -> None:
        print(json.dumps({"do": do, **fields}), file=cast("IO[str]", self._process.stdin), flush=True)

    def hear(self) -> dict[str, Any]:
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"a child ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def child(module: str, core: int) -> Iterator[Child]:
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        yield Child(process)
    finally:
        cast("IO[str]", process.stdin).close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(pods: int, clients: int) -> dict[str, float]:
    size = Size(pods)
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        plane = stack.enter_context(child("bench.control.plane", cores[0]))
        fleet = stack.enter_context(child("bench.control.clients", cores[-1]))
        where = plane.ask("start", pods=pods)
        fleet.ask("connect", clients=clients, **where)
        fleet.tell("wait", responses=2)
        loaded = plane.ask("load")
        got = fleet.hear()
        expected = {"Address": pods + size.services, "Authorization": size.policies + 1}
        found = {name.rpartition(".")[2]: count for name, count in got["resources"].items()}
        if found != expected:
            raise RuntimeError(f"a client has {found}, not {expected}")
        latencies: list[float] = []
        before = plane.ask("cost")
        for number in range(CHANGES):
            fleet.tell("wait", responses=1)
            handed = plane.ask("change", pod_number=number * 7919 % pods)["handed"]
            latencies += [time - handed for time in fleet.hear()["times"]]
        after = plane.ask("cost")
        latencies.sort()
        made = [pod(size, number) for number in range(min(NODES, pods))]  # one of each node
        identities = [f"spiffe://cluster.local/ns/{one.namespace}/sa/{one.spec.account}" for one in made]
        unsigned = plane.ask("cost")
        signed = fleet.ask("sign", requests=SIGNATURES, parallel=32, identities=identities)
        end = plane.ask("cost")
    return {
        "cold": max(got["times"]) - loaded["handed"],
        "resolved": loaded["published"] - loaded["handed"],
        "change_p50": statistics.median(latencies) * 1000,
        "change_p99": latencies[int(len(latencies) * 0.99)] * 1000,
        "change_worst": latencies[-1] * 1000,
        "cpu_change_client": (after["cpu"] - before["cpu"]) / CHANGES / clients * 1e6,
        "computed": (after["computed"] - before["computed"]) / CHANGES,
        "rss": end["rss"],
        "csr": signed["per_second"],
        "csr_core": SIGNATURES / (end["cpu"] - unsigned["cpu"]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.control", description=__doc__)
    parser.add_argument("--pods", default="1000,3000,10000,30000", help="sizes, separated by commas")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    sizes = [int(part) for part in arguments.pods.split(",")]
    names = {pods: f"{pods:,} pods" for pods in sizes}
    console, results = Console(highlight=False, width=None if sys.stdout.isatty() else 180), Results(METRICS, names.values())
    console.print(f"{arguments.clients} clients; a service per {PODS_PER_SERVICE} pods, a policy per {PODS_PER_POLICY}")
    for number in range(1, arguments.rounds + 1):
        for pods in sizes:
            values = measure(pods, arguments.clients)
            results.add(names[pods], values)
            told = f"cold {values['cold']:.2f} s, change p99 {values['change_p99']:.0f} ms, {values['rss']:.0f} MB"
            console.print(f"round {number}, {names[pods]}: {told}")
    results.write(arguments.output)
    results.show(console, "")
    console.print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
