"""An Envoy that gets everything over ADS from a test, and the questions that a test asks of it."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from mesh.model.codec.envoy import bootstrap, clusters, endpoints, routes
from mesh.model.l7.clusters import Cluster
from mesh.model.l7.endpoints import Assignment, Endpoint, LocalityGroup
from mesh.model.l7.profile import Kind, Profile
from mesh.model.l7.routes import PathKind, PathMatch, Respond, Route, RouteMatch, RouteTable
from mesh.model.workload import SocketAddress
from tests.interop import envoy
from tests.interop.ads import Ads
from tests.interop.upstream import Upstream

WAIT_SECONDS = 20.0
VERSION_PATH = "/.version"
CLIENT = Profile(Kind.CLIENT, bind=True)
SOON = {f"tracing.{kind}.flush_interval_ms": 100 for kind in ("opentelemetry", "zipkin")}
"""Envoy keeps spans for five seconds, unless its runtime says otherwise."""


@dataclass(frozen=True)
class Answer:
    """`echo` is what the upstream says it was asked."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def echo(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def server(self) -> str:
        return self.headers.get("x-server", "")


def ask(
    port: int,
    path: str = "/",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    host: str = "127.0.0.1",
    timeout: float = 15,
) -> Answer:
    return asked(http.client.HTTPConnection(host, port, timeout=timeout), path, method, headers, body)


def asked(
    connection: http.client.HTTPConnection,
    path: str = "/",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """One request over a connection, which is closed afterwards."""
    try:
        connection.putrequest(method, path, skip_host="host" in (headers or {}), skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


@dataclass
class Proxied:
    """`serve` makes a table the one in force, and returns when it is."""

    ads: Ads
    admin: int
    directory: Path
    tables: int = 0
    spoiled: bool = False

    def log(self) -> str:
        return (self.directory / "envoy.log").read_text()

    def get(self, path: str) -> str:
        return ask(self.admin, path).body.decode()

    def stats(self, pattern: str) -> dict[str, int]:
        found = {}
        for line in self.get(f"/stats?filter={pattern}").splitlines():
            name, _, value = line.rpartition(": ")
            if value.isdecimal():
                found[name] = int(value)
        return found

    def put(self, *messages: Any) -> None:
        self.ads.wait_accepted(self.ads.put(*messages))

    def serve(self, table: RouteTable, port: int, probe: Callable[[str], Answer] | None = None) -> None:
        """With one more route that tells which table it is in."""
        self.tables += 1
        word = str(self.tables)
        marker = Route(RouteMatch(PathMatch(PathKind.EXACT, VERSION_PATH)), Respond(200, word.encode()))
        hosts = tuple(replace(host, routes=(marker, *host.routes)) for host in table.hosts)
        self.put(routes.route_table(replace(table, hosts=hosts)))
        asks = probe or (lambda path: ask(port, path))
        eventually(lambda: asks(VERSION_PATH).body == word.encode(), f"table {word} in force: {self.ads.refused}")

    def check(self) -> None:
        """That nothing was refused, by any count of it."""
        assert self.ads.refused == []
        rejected = {name: count for name, count in self.stats("update_rejected").items() if count}
        assert rejected == {}
        dump = json.loads(self.get("/config_dump"))
        assert list(errors(dump)) == []


def errors(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        if "error_state" in value:
            yield value["error_state"]
        for inner in value.values():
            yield from errors(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from errors(inner)


def eventually(holds: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except (OSError, http.client.HTTPException):
            pass
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def proxied(
    directory: Path, *resources: Any, node: str = "router~127.0.0.1~a.b~b.svc", delta: bool = True, token: str = ""
) -> Iterator[Proxied]:
    """Envoy with these resources, as soon as it has accepted all of them."""
    directory.mkdir(parents=True, exist_ok=True)
    binary = envoy.binary()
    assert binary is not None
    (admin,) = envoy.free_ports(1)
    with Ads() as ads:
        version = ads.put(*resources)
        plane = bootstrap.ControlPlane("127.0.0.1", ads.port, token=token)
        config = bootstrap.bootstrap(bootstrap.Node(node, "test"), plane, admin_port=admin, delta=delta)
        config.layered_runtime.layers.add(name="test").static_layer.update(SOON)
        path = directory / "bootstrap.json"
        path.write_text(bootstrap.json(config))
        log = directory / "envoy.log"
        command = [
            binary,
            "-c",
            str(path),
            "--concurrency",
            "1",
            "--file-flush-interval-msec",
            "100",
            "--use-dynamic-base-id",
            "-l",
            "warning",
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            made = Proxied(ads, admin, directory)
            deadline = time.monotonic() + WAIT_SECONDS
            while not _live(admin):
                assert process.poll() is None, log.read_text()
                assert not ads.refused, (ads.refused, log.read_text())
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            ads.wait_accepted(version)
            yield made
            assert process.poll() is None, log.read_text()
            if not made.spoiled:
                made.check()
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _live(admin: int) -> bool:
    try:
        return ask(admin, "/ready").body == b"LIVE\n"
    except OSError:
        return False


def plain_endpoint(one: Upstream, **fields: Any) -> Endpoint:
    return Endpoint(address(one.host, one.port), **fields)


def address(host: str, port: int) -> SocketAddress:
    return SocketAddress(ip_address(host), port)


def service(cluster: Cluster, groups: Sequence[LocalityGroup], profile: Profile = CLIENT) -> list[Any]:
    """A cluster and its endpoints, encoded."""
    return [clusters.cluster(cluster, profile), endpoints.assignment(Assignment(cluster.name, tuple(groups)))]
