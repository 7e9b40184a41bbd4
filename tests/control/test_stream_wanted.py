"""What a client asks for, names or everything, and what of it is told: nothing too little, nothing twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from control.xds.messages import MAX_KEYS, Refusal, Request, Response, Rules
from control.xds.store import Entry, Store
from control.xds.stream import Stream
from mesh.model.codec.proto import ADDRESS_TYPE
from mesh.model.workload import NamespacedHostname, NetworkAddress, Service, Workload
from tests.control.objects import ip
from tests.control.streams import NOTHING, Client, World, said


def test_on_demand_answers_by_alias_and_says_what_is_absent() -> None:
    world = World(a="1", b="1")
    client = Client(world)
    client.ask(subscribe=("*",), unsubscribe=("*",))
    response = client.told()
    assert said(response) == ([], []), "the subscription to everything was withdrawn at once"
    client.ack(response)
    client.ask(subscribe=("/10.0.0.97", "nobody"))
    response = client.told()
    assert said(response) == (["a"], ["nobody"])
    assert response is not None
    assert response.aliases == {"a": ("/10.0.0.97",)}
    client.ack(response)
    world.change(a="2", b="2")
    response = client.told()
    assert said(response) == (["a"], []), "b was never asked for"
    client.ack(response)
    world.change(b="2")
    assert said(client.told()) == ([], ["a"])


def test_who_asks_for_a_service_gets_its_endpoints_too() -> None:
    world = World()
    key = NamespacedHostname("ns", "s.ns.svc")
    service = Service("s", "ns", key.hostname, vips=(NetworkAddress("", ip("10.96.0.1")),))
    endpoint = Workload("w", "w", "ns", (ip("10.0.0.1"),), services={key: {80: 8080}})
    world.publish(replace(NOTHING, workloads=(endpoint, Workload("x", "x", "ns")), services=(service,)))
    for name in ("/10.96.0.1", "ns/s.ns.svc"):
        client = Client(world)
        client.ask(subscribe=(name,))
        assert said(client.told()) == (["ns/s.ns.svc", "w"], [])


def test_asking_again_is_answered_again() -> None:
    client = Client(World(a="1"))
    client.ask(subscribe=("a",))
    client.ack(client.told())
    client.ask(subscribe=("a",))
    assert said(client.told()) == (["a"], [])


def test_unsubscribed_is_forgotten() -> None:
    world = World(a="1", b="1")
    client = Client(world)
    client.ask(subscribe=("a", "b"))
    client.ack(client.told())
    client.ask(unsubscribe=("a",))
    world.change(a="2", b="2")
    assert said(client.told()) == (["b"], [])


def test_what_breaks_the_protocol_is_refused() -> None:
    client = Client(World())
    with pytest.raises(Refusal, match="names subscribed"):
        client.ask(subscribe=tuple(f"n{index}" for index in range(MAX_KEYS + 1)))
    with pytest.raises(Refusal, match="unknown type"):
        client.ask("type.googleapis.com/envoy.config.cluster.v3.Cluster")


# Between names and everything


def test_names_first_and_everything_later_is_everything() -> None:
    world = World(a="1", b="1", c="1")
    client = Client(world)
    client.ask(subscribe=("a",))
    client.ack(client.told())
    world.change(a="2", b="1", c="1")
    client.ask(subscribe=("*",))
    response = client.told()
    assert said(response) == (["a", "b", "c"], [])
    assert not client.stream.synced(ADDRESS_TYPE)
    client.ack(response)
    assert client.told() is None
    assert client.stream.size(ADDRESS_TYPE) == 3
    world.change(a="2", c="1", d="1")
    assert said(client.told()) == (["d"], ["b"])


def test_what_it_has_is_not_sent_again_with_everything_else() -> None:
    client = Client(World(a="1", b="1"))
    client.ask(subscribe=("a",))
    client.ack(client.told())
    client.ask(subscribe=("*",))
    assert said(client.told()) == (["b"], [])


def test_who_says_what_it_has_and_asks_for_a_name_first_is_told_what_is_gone() -> None:
    world = World(a="1", b="1", c="1")
    client = Client(world)
    client.ask(subscribe=("a",), versions={"b": world.versions()["b"], "c": "old", "gone": "x"})
    client.ack(client.told())
    client.ask(subscribe=("*",))
    assert said(client.told()) == (["c"], ["gone"])


def test_of_everything_a_name_stays_when_the_rest_is_let_go() -> None:
    world = World(a="1", b="1")
    client = Client(world)
    client.ask(subscribe=("*", "a"))
    client.ack(client.told())
    client.ask(unsubscribe=("*",))
    assert client.told() is None
    assert client.stream.size(ADDRESS_TYPE) == 1
    world.change(b="2")
    assert said(client.told()) == ([], ["a"]), "b is not asked for any more"


def test_what_changed_before_the_rest_was_let_go_is_told_after_it() -> None:
    world = World(a="1", b="1", c="1")
    client = Client(world)
    client.ask(subscribe=("*", "/10.0.0.97", "c"))
    waiting = client.told()
    world.change(b="2", c="2")
    client.ask(unsubscribe=("*",))
    client.ack(waiting)
    assert said(client.told()) == (["c"], ["a"]), "a was asked for by its address, which is gone with it"


def test_endpoints_stay_with_their_service_when_the_rest_is_let_go() -> None:
    world = World()
    key = NamespacedHostname("ns", "s.ns.svc")
    service = Service("s", "ns", key.hostname, vips=(NetworkAddress("", ip("10.96.0.1")),))
    workload = Workload("w", "w", "ns", (ip("10.0.0.1"),), services={key: {80: 8080}})
    world.publish(replace(NOTHING, workloads=(workload,), services=(service,)))
    client = Client(world)
    client.ask(subscribe=("*", "/10.96.0.1"))
    client.ack(client.told())
    client.ask(unsubscribe=("*",))
    more = replace(workload, uid="x")
    world.publish(replace(NOTHING, workloads=(more,), services=(service,)))
    assert said(client.told()) == (["x"], ["w"])


wishes = st.lists(st.sampled_from(("+*", "-*", "+a", "-a", "+b", "-b", "a=", "a=1", "a=2", "b=", "b=1", "b=2", "c=", "c=1", "take", "ack")))


@settings(deadline=None)
@given(st.sampled_from(("", "*", "a")), wishes)
@example("", ["take", "-*", "+*", "a="])
@example("", ["take", "-*", "a=", "+*"])
def test_a_client_holds_what_it_asks_for_whatever_it_asked_for_before(first: str, steps: list[str]) -> None:
    """Names and everything, in any order, also while changes and responses are on their way."""
    world = World(a="1", b="1", c="1")
    client = Client(world)
    wanted = {first or "*"}
    client.ask(subscribe=(first,) if first else ())
    values = dict.fromkeys("abc", "1")
    waiting: Response | None = None
    for step in steps:
        if step == "take":
            waiting = waiting or client.told()
        elif step == "ack":
            if waiting is not None:
                client.ack(waiting)
            waiting = None
        elif "=" in step:
            name, _, value = step.partition("=")
            values = {key: known for key, known in values.items() if key != name} | ({name: value} if value else {})
            world.change(**values)
        elif step[0] == "+":
            wanted.add(step[1])
            client.ask(subscribe=(step[1],))
        else:
            wanted.discard(step[1])
            client.ask(unsubscribe=(step[1],))
        for name in () if "*" in wanted else {*client.holds} - wanted:
            del client.holds[name]  # what is let go of is forgotten, also where it comes later
    waiting = waiting or client.told()
    while waiting is not None:
        client.ack(waiting)
        waiting = client.told()
    expected = {name: version for name, version in world.versions().items() if name in wanted or "*" in wanted}
    held = {name: version for name, version in client.holds.items() if name in wanted or "*" in wanted}
    assert held == expected
    assert client.stream.synced(ADDRESS_TYPE)


# The state-of-the-world variant: what is named is what is wanted from now on.

WHOLE = "whole"
NAMES: dict[str, tuple[tuple[tuple[str, ...], ...], str]] = {
    "nothing ever named is everything": (((), ()), "abc"),
    "everything and a name, then the name": (((), ("*", "a"), ("a",)), "a"),
    "nothing, then a name": (((), ("a",)), "a"),
    "a name, then nothing": ((("a",), ()), ""),
    "a name, then everything": ((("a",), ("*",)), "abc"),
    "everything, by its name, then nothing": ((("*",), ()), ""),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_last_names_count(name: str) -> None:
    asked, held = NAMES[name]
    store = Store((WHOLE,))
    store.apply({WHOLE: {key: Entry(key, WHOLE, b"1") for key in "abc"}})
    stream = Stream(store, Rules((WHOLE,), delta=False, whole=frozenset({WHOLE})))
    nonce, has = "", ""
    for names in (*asked, asked[-1]):
        stream.receive(Request(WHOLE, nonce, names), 0.0)
        for response in stream.next_responses(0.0):
            nonce, has = response.nonce, "".join(sorted(entry.name for entry in response.bundle.entries))
            stream.receive(Request(WHOLE, nonce, names), 0.0)
    stream.note(store.apply({WHOLE: {key: Entry(key, WHOLE, b"2") for key in "abcd"}}), store.number)
    told = ["".join(sorted(entry.name for entry in response.bundle.entries)) for response in stream.next_responses(0.0)]
    assert told == ([held + "d" if held == "abc" else held] if held else [])
    assert set(has) >= set(held)
