"""Whom a change of root does not wait for: nobody of whom there is any doubt."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from control.ca import departed as module
from control.ca.departed import GAP, GRACE, Departed
from control.ca.holders import Holders, Report
from control.ca.rotation import NotYet, gate, introduce
from control.ca.state import Phase
from control.presence import presence
from tests.control.ca.support import Clock, a_keeper, a_state
from tests.control.ca.test_keeper import running
from tests.control.ca.test_rotation import material
from tests.control.objects import pod, resolved
from tests.control.plane import running as plane_running

POD = "shop/cart-1"
STEP = 50.0
assert STEP < GAP
assert GRACE % STEP == 0

T, F, U, S = "there", "gone", "unknown", "stale"
ENOUGH = int(GRACE / STEP)


def after(story: list[str], step: float = STEP) -> bool:
    """Whether the pod is forgotten after these looks, `step` seconds apart; "+" is a sign of life of its own."""
    now, said = 0.0, T
    found = Departed(lambda: None if said == S else lambda name: {T: True, F: False, U: None}[said])
    for said in story:
        if said == "+":
            found.shows(POD)
            continue
        now += step
        found.look([POD], now)
    return POD in found.gone()


STORIES = {
    "gone for long enough": ([T, F, *[F] * ENOUGH], True),
    "almost": ([T, *[F] * ENOUGH], False),
    "never seen, as after a restart": ([F] * 3 * ENOUGH, False),
    "never known to be there": ([U, *[F] * 3 * ENOUGH], False),
    "still there": ([T] * 3 * ENOUGH, False),
    "it came back": ([T, *[F] * ENOUGH, T, *[F] * ENOUGH], False),
    "it came back, and went for good": ([T, *[F] * ENOUGH, T, F, *[F] * ENOUGH], True),
    "it came back after it was forgotten": ([T, *[F] * 2 * ENOUGH, T], False),
    "it may be back": ([T, *[F] * 2 * ENOUGH, U], False),
    "a source is stale": ([T, *[F] * 2 * ENOUGH, S], False),
    "a source was stale in between": ([T, *[F] * ENOUGH, S, *[F] * ENOUGH], False),
    "a source was stale before": ([T, F, S, F, *[F] * ENOUGH], True),
    "before the sources are synced": ([S, *[F] * 2 * ENOUGH], False),
    "it shows itself": ([T, *[F] * 2 * ENOUGH, "+"], False),
    "it showed itself, and was not seen since": ([T, *[F] * ENOUGH, "+", *[F] * 3 * ENOUGH], False),
    "it showed itself, was seen, and went": ([T, F, "+", T, F, *[F] * ENOUGH], True),
}


@pytest.mark.parametrize("case", STORIES)
def test_who_is_forgotten(case: str) -> None:
    story, forgotten = STORIES[case]
    assert after(story) == forgotten


def test_what_nobody_looked_at_is_not_known() -> None:
    assert not after([T, *[F] * 3 * ENOUGH], GAP + 1)


def test_who_holds_nothing_any_more_is_not_remembered() -> None:
    found = Departed(lambda: lambda name: False if found._since else name == POD)
    found.look([POD, "shop/web-1"], 0.0)
    found.look([], 10.0)
    assert (found._seen, found._since) == (set(), {})


def test_a_gate_does_not_wait_for_who_is_gone() -> None:
    state = replace(introduce(a_state(), material("B"), 1000), held=frozenset({"shop/web-1"}), since=1000.0)
    found = gate(state, ["n1", POD], 0, gone=["shop/web-1", POD, "n9"])
    assert (found.waiting, found.forgotten, found.is_open(1001)) == (("n1",), (POD, "shop/web-1"), False)
    found = gate(replace(state, confirmed=frozenset({"n1", POD})), ["n1", POD], 0, gone=["shop/web-1", POD])
    assert (found.waiting, found.forgotten, found.is_open(1001)) == ((), ("shop/web-1",), True)


def test_who_follows_is_not_gone() -> None:
    now = 0.0
    there = True
    holders = Holders(sources=lambda: lambda name: there, monotonic=lambda: now)
    holders.issued(POD, 10**6, 0.0)
    holders.look((), 0.0)
    there = False
    for _ in range(ENOUGH + 1):
        now += STEP
        holders.look(["shop/other"], 0.0)
    assert holders.gone() == {POD: GRACE}
    (shown,) = holders.view(0.0)
    assert (shown["gone"], shown["problem"]) == (GRACE, "it is gone, and not waited for")
    number = holders.join(POD, "peer")
    assert holders.gone() == {}
    holders.leave(number)
    assert holders.gone() == {}, "it was there a moment ago"


def test_who_follows_while_its_object_is_gone_is_not_forgotten_when_its_stream_breaks() -> None:
    """Its node's object was deleted by mistake, say. It comes again within seconds."""
    now, there = 0.0, True
    holders = Holders(sources=lambda: lambda name: there, monotonic=lambda: now)
    holders.issued("n1", 10**6, 0.0)
    number = holders.join("n1", "peer")
    holders.look((), 0.0)
    there = False
    for _ in range(ENOUGH + 1):
        now += STEP
        holders.look((), 0.0)
    holders.leave(number)
    for _ in range(ENOUGH + 1):
        assert holders.gone() == {}
        now += STEP
        holders.look((), 0.0)
    assert holders.gone() == {}, "nor later: what says that it is gone was wrong before"


