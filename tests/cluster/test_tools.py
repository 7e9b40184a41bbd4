"""The programs that `make tools` built are of the versions that are pinned, and start."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import tools

pytestmark = pytest.mark.cluster

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PINS = Path(__file__).parents[1] / "tools"
PROGRAMS = [
    ("kubernetes", "k8s.io/kubernetes", ["kube-apiserver", "--version"]),
    ("kubernetes", "k8s.io/kubernetes", ["kube-controller-manager", "--version"]),
    ("kubernetes", "k8s.io/kubernetes", ["kube-scheduler", "--version"]),
    ("kubernetes", "k8s.io/kubernetes", ["kube-proxy", "--version"]),
    ("kubernetes", "k8s.io/kubernetes", ["kubelet", "--version"]),
    ("kubernetes", "k8s.io/kubernetes", ["kubectl", "version", "--client"]),
    ("etcd", "go.etcd.io/etcd/server/v3", ["etcd", "--version"]),
    ("containerd", "github.com/containerd/containerd/v2", ["containerd", "--version"]),
    ("containerd", "github.com/containerd/containerd/v2", ["containerd-shim-runc-v2", "-v"]),
    ("containerd", "github.com/containerd/containerd/v2", ["ctr", "--version"]),
    ("consul", "github.com/hashicorp/consul", ["consul", "version"]),
]


def pinned(wrapper: str, module: str) -> str:
    """Without the `v`."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} v(\S+)", (PINS / wrapper / "go.mod").read_text(), re.M)
    assert found is not None
    return found[1]


def said(name: str, *arguments: str) -> str:
    done = subprocess.run([tools.find(name), *arguments], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(("wrapper", "module", "command"), PROGRAMS, ids=[command[0] for _, _, command in PROGRAMS])
def test_a_program_is_of_the_pinned_version(wrapper: str, module: str, command: list[str]) -> None:
    assert re.search(rf"\bv?{re.escape(pinned(wrapper, module))}\b", said(*command))


def test_helm_tells_its_minor_version() -> None:
    minor = pinned("helm", "helm.sh/helm/v3").rpartition(".")[0]
    assert f'Version:"v{minor}"' in said("helm", "version")


def test_grpcurl_asks_the_control_plane_of_its_bootstrap() -> None:
    """One without an xDS client would look up a host of that name, and never come here."""
    with socket.create_server(("127.0.0.1", 0)) as control_plane:
        control_plane.settimeout(20)
        server = {"server_uri": f"127.0.0.1:{control_plane.getsockname()[1]}", "channel_creds": [{"type": "insecure"}]}
        bootstrap = json.dumps({"xds_servers": [server], "node": {"id": "test"}})
        command = [str(tools.find("grpcurl")), "-plaintext", "-connect-timeout=20", "xds:///nobody:1", "list"]
        client = subprocess.Popen(command, env=os.environ | {"GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap}, stderr=subprocess.DEVNULL)
        try:
            connection, _ = control_plane.accept()
            with connection:
                assert connection.recv(len(HTTP2_PREFACE), socket.MSG_WAITALL) == HTTP2_PREFACE
        finally:
            client.kill()
            client.wait()


def test_grpc_for_node_has_its_xds_client() -> None:
    folder = tools.find("grpc-js")
    script = "const xds = require('@grpc/grpc-js-xds'); require('@grpc/grpc-js'); xds.register(); console.log('registered')"
    done = subprocess.run([tools.find("node"), "-e", script], cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.strip() == "registered", done.stderr


def test_without_the_tools_the_tier_fails_and_says_what_to_run(tmp_path: Path) -> None:
    """It is never skipped: a tier that did not run must not look like one that passed."""
    one = f"{Path(__file__).with_name('test_harness.py')}::test_tokens_are_good_for_their_audience_only"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", one]
    environment = os.environ | {tools.VARIABLE: str(tmp_path)}
    done = subprocess.run(command, cwd=PINS.parents[1], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"etcd is not built in {tmp_path}: make tools" in done.stdout
    assert "1 error" in done.stdout
    assert "skipped" not in done.stdout
