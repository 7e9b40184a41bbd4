"""Much of everything, and odd things, over the whole control plane: an API server in memory, real gRPC, a node's client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from control.app import ControlPlane
from control.sources.kubernetes import KubernetesSource
from mesh.model.codec.proto import AUTHORIZATION_TYPE
from tests.control.kube.fake import FakeCluster
from tests.control.kube.rig import FAST, namespace, pod, policy
from tests.control.plane import Plane, Stream, started

POLICIES = 5000
MORE = 120 << 20  # bytes that they may cost when they were read, resolved and sent, in this process, its client included


class Clustered(Plane):
    """With an API server beside the files."""

    def __init__(self, directory: Path, cluster: FakeCluster) -> None:
        super().__init__(directory)
        self.cluster = cluster
        self.api = cluster.api(directory)
        self.source = KubernetesSource(self.api, tuning=FAST)
        self.plane = ControlPlane(self.plane.config, [*self.plane.pipeline.sources, self.source])


@contextlib.asynccontextmanager
async def clustered(directory: Path, cluster: FakeCluster, **files: str) -> AsyncIterator[tuple[Clustered, Stream, dict[str, Any]]]:
    plane = Clustered(directory, cluster)
    for name, text in files.items():
        plane.write(f"{name}.yaml", text)
    try:
        async with started(plane), plane.channel([("grpc.max_receive_message_length", 64 << 20)]) as channel:
            stream = Stream(channel)
            yield plane, stream, await stream.start()
    finally:
        await plane.api.close()


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.serve("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies")
    made.put(namespace("shop", **{"istio.io/dataplane-mode": "ambient"}))
    made.put(pod("web"))
    return made


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())


def names(response: Any) -> set[str]:
    return {entry.name for entry in response.resources}


async def sent(stream: Stream, type_url: str, wanted: Callable[[Any], object]) -> Any:
    """The first response of a type that is as wanted; all are acknowledged."""
    while True:
        response = await stream.read(20)
        await stream.ack(response)
        if response.type_url == type_url and wanted(response):
            return response


async def refusals(plane: Plane) -> list[dict[str, str]]:
    return list(json.loads((await plane.http("/debug/refusals"))[1]))


# Much


def test_thousands_of_policies_all_count_and_one_change_is_one_change(tmp_path: Path, cluster: FakeCluster) -> None:
    for number in range(POLICIES):
        cluster.put(numbered(number))

    async def main() -> None:
        before = resident()
        async with clustered(tmp_path, cluster) as (plane, stream, first):
            assert len({name for name in names(first[AUTHORIZATION_TYPE]) if name.startswith("shop/p")}) == POLICIES
            (workload,) = plane.plane.mesh.workloads.values()
            assert len(workload.policies) == POLICIES
            assert resident() - before < MORE
            changed = numbered(7)
            changed["spec"]["rules"] = [{"from": [{"source": {"namespaces": ["other"]}}]}]
            cluster.put(changed)
            response = await stream.read()
            assert (response.type_url, names(response)) == (AUTHORIZATION_TYPE, {"shop/p7"})
            await stream.ack(response)
            assert not await refusals(plane)

    run(main)


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def numbered(number: int) -> dict[str, Any]:
    made = policy(f"p{number}")
    made["spec"] = {
        "selector": {"matchLabels": {"app": "web"}},
        "action": "DENY",
        "rules": [{"from": [{"source": {"namespaces": [f"n{number}"]}}]}],
    }
    return made


def test_an_object_that_changes_a_thousand_times_a_second_is_sent_now_and_then_and_holds_nothing_up(
    tmp_path: Path, cluster: FakeCluster
) -> None:
    async def main() -> None:
        async with clustered(tmp_path, cluster) as (plane, stream, _):
            responses = 0
            busy: set[str] = set()

            async def follow() -> None:
                nonlocal responses, busy
                while True:
                    response = await stream.read(20)
                    responses += 1
                    busy |= names(response)
                    await stream.ack(response)

            following = asyncio.create_task(follow())
            loop = asyncio.get_running_loop()
            begun, number, others = loop.time(), 0, []
            while (now := loop.time()) < begun + 1.5:
                while number < (now - begun) * 1000:
                    number += 1
                    cluster.put(pod("busy", f"10.9.{number // 250}.{number % 250}"))
                if number // 500 > len(others):
                    others.append(f"calm{len(others)}")
                    cluster.put(pod(others[-1], f"10.8.0.{len(others)}"))
                await asyncio.sleep(0.001)
            await until(lambda: str(live(plane, "busy")) == f"10.9.{number // 250}.{number % 250}")
            assert responses < 60, "at most ten a second of each type, and some more"
            await until(lambda: {f"Kubernetes//Pod/shop/{name}" for name in ("busy", *others)} <= busy)
            following.cancel()

    run(main)


def live(plane: Plane, name: str) -> Any:
    found = plane.plane.mesh.workloads.get(f"Kubernetes//Pod/shop/{name}")
    return found.addresses[0] if found is not None else None


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


# Odd


@pytest.mark.parametrize("where", ["labels", "annotations"])
@pytest.mark.parametrize("source", ["a file", "an API server"])
def test_a_value_of_64_kib_is_refused_or_taken_whole_and_nothing_beside_it_suffers(
    tmp_path: Path, cluster: FakeCluster, where: str, source: str
) -> None:
    """No API server stores such a label; it stores such an annotation, which says nothing to us."""
    large = policy("large")
    large["metadata"][where] = {"note": "x" * 65536}

    async def main() -> None:
        async with clustered(tmp_path, cluster) as (plane, stream, _):
            if source == "a file":
                plane.write("large.yaml", json.dumps(large))
                plane.write("small.yaml", json.dumps(policy("small")))
            else:
                cluster.put(large)
                cluster.put(policy("small"))
            wanted = {"shop/large", "shop/small"}
            found: set[str] = set()
            while not wanted <= found:
                response = await stream.read()
                found |= names(response)
                await stream.ack(response)
            held = {key.name for key in plane.plane.mesh.catalog.objects if key.kind.startswith("AuthorizationPolicy")}
            if where == "annotations":
                assert held == {"large", "small"}
                assert not await refusals(plane)
            else:
                assert held == {"small"}
                (refusal,) = await refusals(plane)
                assert refusal["field"] == "metadata.labels[note]"
                assert len(json.dumps(refusal)) < 2000
                assert "denied" in refusal["consequence"]

    run(main)


def test_one_name_in_two_versions_in_files_is_refused_and_denies_until_one_of_them_goes(tmp_path: Path, cluster: FakeCluster) -> None:
    files = {version: json.dumps(policy("twice", version=version)) for version in ("v1", "v1beta1")}

    async def main() -> None:
        async with clustered(tmp_path, cluster, **files) as (plane, stream, first):
            found = await refusals(plane)
            assert [entry["object"] for entry in found] == ["AuthorizationPolicy shop/twice"] * 2
            assert {entry["accepted"] for entry in found} == {"one object called AuthorizationPolicy shop/twice"}
            assert all("denied" in entry["consequence"] for entry in found)
            assert any(name.startswith("shop/twice") for name in names(first[AUTHORIZATION_TYPE]))
            plane.remove("v1beta1.yaml")
            await sent(stream, AUTHORIZATION_TYPE, lambda response: "shop/twice" in names(response))
            assert not await refusals(plane)

    run(main)


def test_a_copy_in_another_version_does_not_replace_what_is_in_force(tmp_path: Path, cluster: FakeCluster) -> None:
    """One of it is an API server's, the other a file's."""
    cluster.put(policy("twice"))
    other = policy("twice", action="ALLOW", version="v1beta1")

    async def main() -> None:
        async with clustered(tmp_path, cluster) as (plane, stream, first):
            assert "shop/twice" in names(first[AUTHORIZATION_TYPE])
            plane.write("other.yaml", json.dumps(other))
            await until(lambda: plane.plane.mesh.catalog.rejections)
            (kept,) = [made for key, made in plane.plane.mesh.catalog.objects.items() if key.name == "twice"]
            assert str(kept.spec.action).upper().endswith("DENY")  # type: ignore[attr-defined]
            assert all("last accepted version" in entry["consequence"] for entry in await refusals(plane))
            await stream.quiet()

    run(main)


def test_an_api_server_that_serves_several_versions_holds_one_object(tmp_path: Path, cluster: FakeCluster) -> None:
    cluster.put(policy("once", version="v1"))
    cluster.serve("security.istio.io", "v1beta1", "AuthorizationPolicy", "authorizationpolicies")

    async def main() -> None:
        async with clustered(tmp_path, cluster) as (plane, stream, first):
            assert "shop/once" in names(first[AUTHORIZATION_TYPE])
            cluster.serve("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies")
            await until(lambda: (kind := plane.source.kind("AuthorizationPolicy")) is not None and kind.version == "v1")
            await stream.quiet()
            assert not await refusals(plane)

    run(main)
