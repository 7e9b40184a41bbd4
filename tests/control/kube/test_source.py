"""The source against a cluster in memory: what it hands over, and what it makes of everything that goes wrong."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from control.sources.kubernetes.kinds import KNOWN
from tests.control.kube.fake import Broken, Call, FakeCluster, Hang, Raw, Status
from tests.control.kube.rig import FAST, POLICY, eventually, namespace, pod, policy, running

CRDS = "customresourcedefinitions.apiextensions.k8s.io"


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster()
    cluster.serve("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies")
    cluster.put(namespace("shop"))
    return cluster


def run(test: object) -> None:
    asyncio.run(test)  # type: ignore[arg-type]


def test_what_there_is_and_what_becomes_of_it(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.put(pod("a"))
        cluster.put(policy("deny"))
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
            assert rig.sink.of("pods") == ["shop/a"]
            assert rig.sink.of(POLICY) == ["shop/deny"]
            cluster.put(pod("b", "10.0.0.2"))
            cluster.put(pod("a", "10.0.0.3"))
            cluster.delete("AuthorizationPolicy", "shop", "deny")
            await rig.agrees()
            await eventually(lambda: [str(ip) for ip in rig.sink.one("pods/shop/a").status.addresses] == ["10.0.0.3"])
            assert rig.meter.counts["reg", "Pod", "add"] == 2
            assert rig.meter.counts["reg", "Pod", "update"] == 1
            assert rig.meter.counts["cfg", "AuthorizationPolicy", "delete"] == 1

    run(test())


def test_it_is_synced_only_when_every_kind_was_listed(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        rule = cluster.fail(Status(500), "list", "services")
        async with running(cluster, tmp_path) as rig:
            await eventually(lambda: "services" in rig.source.state.error)
            assert rig.sink.of("namespaces") == ["shop"]
            assert not rig.source.state.synced
            rule.times = 0
            await rig.synced()
            assert rig.source.state.error == ""

    run(test())


def test_pages(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        for number in range(10):
            cluster.put(pod(f"p{number}"))
        async with running(cluster, tmp_path, replace(FAST, page=3)) as rig:
            await rig.synced()
            await rig.agrees()
        assert [call.query["limit"] for call in cluster.seen("list", "pods")] == ["3"] * 4

    run(test())


def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        for number in range(8):
            cluster.put(pod(f"p{number}", comment="x" * 50))
        async with running(cluster, tmp_path, replace(FAST, page=8, page_bytes=1500)) as rig:
            await rig.synced()
            await rig.agrees()
        limits = [int(call.query["limit"]) for call in cluster.seen("list", "pods")]
        assert limits[0] == 8
        assert limits[-1] in (1, 2)

    run(test())


def test_a_list_whose_token_expired_begins_anew(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        for number in range(4):
            cluster.put(pod(f"p{number}"))
        cluster.fail(Status(410, "Expired"), "list", "pods", times=1)
        async with running(cluster, tmp_path, replace(FAST, page=2)) as rig:
            await rig.synced()
            await rig.agrees()
            assert rig.meter.counts["failed", "pods", "expired"] == 1

    run(test())


def test_a_gap_after_compaction_is_closed_deletions_included(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.put(pod("stays"))
        cluster.put(pod("goes"))
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
            down = cluster.fail(Broken())
            cluster.cut()
            await eventually(lambda: rig.source.state.stale_since is not None)
            cluster.delete("Pod", "shop", "goes")
            cluster.put(pod("comes"))
            cluster.compact()
            assert rig.sink.of("pods") == ["shop/goes", "shop/stays"]
            down.times = 0
            await rig.synced()
            await rig.agrees()
            assert ("put", "pods/shop/stays") not in rig.sink.story[rig.sink.story.index(("remove", "pods/shop/goes")) :]
            assert rig.meter.counts["listed", "pods", "expired"] == 1

    run(test())


def test_a_cut_watch_goes_on_from_where_it_was(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
            for number in range(20):
                cluster.put(pod(f"p{number}"))
                if number % 3 == 0:
                    cluster.cut()
                await asyncio.sleep(0.002)
            await rig.agrees()
            assert rig.source.state.error == ""
            assert len(cluster.seen("list", "pods")) == 1

    run(test())


@pytest.mark.parametrize(
    "line",
    [
        b'{"type": "ADDED", "object": {"metadata": {"name": "half',
        b"<html>it works</html>\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": {"kind": "Pod"}}\n',
        b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "9999"}}}\n',
        b'{"type": "SURPRISE", "object": {"metadata": {"name": "a"}}}\n',
        b"\xff\xfe\n",
        b"[" * 5000 + b"\n",
    ],
)
def test_half_lines_and_garbage(cluster: FakeCluster, tmp_path: Path, line: bytes) -> None:
    async def test() -> None:
        cluster.fail(Raw(line), "watch", "pods", times=3)
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
            await eventually(lambda: len(cluster.seen("watch", "pods")) > 3)
            cluster.put(pod("a"))
            await rig.agrees()
            await rig.synced()
            assert rig.meter.counts["failed", "pods", "garbled"] == 3

    run(test())


def test_garbage_at_the_same_place_again_is_listed_around(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.fail(Raw(b"no\n"), "watch", "pods", times=7)
        async with running(cluster, tmp_path, replace(FAST, healthy=5.0)) as rig:
            await eventually(lambda: rig.meter.counts.get(("listed", "pods", "gap"), 0) == 2)
            await rig.synced()

    run(test())


def test_an_error_event_after_good_ones_loses_none_of_them(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
            cluster.put(pod("a"))
            cluster.send("pods", "ERROR", {"kind": "Status", "code": 500, "message": "etcdserver: leader changed"})
            await rig.agrees()
            await eventually(lambda: rig.meter.counts.get(("failed", "pods", "serverfailed"), 0) == 1)
            assert len(cluster.seen("list", "pods")) == 1

    run(test())


def test_a_server_that_always_says_gone_is_not_asked_without_a_pause(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.fail(Status(410, "Expired"), "watch", "pods")
        async with running(cluster, tmp_path, replace(FAST, first_wait=0.02, most_wait=10.0, healthy=5.0)) as rig:
            await eventually(lambda: rig.meter.counts.get(("failed", "pods", "expired"), 0) == 4)
            await asyncio.sleep(0.05)
        assert len(cluster.seen("list", "pods")) < 10

    run(test())


def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_a_pause(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.fail(Raw(b""), "watch", "pods")
        async with running(cluster, tmp_path, replace(FAST, first_wait=0.02, most_wait=10.0, healthy=5.0)) as rig:
            await eventually(lambda: "ended as soon" in rig.source.state.error)
            await asyncio.sleep(0.1)
        assert len(cluster.seen("watch", "pods")) < 10

    run(test())


@pytest.mark.slow
def test_retry_after_is_honoured(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.fail(Status(429, "TooManyRequests", after=1), "list", "pods", times=1)
        begun = asyncio.get_running_loop().time()
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
        assert asyncio.get_running_loop().time() - begun >= 1.0
        assert len(cluster.seen("list", "pods")) == 2

    run(test())


@pytest.mark.slow
def test_a_silent_watch_is_given_up(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        hang = cluster.fail(Hang(), "watch", "pods", times=1)
        async with running(cluster, tmp_path, replace(FAST, watch=1.0, silence=0.1)) as rig:
            await eventually(lambda: hang.hits == 1)
            cluster.put(pod("a"))
            await rig.agrees()  # not before the silence was noticed: 1.1 to 1.6 s

    run(test())


def test_missing_permission_is_said_with_verb_and_resource(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        rule = cluster.fail(Status(403, "Forbidden", "pods is forbidden: User x cannot list"), "list", "pods")
        async with running(cluster, tmp_path) as rig:
            await eventually(lambda: rig.source.state.error)
            assert "the role needs the verb 'list' on 'pods'" in rig.source.state.error
            assert not rig.source.state.synced
            rule.times = 0
            await rig.synced()

    run(test())


def test_stale_answers_undo_nothing(cluster: FakeCluster, tmp_path: Path) -> None:
    """A list and events that are older than what was seen, as from a replica that lags."""

    async def test() -> None:
        old = cluster.put(pod("a", "10.0.0.1"))
        stale = f'{{"metadata": {{"resourceVersion": "{cluster.version}"}}, "items": []}}'.encode()
        async with running(cluster, tmp_path, replace(FAST, set_back=60.0)) as rig:
            await rig.synced()
            cluster.put(pod("a", "10.0.0.2"))
            cluster.put(pod("b"))
            await rig.agrees()
            cluster.delete("Pod", "shop", "b")
            await rig.agrees()
            cluster.send("pods", "ADDED", old)
            cluster.send("pods", "ADDED", {**pod("b"), "metadata": {"name": "b", "namespace": "shop", "resourceVersion": "3"}})
            await eventually(lambda: rig.meter.counts.get(("stale", "pods"), 0) == 2)
            lagging = cluster.fail(Raw(stale), "list", "pods", times=3)
            cluster.compact()
            cluster.cut()
            await eventually(lambda: lagging.hits == 3)
            await rig.synced()
            await rig.agrees()
            assert [str(ip) for ip in rig.sink.one("pods/shop/a").status.addresses] == ["10.0.0.2"]

    run(test())


def test_a_history_that_was_set_back_is_taken_in_the_end(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.version = 5000
        cluster.put(pod("a"))
        cluster.put(pod("lost"))
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
            cluster.delete("Pod", "shop", "lost")
            await rig.agrees()
            cluster.put(pod("lost"))
            await rig.agrees()
            del cluster._resources["pods"].objects["shop", "lost"]  # as a backup from before
            cluster.set_back(300)
            cluster.cut()
            await eventually(lambda: rig.source.state.error)
            assert rig.sink.of("pods") == ["shop/a", "shop/lost"]
            await rig.synced()
            await rig.agrees()
            cluster.put(pod("new"))
            await rig.agrees()

    run(test())


def test_an_object_made_anew_is_another_one(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.put(policy("deny"))
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
            cluster.delete("AuthorizationPolicy", "shop", "deny")
            cluster.put({**policy("deny"), "spec": {"action": "NONSENSE"}})
            await eventually(lambda: rig.sink.held.get(f"{POLICY}/shop/deny") and rig.sink.held[f"{POLICY}/shop/deny"].refused)
            origin = f"{POLICY}/shop/deny"
            assert [what for what, which in rig.sink.story if which == origin] == ["put", "remove", "put"]

    run(test())


def test_a_status_that_changes_is_no_news_but_is_known(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.put(policy("deny"))
        told: list[object] = []
        async with running(cluster, tmp_path) as rig:
            rig.source.watch_live(told.append)
            await rig.synced()
            before = len(rig.sink.story)
            cluster.put({**policy("deny"), "status": {"conditions": [{"type": "Accepted"}]}})
            key = next(iter(rig.sink.held[f"{POLICY}/shop/deny"].objects)).key
            await eventually(lambda: (live := rig.source.live(key)) is not None and live.status)
            assert len(rig.sink.story) == before
            assert told[-1] == key
            assert rig.meter.counts["cfg", "AuthorizationPolicy", "updatesame"] == 1

    run(test())


def test_an_object_that_changes_all_the_time_is_taken_as_often_as_batches_come(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.put(pod("busy", "10.0.0.1"))
        async with running(cluster, tmp_path, replace(FAST, pause=0.05)) as rig:
            await rig.synced()
            begun = asyncio.get_running_loop().time()
            for number in range(1000):
                cluster.put(pod("busy", f"10.0.{number // 250}.{number % 250}"))
                if number % 10 == 0:
                    await asyncio.sleep(0)
            await eventually(lambda: str(rig.sink.one("pods/shop/busy").status.addresses[0]) == "10.0.3.249")
            batches = (asyncio.get_running_loop().time() - begun) / 0.05
            assert rig.sink.story.count(("put", "pods/shop/busy")) <= batches + 2

    run(test())


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"metadata": {"name": "a", "namespace": "shop", "labels": {"app": "x" * 65536}}}, "labels[app]"),
        ({"status": {"podIPs": [{"ip": "10.0.0.999"}]}}, "status.podIPs"),
        ({"spec": {"containers": "none"}}, ""),
        ({"spec": {"note": "x" * 3_000_000}}, ""),
    ],
)
def test_an_absurd_object_is_refused_whole_and_spoils_nothing(
    cluster: FakeCluster, tmp_path: Path, broken: dict[str, object], field: str
) -> None:
    async def test() -> None:
        cluster.put(pod("b"))
        cluster.put({**pod("a"), **broken})
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
            (refused,) = rig.sink.held["pods/shop/a"].refused
            assert (refused.kind, refused.namespace, refused.name) == ("Pod", "shop", "a")
            assert refused.refusals[0].field == field
            assert not rig.sink.held["pods/shop/a"].objects
            cluster.put(pod("a"))
            await eventually(lambda: rig.sink.held["pods/shop/a"].objects)
            cluster.put({**pod("b"), **broken, "metadata": {**pod("b")["metadata"], **broken.get("metadata", {}), "name": "b"}})  # type: ignore[dict-item]
            await eventually(lambda: rig.sink.held["pods/shop/b"].refused)
            await rig.synced()

    run(test())


def test_a_kind_that_appears_later_and_goes_again(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = FakeCluster()
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
            cluster.serve("security.istio.io", "v1beta1", "AuthorizationPolicy", "authorizationpolicies")
            cluster.put(policy("deny", version="v1beta1"))
            await eventually(lambda: rig.sink.of(POLICY) == ["shop/deny"])
            assert rig.source.state.synced
            cluster.serve("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies")
            await eventually(lambda: (kind := rig.source.kind("AuthorizationPolicy")) is not None and kind.version == "v1")
            await rig.synced()
            assert rig.sink.of(POLICY) == ["shop/deny"]
            cluster.withdraw(POLICY)
            await eventually(lambda: rig.source.kind("AuthorizationPolicy") is None)
            assert rig.sink.of(POLICY) == []
            await rig.synced()

    run(test())


def test_a_kind_that_discovery_leaves_out_is_not_gone(cluster: FakeCluster, tmp_path: Path) -> None:
    """As just after an API server's start."""

    async def test() -> None:
        cluster.put(policy("deny"))
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
            withdrawn = cluster._resources.pop(POLICY)
            cluster.cut()
            await eventually(lambda: len(cluster.seen("get", CRDS)) > 2)
            assert rig.sink.of(POLICY) == ["shop/deny"]
            cluster._resources[POLICY] = withdrawn
            await rig.synced()
            assert rig.sink.of(POLICY) == ["shop/deny"]

    run(test())


def test_it_is_not_synced_before_discovery_lists_what_is_defined(cluster: FakeCluster, tmp_path: Path) -> None:
    """As just after an API server's start: without the policies that it does not list yet, everything would be allowed."""

    async def test() -> None:
        cluster.put(policy("deny"))
        withdrawn = cluster._resources.pop(POLICY)
        async with running(cluster, tmp_path) as rig:
            await eventually(lambda: rig.source.state.error)
            assert f"does not list yet what it serves: {POLICY}" in rig.source.state.error
            assert not rig.source.state.synced
            cluster._resources[POLICY] = withdrawn
            await rig.synced()
            assert rig.sink.of(POLICY) == ["shop/deny"]
            asked = len(cluster.seen("get", CRDS))
            await eventually(lambda: len(cluster.seen("get", "/apis")) > 10)
            assert len(cluster.seen("get", CRDS)) == asked, "once everything was there, discovery is believed"

    run(test())


def test_kinds_that_are_not_defined_hold_up_nothing(tmp_path: Path) -> None:
    """Not there, not established, or in versions that the parser does not know alone."""

    async def test() -> None:
        cluster = FakeCluster()
        cluster.define(POLICY, "v1", established=False)
        cluster.define("httproutes.gateway.networking.k8s.io", "v9")
        async with running(cluster, tmp_path, replace(FAST, first_wait=60.0, most_wait=60.0)) as rig:
            await rig.synced()
            assert len(cluster.seen("get", CRDS)) == len(KNOWN), "each was asked for once"

    run(test())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Status(404, "", "404 page not found"), "404 page not found"),
        (Status(404, "NotFound", "the server could not find the requested resource"), "could not find"),
        (Status(403, "Forbidden", "no"), f"the role needs the verb 'get' on '{CRDS}'"),
        (Raw(b"<html>"), "cannot be read"),
    ],
)
def test_what_does_not_say_that_a_definition_is_gone_is_not_taken_for_that(tmp_path: Path, answer: Status | Raw, said: str) -> None:
    async def test() -> None:
        cluster = FakeCluster()
        rule = cluster.fail(answer, "get", CRDS)
        async with running(cluster, tmp_path) as rig:
            await eventually(lambda: said in rig.source.state.error)
            assert not rig.source.state.synced
            rule.times = 0
            await rig.synced()

    run(test())


