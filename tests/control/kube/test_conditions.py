"""What a status should say against what it says: tables, and that writing twice is writing once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.kube.conditions import LONGEST_MESSAGE, Condition, Listener, Parent, Wanted, changes

NOW, BEFORE = "2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z"
ACCEPTED = Condition("Accepted", "True", "Accepted", "fine")
GATEWAY = {"name": "gw"}


def condition(type_: str, status: str = "True", since: str = BEFORE, **more: Any) -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": type_,
        "message": "fine",
        "lastTransitionTime": since,
        "observedGeneration": 1,
        **more,
    }


def conditions(current: list[dict[str, Any]], *wanted: Condition, generation: int = 1) -> Any:
    return changes({"conditions": current}, Wanted(generation, tuple(wanted)), NOW).get("conditions")


def test_a_first_condition() -> None:
    assert changes({}, Wanted(1, (ACCEPTED,)), NOW) == {"conditions": [condition("Accepted", since=NOW)]}


def test_what_is_there_is_not_written() -> None:
    assert conditions([condition("Accepted")], ACCEPTED) is None


def test_the_time_changes_only_with_the_status() -> None:
    other_reason = Condition("Accepted", "True", "Because", "fine")
    assert conditions([condition("Accepted")], other_reason) == [condition("Accepted", reason="Because")]
    refused = Condition("Accepted", "False", "Accepted", "fine")
    assert conditions([condition("Accepted")], refused) == [condition("Accepted", "False", NOW)]


def test_a_new_generation_is_said() -> None:
    assert conditions([condition("Accepted")], ACCEPTED, generation=2) == [condition("Accepted", observedGeneration=2)]


def test_what_a_later_generation_was_told_is_left() -> None:
    """As when another leader has seen more than we have."""
    assert conditions([condition("Accepted", observedGeneration=5)], ACCEPTED, generation=4) is None


def test_other_writers_conditions_stay_and_ours_that_are_not_wanted_go() -> None:
    theirs = {"type": "Reconciled", "status": "True"}
    found = conditions([condition("Enforced"), theirs, condition("Accepted", "False")], ACCEPTED)
    assert found == [theirs, condition("Accepted", since=NOW)]


def test_a_long_message_is_cut() -> None:
    (found,) = conditions([], Condition("Accepted", "False", "Invalid", "x" * 10_000))
    assert len(found["message"]) == LONGEST_MESSAGE


@pytest.mark.parametrize("junk", [None, "text", 3, [3, "x", None], {"a": "b"}])
def test_what_somebody_else_broke_is_replaced(junk: Any) -> None:
    wanted = Wanted(1, (ACCEPTED,), (Parent(GATEWAY, (ACCEPTED,)),))
    found = changes({"conditions": junk, "parents": junk}, wanted, NOW)
    assert found["conditions"] == [condition("Accepted", since=NOW)]
    assert len(found["parents"]) == 1


def parent(controller: str = "culvert.dev/control", name: str = "gw", since: str = BEFORE) -> dict[str, Any]:
    return {"parentRef": {"name": name}, "controllerName": controller, "conditions": [condition("Accepted", since=since)]}


def parents(current: list[dict[str, Any]], *wanted: Parent) -> Any:
    return changes({"parents": current}, Wanted(1, parents=tuple(wanted)), NOW).get("parents")


def test_other_controllers_parents_stay() -> None:
    other = parent("istio.io/gateway-controller")
    assert parents([other], Parent(GATEWAY, (ACCEPTED,))) == [other, parent(since=NOW)]
    assert parents([other, parent()], Parent(GATEWAY, (ACCEPTED,))) is None
    assert parents([other, parent()]) == [other], "a route that left its parent"
    assert parents([other]) is None


def test_a_parent_is_known_whatever_of_the_defaults_is_written_out() -> None:
    written = {**parent(), "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"}}
    assert parents([written], Parent(GATEWAY, (ACCEPTED,))) is None
    assert parents([written], Parent({"name": "gw", "sectionName": "http"}, (ACCEPTED,)))[0]["parentRef"] == {
        "name": "gw",
        "sectionName": "http",
    }


def test_what_a_parent_of_ours_says_is_ours_alone() -> None:
    old = {**parent(), "conditions": [condition("Accepted"), condition("Whatever")]}
    assert parents([old], Parent(GATEWAY, (ACCEPTED,))) == [parent()]


def test_listeners_and_addresses() -> None:
    wanted = Wanted(
        1,
        (ACCEPTED,),
        listeners=(Listener("http", 2, ({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"},), (ACCEPTED,)),),
        fields={"addresses": [{"type": "IPAddress", "value": "10.0.0.1"}]},
    )
    found = changes({}, wanted, BEFORE)
    assert found["addresses"] == [{"type": "IPAddress", "value": "10.0.0.1"}]
    assert found["listeners"][0]["attachedRoutes"] == 2
    assert changes(found, wanted, NOW) == {}
    more = Wanted(
        1, (ACCEPTED,), listeners=(Listener("http", 3, (), (ACCEPTED,)), Listener("tls", 0, (), (ACCEPTED,))), fields=wanted.fields
    )
    assert [(one["name"], one["conditions"][0]["lastTransitionTime"]) for one in changes(found, more, NOW)["listeners"]] == [
        ("http", BEFORE),
        ("tls", NOW),
    ]


TYPES = st.sampled_from(["Accepted", "ResolvedRefs", "Programmed", "Enforced", "Theirs"])
WANTED = st.lists(
    st.builds(Condition, TYPES.filter(lambda name: name != "Theirs"), st.sampled_from(["True", "False"]), st.just("R")),
    unique_by=lambda one: one.type,
)
CURRENT = st.lists(
    st.fixed_dictionaries(
        {"type": TYPES, "status": st.sampled_from(["True", "False"])}, optional={"observedGeneration": st.integers(0, 3)}
    ),
    unique_by=lambda one: one["type"],
)


@given(CURRENT, WANTED, WANTED, st.lists(st.sampled_from(["a", "b"]), unique=True))
def test_written_once_is_written(current: list[dict[str, Any]], first: list[Condition], second: list[Condition], names: list[str]) -> None:
    status: dict[str, Any] = {"conditions": current, "parents": [parent("other")], "more": 1}
    for wanted_conditions in (first, second):
        wanted = Wanted(3, tuple(wanted_conditions), tuple(Parent({"name": name}, tuple(wanted_conditions)) for name in names))
        patch = changes(status, wanted, NOW)
        status = {**status, **patch}
        assert changes(status, wanted, "later") == {}
        assert parent("other") in status["parents"]
        assert [one for one in current if one["type"] == "Theirs"] == [one for one in status["conditions"] if one["type"] == "Theirs"]
        if wanted_conditions:
            assert {one["type"] for one in status["conditions"]} - {"Theirs"} == {one.type for one in wanted_conditions}