def test_who_followed_until_it_went_is_forgotten() -> None:
    """As a pod that is deleted: its process ends first."""
    now, there = 0.0, True
    holders = Holders(sources=lambda: lambda name: there, monotonic=lambda: now)
    holders.issued(POD, 10**6, 0.0)
    number = holders.join(POD, "peer")
    holders.look((), 0.0)
    holders.leave(number)
    there = False
    for _ in range(ENOUGH + 1):
        now += STEP
        holders.look((), 0.0)
    assert holders.gone() == {POD: GRACE}


def test_a_change_goes_on_without_a_pod_that_is_gone_and_waits_for_one_that_came_back(tmp_path: Path) -> None:
    async def main() -> None:
        now = 0.0
        there: set[str] = {POD, "shop/web-1"}
        holders = Holders(sources=lambda: lambda name: name in there, monotonic=lambda: now)
        keeper = a_keeper(tmp_path / "ca", holders=holders, clock=Clock())
        async with running(keeper):
            for name in ("shop/web-1", POD):
                holders.issued(name, keeper.clock() + 80_000, keeper.clock())
            assert keeper.gate().forgotten == ()
            there.clear()
            await keeper.introduce()
            for _ in range(ENOUGH + 1):
                now += STEP
                waiting = keeper.gate().waiting
            assert waiting == ()
            there.add("shop/web-1")
            await asyncio.sleep(keeper.store.settle)
            with pytest.raises(NotYet, match="renewed: shop/web-1;"):
                await keeper.switch()
            number = holders.join("shop/web-1", "peer")
            holders.report(number, Report(keeper.authority.token, 1), keeper.authority.token, keeper.clock())
            while "shop/web-1" not in keeper.state.confirmed:
                await asyncio.sleep(0.01)
            assert keeper.gate().forgotten == (POD,)
            await keeper.switch()
            assert keeper.state.phase is Phase.SWITCHED

    asyncio.run(main())


NODE = "{apiVersion: v1, kind: Node, metadata: {name: n2}}"


@pytest.mark.parametrize(
    ("holder", "there"),
    [
        ("shop/a", True),
        ("shop/b", False),
        ("other/a", False),
        ("shop/bad", True),
        ("shop/account:a", False),
        ("n1", None),
        ("n2", True),
        ("n3", False),
    ],
)
def test_who_is_there(holder: str, there: bool | None) -> None:
    """On n1 runs a pod of the mesh; and of a pod that is refused, it is known that it is there."""
    captured = "annotations: {ambient.istio.io/redirection: enabled}"
    found = resolved(pod("a", meta=captured), NODE, pod("bad", "10.0.0.2", spec="hostNetwork: 1"))
    assert [str(key) for key in found.catalog.rejections] == ["Pod shop/bad"]
    assert presence(found)(holder) is there


def test_the_control_plane_asks_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.0)

    async def main() -> None:
        a, b = pod("a"), pod("b", "10.0.0.2")
        async with asyncio.timeout(20), plane_running(tmp_path, {"a.yaml": a, "b.yaml": b}) as plane:
            keeper, pipeline = plane.plane.ca.keeper, plane.plane.pipeline
            for name in ("shop/a", "shop/b", "shop/never"):
                keeper.holders.issued(name, keeper.clock() + 80_000, keeper.clock())
            assert keeper.gate().forgotten == (), "before they are synced"
            while not pipeline.current:
                await asyncio.sleep(0.01)
            assert keeper.gate().forgotten == ()
            plane.remove("a.yaml")
            while keeper.gate().forgotten != ("shop/a",):
                await asyncio.sleep(0.01)
            assert keeper.gate().waiting == ("shop/b", "shop/never")
            (tmp_path / "manifests").rename(tmp_path / "elsewhere")
            while pipeline.current:
                await asyncio.sleep(0.01)
            assert keeper.gate().waiting == ("shop/a", "shop/b", "shop/never")

    asyncio.run(main())
