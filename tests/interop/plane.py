"""Our control plane, whole, in a thread of this process, for clients that are programs of others."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from control.app import ControlPlane
from control.config import Config
from control.sources import Feed
from tests.control.plane import TOKENS

T = TypeVar("T")
SERVER_NAME = "istiod.istio-system.svc"
WAYPOINT = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: waypoint, namespace: shop}
spec: {clusterIP: 10.96.0.9, ports: [{port: 15008, name: hbone}]}
"""
"""One of namespace shop, which nobody runs: a client is to leave for it, or not."""


@dataclass
class Running:
    """`put` writes a manifest and returns when clients are served what follows from it."""

    plane: ControlPlane
    manifests: Path
    loop: asyncio.AbstractEventLoop
    token: Path
    roots: Path

    @property
    def plaintext(self) -> int:
        return self.plane.ports["plaintext"]

    @property
    def port(self) -> int:
        return self.plane.ports["xds"]

    def call(self, coroutine: Coroutine[Any, Any, T], seconds: float = 20) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)

    def put(self, **files: str) -> None:
        """By a name without suffix. An empty text removes the file."""

        def write() -> None:
            for name, text in files.items():
                path = self.manifests / f"{name}.yaml"
                if text:
                    (self.manifests / f".{name}").write_text(text)
                    (self.manifests / f".{name}").rename(path)
                else:
                    path.unlink()

        self.published(write)

    def published(self, change: Callable[[], None]) -> None:
        """Make a change on the loop, and wait until clients are served what follows from it."""

        async def changed() -> None:
            done = asyncio.Event()
            self.plane.pipeline.published = lambda changes: done.set()
            change()
            async with asyncio.timeout(15):
                await done.wait()

        self.call(changed())

    def clients(self) -> list[dict[str, Any]]:
        async def found() -> list[dict[str, Any]]:
            return self.plane.xds.debug()

        return self.call(found())

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.plane.ports['http']}{path}", timeout=10) as reply:
            return json.loads(reply.read())


@contextmanager
def running(directory: Path, files: Mapping[str, str], sources: Sequence[Feed] | None = None, **settings: Any) -> Iterator[Running]:
    """With these manifests, or instead of them these sources, as soon as clients may come. `settings` are fields of its configuration."""
    manifests, tokens = directory / "manifests", directory / "tokens"
    for path in (manifests, tokens):
        path.mkdir(parents=True)
    for node, token in TOKENS.items():
        (tokens / node).write_text(token)
        (tokens / node).chmod(0o600)
    for name, text in files.items():
        (manifests / f"{name}.yaml").write_text(text)
    config = Config(
        manifests=(manifests,),
        ca_dir=directory / "ca",
        node_tokens=tokens,
        xds_address="127.0.0.1:0",
        xds_plaintext="127.0.0.1:0",
        http_address="127.0.0.1:0",
        server_names=(SERVER_NAME,),
        **settings,
    )
    started = threading.Event()
    found: list[Any] = []

    async def main() -> None:
        plane = ControlPlane(config, sources)
        published = asyncio.Event()
        plane.pipeline.published = lambda changes: published.set()
        await plane.start()
        task = asyncio.create_task(plane.run())
        try:
            async with asyncio.timeout(15):
                await published.wait()
            found.extend((plane, asyncio.get_running_loop()))
            started.set()
            await task
        finally:
            await plane.close()

    thread = threading.Thread(target=lambda: _quietly(lambda: asyncio.run(main()), started), daemon=True)
    thread.start()
    assert started.wait(20)
    assert found, "the control plane did not start"
    plane, loop = found
    try:
        yield Running(plane, manifests, loop, tokens / "n1", directory / "ca" / "root-cert.pem")
    finally:
        loop.call_soon_threadsafe(plane.stop)
        thread.join(15)
        assert not thread.is_alive()


def _quietly(run: Callable[[], None], started: threading.Event) -> None:
    try:
        run()
    finally:
        started.set()


def pod(
    name: str, address: str, *, labels: str, namespace: str = "shop", node: str = "n1", account: str = "default", annotations: str = ""
) -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}, annotations: {{{annotations}}}}}
spec: {{nodeName: {node}, serviceAccountName: {account}, containers: [{{name: c, image: x}}]}}
status: {{phase: Running, podIPs: [{{ip: {address}}}], conditions: [{{type: Ready, status: "True"}}]}}
---
"""
