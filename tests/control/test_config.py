"""The environment of the control plane, and what the process does with a bad one."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from control.config import from_environment
from mesh.model.errors import ConfigError

GOOD = {"CULVERT_MANIFESTS": "/a:/b", "CULVERT_CA_DIR": "/ca", "CULVERT_NODE_TOKENS": "/tokens"}


def test_defaults() -> None:
    config = from_environment(GOOD)
    assert config.manifests == (Path("/a"), Path("/b"))
    assert (config.xds_address, config.xds_plaintext, config.http_address) == ("[::]:15012", "127.0.0.1:15010", ":15014")
    assert (config.server_names, config.root_namespace) == (("istiod.istio-system.svc",), "istio-system")
    assert (config.trust_domain, config.cert_ttl, config.cluster) == ("cluster.local", 86400, "Kubernetes")


def test_everything_can_be_told() -> None:
    config = from_environment(
        {
            **GOOD,
            "CULVERT_XDS_ADDRESS": "",
            "CULVERT_XDS_PLAINTEXT": "[::1]:1",
            "CULVERT_SERVER_NAMES": "a.b,10.0.0.1",
            "CULVERT_CERT_TTL": "20",
            "CULVERT_TRUST_DOMAIN": "example.org",
            "CULVERT_ROOT_NAMESPACE": "mesh",
            "CLUSTER_ID": "east",
            "CULVERT_CA_MOUNT": "/etc/cacerts",
            "CULVERT_INTERMEDIATE_TTL": "3600",
        }
    )
    assert (config.ca_mount, config.intermediate_ttl) == (Path("/etc/cacerts"), 3600)
    assert (config.xds_address, config.xds_plaintext, config.server_names) == ("", "[::1]:1", ("a.b", "10.0.0.1"))
    assert (config.cert_ttl, config.trust_domain, config.root_namespace, config.cluster) == (20, "example.org", "mesh", "east")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CULVERT_MANIFESTS", ""),
        ("CULVERT_CA_DIR", ""),
        ("CULVERT_NODE_TOKENS", ""),
        ("CULVERT_XDS_ADDRESS", "15012"),
        ("CULVERT_HTTP_ADDRESS", "localhost"),
        ("CULVERT_XDS_PLAINTEXT", "0.0.0.0:15010"),
        ("CULVERT_XDS_PLAINTEXT", "127.evil.example:15010"),
        ("CULVERT_CERT_TTL", "0"),
        ("CULVERT_CERT_TTL", "1d"),
        ("CULVERT_CERT_TTL", "99999999"),
        ("CULVERT_INTERMEDIATE_TTL", "59"),
        ("CULVERT_INTERMEDIATE_TTL", "1y"),
        ("CULVERT_TRUST_DOMAIN", "a/b"),
        ("CULVERT_ROOT_NAMESPACE", "A"),
        ("CULVERT_SERVER_NAMES", ","),
    ],
)
def test_what_is_not_accepted_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_environment({**GOOD, name: value})
    assert [refusal.field for refusal in caught.value.refusals] == [name]


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="nobody here may dump")
def test_a_crash_leaves_no_keys_on_a_disk(tmp_path: Path) -> None:
    for name in ("manifests", "tokens"):
        (tmp_path / name).mkdir()
    env = {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "CULVERT_MANIFESTS": str(tmp_path / "manifests"),
        "CULVERT_NODE_TOKENS": str(tmp_path / "tokens"),
        "CULVERT_CA_DIR": str(tmp_path / "ca"),
        "CULVERT_XDS_ADDRESS": "127.0.0.1:0",
        "CULVERT_XDS_PLAINTEXT": "",
        "CULVERT_HTTP_ADDRESS": "127.0.0.1:0",
    }
    limit = resource.getrlimit(resource.RLIMIT_CORE)[1]

    def may_dump() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
        signal.signal(signal.SIGABRT, signal.SIG_DFL)  # whoever runs the tests may ignore it, which is inherited

    with subprocess.Popen(
        [sys.executable, "-m", "control"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=may_dump,
    ) as process:
        assert process.stdout is not None
        assert any("listening" in line for line in process.stdout)  # it has made its keys
        process.send_signal(signal.SIGABRT)
        _, status = os.waitpid(process.pid, 0)
        process.returncode = -os.WTERMSIG(status)
    assert process.returncode == -signal.SIGABRT
    assert not os.WCOREDUMP(status)


def test_the_process_refuses_a_ca_that_it_cannot_use(tmp_path: Path) -> None:
    for name in ("manifests", "tokens", "mount"):
        (tmp_path / name).mkdir()
    (tmp_path / "mount" / "tls.crt").write_text("hello")
    env = {
        "CULVERT_MANIFESTS": str(tmp_path / "manifests"),
        "CULVERT_NODE_TOKENS": str(tmp_path / "tokens"),
        "CULVERT_CA_DIR": str(tmp_path / "ca"),
        "CULVERT_CA_MOUNT": str(tmp_path / "mount"),
        "CULVERT_XDS_ADDRESS": "127.0.0.1:0",
        "CULVERT_XDS_PLAINTEXT": "",
        "CULVERT_HTTP_ADDRESS": "127.0.0.1:0",
    }
    done = subprocess.run([sys.executable, "-m", "control"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"culvert control: {tmp_path}/mount/tls.key: No such file or directory is not accepted")
    assert "Traceback" not in done.stderr


def test_the_process_says_what_is_wrong_and_ends() -> None:
    done = subprocess.run([sys.executable, "-m", "control"], env={"CULVERT_CERT_TTL": "x"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert [line.split(": ")[2] for line in done.stderr.removeprefix("culvert control: ").splitlines()[:1]] == [
        "'' is not accepted; accepted"
    ]
    for name in ("CULVERT_MANIFESTS", "CULVERT_CA_DIR", "CULVERT_NODE_TOKENS", "CULVERT_CERT_TTL"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr
