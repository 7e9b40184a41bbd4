"""Reconciliation told as stories, in virtual time, over an in-memory kernel: what is captured when, and what is never."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from agent.member import GOODBYE, HEADSTART, LAST_RETRY, LINGER, RESYNC
from mesh.wire.zds import Add, Delete, Keep, Request, SnapshotSent, WorkloadInfo
from tests.agent.fakes import FakeNamespace, FakeNode
from tests.agent.virtual import run

INFO = {uid: WorkloadInfo(uid, "shop", "default") for uid in ("a", "b", "c")}
Story = Callable[[FakeNode], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_namespace_stays_open() -> Iterator[None]:
    before = FakeNamespace.open_now
    yield
    assert FakeNamespace.open_now == before


def tell(story: Story) -> FakeNode:
    async def main() -> FakeNode:
        node = FakeNode()
        await story(node)
        await node.reconciler.stop()
        return node

    return run(main())


def never(request: Request) -> str | None:
    return None if isinstance(request, Add) else ""


def test_a_running_pod_the_tunnel_comes_first() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.listening = {1}
        await node.reconciler.start()
        tunnel = node.tunnel(never)
        await node.settle(HEADSTART / 2)
        assert node.host.log == ["prepare 1"]
        tunnel.ack()
        await node.settle(0.01)
        assert node.host.log == ["prepare 1", "capture 1"]
        assert node.redirections.history == [("a", "enabled")]
        assert node.counts == {"enrolled": 1}

    tell(story)


@pytest.mark.parametrize("kind", ["away", "hangs", "refuses", "listens nowhere"])
def test_a_running_pod_is_not_open_for_longer_than_the_headstart(kind: str) -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        await node.reconciler.start()
        if kind == "hangs":
            node.tunnel(never)
        elif kind == "refuses":
            node.tunnel(lambda request: "no room" if isinstance(request, Add) else "")
        elif kind == "listens nowhere":
            node.tunnel()
        await node.settle(HEADSTART * 0.9)
        assert not node.host.captures
        await node.settle(HEADSTART * 0.2 + (LAST_RETRY if kind in ("refuses", "listens nowhere") else 0))
        assert node.host.captures == {1}
        why = {
            "away": "no tunnel is connected",
            "hangs": "the tunnel has not answered yet",
            "refuses": "the tunnel refused the pod: no room",
            "listens nowhere": "the tunnel accepted the pod, but listens on no port 15006 with the mark of this node",
        }[kind]
        assert node.redirections.states == {"a": f"pending: {why}"}

    tell(story)


def test_refusals_do_not_stretch_the_headstart() -> None:
    """The retries back off to 5 s; the capture does not wait for the next of them."""

    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        await node.reconciler.start()
        node.tunnel(lambda request: "no room" if isinstance(request, Add) else "")
        await node.settle(HEADSTART * 1.01)
        assert node.host.captures == {1}

    tell(story)


def test_a_new_pod_is_never_open() -> None:
    async def story(node: FakeNode) -> None:
        node.host.listening = {1}
        await node.reconciler.start()
        tunnel = node.tunnel(never)
        node.pod("a", 1)
        node.reconciler.pods_changed()
        await node.settle(0.01)
        assert node.host.captures == {1}
        assert node.redirections.states == {"a": "pending: the tunnel has not answered yet"}
        tunnel.ack()
        await node.settle(0.01)
        assert node.redirections.states == {"a": "enabled"}

    tell(story)


def test_leaving_is_the_mirror_image() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.listening = {1}
        await node.reconciler.start()
        tunnel = node.tunnel()
        await node.settle()
        tunnel.answer = lambda request: None if isinstance(request, Delete) else ""
        node.host.log.clear()
        node.pod("a", 1, labels={})
        node.reconciler.pods_changed()
        await node.settle(LINGER * 0.9)
        assert (set(node.host.log), node.redirections.states) == ({"release 1"}, {})
        assert Delete("a") not in tunnel.got, "peers may still come by HBONE, and what is carried may end by itself"
        await node.settle(GOODBYE / 2)
        assert set(node.host.log) == {"release 1"}, "the routing that deliveries need stays until the tunnel let go"
        tunnel.ack()
        await node.settle(0.01)
        assert node.host.log[-1] == "restore 1"
        assert (node.redirections.states, node.reconciler.members, node.host.prepared) == ({}, {}, {})
        assert tunnel.got == [Add("a", INFO["a"]), SnapshotSent(), Delete("a")]
        assert all(watch.closed for watch in node.watches)

    tell(story)


def test_a_tunnel_that_does_not_let_go_is_not_waited_for_for_ever() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.listening = {1}
        await node.reconciler.start()
        tunnel = node.tunnel()
        await node.settle()
        tunnel.answer = lambda request: None if isinstance(request, Delete) else ""
        assert node.pods.pods is not None
        node.pods.pods.clear()
        node.reconciler.pods_changed()
        await node.settle(0.01)
        assert tunnel.got[-1] == Delete("a"), "a pod that is gone needs no linger"
        assert list(node.reconciler.members) == ["a"]
        await node.settle(GOODBYE * 1.1)
        assert node.reconciler.members == {}

    tell(story)


@pytest.mark.parametrize("when", [LINGER / 2, LINGER * 2])
def test_labelled_again_while_it_leaves(when: float) -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.listening = {1}
        await node.reconciler.start()
        tunnel = node.tunnel()
        await node.settle()
        tunnel.answer = lambda request: None if isinstance(request, Delete) else ""
        node.pod("a", 1, labels={})
        node.reconciler.pods_changed()
        await node.settle(when)
        assert not node.host.captures
        node.pod("a", 1)
        node.reconciler.pods_changed()
        await node.settle(0.1)
        if when > LINGER:
            tunnel.ack()
            await node.settle(0.1)
            assert tunnel.got[-2:] == [Delete("a"), Add("a", INFO["a"])]
        assert node.host.captures == {1}
        assert node.reconciler.members["a"].state == "enabled"
        assert node.redirections.states == {"a": "enabled"}

    tell(story)


def test_one_pods_failure_is_its_own_and_is_retried_with_backoff() -> None:
    async def story(node: FakeNode) -> None:
        for number, uid in enumerate("abc", 1):
            node.pod(uid, number)
        node.host.listening = {1, 2, 3}
        node.host.broken["prepare 2"] = OSError(101, "Network is unreachable")
        await node.reconciler.start()
        node.tunnel()
        await node.settle(60)
        assert node.redirections.states == {"a": "enabled", "b": "pending: [Errno 101] Network is unreachable", "c": "enabled"}
        # 5 ms, 10 ms, … 2.56 s, then every 5 s: 10 tries in 5.1 s, 10 or 11 more until 60 s.
        assert 20 <= node.counts["failed"] <= 22
        assert 2 not in node.host.captures
        node.host.broken.clear()
        await node.settle(LAST_RETRY)
        assert node.redirections.states["b"] == "enabled"
        assert node.reconciler.members["b"].failures == 0

    tell(story)


def test_a_bug_in_one_pod_is_contained() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.pod("b", 2)
        node.host.listening = {1, 2}
        node.host.broken["prepare 1"] = ZeroDivisionError("oops")
        await node.reconciler.start()
        node.tunnel()
        await node.settle()
        assert node.redirections.states["a"].startswith("pending: internal error: ZeroDivisionError")
        assert node.redirections.states["b"] == "enabled"

    tell(story)


def test_a_tunnel_that_goes_does_not_open_or_flap() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.listening = {1}
        await node.reconciler.start()
        tunnel = node.tunnel()
        await node.settle()
        tunnel.disconnect()
        await node.settle(10)
        assert node.host.captures == {1}
        assert node.redirections.history == [("a", "enabled")]
        assert node.reconciler.members["a"].problem == "no tunnel is connected"
        node.tunnel()
        await node.settle(0.1)
        assert node.reconciler.members["a"].problem == ""
        assert node.redirections.history == [("a", "enabled")]

    tell(story)


def test_what_somebody_flushed_is_repaired_in_time() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.listening = {1}
        await node.reconciler.start()
        node.tunnel()
        await node.settle()
        node.host.log.clear()
        await node.settle(RESYNC * 0.9)
        assert node.host.log == []
        await node.settle(RESYNC * 0.2)
        assert node.host.log == ["prepare 1", "capture 1"]

    tell(story)


def test_changed_addresses_are_registered_at_once() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.listening = {1}
        await node.reconciler.start()
        node.tunnel()
        await node.settle()
        node.host.log.clear()
        node.watches[0].changed()
        await node.settle(0.01)
        assert node.host.log == ["prepare 1", "capture 1"]

    tell(story)


def test_a_sandbox_that_is_made_anew_is_a_new_namespace() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.listening = {1, 2}
        await node.reconciler.start()
        tunnel = node.tunnel()
        await node.settle()
        node.pod("a", 2, path="/run/netns/again")
        node.reconciler.pods_changed()
        await node.settle()
        assert node.host.captures == {2}
        assert set(node.host.prepared) == {2}
        assert tunnel.got == [Add("a", INFO["a"]), SnapshotSent(), Add("a", INFO["a"])]

    tell(story)


def test_two_pods_never_share_a_namespace() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.listening = {1}
        await node.reconciler.start()
        node.tunnel()
        await node.settle()
        node.pod("b", 1, path="/run/netns/a")
        node.reconciler.pods_changed()
        await node.settle()
        assert node.redirections.states["b"] == "pending: the network namespace /run/netns/a is still that of pod a"
        assert node.pods.pods is not None
        del node.pods.pods["a"]
        node.reconciler.pods_changed()
        await node.settle(LAST_RETRY * 2)
        assert node.redirections.states == {"b": "enabled"}
        assert node.host.captures == {1}

    tell(story)


# Restarts


async def restarted(node: FakeNode) -> None:
    await node.reconciler.stop()
    node.restart()
    node.host.log.clear()
    node.redirections.history.clear()


def test_adoption_keeps_capture_through_the_whole_start() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.listening = {1}
        await node.reconciler.start()
        node.tunnel()
        await node.settle()
        await restarted(node)
        await node.reconciler.start()
        assert node.reconciler.members["a"].state == "enabled"
        await node.settle(3)
        assert "release 1" not in node.host.log
        assert "restore 1" not in node.host.log
        assert node.redirections.states == {"a": "enabled"}
        tunnel = node.tunnel()
        await node.settle()
        assert tunnel.got == [Add("a", INFO["a"]), SnapshotSent()]
        assert node.redirections.history == []

    tell(story)


def test_what_went_while_nobody_looked_is_undone_and_only_that() -> None:
    async def story(node: FakeNode) -> None:
        for number, uid in enumerate("abc", 1):
            node.pod(uid, number)
        node.host.listening = {1, 2, 3}
        await node.reconciler.start()
        node.tunnel()
        await node.settle()
        await restarted(node)
        node.pod("a", 1, labels={})
        assert node.pods.pods is not None
        del node.pods.pods["b"]
        await node.reconciler.start()
        await node.settle()
        assert sorted(step for step in node.host.log if step.startswith("restore")) == ["restore 1", "restore 2"]
        assert node.host.captures == {3}
        assert node.redirections.states == {"c": "enabled"}
        assert node.counts["stale_removed"] == 2

    tell(story)


def test_a_pod_that_cannot_be_read_or_opened_is_not_gone() -> None:
    async def story(node: FakeNode) -> None:
        for number, uid in enumerate("abc", 1):
            node.pod(uid, number)
        node.host.listening = {1, 2, 3}
        await node.reconciler.start()
        node.tunnel()
        await node.settle()
        await restarted(node)
        pods = node.pods.pods
        assert pods is not None
        broken = pods.pop("a")
        node.pods.broken = frozenset({"a"})
        node.host.broken["open /run/netns/b"] = OSError(24, "Too many open files")
        await node.reconciler.start()
        tunnel = node.tunnel()
        await node.settle(60)
        assert node.host.captures == {1, 2, 3}
        assert node.redirections.states == {uid: "enabled" if uid != "b" else node.redirections.states["b"] for uid in "abc"}
        assert set(tunnel.got) == {Keep("a"), Keep("b"), Add("c", INFO["c"]), SnapshotSent()}
        # Now one can be read again and still is, the other can be read and is gone.
        node.host.broken.clear()
        node.pods.broken = frozenset()
        del pods["b"]
        pods["a"] = broken
        node.reconciler.pods_changed()
        await node.settle(60)
        assert node.host.captures == {1, 3}
        assert node.redirections.states == {"a": "enabled", "c": "enabled"}
        assert set(tunnel.got[4:]) == {Add("a", INFO["a"]), Delete("b")}

    tell(story)


def test_a_captured_namespace_without_a_record_waits_until_all_pods_are_found() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.captures = {1, 9}
        node.host.broken["open /run/netns/a"] = OSError(24, "Too many open files")
        await node.reconciler.start()
        await node.settle(60)
        assert node.host.captures == {1, 9}
        node.host.broken.clear()
        await node.settle(LAST_RETRY * 2.1)
        assert node.host.captures == {1}

    tell(story)


def test_a_stop_leaves_the_kernel_as_it_is() -> None:
    async def story(node: FakeNode) -> None:
        node.pod("a", 1)
        node.host.listening = {1}
        await node.reconciler.start()
        node.tunnel()
        await node.settle()

    node = tell(story)
    assert node.host.log == ["prepare 1", "capture 1"]
    assert node.redirections.states == {"a": "enabled"}


def test_the_pods_must_have_been_read() -> None:
    async def main() -> None:
        node = FakeNode()
        node.pods.pods = None
        node.host.captures = {1}
        with pytest.raises(Exception, match="not read yet"):
            await node.reconciler.start()
        await asyncio.sleep(100)
        assert node.host.captures == {1}

    run(main())
