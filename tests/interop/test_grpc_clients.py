"""gRPC clients without a proxy, `xds:///`, of the libraries' own make: they call services of the mesh as our VirtualServices say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop import plane
from tests.interop.grpc_echo import METHOD, Echo, echo, read
from tests.interop.grpc_echo import SERVICE as SERVICE_NAME
from tests.interop.proxied import eventually

pytestmark = pytest.mark.interop

SAY = f"{SERVICE_NAME}/{METHOD}"
TARGET = "xds:///reviews.shop.svc.cluster.local:9080"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.5, selector: {app: reviews}, ports: [{port: 9080, name: grpc, targetPort: PORT}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
"""


def virtual_service(http: str) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: shop}}
spec: {{hosts: [reviews], http: [{http}]}}
"""


def to(subset: str, weight: int = 1) -> str:
    return f"{{destination: {{host: reviews, subset: {subset}}}, weight: {weight}}}"


@dataclass
class Mesh:
    running: plane.Running
    servers: Mapping[str, Echo]

    def environment(self, namespace: str = "shop") -> dict[str, str]:
        server = {
            "server_uri": f"127.0.0.1:{self.running.plaintext}",
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }
        node = {"id": f"sidecar~127.0.0.1~client.{namespace}~{namespace}.svc.cluster.local", "metadata": {"NAMESPACE": namespace}}
        return {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps({"xds_servers": [server], "node": node})}


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with ExitStack() as stack:
        first = stack.enter_context(echo("v1", "127.0.0.21"))
        second = stack.enter_context(echo("v2", "127.0.0.22", first.port))
        files = {
            "service": SERVICE.replace("PORT", str(first.port)),
            "v1": plane.pod("reviews-1", "127.0.0.21", labels="app: reviews, version: v1"),
            "v2": plane.pod("reviews-2", "127.0.0.22", labels="app: reviews, version: v2"),
        }
        yield Mesh(stack.enter_context(plane.running(tmp_path, files)), {"v1": first, "v2": second})


class Client:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def calls(self, count: int, **metadata: str) -> Counter[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        headers = {key.replace("_", "-"): value for key, value in metadata.items()}
        wanted = json.dumps({"method": f"/{SAY}", "headers": headers, "timeout": 15, "wait": False})
        self._process.stdin.write(f"{wanted}\n" * count)
        self._process.stdin.flush()
        answers = [json.loads(self._process.stdout.readline()) for _ in range(count)]
        return Counter(read(text.encode()) if code == "OK" else f"{code}: {text}" for ((code, text),) in answers)


@contextmanager
def client(mesh: Mesh, target: str = TARGET, namespace: str = "shop") -> Iterator[Client]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.interop.grpc_client", target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=mesh.environment(namespace),
        cwd=Path(__file__).parents[2],
    )
    try:
        yield Client(process)
    finally:
        process.communicate(timeout=10)


def nothing_rejected(mesh: Mesh) -> None:
    for one in mesh.running.clients():
        assert {name: (kind["nacks"], kind["error"]) for name, kind in one["types"].items() if kind["nacks"]} == {}


def test_without_routes_all_endpoints_are_called(mesh: Mesh) -> None:
    with client(mesh) as caller:
        found = caller.calls(40)
        assert found.keys() == {"v1", "v2"}
        nothing_rejected(mesh)


def test_short_names_are_those_of_dns(mesh: Mesh) -> None:
    for target in ("xds:///reviews:9080", "xds:///reviews.shop:9080", "xds:///reviews.shop.svc:9080"):
        with client(mesh, target) as caller:
            assert caller.calls(10).keys() == {"v1", "v2"}


def test_where_nothing_is_calls_fail_at_once(mesh: Mesh) -> None:
    elsewhere = "{destination: {host: nobody.shop.svc.cluster.local}}"
    for destination in (to("v9"), elsewhere):
        mesh.running.put(routes=virtual_service(f"{{route: [{destination}]}}"))
        with client(mesh) as caller:
            (answer,) = caller.calls(1)
            assert answer.startswith("UNAVAILABLE")


def test_weights_headers_and_changes_of_them(mesh: Mesh) -> None:
    mesh.running.put(
        routes=virtual_service(
            f"{{match: [{{headers: {{end-user: {{exact: jason}}}}}}], route: [{to('v2')}]}}, {{route: [{to('v1', 75)}, {to('v2', 25)}]}}"
        )
    )
    with client(mesh) as caller:
        assert caller.calls(30, end_user="jason") == {"v2": 30}
        found = caller.calls(400)
        assert 240 < found["v1"] < 360, found
        mesh.running.put(routes=virtual_service(f"{{route: [{to('v1')}]}}"))
        eventually(lambda: caller.calls(10) == {"v1": 10}, "everything to v1")
        nothing_rejected(mesh)


def test_retries(mesh: Mesh) -> None:
    mesh.running.put(routes=virtual_service(f"{{route: [{to('v1')}], retries: {{attempts: 3, retryOn: unavailable}}}}"))
    with client(mesh) as caller:
        mesh.servers["v1"].failures = 2
        assert caller.calls(1) == {"v1": 1}
        assert mesh.servers["v1"].calls == 3
        mesh.running.put(routes=virtual_service(f"{{route: [{to('v1')}], retries: {{attempts: 0}}}}"))

        def fails() -> bool:
            mesh.servers["v1"].failures = 1
            return caller.calls(1) == {"UNAVAILABLE: not now": 1}

        eventually(fails, "no retries")


def test_endpoints_come_and_go(mesh: Mesh) -> None:
    with client(mesh) as caller:
        assert caller.calls(20).keys() == {"v1", "v2"}
        mesh.running.put(v2="")
        eventually(lambda: caller.calls(10) == {"v1": 10}, "v2 is gone")
        mesh.running.put(v2=plane.pod("reviews-2", "127.0.0.22", labels="app: reviews, version: v2"))
        eventually(lambda: caller.calls(10).keys() == {"v1", "v2"}, "v2 is back")


@pytest.mark.parametrize("endpoints", ["{address: localhost}", "{address: localhost}, {address: nobody.invalid}", "{address: 127.0.0.21}"])
def test_hosts_outside_that_clients_look_up(mesh: Mesh, endpoints: str) -> None:
    with echo("outside", "127.0.0.1", mesh.servers["v1"].port) as outside:
        mesh.running.put(
            outside=f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside, namespace: shop}}
spec:
  hosts: [outside.example.com]
  ports: [{{number: 9080, name: grpc, protocol: GRPC, targetPort: {outside.port}}}]
  resolution: DNS
  endpoints: [{endpoints}]
"""
        )
        with client(mesh, "xds:///outside.example.com:9080") as caller:
            assert caller.calls(5) == ({"v1": 5} if "127.0.0.21" in endpoints else {"outside": 5})
            nothing_rejected(mesh)
