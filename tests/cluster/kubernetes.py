"""The Kubernetes source beside a test: on a thread and a loop of its own, so that a test may stop servers while it goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from control.keep import Keeper
from control.kube.access import Access
from control.kube.client import Api
from control.sources.kubernetes import KubernetesSource, Tuning
from mesh.model.manifest import Parsed
from tests.cluster.apiserver import ApiServer
from tests.cluster.processes import eventually

QUICK = Tuning(first_wait=0.05, most_wait=1.0, discovery=1.5, kept_patience=1.0)
CRDS = Path(__file__).parents[2] / "deploy" / "crds"
T = TypeVar("T")

# What is compared between server and sink: resource → path.
WATCHED = {
    "namespaces": "/api/v1/namespaces",
    "pods": "/api/v1/pods",
    "services": "/api/v1/services",
    "serviceaccounts": "/api/v1/serviceaccounts",
    "endpointslices.discovery.k8s.io": "/apis/discovery.k8s.io/v1/endpointslices",
}


class Sink:
    """What was handed over. Written on the source's thread, read on the test's."""

    def __init__(self) -> None:
        self.held: dict[str, Parsed] = {}
        self.story: list[tuple[str, str]] = []

    def put(self, origin: str, parsed: Parsed) -> None:
        self.held[origin] = parsed
        self.story.append(("put", origin))

    def remove(self, origin: str) -> None:
        del self.held[origin]
        self.story.append(("remove", origin))

    def recall(self, origin: str, parsed: Parsed) -> None: ...

    def changed(self) -> None: ...

    def of(self, resource: str) -> set[str]:
        return {origin.partition("/")[2] for origin in list(self.held) if origin.startswith(f"{resource}/")}


class Meter:
    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], int] = {}

    def _count(self, *labels: str) -> None:
        self.counts[labels] = self.counts.get(labels, 0) + 1

    def event(self, core: bool, kind: str, event: str) -> None:
        self._count("event", kind, event)

    def listed(self, kind: str, reason: str) -> None:
        self._count("listed", kind, reason)

    def failed(self, kind: str, reason: str) -> None:
        self._count("failed", kind, reason)

    def stale(self, kind: str) -> None:
        self._count("stale", kind)

    def total(self, *labels: str) -> int:
        return sum(
            count for found, count in list(self.counts.items()) if all(one in ("", other) for one, other in zip(labels, found, strict=True))
        )


class Background:
    """A loop on a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="control plane", daemon=True)
        self._tasks: list[asyncio.Task[Any]] = []
        self._apis: list[Api] = []

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for api in self._apis:
                await api.close()
            await self.loop.shutdown_default_executor()

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 60.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def connect(self, kubeconfig: Path) -> Api:
        """Closed when everything ends."""

        async def connect() -> Api:
            self._apis.append(Api(Access(kubeconfig)))
            return self._apis[-1]

        return self.run(connect())

    def call(self, what: Callable[..., T], *arguments: Any) -> T:
        """On the loop."""

        async def call() -> T:
            return what(*arguments)

        return self.run(call())

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        async def start() -> asyncio.Task[Any]:
            task = asyncio.ensure_future(work)
            self._tasks.append(task)
            return task

        return self.run(start())


class Follower(Background):
    """A source that runs. `keep`: a file for what it keeps."""

    def __init__(self, kubeconfig: Path, tuning: Tuning = QUICK, keep: Path | None = None) -> None:
        super().__init__()
        self.sink, self.meter = Sink(), Meter()
        self._kubeconfig, self._tuning, self._keep = kubeconfig, tuning, keep
        self.keeper: Keeper | None = None

    def __enter__(self) -> Follower:
        super().__enter__()
        self.api = self.connect(self._kubeconfig)
        self.run(self._make())
        self._task = self.start(self.source.run(self.sink))
        if self.keeper is not None:
            self.start(self.keeper.run())
        return self

    async def _make(self) -> None:
        if self._keep is not None:
            self.keeper = Keeper(self._keep)
            await self.keeper.open()
        book = self.keeper.book("kubernetes") if self.keeper is not None else None
        self.source = KubernetesSource(self.api, meter=self.meter, tuning=self._tuning, book=book)

    def __exit__(self, *details: object) -> None:
        ended = self._task.done()
        keeper = self.keeper

        async def close() -> None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            if keeper is not None:
                await keeper.close()

        self.run(close())
        super().__exit__(*details)
        assert not ended, "the source ended by itself"

    def synced(self, seconds: float = 30.0) -> None:
        self.eventually("the source to be in sync", lambda: self.source.state.synced and self.source.state.stale_since is None, seconds)

    def agrees(self, server: ApiServer, seconds: float = 30.0, **more: str) -> None:
        """The sink holds what the server does."""
        for resource, path in {**WATCHED, **more}.items():

            def same(resource: str = resource, path: str = path) -> bool:
                there = {
                    "/".join(filter(None, (one["metadata"].get("namespace"), one["metadata"]["name"]))) for one in server.api.items(path)
                }
                return self.sink.of(resource) == there

            self.eventually(f"the sink to hold the server's {resource}", same, seconds)

    def eventually(self, what: str, condition: Callable[[], object], seconds: float = 15.0) -> None:
        try:
            eventually(what, condition, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.source.state}\n{self.meter.counts}") from None

    def pod(self, origin: str) -> Any:
        (found,) = self.sink.held[f"pods/{origin}"].objects
        return found


def make_pod(server: ApiServer, namespace: str, name: str, node: str = "n1", account: str = "default") -> dict[str, Any]:
    """On a node, as if the scheduler had put it there."""
    containers = [{"name": "c", "image": "x", "ports": [{"containerPort": 8080}]}]
    spec = {"nodeName": node, "serviceAccountName": account, "containers": containers}
    made = {"metadata": {"name": name, "labels": {"app": "x"}}, "spec": spec}
    return server.api.post(f"/api/v1/namespaces/{namespace}/pods", made)


def run_pod(server: ApiServer, namespace: str, name: str, ip: str) -> None:
    """As a kubelet would report it."""
    status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]}
    server.api.patch(f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": status})


def delete_pod(server: ApiServer, namespace: str, name: str) -> None:
    """At once: no kubelet is there to end it."""
    server.api.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", {"gracePeriodSeconds": 0})


def crd(name: str, versions: tuple[str, ...] = (), storage: str = "v1", loose: bool = False) -> dict[str, Any]:
    """One of ours, as it is deployed; or with only some of its versions served; or, `loose`, with a schema that takes anything."""
    found: dict[str, Any] = yaml.load((CRDS / f"{name}.yaml").read_text(), yaml.CSafeLoader)
    for version in found["spec"]["versions"]:
        if versions:
            version["served"] = version["name"] in versions
            version["storage"] = version["name"] == storage
        if loose:
            version["schema"] = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return found


def establish(server: ApiServer, *crds: dict[str, Any]) -> None:
    """Apply CRDs, and wait until the server serves them."""
    server.apply(crds)
    names = [f"crd/{one['metadata']['name']}" for one in crds]
    retry(lambda: server.kubectl("wait", "--for=condition=Established", *names))


def retry(what: Callable[[], object], seconds: float = 20.0) -> None:
    """Servers that have just started, or just got a kind, say no for a moment."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            what()
            return
        except (AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def slow(tuning: Tuning = QUICK, **changes: Any) -> Tuning:
    return replace(tuning, **changes)