def test_a_kind_is_not_dropped_for_a_page_of_a_proxy(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.put(policy("deny"))
        async with running(cluster, tmp_path) as rig:
            await rig.synced()
            cluster._resources.pop(POLICY)
            rule = cluster.fail(Status(404, "", "404 page not found"), "get", CRDS)
            await eventually(lambda: rule.hits > 2)
            assert rig.sink.of(POLICY) == ["shop/deny"]
            assert "404 page not found" in rig.source.state.error

    run(test())


@pytest.mark.slow
def test_a_resync_finds_what_no_event_told(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.put(pod("a"))
        async with running(cluster, tmp_path, replace(FAST, resync=1.0)) as rig:
            await rig.synced()
            del cluster._resources["pods"].objects["shop", "a"]  # and nobody is told
            await rig.agrees()

    run(test())


@pytest.mark.slow
def test_a_resync_that_fails_does_not_end_the_watch(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with running(cluster, tmp_path, replace(FAST, resync=1.0)) as rig:
            await rig.synced()
            rule = cluster.fail(Status(500), "list", "pods")
            await eventually(lambda: rule.hits > 0)
            cluster.put(pod("a"))
            await eventually(lambda: rig.sink.of("pods") == ["shop/a"])
            assert rig.source.state.error == ""

    run(test())


@pytest.mark.slow
def test_a_resync_that_fails_halfway_is_not_undone_by_the_events_before_it(cluster: FakeCluster, tmp_path: Path) -> None:
    """Its first page was newer than what the watch goes on with: for a moment, an older policy would be in force."""

    async def test() -> None:
        cluster.put(policy("deny"))
        cluster.put(policy("other"))
        events: list[bytes] = []

        def change(call: Call) -> None:
            """Between a watch and the list that follows it."""
            if (call.verb, call.resource) == ("list", POLICY) and not events and cluster.seen("watch", POLICY):
                for action in ("ALLOW", "DENY"):
                    value = cluster.put(
                        {**policy("deny", action), "metadata": {"name": "deny", "namespace": "shop", "labels": {"n": action}}}
                    )
                    events.append(json.dumps({"type": "MODIFIED", "object": value}).encode() + b"\n")
                cluster.fail(Status(500), "list", POLICY)
                cluster.fail(Raw(events[0]), "watch", POLICY, times=1)

        cluster.meanwhile = change
        origin = f"{POLICY}/shop/deny"
        async with running(cluster, tmp_path, replace(FAST, page=1, resync=0.01)) as rig:
            await eventually(lambda: rig.meter.counts.get(("stale", POLICY), 0) >= 2)
            assert rig.sink.one(origin).metadata.labels["n"] == "DENY"
            assert rig.sink.story.count(("put", origin)) == 2, "as it was, and as it is: what was between is not handed over any more"
            cluster.put(policy("deny", "AUDIT"))
            await eventually(lambda: rig.sink.story.count(("put", origin)) == 3)

    run(test())
