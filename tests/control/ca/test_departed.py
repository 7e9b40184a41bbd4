"""Whom a change of root does not wait for: nobody of whom there is any doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from control.ca import departed as module
from control.ca import upkeep
from control.ca.departed import GAP, GRACE, Departed
from control.ca.holders import OBJECTION, Holders, Report
from control.ca.rotation import Gate, NotYet, gate, hear, introduce
from control.ca.state import DOUBT, Phase, State
from control.ca.store import MemoryStore
from control.presence import presence
from tests.control.ca.mounts import istio, put
from tests.control.ca.support import Clock, a_keeper, a_state
from tests.control.ca.test_keeper import running, until
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


class Watched:
    """What a replica knows of holders that its source sees, or not. Others have nothing to say."""

    def __init__(self) -> None:
        self.now = 0.0
        self.there = True
        self.holders = Holders(sources=lambda: lambda name: self.there, monotonic=lambda: self.now)

    def look(self, times: int = 1, held: Iterable[str] = ()) -> dict[str, float]:
        for _ in range(times):
            self.holders.look(held, 0.0)
            self.holders.heard(replace(STATE, held=frozenset(held)))
            self.now += STEP
        return self.holders.gone()


STATE = State("td", material("A"), longest=100)
ALL = ENOUGH + 1 + int(OBJECTION / STEP) + 1
"""Looks after which who was there before is gone."""


def test_who_follows_is_not_gone() -> None:
    watched = Watched()
    holders = watched.holders
    holders.issued(POD, 10**6, 0.0)
    watched.look()
    watched.there = False
    assert POD in watched.look(ALL, ["shop/other"])
    (shown,) = holders.view(0.0)
    assert shown["gone"] >= GRACE
    assert shown["problem"] == "it is gone, and not waited for"
    number = holders.join(POD, "peer")
    assert holders.gone() == {}
    holders.leave(number)
    assert holders.gone() == {}, "it was there a moment ago"


def test_who_follows_while_its_object_is_gone_is_not_forgotten_when_its_stream_breaks() -> None:
    """Its node's object was deleted by mistake, say. It comes again within seconds."""
    watched = Watched()
    holders = watched.holders
    holders.issued("n1", 10**6, 0.0)
    number = holders.join("n1", "peer")
    watched.look()
    watched.there = False
    watched.look(ALL)
    holders.leave(number)
    for _ in range(ALL):
        assert watched.look() == {}, "nor later: what says that it is gone was wrong before"


def test_who_followed_until_it_went_is_forgotten() -> None:
    """As a pod that is deleted: its process ends first."""
    watched = Watched()
    watched.holders.issued(POD, 10**6, 0.0)
    number = watched.holders.join(POD, "peer")
    watched.look()
    watched.holders.leave(number)
    watched.there = False
    assert POD in watched.look(ALL)


def test_others_are_asked_once_in_a_while_and_have_time_to_answer() -> None:
    watched = Watched()
    holders, state = watched.holders, replace(introduce(STATE, material("B"), 0), held=frozenset({POD, "shop/web-1"}))
    watched.look(1, state.held)
    watched.there = False
    watched.look(ENOUGH + 1, state.held)
    holders.heard(state)
    assert holders.doubtful(state) == {POD, "shop/web-1"}
    asked = hear(state, state.token, (), holders.claimed(0.0), holders.doubtful(state))
    assert asked.held == {POD + DOUBT, "shop/web-1" + DOUBT}
    assert gate(asked, (), 0).waiting == (POD, "shop/web-1"), "for who finds nobody gone"
    holders.asked(holders.doubtful(state))
    answered = hear(asked, state.token, (), [POD])
    holders.look(asked.held, 0.0)
    holders.heard(asked)
    assert (holders.gone(), holders.doubtful(asked)) == ({}, set())
    watched.now += OBJECTION - 1
    holders.look(answered.held, 0.0)
    holders.heard(answered)
    assert holders.gone() == {}
    watched.now += 1
    assert set(holders.gone()) == {"shop/web-1"}
    found = gate(answered, (), 0, gone=holders.gone())
    assert (found.waiting, found.forgotten) == ((POD,), ("shop/web-1",))
    assert holders.doubtful(answered) == set()
    watched.look(ENOUGH, answered.held)
    assert holders.doubtful(answered) == {POD}
    assert hear(answered, state.token, [POD, "shop/web-1"], ()).held == {POD}, "who has renewed is no question"


