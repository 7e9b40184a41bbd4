"""A source over the fake cluster, and a sink that remembers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from control.keep import Book
from control.sources.kubernetes import KubernetesSource, Tuning
from mesh.model.manifest import Parsed
from tests.control.kube.fake import FakeCluster, Object

FAST = Tuning(first_wait=0.001, most_wait=0.002, pause=0.0, healthy=0.0, discovery=0.02, resync=0, kept_patience=0.05, set_back=0.05)
POLICY = "authorizationpolicies.security.istio.io"
SECONDS = 5.0


class Sink:
    """What was handed over, and the story of it."""

    def __init__(self) -> None:
        self.held: dict[str, Parsed] = {}
        self.recalled: dict[str, Parsed] = {}
        self.story: list[tuple[str, str]] = []
        self.states = 0

    def put(self, origin: str, parsed: Parsed) -> None:
        self.held[origin] = parsed
        self.story.append(("put", origin))

    def remove(self, origin: str) -> None:
        assert origin in self.held, f"{origin} was not there"
        del self.held[origin]
        self.story.append(("remove", origin))

    def recall(self, origin: str, parsed: Parsed) -> None:
        self.recalled[origin] = parsed

    def changed(self) -> None:
        self.states += 1

    def of(self, resource: str) -> list[str]:
        """Origins of one resource, without it."""
        return sorted(origin.partition("/")[2] for origin in self.held if origin.startswith(f"{resource}/"))

    def one(self, origin: str) -> Any:
        (found,) = self.held[origin].objects
        return found


class Meter:
    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], int] = {}

    def _count(self, *labels: str) -> None:
        self.counts[labels] = self.counts.get(labels, 0) + 1

    def event(self, core: bool, kind: str, event: str) -> None:
        self._count("reg" if core else "cfg", kind, event)

    def listed(self, kind: str, reason: str) -> None:
        self._count("listed", kind, reason)

    def failed(self, kind: str, reason: str) -> None:
        self._count("failed", kind, reason)

    def stale(self, kind: str) -> None:
        self._count("stale", kind)


class Rig:
    def __init__(self, cluster: FakeCluster, source: KubernetesSource, sink: Sink, meter: Meter) -> None:
        self.cluster, self.source, self.sink, self.meter = cluster, source, sink, meter

    async def synced(self) -> None:
        try:
            await eventually(lambda: self.source.state.synced and self.source.state.stale_since is None)
        except AssertionError:
            raise AssertionError(f"{self.source.state} {self.meter.counts}") from None

    async def agrees(self) -> None:
        """The sink holds what the cluster does."""

        def same() -> bool:
            for kind, resource in (("Namespace", "namespaces"), ("Pod", "pods"), ("Service", "services"), ("AuthorizationPolicy", POLICY)):
                names = sorted("/".join(part for part in key if part) for key in map(_key, self.cluster.all(kind)))
                if self.sink.of(resource) != names:
                    return False
            return True

        await eventually(same)


def _key(value: Object) -> tuple[str, str]:
    return value["metadata"].get("namespace", ""), value["metadata"]["name"]


@contextlib.asynccontextmanager
async def running(cluster: FakeCluster, tmp_path: Path, tuning: Tuning = FAST, book: Book | None = None) -> AsyncIterator[Rig]:
    api = cluster.api(tmp_path)
    sink, meter = Sink(), Meter()
    source = KubernetesSource(api, meter=meter, tuning=tuning, book=book)
    task = asyncio.create_task(source.run(sink))
    try:
        yield Rig(cluster, source, sink, meter)
    finally:
        failed = task.done()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        assert not failed, "the source ended by itself"
        await api.close()


async def eventually(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it never came to be"
        await asyncio.sleep(0.001)


def namespace(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(name: str, ip: str = "10.0.0.1", namespace: str = "shop", **labels: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {"app": "web"}},
        "spec": {"nodeName": "n1", "serviceAccountName": "web", "containers": [{"name": "c", "ports": [{"containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]},
    }


def policy(name: str, action: str = "DENY", namespace: str = "shop", version: str = "v1") -> Object:
    return {
        "apiVersion": f"security.istio.io/{version}",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"action": action, "rules": [{}]},
    }
