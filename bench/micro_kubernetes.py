"""The Kubernetes source against a real API server: what a list costs, and what an event does.

    python -m bench.micro_kubernetes [--pods 10000] [--events 5000]

Makes a private etcd and API server (the tools of `make tools`), fills it with pods as controllers and kubelets would leave them, and
follows it with the source in a process of its own. Printed: seconds until in sync, resident memory before and after, CPU time for each
event. For profiling: run it alone, compare before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2

from mesh.io.loop import run
from tests.cluster import apiserver

NODES, NAMESPACES, DEPLOYMENTS = 200, 50, 1000
AT_ONCE = 48


def pod(number: int) -> dict[str, Any]:
    """As a ReplicaSet makes it, with what admission and users usually put in: 5 KB of JSON with managed fields."""
    app = number % DEPLOYMENTS
    env = [{"name": f"SETTING_{index}", "value": f"value of setting {index}"} for index in range(12)]
    return {
        "metadata": {
            "name": f"app-{app}-7d4b9c6f5-{number:05d}",
            "namespace": f"ns-{app % NAMESPACES}",
            "labels": {"app": f"app-{app}", "pod-template-hash": "7d4b9c6f5", "app.kubernetes.io/name": f"app-{app}", "version": "v1"},
            "annotations": {"ambient.istio.io/redirection": "enabled", "prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"app-{app}-7d4b9c6f5", "uid": f"rs-{app}", "controller": True}
            ],
        },
        "spec": {
            "nodeName": f"node-{number % NODES}",
            "serviceAccountName": "default",
            "containers": [
                {
                    "name": "main",
                    "image": f"registry.test/app-{app}:v1",
                    "ports": [{"containerPort": 8080, "name": "http"}, {"containerPort": 9090, "name": "metrics"}],
                    "env": env,
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }


def status(number: int, restarts: int = 0) -> dict[str, Any]:
    ip = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
    conditions = [{"type": type_, "status": "True"} for type_ in ("PodScheduled", "Initialized", "ContainersReady", "Ready")]
    container = {"name": "main", "image": "x", "imageID": "sha256:" + "0" * 64, "ready": True, "restartCount": restarts}
    return {"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions, "containerStatuses": [container]}}


def path(number: int, part: str = "") -> str:
    found = pod(number)["metadata"]
    return f"/api/v1/namespaces/{found['namespace']}/pods/{found['name']}{part}"


async def each(count: int, work: Any) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with slots:
            (await work(number)).raise_for_status()

    await asyncio.gather(*(one(number) for number in range(count)))


def client(server: apiserver.ApiServer) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {server.pki.admin_token}", "Accept-Encoding": "identity"}
    limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    verify = ssl.create_default_context(cafile=str(server.ca))
    return httpx2.AsyncClient(base_url=server.url, verify=verify, headers=headers, limits=limits, timeout=120)


async def fill(server: apiserver.ApiServer, pods: int) -> None:
    merge = {"Content-Type": "application/merge-patch+json"}
    async with client(server) as http:

        async def make(number: int) -> httpx2.Response:
            (await http.post(f"/api/v1/namespaces/{pod(number)['metadata']['namespace']}/pods", json=pod(number))).raise_for_status()
            return await http.patch(path(number, "/status"), json=status(number), headers=merge)

        await each(pods, make)


async def churn(server: apiserver.ApiServer, pods: int, events: int, restarts: int) -> None:
    """`restarts` 0: changes that resolution reads (the address); else those that it does not."""
    merge = {"Content-Type": "application/merge-patch+json"}
    async with client(server) as http:
        await each(
            events,
            lambda number: http.patch(path(number % pods, "/status"), json=status(number % pods + 1_000_000, restarts), headers=merge),
        )


# The process that follows


def resident() -> float:
    """MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def follow(kubeconfig: Path) -> None:
    """Says what it costs on standard output, as often as it is asked on standard input."""
    from control.kube.access import Access
    from control.kube.client import Api
    from control.sources.kubernetes import KubernetesSource

    class Sink:
        def __init__(self) -> None:
            self.held: dict[str, Any] = {}

        def put(self, origin: str, parsed: Any) -> None:
            self.held[origin] = parsed

        def remove(self, origin: str) -> None:
            del self.held[origin]

        def changed(self) -> None: ...

    class Meter:
        events = same = 0

        def event(self, core: bool, kind: str, event: str) -> None:
            self.events += 1
            self.same += event == "updatesame"

        def listed(self, kind: str, reason: str) -> None: ...
        def failed(self, kind: str, reason: str) -> None: ...
        def stale(self, kind: str) -> None: ...

    loop = asyncio.get_running_loop()
    lag = 0.0

    async def watch_lag() -> None:
        nonlocal lag
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            lag = max(lag, loop.time() - before - 0.005)

    gc.collect()
    before, begun, used = resident(), time.monotonic(), cpu()
    sink, meter = Sink(), Meter()
    source = KubernetesSource(Api(Access(kubeconfig)), meter=meter)
    tasks = [asyncio.create_task(source.run(sink)), asyncio.create_task(watch_lag())]
    while not source.state.synced:
        await asyncio.sleep(0.005)
    synced = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    gc.collect()
    first = {
        "seconds": synced,
        "cpu": cpu() - used,
        "before": before,
        "after": resident(),
        "peak": peak,
        "objects": len(sink.held),
        "lag": lag,
    }
    print(json.dumps(first), flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps({"cpu": cpu(), "events": meter.events, "same": meter.same, "lag": lag}), flush=True)
        lag = 0.0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def ask(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    found: dict[str, float] = json.loads(process.stdout.readline())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=5_000)
    parser.add_argument("--follow", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.follow:
        run(follow(arguments.follow))
        return
    with tempfile.TemporaryDirectory() as directory, apiserver.running(Path(directory), flags=["--max-requests-inflight=2000"]) as server:
        for number in range(NAMESPACES):
            server.make_namespace(f"ns-{number}")
        begun = time.monotonic()
        asyncio.run(fill(server, arguments.pods))
        size = len(json.dumps(server.get(path(0))))
        print(f"{arguments.pods} pods of {size / 1000:.1f} KB made in {time.monotonic() - begun:.0f} s")
        time.sleep(2)
        command = [sys.executable, "-m", "bench.micro_kubernetes", "--follow", str(server.kubeconfig)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = json.loads(process.stdout.readline())
            print(
                "in sync: {seconds:.1f} s, {cpu:.1f} s of CPU, {objects} objects; the loop was held up for {lag:.3f} s at most".format(
                    **first
                )
            )
            print("resident: {before:.0f} MB before, {after:.0f} MB after, {peak:.0f} MB at most".format(**first))
            time.sleep(2)
            for what, restarts in (("that are read", 0), ("that say nothing to us", 1)):
                before = ask(process)
                asyncio.run(churn(server, arguments.pods, arguments.events, restarts))
                time.sleep(1)
                after = ask(process)
                count = after["events"] - before["events"]
                each_one = (after["cpu"] - before["cpu"]) / max(count, 1) * 1e6
                same = after["same"] - before["same"]
                print(f"{count:.0f} events {what} ({same:.0f} without news): {each_one:.0f} µs of CPU each; held up {after['lag']:.3f} s")
            assert process.stdin is not None
            process.stdin.close()


if __name__ == "__main__":
    main()
