"""A private etcd. It listens on loopback without TLS, and does not fsync: what is kept has to outlive its process, not the machine."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster import ports, tools
from tests.cluster.processes import Program, accepts

START_SECONDS = 30.0
STOP_SECONDS = 0.5
MARK = base64.b64encode(b"/tests/compaction").decode()


class Etcd:
    """`inside` is a command that enters a network namespace, in which it listens on `host`, as seen from here."""

    def __init__(self, directory: Path, host: str = "127.0.0.1", inside: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._ports = [ports.take(), ports.take()]
        client, peer = (port.number for port in self._ports)
        self._host, self._port = host, client
        self.url = f"http://{host}:{client}"
        self.program = Program(
            "etcd",
            [
                *inside,
                tools.find("etcd"),
                f"--data-dir={directory / 'data'}",
                f"--listen-client-urls={self.url}",
                f"--advertise-client-urls={self.url}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster=default=http://127.0.0.1:{peer}",
                "--unsafe-no-fsync",
                "--heartbeat-interval=10",
                "--election-timeout=100",
                "--log-level=warn",
            ],
            directory / "etcd.log",
        )

    def start(self) -> None:
        self.program.start()
        self.program.wait_until("etcd to be healthy", self._healthy, START_SECONDS)

    def stop(self) -> None:
        # Asked to end, it waits 7 s for the API server's watches, which never end by themselves.
        self.program.stop(grace=STOP_SECONDS)

    def kill(self) -> None:
        self.program.kill()

    def restart(self) -> None:
        """The same data on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        for port in self._ports:
            port.release()

    def call(self, path: str, **body: Any) -> dict[str, Any]:
        """etcd's gRPC API through its JSON gateway: keys and values are base64."""
        request = urllib.request.Request(f"{self.url}/v3/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def compact(self) -> int:
        """Forget every revision but the current one, which is returned: who asks for changes since an older one is told that it is gone.

        A write comes first, so that no client can be at the current revision already.
        """
        revision = int(self.call("kv/put", key=MARK, value=MARK)["header"]["revision"])
        self.call("kv/compaction", revision=revision, physical=True)
        return revision

    def _healthy(self) -> bool:
        if not accepts(self._port, self._host):
            return False
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as response:
                return bool(json.load(response)["health"] == "true")
        except OSError:
            return False
