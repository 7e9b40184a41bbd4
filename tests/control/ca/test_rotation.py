"""The steps of a change of root: as a table, and as a property over any order of steps, renewals, waits and absences."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control.ca import rotation
from control.ca.material import Material
from control.ca.rotation import Gate, NotYet, demand, gate, hear, introduce, retire, switch
from control.ca.state import Phase, State

OPEN = Gate((), 0, 0)


def material(root: str, intermediate: str = "i") -> Material:
    return Material("key", (f"{root}/{intermediate}",), (root,), "root key")


def state(**fields: object) -> State:
    return replace(State("td", material("A"), longest=100), **fields)  # type: ignore[arg-type]


def test_the_three_steps() -> None:
    steady = state()
    introduced = introduce(steady, material("B"), 10)
    assert (introduced.phase, introduced.bundle, introduced.current.roots) == (Phase.INTRODUCED, ("A", "B"), ("A",))
    switched = switch(introduced, OPEN, 20)
    assert (switched.phase, switched.bundle, switched.current.roots) == (Phase.SWITCHED, ("B", "A"), ("B",))
    retired = retire(switched, OPEN, 30)
    assert (retired.phase, retired.bundle) == (Phase.STEADY, ("B",))
    assert len({each.token for each in (steady, introduced, switched, retired)}) == 4
    assert [each.since for each in (introduced, switched, retired)] == [10, 20, 30]


def test_each_step_done_twice_is_done() -> None:
    introduced = introduce(state(), material("B"), 10)
    assert introduce(introduced, material("C"), 11) is introduced
    switched = switch(introduced, OPEN, 20)
    assert switch(switched, OPEN, 21) is switched
    retired = retire(switched, OPEN, 30)
    assert retire(retired, OPEN, 31) is retired


def test_steps_out_of_their_order_are_refused() -> None:
    with pytest.raises(NotYet, match="first step"):
        switch(state(), OPEN, 0)
    with pytest.raises(NotYet, match="switch to it first"):
        retire(introduce(state(), material("B"), 0), OPEN, 0)
    with pytest.raises(NotYet, match="finish that change"):
        introduce(switch(introduce(state(), material("B"), 0), OPEN, 0), material("C"), 0)
    with pytest.raises(NotYet, match="signs already"):
        rotation.abandon(switch(introduce(state(), material("B"), 0), OPEN, 0), 0)


def test_the_first_step_can_be_taken_back() -> None:
    back = rotation.abandon(introduce(state(), material("B"), 10), 20)
    assert (back.phase, back.bundle, back.token, back.since) == (Phase.STEADY, ("A",), state().token, 20)


def test_a_gate_opens_when_all_have_renewed_or_nothing_from_before_is_alive() -> None:
    begun = introduce(state(), material("B"), 1000)
    closed = gate(begun, ["n1", "n2"], settle=5)
    assert closed == Gate(("n1", "n2"), 1100, 1005)
    assert not closed.is_open(1099)
    assert closed.is_open(1100)
    with pytest.raises(NotYet, match="n1, n2; their certificates from before expire in 50 s"):
        switch(begun, closed, 1050)
    assert switch(begun, closed, 1050, force=True).phase is Phase.SWITCHED
    begun = hear(hear(begun, begun.token, ["n1"], ["n1"]), begun.token, ["n2"], ["n1", "n2"])
    opened = gate(begun, ["n1", "n2"], settle=5)
    with pytest.raises(NotYet, match=r"3\.0 s too young"):
        switch(begun, opened, 1002)
    assert switch(begun, opened, 1005).phase is Phase.SWITCHED


def test_a_confirmation_of_something_else_counts_for_nothing() -> None:
    before = state()
    begun = introduce(before, material("B"), 0)
    assert hear(begun, before.token, ["n1"], ["n2"]) is begun
    later = demand(begun, 1)
    assert hear(later, begun.token, ["n1"], ["n2"]) is later


def test_a_gate_waits_for_those_that_other_replicas_know_of() -> None:
    begun = introduce(state(), material("B"), 0)
    heard = hear(begun, begun.token, ["n1"], ["n1", "shop/cart"])
    assert (heard.confirmed, heard.held) == ({"n1"}, {"shop/cart"})
    assert hear(heard, begun.token, ["n1"], ["shop/cart"]) is heard
    assert gate(heard, ["n1", "n2"], 0).waiting == ("n2", "shop/cart")
    assert gate(hear(heard, begun.token, ["shop/cart"], ()), ["n1"], 0).waiting == ()
    assert demand(heard, 1).held == frozenset()


def test_too_many_to_be_remembered_are_waited_for_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "MAX_HOLDERS", 2)
    begun = introduce(state(), material("B"), 0)
    heard = hear(begun, begun.token, (), ["a", "b", "c"])
    assert gate(heard, (), 0).waiting == (rotation.CROWD,)
    assert hear(heard, begun.token, (), ["a", "b", "c"]) is heard
    assert hear(begun, begun.token, ["a", "b", "c"], ()) is begun


def test_a_new_intermediate_is_no_reason_to_renew_and_a_demand_is() -> None:
    before = replace(state(), confirmed=frozenset({"n1"}))
    assert replace(before, current=material("A", "other")).token == before.token
    after = demand(before, 50)
    assert (after.token != before.token, after.since, after.confirmed) == (True, 50, frozenset())


def test_an_end_of_what_signs_opens_the_gate_of_the_second_step() -> None:
    """Nothing that it signed outlives it, and it can sign nothing any more: waiting on would be for ever."""
    begun = introduce(state(), material("B"), 1000)
    assert gate(begun, ["n1"], 0, end=1020).opens_at == 1020
    assert gate(switch(begun, OPEN, 1030), ["n1"], 0, end=1020).opens_at == 1130


def test_leaves_from_before_a_shorter_life_are_reckoned_with() -> None:
    shorter = rotation.with_longest(state(longest=1000), 10, now=500)
    assert introduce(shorter, material("B"), 600).outlived == 1500
    assert introduce(shorter, material("B"), 2000).outlived == 2010
    assert rotation.with_longest(shorter, 10, now=900) is shorter


MOUNTED = {
    "the same": (material("A"), Phase.STEADY, ("A",), False),
    "another intermediate": (material("A", "j"), Phase.STEADY, ("A",), False),
    "another root beside": (replace(material("A"), roots=("A", "B")), Phase.STEADY, ("A", "B"), True),
    "another root": (material("B"), Phase.INTRODUCED, ("A", "B"), True),
    "another root signs, the old one beside": (replace(material("B"), roots=("B", "A")), Phase.INTRODUCED, ("A", "B"), True),
}


@pytest.mark.parametrize("case", MOUNTED)
def test_what_is_mounted_counts_at_once_unless_it_would_break_connections(case: str) -> None:
    found, phase, bundle, moved = MOUNTED[case]
    before = state(since=5.0)
    after = rotation.mounted(before, found, 10)
    assert (after.phase, after.bundle, after.token != before.token, after.since) == (phase, bundle, moved, 10 if moved else 5)
    if phase is Phase.INTRODUCED:
        assert after.current == before.current  # which signs until the gate opens
        assert rotation.mounted(after, before.current, 20).phase is Phase.STEADY  # somebody put it back


def test_a_second_mounted_root_before_the_first_has_retired() -> None:
    second = rotation.mounted(switch(rotation.mounted(state(), material("B"), 0), OPEN, 1), material("C"), 2)
    assert second.bundle == ("B", "C", "A")
    assert switch(second, OPEN, 3).bundle == ("C", "A", "B")


@dataclass(frozen=True)
class Leaf:
    """What a node has: the root that its certificate leads to, the roots that came with it, and until when it is valid."""

    root: str
    trusts: tuple[str, ...]
    until: float


class Mesh(RuleBasedStateMachine):
    """Nodes that follow and nodes that do not, renewing or away, under somebody who presses every button. Whoever has a valid certificate
    is accepted by everybody else who has one.
    """

    LONGEST = 100.0

    @initialize()
    def begin(self) -> None:
        self.now = 1000.0
        self.roots = (f"R{number}" for number in itertools.count(1))
        self.state = State("td", material(next(self.roots)), since=self.now, longest=int(self.LONGEST))
        self.leaves: dict[str, Leaf] = {}
        self.changes = 0
        for node in ("follows1", "follows2", "istio1"):
            self.renew(node)

    @rule(node=st.sampled_from(["follows1", "follows2", "istio1", "istio2"]))
    def renew(self, node: str) -> None:
        self.leaves[node] = Leaf(self.state.current.roots[0], self.state.bundle, self.now + self.LONGEST)
        if node.startswith("follows"):
            self.state = hear(self.state, self.state.token, [node], ())

    @rule(seconds=st.sampled_from([1.0, 30.0, 60.0, 101.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def introduce(self) -> None:
        self.step(lambda: introduce(self.state, material(next(self.roots)), self.now))

    @rule()
    def switch(self) -> None:
        self.step(lambda: switch(self.state, self.gate(), self.now))

    @rule()
    def retire(self) -> None:
        self.step(lambda: retire(self.state, self.gate(), self.now))

    @rule()
    def abandon(self) -> None:
        self.step(lambda: rotation.abandon(self.state, self.now))

    @rule()
    def demand(self) -> None:
        self.state = demand(self.state, self.now)

    @rule()
    @precondition(lambda self: self.state.phase is not Phase.SWITCHED)
    def mount(self) -> None:
        self.state = rotation.mounted(self.state, material(next(self.roots)), self.now)

    def step(self, take: object) -> None:
        try:
            self.state = take()  # type: ignore[operator]
        except NotYet:
            return
        self.changes += 1

    def gate(self) -> Gate:
        return gate(self.state, self.leaves, settle=0.5)

    @invariant()
    def everybody_accepts_everybody(self) -> None:
        alive = [leaf for leaf in self.leaves.values() if leaf.until > self.now]
        for one, other in itertools.permutations(alive, 2):
            assert one.root in other.trusts, (self.state, self.leaves)

    @invariant()
    def what_is_issued_is_accepted(self) -> None:
        assert self.state.current.roots[0] in self.state.bundle
        for leaf in self.leaves.values():
            if leaf.until > self.now:
                assert leaf.root in self.state.bundle
                assert self.state.current.roots[0] in leaf.trusts


Mesh.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestMesh = Mesh.TestCase
