"""What a client is told, request by request. Each test reads as a transcript: `>` from the client, `<` to it."""

from __future__ import annotations

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st

from control.xds.resources import Resource, TypeResources, make
from control.xds.session import MAX_NAMES, TypeSession, Update


def world(**values: str) -> TypeResources:
    resources = TypeResources()
    change(resources, **values)
    return resources


def change(resources: TypeResources, **values: str) -> None:
    entries = {name: make(name, StringValue(value=value), frozenset({f"net/{name}"})) for name, value in values.items()}
    resources.by_name = entries
    resources.by_alias = {alias: name for name, entry in entries.items() for alias in entry.aliases}
    resources.changes += 1


def told(update: Update | None) -> tuple[list[str], list[str]] | None:
    return None if update is None else (sorted(item.name for item in update.resources), list(update.removed))


def first(session: TypeSession, *subscribe: str, held: dict[str, str] | None = None) -> None:
    session.on_request(list(subscribe), [], held or {}, "", None)


def ack(session: TypeSession, update: Update | None) -> None:
    assert update is not None
    assert session.on_request([], [], {}, update.nonce, None) is False


def test_wildcard_gets_everything_then_only_changes() -> None:
    resources, session = world(a="1", b="1"), TypeSession("t")
    first(session)
    update = session.next_update(resources)
    assert told(update) == (["a", "b"], [])
    assert session.next_update(resources) is None, "nothing more before the acknowledgement"
    ack(session, update)
    assert session.next_update(resources) is None, "nothing has changed"
    change(resources, a="2", c="1")
    assert told(session.next_update(resources)) == (["a", "c"], ["b"])


def test_the_first_request_is_answered_even_when_there_is_nothing() -> None:
    session = TypeSession("t")
    first(session)
    assert told(session.next_update(world())) == ([], [])


def test_changes_during_a_wait_arrive_as_one() -> None:
    resources, session = world(a="1"), TypeSession("t")
    first(session)
    update = session.next_update(resources)
    for value in "2345":
        change(resources, a=value, b=value)
    assert session.next_update(resources) is None
    ack(session, update)
    assert told(session.next_update(resources)) == (["a", "b"], [])


def test_a_reconnecting_client_is_sent_what_differs_and_told_what_is_gone() -> None:
    resources, session = world(same="1", other="2"), TypeSession("t")
    same = resources.by_name["same"].version
    first(session, held={"same": same, "other": "old", "gone": "x"})
    assert told(session.next_update(resources)) == (["other"], ["gone"])


def test_a_rejection_is_kept_and_nothing_is_sent_again() -> None:
    resources, session = world(a="1"), TypeSession("t")
    first(session)
    update = session.next_update(resources)
    assert update is not None
    assert session.on_request([], [], {}, update.nonce, "a: no good") is True
    assert session.rejected == "a: no good"
    assert session.next_update(resources) is None, "the same again would be rejected again"
    change(resources, a="2")
    ack(session, session.next_update(resources))
    assert session.rejected == ""


def test_a_stale_nonce_acknowledges_nothing() -> None:
    resources, session = world(a="1"), TypeSession("t")
    first(session)
    session.next_update(resources)
    session.on_request([], [], {}, "77", None)
    change(resources, a="2")
    assert session.next_update(resources) is None
    assert not session.synced


def test_on_demand_answers_by_alias_and_says_what_is_absent() -> None:
    resources, session = world(a="1", b="1"), TypeSession("t")
    session.on_request(["*"], ["*"], {}, "", None)
    update = session.next_update(resources)
    assert told(update) == ([], []), "the subscription to everything was withdrawn at once"
    ack(session, update)
    session.on_request(["net/a", "nobody"], [], {}, "", None)
    update = session.next_update(resources)
    assert told(update) == (["a"], ["nobody"])
    assert update is not None
    assert update.aliases == {"a": ("net/a",)}
    ack(session, update)
    change(resources, a="2", b="2")
    assert told(session.next_update(resources)) == (["a"], []), "b was never asked for"


def test_asking_again_is_answered_again() -> None:
    resources, session = world(a="1"), TypeSession("t")
    first(session, "a")
    ack(session, session.next_update(resources))
    session.on_request(["a"], [], {}, "", None)
    assert told(session.next_update(resources)) == (["a"], [])


def test_unsubscribed_is_forgotten() -> None:
    resources, session = world(a="1", b="1"), TypeSession("t")
    first(session, "a", "b")
    ack(session, session.next_update(resources))
    session.on_request([], ["a"], {}, "", None)
    change(resources, a="2", b="2")
    assert told(session.next_update(resources)) == (["b"], [])


def test_too_many_names_are_refused() -> None:
    session = TypeSession("t")
    with pytest.raises(ValueError, match="names subscribed"):
        first(session, *(f"n{index}" for index in range(MAX_NAMES + 1)))


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123"), max_size=6), min_size=1, max_size=8), st.data())
def test_after_every_acknowledgement_the_client_holds_what_there_is(states: list[dict[str, str]], data: st.DataObject) -> None:
    """Whatever changes come between acknowledgements, a client that applies each response ends with the newest state."""
    resources, session = world(), TypeSession("t")
    first(session)
    mirror: dict[str, Resource] = {}
    waiting: Update | None = None
    for state in states:
        change(resources, **state)
        waiting = waiting or session.next_update(resources)
        if waiting is not None and data.draw(st.booleans()):
            waiting = apply(mirror, session, waiting)
    waiting = waiting or session.next_update(resources)
    while waiting is not None:
        apply(mirror, session, waiting)
        waiting = session.next_update(resources)
    assert mirror == resources.by_name


def apply(mirror: dict[str, Resource], session: TypeSession, update: Update) -> None:
    for item in update.resources:
        mirror[item.name] = item
    for name in update.removed:
        mirror.pop(name, None)
    ack(session, update)
