"""`culvert analyze` with a real API server: what it lists, as whom, and files over it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import apiserver
from tests.cluster.apiserver import ApiServer
from tests.cluster.kubernetes import make_pod, run_pod

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]

# As small as the API server takes it: what is in it is the parser's business.
ROUTES = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: virtualservices.networking.istio.io}
spec:
  group: networking.istio.io
  scope: Namespaced
  names: {plural: virtualservices, singular: virtualservice, kind: VirtualService, listKind: VirtualServiceList}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec: {hosts: [web], http: [{route: [{destination: {host: wbe}}]}]}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NAMESPACE}
spec: {selector: {app: SELECTED}, ports: [{name: http, port: 80, targetPort: 8080}]}
"""


def analyze(kubeconfig: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "culvert", "analyze", "--kubeconfig", str(kubeconfig), *options]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


def found(kubeconfig: Path, *options: str) -> list[tuple[str, str]]:
    done = analyze(kubeconfig, "-o", "json", *options)
    assert done.returncode in (0, 1), done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return [(entry["code"], entry["object"]) for entry in document["findings"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With a CRD of its own, which is not the one that other tests want."""
    with apiserver.running(tmp_path_factory.mktemp("apiserver")) as running:
        running.apply(ROUTES)
        running.kubectl("wait", "--for=condition=Established", "crd/virtualservices.networking.istio.io")
        yield running


@pytest.fixture
def shop(server: ApiServer) -> str:
    """A namespace with a pod, a Service that does not select it, and a route that leads nowhere."""
    namespace = server.make_namespace()
    make_pod(server, namespace, "web-1")
    run_pod(server, namespace, "web-1", "10.1.2.3")
    server.apply(SERVICE.replace("NAMESPACE", namespace).replace("SELECTED", "other"))
    server.kubectl("apply", "-n", namespace, "-f", "-", stdin=ROUTE)
    return namespace


def test_a_cluster_and_files_over_it(server: ApiServer, shop: str, tmp_path: Path) -> None:
    assert found(server.kubeconfig, "-n", shop) == [
        ("CV0201", f"Service {shop}/web"),
        ("CV0501", f"VirtualService {shop}/web"),
        ("CV0512", f"VirtualService {shop}/web"),
    ]
    mended = tmp_path / "web.yaml"
    mended.write_text(SERVICE.replace("NAMESPACE", shop).replace("SELECTED", "x"))
    document = json.loads(analyze(server.kubeconfig, "-o", "json", "-f", str(mended)).stdout)
    assert document["findings"] == []
    assert [(entry["code"], entry["object"]) for entry in document["mended"]] == [("CV0201", f"Service {shop}/web")]


def test_who_may_not_list_is_told_what_is_missing(server: ApiServer, shop: str) -> None:
    server.make_account(shop, "reader")
    done = analyze(server.kubeconfig_for(shop, "reader"))
    assert done.returncode == 2
    assert "permission is missing: the role needs the verb 'list' on 'namespaces'" in done.stderr


def test_a_server_that_is_not_there(server: ApiServer) -> None:
    done = analyze(server.admin_kubeconfig("https://127.0.0.1:1"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
