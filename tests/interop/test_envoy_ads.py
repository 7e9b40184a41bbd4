"""Envoy beside a client, fed by our control plane in both variants of ADS: it takes everything, and its requests go where users wrote."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mesh.model.codec.envoy import bootstrap
from tests.interop import envoy, plane
from tests.interop.proxied import Answer, _bases, _errors, ask, eventually
from tests.interop.upstream import upstream

pytestmark = pytest.mark.interop


@dataclass
class Envoy:
    admin: int
    proxy: int
    log: Path

    def get(self, path: str) -> str:
        return ask(self.admin, path).body.decode()

    def check(self) -> None:
        """That nothing was refused, by any count of it, and that something was taken."""
        rejected = [line for line in self.get("/stats?filter=update_rejected").splitlines() if not line.endswith(": 0")]
        assert rejected == []
        assert list(_errors(json.loads(self.get("/config_dump")))) == []
        assert "lds.update_success: 0" not in self.get("/stats?filter=lds.update_success")

    def ask(self, host: str, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        return ask(self.proxy, path, method, {"host": host, **{key.replace("_", "-"): value for key, value in headers.items()}})


@contextmanager
def running(directory: Path, mesh: plane.Running, *, node: str, delta: bool, metadata: dict[str, str] | None = None) -> Iterator[Envoy]:
    """As soon as all that it is served is in force."""
    directory.mkdir(parents=True, exist_ok=True)
    binary = envoy.binary()
    assert binary is not None
    admin, outbound, proxy = envoy.free_ports(3)
    ports = {"CULVERT_OUTBOUND_PORT": str(outbound), "HTTP_PROXY_PORT": str(proxy)}
    control = bootstrap.ControlPlane("127.0.0.1", mesh.port, str(mesh.roots), "istiod.istio-system.svc", str(mesh.token))
    config = bootstrap.bootstrap(bootstrap.Node(node, "test", {**ports, **(metadata or {})}), control, admin_port=admin, delta=delta)
    (directory / "bootstrap.json").write_text(bootstrap.json(config))
    log = directory / "envoy.log"
    command = [binary, "-c", str(directory / "bootstrap.json"), "--concurrency", "1", "--base-id", str(next(_bases)), "-l", "warning"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        made = Envoy(admin, proxy, log)

        def live() -> bool:
            assert process.poll() is None, log.read_text()
            return ask(admin, "/ready").body == b"LIVE\n"

        eventually(live, "Envoy is live")
        yield made
        assert process.poll() is None, log.read_text()
        made.check()
        for one in mesh.clients():
            assert {name: kind["error"] for name, kind in one["types"].items() if kind["nacks"]} == {}
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


CLIENT = "router~127.0.0.1~client.shop~shop.svc.cluster.local"
WEB = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.5, selector: {app: web}, ports: [{port: 80, name: http, targetPort: PORT}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
"""
ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - {match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: web, subset: v2}}]}
  - {match: [{uri: {prefix: /teapot}}], directResponse: {status: 418}}
  - {route: [{destination: {host: web, subset: v1}, weight: 80}, {destination: {host: web, subset: v2}, weight: 20}]}
"""
MOVED = ROUTES.replace("host: web, subset: v1}, weight: 80", "host: web, subset: v2}, weight: 80")


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_requests_follow_virtual_services_and_their_changes(tmp_path: Path, delta: bool) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(upstream("v1", "127.0.0.31"))
        second = stack.enter_context(upstream("v2", "127.0.0.32", first.port))
        files = {
            "web": WEB.replace("PORT", str(first.port)),
            "routes": ROUTES,
            "v1": plane.pod("web-1", "127.0.0.31", labels="app: web, version: v1"),
            "v2": plane.pod("web-2", "127.0.0.32", labels="app: web, version: v2"),
        }
        mesh = stack.enter_context(plane.running(tmp_path / "plane", files))
        proxy = stack.enter_context(running(tmp_path / "envoy", mesh, node=CLIENT, delta=delta))
        found = Counter(proxy.ask("web.shop.svc.cluster.local").server for _ in range(200))
        assert 120 < found["v1"] < 195, found
        assert Counter(proxy.ask("web.shop", end_user="jason").server for _ in range(20)) == {"v2": 20}
        assert proxy.ask("web.shop", "/teapot").status == 418
        mesh.put(routes=MOVED)
        eventually(lambda: {proxy.ask("web.shop").server for _ in range(10)} == {"v2"}, "everything to v2")
        mesh.put(v2="")
        eventually(lambda: proxy.ask("web.shop").status == 503, "v2 has no endpoints")
        mesh.put(routes="")
        eventually(lambda: proxy.ask("web.shop").server == "v1", "without routes to whoever is there")
        assert second.name == "v2"
