"""Rolling replacement and placement, as tables: facts in, the next step out."""

from __future__ import annotations

import pytest

from culvert.playground.rollout import Member, Step, choose_node, next_step, pod_suffix, template_hash


def old(name: str, ready: bool = True) -> Member:
    return Member(name, "a", ready, 1.0)


def new(name: str, ready: bool = True) -> Member:
    return Member(name, "b", ready, 2.0)


@pytest.mark.parametrize(
    ("replicas", "members", "step"),
    [
        (2, [], Step(2)),
        (2, [new("x"), new("y")], Step()),
        (1, [new("x"), new("y", ready=False)], Step(0, ("y",))),
        (0, [new("x")], Step(0, ("x",))),
        # Replacement: one more first, then an old one goes for each new one that is ready.
        (2, [old("p"), old("q")], Step(1)),
        (2, [old("p"), old("q"), new("x", ready=False)], Step()),
        (2, [old("p"), old("q"), new("x")], Step(0, ("p",))),
        (2, [old("q"), new("x")], Step(1)),
        (2, [old("q"), new("x"), new("y", ready=False)], Step()),
        (2, [old("q"), new("x"), new("y")], Step(0, ("q",))),
        # An old one that serves nobody may go at once.
        (2, [old("p", ready=False), old("q"), new("x", ready=False)], Step(0, ("p",))),
        (0, [old("p")], Step(0, ("p",))),
    ],
)
def test_rolling(replicas: int, members: list[Member], step: Step) -> None:
    assert next_step(replicas, "b", members, recreate=False) == step


def test_recreate_deletes_before_it_creates() -> None:
    assert next_step(2, "b", [old("p"), old("q")], recreate=True) == Step(0, ("p", "q"))
    assert next_step(2, "b", [], recreate=True) == Step(2)


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_a_rollout_never_serves_with_fewer_nor_runs_more_than_one_extra(replicas: int) -> None:
    members = [old(f"old{number}") for number in range(replicas)]
    made = 0
    for _ in range(50):
        step = next_step(replicas, "b", members, recreate=False)
        members = [member for member in members if member.name not in step.delete]
        assert sum(member.ready for member in members) >= replicas
        for _ in range(step.create):
            made += 1
            members.append(new(f"new{made}", ready=False))
        assert len(members) <= replicas + 1
        members = [Member(member.name, member.template, True, member.created) for member in members]
    assert sorted(member.template for member in members) == ["b"] * replicas
    assert made == replicas


def test_pods_of_one_owner_are_spread_before_nodes_are_levelled() -> None:
    nodes = ["one", "two"]
    placed = [("one", "web"), ("two", "db"), ("two", "db")]
    assert choose_node(nodes, placed, "web", "") == "two"
    assert choose_node(nodes, placed, "cache", "") == "one"
    assert choose_node(nodes, [], "web", "") == "one"


def test_a_node_that_is_asked_for_is_taken_or_there_is_none() -> None:
    assert choose_node(["one", "two"], [], "web", "two") == "two"
    assert choose_node(["one", "two"], [], "web", "three") is None


def test_equal_templates_have_equal_names() -> None:
    assert template_hash({"a": 1, "b": [2]}) == template_hash({"b": [2], "a": 1})
    assert template_hash({"a": 1}) != template_hash({"a": 2})
    assert len(pod_suffix(bytes(range(8)))) == 5
