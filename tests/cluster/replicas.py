"""Our control plane as processes of its own, each a replica under its own role, beside a real API server."""

from __future__ import annotations

import base64
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import ports
from tests.cluster.apiserver import ApiServer
from tests.cluster.processes import Program

DEPLOY = Path(__file__).parents[2] / "deploy" / "control"
NAMESPACE, ACCOUNT, LEASE = "istio-system", "culvert-control", "culvert-control"
NAMES = ("xds", "plaintext", "http", "webhook")
START_SECONDS = 30.0


class Replica:
    """`url` replaces the API server's, as where a fault proxy is in front of it. `more` is further environment."""

    def __init__(self, name: str, directory: Path, server: ApiServer, url: str = "", more: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        self.ports = {which: ports.take() for which in NAMES}
        address = {which: f"127.0.0.1:{port.number}" for which, port in self.ports.items()}
        self.environment = {
            "CULVERT_KUBERNETES": str(server.kubeconfig_for(NAMESPACE, ACCOUNT, url)),
            "CULVERT_KEEP": str(self.directory / "keep.db"),
            "CULVERT_CA_DIR": str(self.directory / "ca"),
            "CULVERT_INSTANCE": name,
            "CULVERT_XDS_ADDRESS": address["xds"],
            "CULVERT_XDS_PLAINTEXT": address["plaintext"],
            "CULVERT_HTTP_ADDRESS": address["http"],
            "CULVERT_WEBHOOK_ADDRESS": address["webhook"],
            "CULVERT_SERVER_NAMES": "istiod.istio-system.svc,127.0.0.1",
            **(more or {}),
        }
        self.program = Program(name, [sys.executable, "-m", "control"], self.directory / "log", self.environment)

    @property
    def kept(self) -> float:
        """How many changes of sources it has written to disk in this life."""
        found = re.search(r"^culvert_kept_rows_total (.*)$", self.metrics(), re.MULTILINE)
        assert found is not None
        return float(found[1])

    def start(self, ready: str = "ready\n") -> None:
        """Until `/ready` says so."""
        self.program.start()
        self.program.wait_until("it to be ready", lambda: self.readiness().startswith(ready), START_SECONDS)

    def close(self) -> None:
        self.program.stop()
        for port in self.ports.values():
            port.release()

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "log").read_text().splitlines() if line.startswith("{")]

    @property
    def roots(self) -> bytes:
        return (self.directory / "ca" / "root-cert.pem").read_bytes()

    def readiness(self) -> str:
        try:
            return self._get("/ready").decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def json(self, path: str) -> Any:
        return json.loads(self._get(path))

    def metrics(self) -> str:
        return self._get("/metrics").decode()

    def workloads(self) -> set[str]:
        return {f"{one.get('namespace')}/{one.get('name')}" for one in self.json("/debug/snapshot")["resources"]["Address"].values()}

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http'].number}{path}", timeout=10) as reply:
            found: bytes = reply.read()
            return found


@contextmanager
def running(directory: Path, server: ApiServer, *names: str, url: str = "", **more: str) -> Iterator[list[Replica]]:
    """Replicas that are ready."""
    made = [Replica(name, directory, server, url, more) for name in names or ("control-1",)]
    try:
        for replica in made:
            replica.start()
        yield made
    finally:
        for replica in made:
            replica.close()


def install(server: ApiServer) -> None:
    """The control plane's account and role, as they are deployed."""
    for name in ("account.yaml", "rbac.yaml"):
        server.apply((DEPLOY / name).read_text())


def install_webhook(server: ApiServer, replica: Replica) -> None:
    """As deployed, but for where it is: this API server is on no node, and finds no Services."""
    (webhook,) = yaml.safe_load_all((DEPLOY / "webhook.yaml").read_text())
    for one in webhook["webhooks"]:
        one["clientConfig"] = {"url": f"https://127.0.0.1:{replica.ports['webhook'].number}/validate"}
    server.apply([webhook])


def holder(server: ApiServer) -> str:
    """Who leads, "" where nobody does."""
    lease = server.get(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{LEASE}")
    return str(lease["spec"].get("holderIdentity") or "")


def bundle_of(server: ApiServer) -> bytes:
    found = server.get("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/culvert-control")
    return base64.b64decode(found["webhooks"][0]["clientConfig"].get("caBundle", ""))