def test_of_a_new_change_nobody_has_answered_yet() -> None:
    watched = Watched()
    watched.holders.issued(POD, 10**6, 0.0)
    watched.look()
    watched.there = False
    assert POD in watched.look(ALL)
    watched.holders.heard(introduce(STATE, material("B"), 0))
    assert watched.holders.gone() == {}


class Before(Holders):
    """Of a replica of the version before this: it says of everybody whom it knows that it may hold something."""

    def claimed(self, now: float) -> set[str]:
        return self.known(now)

    def doubtful(self, state: State) -> set[str]:
        return set()


@pytest.mark.parametrize(
    ("other", "waits"),
    [
        ("it follows it", True),
        ("it issued to it, and has not seen it", True),
        ("it is of the version before", True),
        ("it finds it gone too", False),
        ("it has ended", False),
        ("it does not know it", False),
    ],
)
def test_a_replica_does_not_forget_who_is_there_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, waits: bool
) -> None:
    monkeypatch.setattr(upkeep, "TICK", 0.02)
    now, there = 0.0, {POD}

    def sees(name: str) -> bool:
        return name in there

    async def main() -> None:
        nonlocal now
        kind = Before if other == "it is of the version before" else Holders
        blind = other == "it issued to it, and has not seen it"
        ours = Holders(sources=lambda: sees, monotonic=lambda: now)
        theirs = kind(sources=lambda: None if blind else sees, monotonic=lambda: now)
        a, b = (a_keeper(tmp_path / "ca", holders=each) for each in (ours, theirs))
        ours.issued(POD, a.clock() + 80_000, a.clock())
        async with running(a), AsyncExitStack() as life:
            await life.enter_async_context(running(b))
            if other == "it follows it":
                theirs.join(POD, "peer")
            elif other != "it does not know it":
                theirs.issued(POD, b.clock() + 80_000, b.clock())
            await a.introduce()
            await until(lambda: POD in b.state.held)

            def look(times: int) -> Gate:
                nonlocal now
                for _ in range(times):
                    now += STEP
                    b.gate()
                    found = a.gate()
                return found

            look(1)
            if other == "it has ended":
                await life.aclose()
            there.clear()
            assert look(ENOUGH + 1).waiting == (POD,), "the other has not been asked"
            await until(lambda: POD + DOUBT in a.state.held)
            if waits:
                await until(lambda: POD in a.state.held)
            else:
                await until(lambda: POD not in a.state.held)
            found = look(2)
            assert ((POD in found.waiting), (POD in found.forgotten)) == (waits, not waits)
            await until(lambda: found.settled_at <= a.clock())
            if waits:
                with pytest.raises(NotYet, match=f"renewed: {POD};"):
                    await a.switch()
            else:
                await a.switch()

    asyncio.run(main())


def test_of_a_mounted_ca_whose_state_is_not_shared_nobody_is_forgotten(tmp_path: Path) -> None:
    """Another replica may be followed by whom this one finds gone, and could not say so."""
    watched = Watched()

    async def main() -> None:
        keeper = a_keeper(MemoryStore(""), mount=put(tmp_path / "mount", istio()), holders=watched.holders)
        await keeper.start()
        watched.holders.issued(POD, keeper.clock() + 80_000, keeper.clock())
        keeper.gate()
        watched.there = False
        for _ in range(2 * ALL):
            watched.now += STEP
            assert keeper.gate().waiting == (POD,)

    asyncio.run(main())


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
                keeper.gate()
            await until(lambda: not {POD, "shop/web-1"} & keeper.state.held)
            now += OBJECTION
            assert keeper.gate().waiting == ()
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
    monkeypatch.setattr("control.ca.holders.OBJECTION", 0.0)

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
