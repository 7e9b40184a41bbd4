"""Candidates over the network, against a cluster in memory. What the decisions are worth is in test_lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from control.kube.elector import Elector
from control.kube.lease import Timing
from tests.control.kube.fake import Broken, FakeCluster, Page, Status
from tests.control.kube.rig import eventually

TIMING = Timing(lease=1.0, renew=0.4, retry=0.05)


class Candidates:
    def __init__(self, cluster: FakeCluster, tmp_path: Path) -> None:
        self.cluster, self.tmp_path = cluster, tmp_path
        self.told: list[tuple[str, bool]] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str) -> Elector:
        def changed(leading: bool) -> None:
            self.told.append((name, leading))

        elector = Elector(self.cluster.api(self.tmp_path), "istio-system", name, timing=TIMING, changed=changed)
        self.tasks[name] = asyncio.create_task(elector.run())
        return elector

    async def stop(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.gather(self.tasks.pop(name), return_exceptions=True)


def run(tmp_path: Path, test: Callable[[FakeCluster, Candidates], object]) -> None:
    async def main() -> None:
        cluster = FakeCluster()
        candidates = Candidates(cluster, tmp_path)
        await test(cluster, candidates)  # type: ignore[misc]
        for name in list(candidates.tasks):
            await candidates.stop(name)

    asyncio.run(main())


def test_one_leads_and_lets_go_when_it_ends(tmp_path: Path) -> None:
    async def test(cluster: FakeCluster, candidates: Candidates) -> None:
        one = candidates.start("one")
        await eventually(lambda: one.leading)
        two = candidates.start("two")
        await eventually(lambda: two.holder == "one")
        assert not two.leading
        begun = asyncio.get_running_loop().time()
        await candidates.stop("one")
        assert not one.leading
        await eventually(lambda: two.leading)
        assert asyncio.get_running_loop().time() - begun < TIMING.lease, "it was let go, so nobody waited for it to run out"
        assert candidates.told == [("one", True), ("one", False), ("two", True)]
        lease = cluster.get("Lease", "istio-system", "culvert-control")
        assert lease["spec"]["holderIdentity"] == "two"
        assert lease["spec"]["leaseTransitions"] == 1
        assert lease["spec"]["renewTime"].count(".") == 1

    run(tmp_path, test)


def test_a_failure_that_is_no_api_servers_ends_nobody(tmp_path: Path) -> None:
    async def test(cluster: FakeCluster, candidates: Candidates) -> None:
        away = cluster.fail(Page(503), times=3)
        one = candidates.start("one")
        await eventually(lambda: one.leading)
        assert away.hits == 3

    run(tmp_path, test)


def test_a_leader_that_cannot_renew_stops_in_time(tmp_path: Path) -> None:
    async def test(cluster: FakeCluster, candidates: Candidates) -> None:
        one = candidates.start("one")
        await eventually(lambda: one.leading)
        cluster.fail(Broken())
        begun = asyncio.get_running_loop().time()
        await eventually(lambda: not one.leading)
        assert asyncio.get_running_loop().time() - begun < TIMING.lease
        assert one.error
        await eventually(lambda: ("one", False) in candidates.told)
        cluster.heal()
        await eventually(lambda: one.leading)
        assert one.error == ""

    run(tmp_path, test)


def test_what_others_wrote_on_the_lease_stays(tmp_path: Path) -> None:
    async def test(cluster: FakeCluster, candidates: Candidates) -> None:
        one = candidates.start("one")
        await eventually(lambda: one.leading)
        lease = cluster.get("Lease", "istio-system", "culvert-control")
        cluster.put({**lease, "metadata": {**lease["metadata"], "labels": {"a": "b"}}})
        version = lease["metadata"]["resourceVersion"]
        await eventually(lambda: len(cluster.seen("update")) > 3)
        lease = cluster.get("Lease", "istio-system", "culvert-control")
        assert lease["metadata"]["labels"] == {"a": "b"}
        assert lease["metadata"]["resourceVersion"] != version
        assert one.leading

    run(tmp_path, test)


def test_it_lets_go_of_a_lease_that_was_touched_meanwhile(tmp_path: Path) -> None:
    async def test(cluster: FakeCluster, candidates: Candidates) -> None:
        one = candidates.start("one")
        await eventually(lambda: one.leading)
        lease = cluster.get("Lease", "istio-system", "culvert-control")
        cluster.put({**lease, "metadata": {**lease["metadata"], "labels": {"a": "b"}}})
        await candidates.stop("one")
        assert cluster.get("Lease", "istio-system", "culvert-control")["spec"]["holderIdentity"] == ""

    run(tmp_path, test)


def test_a_missing_permission_is_said(tmp_path: Path) -> None:
    async def test(cluster: FakeCluster, candidates: Candidates) -> None:
        cluster.fail(Status(403, "Forbidden"), "create")
        one = candidates.start("one")
        await eventually(lambda: "'create' on 'leases.coordination.k8s.io'" in one.error)
        assert not one.leading

    run(tmp_path, test)
