"""Envoy as a peer of the whole mesh: kernel capture, node tunnel, control plane and policy on our side, Envoy alone on the other.

outside: curl ─▶ Envoy (identity `envoy`) ══ HBONE ══▶ our node tunnel ─▶ server
caller: curl ─▶ [captured] our node tunnel ══ HBONE ══▶ Envoy in pod `native`, which says that it speaks HBONE itself ─▶ its app
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.l4 import certificates, configs
from control.ca.directory import DirectoryStore
from tests.control.ca.support import authority_of
from tests.e2e.playground import Playground, eventually, namespace, pod, service_account
from tests.interop import envoy

pytestmark = [
    pytest.mark.interop,
    pytest.mark.e2e,
    pytest.mark.netns,
    pytest.mark.skipif(envoy.binary() is None, reason="Envoy is not installed: make envoy"),
]

SPACE = "interop"
PORT, LOCAL, TUNNEL = 8080, 9000, 15008
SERVE = ["python3", "-m", "http.server", str(PORT), "--bind", "0.0.0.0", "--directory", "/usr/share/common-licenses"]
WORDS = "GNU GENERAL PUBLIC LICENSE"
SLEEP = ["sleep", "infinity"]


def spiffe(account: str, domain: str = "cluster.local") -> str:
    return f"spiffe://{domain}/ns/{SPACE}/sa/{account}"


@dataclass
class Mesh:
    playground: Playground
    scratch: Path

    @property
    def state(self) -> Path:
        return Path("/run/culvert") / self.playground.name

    def netns(self, name: str) -> str:
        (found,) = [entry["netns"] for entry in json.loads((self.state / "status.json").read_text())["pods"] if entry["name"] == name]
        return str(found)

    def certificate(self, side: str, uri: str) -> None:
        """A leaf of the mesh's own CA and what is between it and the root, as files for Envoy."""
        identity = envoy.identity(uri)
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        kept = DirectoryStore(self.state / "ca").read()
        assert kept is not None
        chain = authority_of(kept.state).sign(request.public_bytes(serialization.Encoding.PEM).decode(), identity, 3600, 3600).chain
        assert len(chain) == 3
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.scratch / f"{side}.pem").write_text("".join(chain[:-1]))
        (self.scratch / f"{side}.key").write_bytes(private)
        (self.scratch / certificates.ROOT).write_text(chain[-1])

    def get(self, name: str, url: str) -> str:
        """What curl gets in a pod; "" if it is refused."""
        command = ["nsenter", f"--net=/run/netns/{self.netns(name)}", "--", "curl", "-s", "-m", "5", url]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def log_size(self, node: str) -> int:
        return (self.state / f"logs/{node}.ztunnel.log").stat().st_size

    def access(self, node: str, since: int, *, sent: int = 0, **wanted: str) -> dict[str, Any]:
        """The first access-log line of a node's tunnel after `since` with these fields (`_` for `.`) and at least so many bytes sent."""
        fields = {key.replace("_", ".", 1): value for key, value in wanted.items()}

        def find() -> dict[str, Any] | None:
            with (self.state / f"logs/{node}.ztunnel.log").open() as file:
                file.seek(since)
                entries = [json.loads(line) for line in file if line.startswith("{") and line.endswith("\n")]
            return next((entry for entry in entries if fields.items() <= entry.items() and entry.get("bytes_sent", 0) >= sent), None)

        found: dict[str, Any] = eventually(f"a line on {node} with {fields}", find)
        return found


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    base = tmp_path_factory.mktemp("interop")
    directory = base / "manifests"
    directory.mkdir()
    native = pod("native", SPACE, "node-2", SERVE, account="native", port=PORT)
    native["metadata"]["labels"] |= {"networking.istio.io/tunnel": "http", "istio.io/dataplane-mode": "none"}
    objects = [
        namespace(SPACE, ambient=True),
        namespace("plain", ambient=False),
        *(service_account(name, SPACE) for name in ("server", "caller", "native", "envoy")),
        pod("server", SPACE, "node-2", SERVE, account="server", port=PORT),
        pod("caller", SPACE, "node-1", SLEEP, account="caller"),
        native,
        pod("outside", "plain", "node-1", SLEEP),
    ]
    (directory / "all.yaml").write_text(yaml.safe_dump_all(objects))
    playground = Playground(f"interop{os.getpid()}", directory)
    mesh = Mesh(playground, base)
    try:
        playground.up()
        server = playground.ips("server")[0]
        eventually("the caller reaches the server through the mesh", lambda: meshed(mesh, server), 30)
        yield mesh
    finally:
        playground.down()


