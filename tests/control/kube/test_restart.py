"""A control plane that starts without its API server serves what it had, says how old that is, and catches up when there is one again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from control.keep import Keeper
from mesh.model.manifest import Parsed
from tests.control.keeping import damage
from tests.control.kube.fake import Broken, FakeCluster
from tests.control.kube.rig import FAST, POLICY, Rig, eventually, namespace, pod, policy, running


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster()
    cluster.serve("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies")
    for value in (namespace("shop"), pod("a"), pod("b"), policy("deny")):
        cluster.put(value)
    return cluster


class Lives:
    """A file, and one control plane after another that uses it."""

    def __init__(self, cluster: FakeCluster, tmp_path: Path) -> None:
        self.cluster, self.tmp_path = cluster, tmp_path

    async def live(self, what: object) -> None:
        keeper = self.keeper = Keeper(self.tmp_path / "keep.db")
        await keeper.open()
        async with running(self.cluster, self.tmp_path, FAST, keeper.book("kubernetes")) as rig:
            await what(rig)  # type: ignore[operator]
        await keeper.close()


async def synced(rig: Rig) -> None:
    await rig.synced()
    await rig.agrees()


def test_it_goes_on_with_what_was_kept(cluster: FakeCluster, tmp_path: Path) -> None:
    async def without(rig: Rig) -> None:
        await eventually(lambda: rig.sink.of("pods") == ["shop/a", "shop/b"])
        await eventually(lambda: rig.source.state.synced)
        assert rig.source.state.stale_since is not None
        assert "cannot be reached" in rig.source.state.error
        assert rig.sink.of(POLICY) == ["shop/deny"]
        assert (found := rig.source.pod("shop", "a")) is not None
        assert found.spec.node_name == "n1"

    async def again(rig: Rig) -> None:
        await without(rig)
        cluster.delete("Pod", "shop", "a")
        cluster.put(pod("c"))
        cluster.heal()
        await synced(rig)
        assert rig.source.state.error == ""
        assert ("put", "pods/shop/b") not in rig.sink.story[rig.sink.story.index(("put", "pods/shop/c")) :]

    async def without_again(rig: Rig) -> None:
        await eventually(lambda: rig.sink.of("pods") == ["shop/b", "shop/c"])

    async def test() -> None:
        lives = Lives(cluster, tmp_path)
        await lives.live(synced)
        cluster.fail(Broken())
        await lives.live(without)
        await lives.live(again)
        cluster.fail(Broken())
        await lives.live(without_again)

    asyncio.run(test())


def test_what_was_kept_does_not_count_while_the_api_server_may_still_answer(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        await Lives(cluster, tmp_path).live(synced)
        rule = cluster.fail(Broken())
        keeper = Keeper(tmp_path / "keep.db")
        await keeper.open()
        async with running(cluster, tmp_path, replace(FAST, kept_patience=60.0), keeper.book("kubernetes")) as rig:
            await eventually(lambda: rig.sink.of("pods") == ["shop/a", "shop/b"] and rig.source.state.error)
            assert not rig.source.state.synced
            assert rig.source.state.stale_since is not None
            rule.times = 0
            await synced(rig)
        await keeper.close()

    asyncio.run(test())


def test_an_api_server_that_answers_counts_at_once(cluster: FakeCluster, tmp_path: Path) -> None:
    async def second(rig: Rig) -> None:
        await synced(rig)
        assert rig.source.state.stale_since is None

    async def test() -> None:
        lives = Lives(cluster, tmp_path)
        await lives.live(synced)
        cluster.delete("Pod", "shop", "a")
        await lives.live(second)

    asyncio.run(test())


def test_without_anything_kept_it_is_not_ready(cluster: FakeCluster, tmp_path: Path) -> None:
    async def nothing(rig: Rig) -> None:
        await asyncio.sleep(3 * FAST.kept_patience)
        assert not rig.source.state.synced
        assert rig.sink.held == {}

    async def test() -> None:
        cluster.fail(Broken())
        await Lives(cluster, tmp_path).live(nothing)

    asyncio.run(test())


def test_a_life_that_never_saw_everything_keeps_nothing(cluster: FakeCluster, tmp_path: Path) -> None:
    """Of policies, half is not safer than none."""

    async def partly(rig: Rig) -> None:
        await eventually(lambda: rig.sink.of("pods") == ["shop/a", "shop/b"])

    async def nothing(rig: Rig) -> None:
        await asyncio.sleep(3 * FAST.kept_patience)
        assert rig.sink.held == {}
        assert not rig.source.state.synced

    async def test() -> None:
        cluster.fail(Broken(), "list", POLICY)
        lives = Lives(cluster, tmp_path)
        await lives.live(partly)
        cluster.fail(Broken())
        await lives.live(nothing)

    asyncio.run(test())


def test_the_last_accepted_version_survives_a_restart(cluster: FakeCluster, tmp_path: Path) -> None:
    origin = f"{POLICY}/shop/deny"

    async def refuse(rig: Rig) -> None:
        await synced(rig)
        cluster.put(policy("deny", "NONSENSE"))
        await eventually(lambda: rig.sink.held[origin].refused)

    async def without(rig: Rig) -> None:
        await eventually(lambda: origin in rig.sink.held)
        assert rig.sink.held[origin].refused
        assert [entry.name for entry in rig.sink.recalled[origin].objects] == ["deny"]

    async def anew(rig: Rig) -> None:
        await synced(rig)
        cluster.delete("AuthorizationPolicy", "shop", "deny")
        cluster.put(policy("deny", "NONSENSE"))
        await eventually(lambda: ("remove", origin) in rig.sink.story)
        await eventually(lambda: rig.sink.held.get(origin, Parsed()).refused)

    async def without_past(rig: Rig) -> None:
        await eventually(lambda: origin in rig.sink.held)
        assert origin not in rig.sink.recalled, "another object of that name was accepted once"

    async def test() -> None:
        lives = Lives(cluster, tmp_path)
        await lives.live(refuse)
        cluster.fail(Broken())
        await lives.live(without)
        cluster.heal()
        await lives.live(anew)
        cluster.fail(Broken())
        await lives.live(without_past)

    asyncio.run(test())


def test_a_kind_that_went_while_nobody_looked_is_dropped(cluster: FakeCluster, tmp_path: Path) -> None:
    async def second(rig: Rig) -> None:
        await eventually(lambda: ("put", f"{POLICY}/shop/deny") in rig.sink.story)
        await eventually(lambda: rig.sink.of(POLICY) == [])
        await rig.synced()

    async def test() -> None:
        lives = Lives(cluster, tmp_path)
        await lives.live(synced)
        cluster.withdraw(POLICY)
        await lives.live(second)

    asyncio.run(test())


def test_what_cannot_be_read_any_more_is_not_used(cluster: FakeCluster, tmp_path: Path) -> None:
    async def spoil() -> None:
        keeper = Keeper(tmp_path / "keep.db")
        await keeper.open()
        book = keeper.book("kubernetes")
        kept = await book.load()
        assert kept is not None
        book.put("pods/shop/a", b"no JSON at all")
        await keeper.close()

    async def nothing(rig: Rig) -> None:
        await asyncio.sleep(3 * FAST.kept_patience)
        assert rig.sink.held == {}
        cluster.heal()
        await synced(rig)

    async def without(rig: Rig) -> None:
        await eventually(lambda: rig.sink.of("pods") == ["shop/a", "shop/b"])

    async def test() -> None:
        lives = Lives(cluster, tmp_path)
        await lives.live(synced)
        await spoil()
        cluster.fail(Broken())
        await lives.live(nothing)
        cluster.fail(Broken())
        await lives.live(without)

    asyncio.run(test())


def test_what_was_kept_and_is_lost_is_filled_anew(cluster: FakeCluster, tmp_path: Path) -> None:
    """At once where the API server answers, else when it does; with what changes meanwhile; and not before it is all."""

    lives = Lives(cluster, tmp_path)

    async def damaged(rig: Rig) -> None:
        await synced(rig)
        keeper, book = lives.keeper, lives.keeper.book("kubernetes")
        assert await keeper.flush()
        damage(keeper)
        cluster.put(pod("c"))
        await eventually(lambda: book.changes)
        assert not await keeper.flush()
        story = list(rig.sink.story)
        fault = cluster.fail(Broken(), verb="list")
        lists = len(cluster.seen("list"))
        keeper.refill()
        await eventually(lambda: len(cluster.seen("list")) > lists)
        cluster.delete("Pod", "shop", "b")
        await eventually(lambda: rig.sink.of("pods") == ["shop/a", "shop/c"])
        assert await keeper.flush()
        assert book.asks
        fault.times = 0
        await eventually(lambda: not book.asks)
        assert await keeper.flush()
        assert keeper.trouble == ""
        assert rig.sink.story == [*story, ("remove", "pods/shop/b")], "nothing is handed over again"

    async def without(rig: Rig) -> None:
        await eventually(lambda: rig.source.state.synced)
        assert rig.sink.of("pods") == ["shop/a", "shop/c"]
        assert rig.sink.of(POLICY) == ["shop/deny", "shop/wrong"]
        assert rig.sink.held[f"{POLICY}/shop/wrong"].refused

    async def test() -> None:
        wrong = policy("wrong")
        wrong["spec"] = {"actoin": "DENY"}
        cluster.put(wrong)
        await lives.live(damaged)
        cluster.fail(Broken())
        await lives.live(without)

    asyncio.run(test())
