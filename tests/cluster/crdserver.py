"""An etcd and an API server of this test's own, on loopback, without nodes or controllers."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

START_SECONDS = 60.0
PR_SET_PDEATHSIG = 1


class Server:
    def __init__(self, directory: Path, url: str, token: str) -> None:
        self._directory = directory
        self._config = directory / "kubeconfig"
        self._config.write_text(
            f"""\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{url}", certificate-authority: {directory}/api.crt}}}}]
users: [{{name: a, user: {{token: {token}}}}}]
contexts: [{{name: c, context: {{cluster: c, user: a}}}}]
current-context: c
"""
        )

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """Standard output. A failure is an AssertionError with kubectl's own words, or, without `check`, what it wrote on both outputs."""
        command = [str(find("kubectl")), f"--cache-dir={self._directory / 'kubectl'}", *arguments]
        environment = {**os.environ, "KUBECONFIG": str(self._config)}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, env=environment, check=False)
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
            return done.stdout
        return done.stdout + done.stderr


def find(name: str) -> Path:
    directory = Path(os.environ.get("CULVERT_TOOLS") or "~/.cache/culvert/tools").expanduser()
    if not (directory / name).exists():
        pytest.fail(f"{name} is not built in {directory}: make tools", pytrace=False)
    return directory / name


@contextmanager
def running(directory: Path) -> Iterator[Server]:
    with ExitStack() as stack:
        client, peer, secure = _free_ports(3)
        token = secrets.token_hex(16)
        _certificate(directory)
        (directory / "tokens.csv").write_text(f"{token},admin,1,system:masters\n")
        etcd = f"http://127.0.0.1:{client}"
        stack.enter_context(
            _program(
                directory,
                "etcd",
                *("--data-dir", str(directory / "etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd),
                *("--listen-peer-urls", f"http://127.0.0.1:{peer}", "--unsafe-no-fsync", "--log-level", "warn"),
            )
        )
        stack.enter_context(
            _program(
                directory,
                "kube-apiserver",
                *("--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", str(secure)),
                *("--tls-cert-file", f"{directory}/api.crt", "--tls-private-key-file", f"{directory}/api.key"),
                *("--token-auth-file", f"{directory}/tokens.csv", "--authorization-mode", "RBAC", "--endpoint-reconciler-type", "none"),
                *("--service-account-key-file", f"{directory}/api.key", "--service-account-signing-key-file", f"{directory}/api.key"),
                *("--service-account-issuer", "https://kubernetes.default.svc", "--service-cluster-ip-range", "10.96.0.0/16"),
                *("--disable-admission-plugins", "ServiceAccount"),
            )
        )
        server = Server(directory, f"https://127.0.0.1:{secure}", token)
        deadline = time.monotonic() + START_SECONDS
        while server.kubectl("get", "--raw", "/readyz", check=False) != "ok":
            assert time.monotonic() < deadline, (directory / "kube-apiserver.log").read_text()[-2000:]
            time.sleep(0.2)
        yield server


@contextmanager
def _program(directory: Path, name: str, *arguments: str) -> Iterator[None]:
    """Dies with this process, whatever that dies of."""
    libc = ctypes.CDLL(None)
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(find(name)), *arguments], stdout=log, stderr=log, preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _certificate(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kube-apiserver")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    (directory / "api.key").touch(0o600)
    (directory / "api.key").write_bytes(private)
    (directory / "api.crt").write_bytes(made.public_bytes(Encoding.PEM))
