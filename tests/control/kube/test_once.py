"""Everything of a cluster, listed once; the cluster is in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from control.kube.errors import Expired, Forbidden, KubeError, Unreachable
from control.sources.kubernetes.once import list_all
from control.sources.kubernetes.tuning import Tuning
from mesh.model.manifest import Parsed
from tests.control.kube.fake import Broken, FakeCluster, Raw, Status
from tests.control.kube.rig import namespace, pod, policy


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster()
    cluster.serve("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies")
    cluster.put(namespace("shop"))
    for index in range(5):
        cluster.put(pod(f"p{index}", f"10.0.0.{index + 1}"))
    cluster.put(policy("deny"))
    return cluster


def listed(cluster: FakeCluster, directory: Path, tuning: Tuning | None = None) -> list[tuple[str, Parsed]]:
    async def test() -> list[tuple[str, Parsed]]:
        api = cluster.api(directory)
        try:
            return await list_all(api, tuning=tuning)
        finally:
            await api.close()

    return asyncio.run(test())


def test_all_that_is_there_in_pages(cluster: FakeCluster, tmp_path: Path) -> None:
    found = listed(cluster, tmp_path, Tuning(page=2))
    assert [origin for origin, _ in found] == [
        "namespaces/shop",
        *(f"pods/shop/p{index}" for index in range(5)),
        "authorizationpolicies.security.istio.io/shop/deny",
    ]
    assert all(len(parsed.objects) == 1 for _, parsed in found)
    assert len(cluster.seen("list", "pods")) == 3
    assert cluster.seen("watch") == []


def test_what_only_few_may_list_is_not_asked_for(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.fail(Status(403), "list", "nodes")
    assert listed(cluster, tmp_path)
    assert cluster.seen("list", "nodes") == []
    assert cluster.seen("list", "secrets") == []


def test_what_is_refused_is_handed_over_as_that(cluster: FakeCluster, tmp_path: Path) -> None:
    broken = policy("broken")
    broken["spec"] = {"action": "DENY"}
    cluster.put(broken)
    found = dict(listed(cluster, tmp_path))
    assert found["authorizationpolicies.security.istio.io/shop/broken"].refused


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda cluster: cluster.fail(Status(403), "list", "pods"), Forbidden),
        (lambda cluster: cluster.fail(Broken(), "list", "services"), Unreachable),
        (lambda cluster: cluster.fail(Raw(b"<html>"), "list", "pods"), KubeError),
        (lambda cluster: cluster.fail(Status(410), "list", "pods"), Expired),
    ],
    ids=["forbidden", "broken", "garbled", "expired for ever"],
)
def test_a_part_is_never_taken_for_the_whole(
    cluster: FakeCluster, tmp_path: Path, spoil: Callable[[FakeCluster], object], error: type[KubeError]
) -> None:
    spoil(cluster)
    with pytest.raises(error):
        listed(cluster, tmp_path)


def test_a_list_that_was_forgotten_halfway_is_begun_anew(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.fail(Status(410), "list", "pods", times=1)
    assert [origin for origin, _ in listed(cluster, tmp_path, Tuning(page=2)) if origin.startswith("pods")] == [
        f"pods/shop/p{index}" for index in range(5)
    ]
