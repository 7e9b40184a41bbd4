"""Envoys that get everything from our control plane, and what they say of what they have.

An Envoy is fed over TLS with a node's token, as it would be in a mesh. One that listens at fixed ports, a waypoint, gets a namespace of its
own, and a door out of it to the control plane.
"""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from control.resolve.l7.plans import CLUSTER_TYPE, LISTENER_TYPE
from control.xds.store import Store
from mesh.model.codec.envoy import bootstrap
from tests.interop import envoy, plane
from tests.interop.isolated import Isolated
from tests.interop.proxied import Answer, ask, errors, eventually

CLUSTER, ENDPOINTS = "cluster.v3.Cluster", "endpoint.v3.ClusterLoadAssignment"
T = TypeVar("T")
LISTENER, SECRET = "listener.v3.Listener", "tls.v3.Secret"
NAMED = {
    CLUSTER: ("dynamic_active_clusters", ("cluster", "name")),
    ENDPOINTS: ("dynamic_endpoint_configs", ("endpoint_config", "cluster_name")),
    "route.v3.RouteConfiguration": ("dynamic_route_configs", ("route_config", "name")),
    LISTENER: ("dynamic_listeners", ("name",)),
    SECRET: ("dynamic_active_secrets", ("name",)),
}
"""By the end of a type's URL: where a dump has what is in force, and where in each entry its name is."""
WARMING = ("dynamic_warming_clusters", "dynamic_warming_secrets", "warming_state")


@dataclass
class Envoy:
    """`proxy` is the port of its HTTP proxy. `unfinished`: at the end it may still wait for what a test keeps from it."""

    id: str
    admin: int
    proxy: int
    log: Path
    process: subprocess.Popen[bytes]
    place: Isolated | None = None
    unfinished: bool = False

    def get(self, path: str) -> str:
        return self._inside(lambda: ask(self.admin, path).body.decode())

    def stats(self, pattern: str) -> dict[str, int]:
        """Those that were ever counted, by name."""
        lines = (line.rpartition(": ") for line in self.get(f"/stats?filter={urllib.parse.quote(pattern)}").splitlines())
        return {name: int(value) for name, _, value in lines if value.isdecimal()}

    def dump(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/config_dump?include_eds")))

    def in_force(self) -> dict[str, set[str]]:
        """The names of what it has and uses, by the end of their type's URL."""
        found: dict[str, set[str]] = {kind: set() for kind in NAMED}
        discovered: set[str] = set()
        for config in self.dump()["configs"]:
            for kind, (key, path) in NAMED.items():
                for entry in config.get(key, ()):
                    if kind != LISTENER or "active_state" in entry:
                        found[kind].add(_at(entry, path))
                    if kind == CLUSTER and entry["cluster"].get("type") == "EDS":
                        discovered.add(_at(entry, path))
        found[ENDPOINTS] &= discovered  # a dump has those of other clusters as well
        found[SECRET] -= {bootstrap.ROOTS_SECRET, bootstrap.TOKEN_SECRET}  # from files
        return found

    def listening(self) -> dict[str, int]:
        """The ports of the listeners that are in use, by their names."""
        found = [entry for config in self.dump()["configs"] for entry in config.get("dynamic_listeners", ()) if "active_state" in entry]
        listeners = [entry["active_state"]["listener"] for entry in found]
        return {
            one["name"]: one["address"]["socket_address"]["port_value"] for one in listeners if "socket_address" in one.get("address", {})
        }

    def check(self) -> None:
        """That nothing was refused, by any count of it; that nothing waits for what does not come; and that something was taken."""
        for what in ("update_rejected", "init_fetch_timeout"):
            assert {name: count for name, count in self.stats(what).items() if count} == {}
        dump = self.dump()
        assert list(errors(dump)) == []
        assert self.unfinished or warming(dump) == []
        for manager in ("cluster_manager.cds", "listener_manager.lds"):
            assert self.stats(f"^{manager}.update_success$")[f"{manager}.update_success"] > 0

    def ask(self, host: str, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        fields = {"host": host, **{key.replace("_", "-"): value for key, value in headers.items()}}
        return self._inside(lambda: ask(self.proxy, path, method, fields))

    def _inside(self, call: Callable[[], T]) -> T:
        return self.place.namespace.run(call) if self.place is not None else call()


def _at(entry: Any, path: tuple[str, ...]) -> str:
    for step in path:
        entry = entry[step]
    return str(entry)


def warming(dump: Any) -> list[Any]:
    """What is not in use yet, for want of something."""
    return list(_warming(dump))


def _warming(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (value[key] for key in WARMING if key in value)
        for inner in value.values():
            yield from _warming(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _warming(inner)


def wanted(store: Store) -> dict[str, set[str]]:
    """The names that an Envoy should have in force of what it is served: all clusters and listeners, and what these make it ask for."""
    found = {kind: set[str]() for kind in NAMED}
    for type_url, entries in store.types.items():
        for entry in entries.entries.values():
            if type_url in (CLUSTER_TYPE, LISTENER_TYPE):
                found[_end(type_url)].add(entry.name)
            for followed, name in entry.follows:
                found[_end(followed)].add(name)
    return found


def _end(type_url: str) -> str:
    return next(kind for kind in NAMED if type_url.endswith(kind))


@contextmanager
def running(
    directory: Path,
    mesh: plane.Running,
    *,
    node: str,
    delta: bool,
    metadata: Mapping[str, str] | None = None,
    place: Isolated | None = None,
    control: bootstrap.ControlPlane | None = None,
) -> Iterator[Envoy]:
    """As soon as all that it is served is in force. At its end it must still run, and have refused nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    binary = envoy.binary()
    assert binary is not None
    admin, outbound, proxy = place.free_ports(3) if place is not None else envoy.free_ports(3)
    own = {"CULVERT_OUTBOUND_PORT": str(outbound), "HTTP_PROXY_PORT": str(proxy), **(metadata or {})}
    path, log = directory / "bootstrap.json", directory / "envoy.log"
    told = replace(control or over_tls(mesh), secrets=str(directory))
    for name, secret in bootstrap.secret_files(told).items():
        (directory / name).write_text(bootstrap.json(secret))
    config = bootstrap.bootstrap(bootstrap.Node(node, "test", own), told, admin_port=admin, delta=delta)
    path.write_text(bootstrap.json(config))
    command = ["setpriv", "--pdeathsig", "KILL", "--", *(place.inside if place is not None else ())]
    command += [binary, "-c", str(path), "--concurrency", "1", "--use-dynamic-base-id", "--drain-time-s", "0", "-l", "warning"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    made = Envoy(node, admin, proxy, log, process, place)
    try:

        def live() -> bool:
            assert process.poll() is None, log.read_text()
            return made.get("/ready") == "LIVE\n"

        eventually(live, f"{node} is live")
        yield made
        assert process.poll() is None, log.read_text()
        made.check()
        for one in mesh.clients():
            assert {name: kind["error"] for name, kind in one["types"].items() if kind["nacks"]} == {}
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def over_tls(mesh: plane.Running, port: int = 0, token: Path | None = None) -> bootstrap.ControlPlane:
    """`port`: another than the control plane's own, a door's."""
    return bootstrap.ControlPlane("127.0.0.1", port or mesh.port, str(mesh.roots), plane.SERVER_NAME, str(token or mesh.token))