def meshed(mesh: Mesh, server: str) -> bool:
    since = mesh.log_size("node-2")
    if WORDS not in mesh.get("caller", f"http://{server}:{PORT}/GPL-3"):
        return False
    return spiffe("caller").encode() in (mesh.state / "logs/node-2.ztunnel.log").read_bytes()[since:]


@contextmanager
def envoy_client(mesh: Mesh, uri: str) -> Iterator[str]:
    """Envoy beside the pod `outside`, tunnelling to `server` with the identity `uri`; yields the URL that a program there uses."""
    server = mesh.playground.ips("server")[0]
    mesh.certificate("a", uri)
    config = configs.envoy_a(mesh.scratch, server, {PORT: LOCAL}, TUNNEL, spiffe("server"))
    with envoy.running(mesh.scratch, config, LOCAL, netns=mesh.netns("outside")):
        yield f"http://127.0.0.1:{LOCAL}/GPL-3"


@contextmanager
def envoy_server(mesh: Mesh, uri: str) -> Iterator[str]:
    """Envoy as the tunnel of the pod `native`, with the identity `uri`; yields the URL of the pod's app."""
    address = mesh.playground.ips("native")[0]
    mesh.certificate("b", uri)
    with envoy.running(mesh.scratch, configs.envoy_b(mesh.scratch, address, {PORT: 0}, TUNNEL), TUNNEL, address, mesh.netns("native")):
        yield f"http://{address}:{PORT}/GPL-3"


def test_envoy_as_client_is_known_by_its_certificate(mesh: Mesh) -> None:
    since = mesh.log_size("node-2")
    with envoy_client(mesh, spiffe("envoy")) as url:
        assert WORDS in mesh.get("outside", url)
        # While Envoy lives: one that ends may cut a connection that is about to be closed.
        line = mesh.access("node-2", since, direction="inbound", reason="ok", src_identity=spiffe("envoy"), sent=30000)
    assert line["dst.workload"] == "server"


def test_policy_speaks_of_envoys_identity(mesh: Mesh) -> None:
    deny = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "not-envoy", "namespace": SPACE},
        "spec": {"action": "DENY", "rules": [{"from": [{"source": {"principals": [spiffe("envoy").removeprefix("spiffe://")]}}]}]},
    }
    with envoy_client(mesh, spiffe("envoy")) as url:
        assert WORDS in mesh.get("outside", url)
        since = mesh.log_size("node-2")
        mesh.playground.apply(deny)
        try:
            eventually("the policy is in force", lambda: WORDS not in mesh.get("outside", url))
            line = mesh.access("node-2", since, reason="policy_deny", src_identity=spiffe("envoy"))
            assert f"{SPACE}/not-envoy" in line["error"]
        finally:
            mesh.playground.delete(deny)
        eventually("the policy is gone", lambda: WORDS in mesh.get("outside", url))


def test_envoy_of_another_trust_domain_is_refused(mesh: Mesh) -> None:
    with envoy_client(mesh, spiffe("envoy", "elsewhere.example")) as url:
        since = mesh.log_size("node-2")
        assert mesh.get("outside", url) in ("", "upstream connect error or disconnect/reset before headers")
    mesh.access("node-2", since, reason="wrong_trust_domain")


def test_envoy_as_server_of_a_pod_that_speaks_hbone(mesh: Mesh) -> None:
    since = mesh.log_size("node-1")
    with envoy_server(mesh, spiffe("native")) as url:
        assert WORDS in mesh.get("caller", url)
        line = mesh.access("node-1", since, direction="outbound", reason="ok", dst_identity=spiffe("native"))
    assert line["src.identity"] == spiffe("caller")
    assert line["dst.hbone_addr"].endswith(f":{PORT}")


def test_envoy_with_the_wrong_certificate_is_refused(mesh: Mesh) -> None:
    since = mesh.log_size("node-1")
    with envoy_server(mesh, spiffe("somebody-else")) as url:
        assert mesh.get("caller", url) == ""
    line = mesh.access("node-1", since, direction="outbound", reason="identity_mismatch")
    assert spiffe("native") in line["error"]
