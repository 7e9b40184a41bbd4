"""`python -m bench.l4`: all peers in turn, several rounds, one table, one JSON file."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from bench.l4 import mesh, peers
from bench.l4.load import BenchError, Target, measure, resident, wait_ready
from bench.results import Metric, Results

OURS = "culvert"
TURNS: dict[str, Callable[[peers.Place], AbstractContextManager[tuple[Target, list[int]]]]] = {
    "none": peers.none,
    "envoy": peers.envoy,
    "haproxy": peers.haproxy,
    OURS: mesh.culvert_turn,
}
METRICS = [
    Metric("rps_1", "1/s", "requests, 1 connection", "higher"),
    Metric("p50_1", "us", "median latency, 1 connection", "lower", {"envoy": 1.1}),
    Metric("rps_32", "1/s", "requests, 32 connections", "higher", {"envoy": 0.9}),
    Metric("p99_32", "us", "p99 latency, 32 connections", "lower", {"envoy": 1.5}),
    Metric("bulk_down", "MB/s", "1 GiB download", "higher", {"envoy": 0.8}),
    Metric("bulk_up", "MB/s", "1 GiB upload", "higher", {"envoy": 0.8}),
    Metric("new_connections", "1/s", "new connections, 16 clients", "higher", {"envoy": 1.0, "haproxy": 3.0}),
    Metric("rss", "MB", "resident, both tunnels", "lower", {"envoy": 0.6}),
    Metric("cpu_per_100k", "s", "CPU of both tunnels for 100,000 requests", "lower"),
]
RESULTS = Path(__file__).parents[1] / "results/l4.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.l4", description=__doc__)
    parser.add_argument("--envoy", default="envoy", help="Envoy's binary")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each request measurement")
    parser.add_argument("--peers", default=",".join(TURNS), help="which, in which order")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    names = arguments.peers.split(",")
    if unknown := set(names) - set(TURNS):
        parser.error(f"unknown peers {', '.join(sorted(unknown))}; there are {', '.join(TURNS)}")
    console, results = Console(highlight=False, width=None if sys.stdout.isatty() else 180), Results(METRICS, names)
    try:
        run(console, results, names, arguments)
    except BenchError as error:
        console.print(f"[red]not measured:[/] {error}", markup=True)
        return 1
    results.write(arguments.output)
    results.show(console, OURS)
    console.print(f"written to {arguments.output}")
    return 0


def run(console: Console, results: Results, names: list[str], arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="culvert-bench-") as directory:
        scratch = Path(directory)
        scratch.chmod(0o755)  # nginx's worker is nobody
        with mesh.playground(scratch, arguments.envoy) as place, peers.server(place):
            wait_ready(place.client, place.direct)
            for number in range(1, arguments.rounds + 1):
                for name in names:
                    began = time.monotonic()
                    with TURNS[name](place) as (target, tunnels):
                        wait_ready(place.client, target)
                        values = measure(place.client, target, tunnels, arguments.seconds, scratch / "big")
                    results.add(name, values)
                    console.print(f"round {number}, {name}: {values['rps_32']:,.0f} requests/s ({time.monotonic() - began:.0f} s)")
            if OURS in names:
                sizes = ", ".join(f"{name} {resident(pid) / 1e6:.0f} MB" for name, pid in mesh.others().items())
                console.print(f"beside the tunnels: {sizes}")


if __name__ == "__main__":
    sys.exit(main())
