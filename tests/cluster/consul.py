"""A real Consul agent, one server on loopback.

`Consul(directory)` keeps its state over restarts. `Consul(directory, durable=False)` is `consul agent -dev`: it begins empty every time,
with an X-Consul-Index smaller than clients remember, which is what a blocking query must survive.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from tests.cluster import ports, tools
from tests.cluster.processes import Program

START_SECONDS = 30.0
NAMES = ("http", "dns", "server", "serf_lan", "serf_wan")
Health = Literal["passing", "warning", "critical"]
Entries = list[dict[str, Any]]


class Consul:
    def __init__(self, directory: Path, *, durable: bool = True, host: str = "127.0.0.1", inside: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._host = host
        self._ports = {name: ports.take() for name in NAMES}
        numbers = {name: port.number for name, port in self._ports.items()}
        self.address = f"{host}:{numbers['http']}"
        self.url = f"http://{self.address}"
        self.dns_port = numbers["dns"]
        config: dict[str, Any] = {
            # -1 is off.
            "ports": {**numbers, "grpc": -1, "grpc_tls": -1, "https": -1},
            "bind_addr": host,
            "client_addr": host,
            "node_name": "consul",
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "connect": {"enabled": False},
            "leave_on_terminate": False,
            "log_level": "warn",
        }
        if durable:
            config |= {"server": True, "bootstrap_expect": 1, "data_dir": str(directory / "data")}
        path = directory / "consul.json"
        path.write_text(json.dumps(config))
        mode = [] if durable else ["-dev"]
        self.program = Program("consul", [*inside, tools.find("consul"), "agent", *mode, f"-config-file={path}"], directory / "consul.log")

    # Its life

    def start(self) -> None:
        self.program.start()
        self.program.wait_until("Consul to have a leader and its own node in the catalog", self._ready, START_SECONDS)

    def stop(self) -> None:
        self.program.stop()

    def restart(self) -> None:
        """On the same ports. Services and health survive only where it is durable."""
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        for port in self._ports.values():
            port.release()

    def _ready(self) -> bool:
        try:
            return bool(self.get("status/leader")[1]) and any(node["Node"] == "consul" for node in self.get("catalog/nodes")[1])
        except OSError:
            return False

    # What an operator does

    def register(
        self,
        name: str,
        address: str,
        port: int,
        *,
        id: str = "",
        tags: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        health: Health = "passing",
        **more: Any,
    ) -> str:
        """A service instance with a check that `set_health` moves; its id, which is its name if none is given."""
        service = id or name
        check = {"CheckID": f"service:{service}", "TTL": "1h", "Status": health}
        body = {"ID": service, "Name": name, "Address": address, "Port": port, "Tags": [*tags], "Meta": dict(meta or {}), "Check": check}
        self.put("agent/service/register?replace-existing-checks=true", body | more)
        return service

    def deregister(self, id: str) -> None:
        self.put(f"agent/service/deregister/{quote(id)}")

    def set_health(self, id: str, health: Health, output: str = "") -> None:
        self.put(f"agent/check/update/{quote(f'service:{id}')}", {"Status": health, "Output": output})

    # What a client asks

    def services(self, index: int = 0, wait: str = "5s") -> tuple[int, dict[str, list[str]]]:
        """(X-Consul-Index, tags by service name); blocks until something is newer than `index`, if it is not 0."""
        return self.get("catalog/services" + _blocking(index, wait))

    def health(self, name: str, index: int = 0, wait: str = "5s") -> tuple[int, Entries]:
        """(X-Consul-Index, instances with their checks)."""
        return self.get(f"health/service/{quote(name)}" + _blocking(index, wait))

    def get(self, path: str) -> tuple[int, Any]:
        with urllib.request.urlopen(f"{self.url}/v1/{path}", timeout=30) as response:
            return int(response.headers.get("X-Consul-Index", 0)), json.load(response)

    def put(self, path: str, body: Any = None) -> None:
        host, _, port = self.address.rpartition(":")
        connection = HTTPConnection(host, int(port), timeout=30)
        try:
            connection.request("PUT", f"/v1/{path}", json.dumps(body) if body is not None else None)
            with connection.getresponse() as response:
                answer = response.read()
            assert response.status == 200, f"Consul: PUT {path}: {response.status} {answer.decode(errors='replace')}"
        finally:
            connection.close()


def _blocking(index: int, wait: str) -> str:
    return f"?index={index}&wait={wait}" if index else ""


@contextmanager
def running(directory: Path, *, durable: bool = True) -> Iterator[Consul]:
    consul = Consul(directory, durable=durable)
    try:
        consul.start()
        yield consul
    finally:
        consul.close()
