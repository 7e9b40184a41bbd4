"""An Envoy to talk to: found, configured with throw-away certificates, started and stopped."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench.l4 import certificates
from mesh.io.netns import Namespace
from mesh.io.tls import Credentials, make_credentials
from mesh.model.identity import Identity, parse_spiffe
from tests.cluster import ports
from tests.cluster.ports import Reserved

CLIENT = "spiffe://cluster.local/ns/interop/sa/client"
SERVER = "spiffe://cluster.local/ns/interop/sa/server"
FOREIGN = "spiffe://elsewhere.example/ns/interop/sa/client"
IDENTITIES = {"a": CLIENT, "b": SERVER, "foreign": FOREIGN}
READY_SECONDS = 20.0

_held: list[Reserved] = []


def binary() -> str | None:
    """`make` installs Envoy in an environment of its own; one on PATH will do as well."""
    own = Path(__file__).parents[2] / ".venv-envoy/bin/envoy"
    return str(own) if own.exists() else shutil.which("envoy")


def make_certificates(directory: Path) -> None:
    certificates.make(directory, IDENTITIES)


def credentials(directory: Path, name: str) -> Credentials:
    """What our tunnel uses, from the same files."""
    chain = [(directory / f"{name}.pem").read_text(), (directory / certificates.ROOT).read_text()]
    return make_credentials((directory / f"{name}.key").read_bytes(), chain)


def identity(uri: str) -> Identity:
    parsed = parse_spiffe(uri)
    assert parsed is not None
    return parsed


def free_ports(count: int) -> list[int]:
    """Of loopback, for as long as this process runs: a number that was given once is given to no other program of a test."""
    taken = [ports.take() for _ in range(count)]
    _held.extend(taken)
    return [each.number for each in taken]


@contextmanager
def running(directory: Path, config: dict[str, Any], port: int, host: str = "127.0.0.1", netns: str = "") -> Iterator[None]:
    """Envoy with this configuration, listening on `host` and `port` when the context begins; in a network namespace by name."""
    envoy = binary()
    assert envoy is not None
    inside = ["nsenter", f"--net=/run/netns/{netns}", "--"] if netns else []
    path = directory / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    log = directory / "envoy.log"
    command = [*inside, envoy, "-c", str(path), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _listens(host, port, netns):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(host: str, port: int, netns: str) -> bool:
    def ask() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex((host, port)) == 0

    if not netns:
        return ask()
    with Namespace.open(f"/run/netns/{netns}") as namespace:
        return namespace.run(ask)
