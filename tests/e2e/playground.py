"""A playground under test: started and ended through the command line, as a user would, and asked through its JSON output."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CONVERSATIONS = Path(__file__).with_name("conversations.py")
AMBIENT = {"istio.io/dataplane-mode": "ambient"}


class Playground:
    """One playground by name. Every call is the `culvert` command in a process of its own."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory

    def culvert(self, *arguments: str, timeout: float = 60, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "culvert", *arguments, "--name", self.name]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def up(self, *arguments: str, **environment: str) -> None:
        self.culvert("up", "-f", str(self.directory), "--nodes", "2", *arguments, timeout=120, **environment)

    def down(self) -> None:
        self.culvert("down", timeout=60)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        path = self.directory.parent / f"apply-{time.monotonic_ns()}.yaml"
        path.write_text(yaml.safe_dump_all(objects))
        self.culvert("apply", "-f", str(path))

    def delete(self, *objects: Mapping[str, Any]) -> None:
        path = self.directory.parent / f"delete-{time.monotonic_ns()}.yaml"
        path.write_text(yaml.safe_dump_all(objects))
        self.culvert("delete", "-f", str(path))

    def pods(self) -> dict[str, Any]:
        """Pods by name, as Kubernetes objects."""
        listed = json.loads(self.culvert("get", "pods", "-o", "json").stdout)
        return {pod["metadata"]["name"]: pod for pod in listed["items"]}

    def ips(self, pod: str) -> tuple[str, str]:
        """A pod's IPv4 and IPv6 address."""
        addresses = [entry["ip"] for entry in self.pods()[pod]["status"]["podIPs"]]
        return next(ip for ip in addresses if ":" not in ip), next(ip for ip in addresses if ":" in ip)

    def drive(self, pod: str, **command: Any) -> dict[str, Any]:
        """Let the client program in `pod` do something; its answer."""
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(150)
            channel.connect(str(self.drive_socket(pod)))
            channel.sendall(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(channel.makefile("rb").readline())
            return answer

    def drive_socket(self, pod: str) -> Path:
        return self.directory.parent / f"{pod}.sock"

    def access_log(self, node: str) -> Iterator[dict[str, Any]]:
        for line in self.culvert("logs", f"{node}.ztunnel").stdout.splitlines():
            if line.startswith("{"):
                entry = json.loads(line)
                if entry.get("scope") == "access":
                    yield entry


def eventually(what: str, question: Callable[[], Any], seconds: float = 20) -> Any:
    """Ask until the answer is true; the mesh is eventually consistent by design, and each of these waits has a bound."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)
    return answer


def namespace(name: str, *, ambient: bool) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if ambient:
        metadata["labels"] = dict(AMBIENT)
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def service_account(name: str, ns: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": ns}}


def pod(name: str, ns: str, node: str, command: list[str], *, account: str = "default", port: int | None = None) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "image": "localhost/none", "command": command}
    if port:
        container["readinessProbe"] = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": ns, "labels": {"app": name}},
        "spec": {"serviceAccountName": account, "nodeName": node, "containers": [container]},
    }


def strict(ns: str, app: str = "") -> dict[str, Any]:
    """For the whole namespace, or for one app in it."""
    spec: dict[str, Any] = {"mtls": {"mode": "STRICT"}}
    if app:
        spec["selector"] = {"matchLabels": {"app": app}}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": app or "default", "namespace": ns},
        "spec": spec,
    }
