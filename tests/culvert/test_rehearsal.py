"""The drill of the CA without a playground: who talks to whom, what counts as done, how it is told. The CA is real, its nodes are not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from control.ca import directory, upkeep
from control.ca.command import CommandSocket
from control.ca.holders import Holders, Report
from control.ca.upkeep import Upkeep
from culvert.rehearsal.client import Refused, Unreachable, ask
from culvert.rehearsal.drill import COMMANDS, Options, Phase, run
from culvert.rehearsal.load import Load, Pair, Tally, pairs
from culvert.rehearsal.report import document, line, troubles
from culvert.verify.findings import Pod
from tests.control.ca.support import a_keeper

QUICK = Options(seconds=0.01, patience=0.5)


def pod(name: str, node: str, *addresses: str, enrolled: bool = True) -> Pod:
    return Pod("shop", name, node, enrolled, tuple(ip_address(text) for text in addresses))


A = pod("a", "node-1", "10.0.1.1", "fd00:1::1")
B = pod("b", "node-2", "10.0.2.1", "fd00:2::1")
C = pod("c", "node-2", "10.0.2.2")
OUTSIDE = pod("o", "node-2", "10.0.2.9", enrolled=False)


def test_pairs_are_of_the_mesh_and_of_two_nodes_and_of_both_families() -> None:
    found = [str(pair) for pair in pairs([C, B, A, OUTSIDE], 10)]
    assert found == [
        "shop/a (node-1) → shop/b (node-2), IPv4",
        "shop/c (node-2) → shop/a (node-1), IPv4",
        "shop/a (node-1) → shop/c (node-2), IPv4",
        "shop/b (node-2) → shop/a (node-1), IPv6",
    ]
    assert len(pairs([A, B, C], 2)) == 2


def test_there_may_be_none() -> None:
    assert pairs([B, C, OUTSIDE], 8) == []
    assert pairs([], 8) == []


class Nodes:
    """Nodes that follow a CA, and renew a moment after they are told; `asleep` do not."""

    def __init__(self, tmp_path: Path, *names: str, asleep: tuple[str, ...] = ()) -> None:
        self.path = tmp_path / "command.sock"
        self.holders = Holders()
        self.keeper = a_keeper(tmp_path / "ca", holders=self.holders)
        self.numbers = {name: self.holders.join(name, "peer") for name in names}
        self.asleep = asleep

    async def __aenter__(self) -> Nodes:
        await self.keeper.start()
        self.commands = CommandSocket(self.keeper, self.path)
        await self.commands.start()
        self.tasks = [asyncio.create_task(Upkeep(self.keeper, self.keeper._metrics).run()), asyncio.create_task(self.renew())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.commands.close()

    async def renew(self) -> None:
        changed = asyncio.Event()
        self.keeper.listeners.add(changed)
        while True:
            changed.clear()
            await asyncio.sleep(0.01)
            token = self.keeper.authority.token
            for name, number in self.numbers.items():
                if name not in self.asleep:
                    self.holders.report(number, Report(token, 3), token, self.keeper.clock())
            await changed.wait()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "TICK", 0.02)
    monkeypatch.setattr(directory, "LOOK", 0.05)
    monkeypatch.setattr("culvert.rehearsal.drill.LOOK", 0.02)


def rehearsed(nodes: Nodes, tell: Callable[[Phase], None] = lambda phase: None) -> list[Phase]:
    async def main() -> list[Phase]:
        async with nodes:
            load = Load([], 0, 0, "before")
            return await run(nodes.path, load, QUICK, tell)

    return asyncio.run(main())


def test_all_phases_in_their_order_each_waits_for_every_node(tmp_path: Path) -> None:
    told: list[str] = []
    phases = rehearsed(Nodes(tmp_path, "node-1", "node-2"), lambda phase: told.append(phase.name))
    assert told == ["before", *COMMANDS, "after"]
    assert [phase.problem for phase in phases] == [""] * 7
    assert [phase.roots for phase in phases] == [1, 1, 1, 2, 2, 1, 1]
    for phase in phases[1:-1]:
        assert phase.renewed.keys() == {"node-1", "node-2"}
        assert all(after is not None and after < QUICK.patience for after in phase.renewed.values())


def test_it_stops_at_a_phase_that_does_not_end(tmp_path: Path) -> None:
    phases = rehearsed(Nodes(tmp_path, "node-1", "node-2", asleep=("node-2",)))
    assert [phase.name for phase in phases] == ["before", "leaves"]
    assert phases[-1].problem == "not renewed: node-2"
    assert (phases[-1].renewed["node-1"] is not None, phases[-1].renewed["node-2"]) == (True, None)
    assert not phases[-1].good


def test_what_the_ca_refuses_ends_it(tmp_path: Path) -> None:
    async def main() -> list[Phase]:
        async with Nodes(tmp_path, "node-1") as nodes:
            await nodes.keeper.introduce()
            await nodes.keeper.switch(force=True)
            return await run(nodes.path, Load([], 0, 0, "before"), QUICK, lambda phase: None)

    phases = asyncio.run(main())
    assert phases[-1].name == "introduce"
    assert "finish that change first" in phases[-1].problem


def test_a_ca_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no CA takes commands at"):
        ask(tmp_path / "command.sock", "show")
    with pytest.raises(Unreachable, match="no CA takes commands at"):
        ask(tmp_path / "none" / "command.sock", "show")


def test_commands_and_their_refusals(tmp_path: Path) -> None:
    async def main() -> None:
        async with Nodes(tmp_path) as nodes:
            shown: dict[str, Any] = await asyncio.to_thread(ask, nodes.path, "show")
            assert shown["phase"] == "steady"
            with pytest.raises(Refused, match="first step"):
                await asyncio.to_thread(ask, nodes.path, "switch", force=True)

    asyncio.run(main())


GOOD = Tally(tried=10, exchanges=20)


@pytest.mark.parametrize(
    ("phase", "good", "trouble"),
    [
        (Phase("leaves", tally=GOOD, renewed={"n1": 0.5}), True, []),
        (Phase("leaves", tally=Tally()), False, ["leaves: no connection was tried"]),
        (Phase("leaves", tally=Tally(10, 1, failures=["a → b: refused"])), False, ["leaves: a → b: refused"]),
        (Phase("leaves", tally=Tally(10, cut=1, cuts=["a → b: reset"])), False, ["leaves: cut: a → b: reset"]),
        (Phase("leaves", tally=GOOD, problem="not renewed: n1"), False, ["leaves: not renewed: n1"]),
    ],
)
def test_what_went_wrong_is_told(phase: Phase, good: bool, trouble: list[str]) -> None:
    assert (phase.good, troubles([phase])) == (good, trouble)
    assert document([phase], Load([], 0, 0, ""))["ok"] == good


def test_one_line_for_people() -> None:
    phase = Phase("switch", 4.14, Tally(tried=1644, exchanges=1068), {"node-1": 0.25, "node-2": None})
    assert line(phase) == (
        "switch         4.1 s  1644 connections, 0 failed; 1068 exchanges on those that stay, 0 cut; 1 of 2 nodes renewed within 0.2 s"
    )


@pytest.mark.netns
def test_a_drill_that_is_interrupted_leaves_no_complaint() -> None:
    """Connections come in at every moment at which it may be."""
    said: list[str] = []
    here = "/proc/self/ns/net"
    source, destination = (replace(pod(name, name, "127.0.0.1"), netns=here) for name in ("a", "b"))

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context["message"]))
        load = Load([Pair(source, destination, ip_address("127.0.0.1"))], workers=8, held=1, phase="before")
        await load.start()
        while load.tally.tried < 40:
            await asyncio.sleep(0)
        await load.stop()

    for _ in range(10):
        asyncio.run(main())
    assert said == []
