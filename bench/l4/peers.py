"""Who takes a turn between the client's and the server's namespace: nobody, Envoy, HAProxy. Culvert is in `culvert_turn`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.l4 import certificates, configs
from bench.l4.load import Target

SERVER_PORT, UPLOAD_PORT = 8000, 8001
LOCAL = {SERVER_PORT: 9000, UPLOAD_PORT: 9001}
HBONE_PORT = 15008
HAPROXY_PORTS = {SERVER_PORT: 15100, UPLOAD_PORT: 15101}
BIG = 1 << 30
STOP_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Place:
    """Two network namespaces (their names), the server's address, a scratch directory, and Envoy's binary."""

    client: str
    server: str
    address: str
    scratch: Path
    envoy: str

    @property
    def direct(self) -> Target:
        return Target(self.address, SERVER_PORT, UPLOAD_PORT)


@contextmanager
def process(place: Place, netns: str, name: str, command: list[str]) -> Iterator[int]:
    """A program in a namespace for as long as the context lasts; yields its pid."""
    with (place.scratch / f"{name}.log").open("ab") as log:
        # nsenter replaces itself by the program, so the pid is the program's.
        running = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{netns}", "--", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield running.pid
    finally:
        running.terminate()
        try:
            running.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@contextmanager
def server(place: Place) -> Iterator[None]:
    """nginx for requests and downloads, a sink for uploads: both are there for the whole run."""
    config = place.scratch / "nginx.conf"
    config.write_text(configs.nginx(place.scratch, SERVER_PORT))
    big = place.scratch / "big"
    big.touch()
    os.truncate(big, BIG)
    with big.open("rb", buffering=0) as file:  # into the page cache, or the first download pays for it
        while file.read(1 << 20):
            pass
    certificates.make(place.scratch, {"a": configs.CLIENT_ID, "b": configs.SERVER_ID})
    sink = [sys.executable, str(Path(__file__).with_name("sink.py")), place.address, str(UPLOAD_PORT)]
    with process(place, place.server, "nginx", ["nginx", "-c", str(config)]), process(place, place.server, "sink", sink):
        yield


@contextmanager
def none(place: Place) -> Iterator[tuple[Target, list[int]]]:
    yield place.direct, []


@contextmanager
def envoy(place: Place) -> Iterator[tuple[Target, list[int]]]:
    with ExitStack() as stack:
        pids = []
        for number, (side, netns) in enumerate((("b", place.server), ("a", place.client))):
            make = configs.envoy_a if side == "a" else configs.envoy_b
            path = place.scratch / f"envoy-{side}.yaml"
            path.write_text(yaml.safe_dump(make(place.scratch, place.address, LOCAL, HBONE_PORT)))
            base = (os.getpid() * 2 + number) % 65536  # two Envoys on one machine must not share a shared-memory name
            command = [place.envoy, "-c", str(path), "--concurrency", "1", "--base-id", str(base), "-l", "error"]
            pids.append(stack.enter_context(process(place, netns, f"envoy-{side}", command)))
        yield Target("127.0.0.1", LOCAL[SERVER_PORT], LOCAL[UPLOAD_PORT]), pids


@contextmanager
def haproxy(place: Place) -> Iterator[tuple[Target, list[int]]]:
    with ExitStack() as stack:
        pids = []
        for side, netns in (("b", place.server), ("a", place.client)):
            path = place.scratch / f"haproxy-{side}.cfg"
            path.write_text(configs.haproxy(side, place.scratch, place.address, LOCAL, HAPROXY_PORTS))
            pids.append(stack.enter_context(process(place, netns, f"haproxy-{side}", ["haproxy", "-f", str(path)])))
        yield Target("127.0.0.1", LOCAL[SERVER_PORT], LOCAL[UPLOAD_PORT]), pids
