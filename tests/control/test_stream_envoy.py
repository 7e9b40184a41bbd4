"""What Envoy and gRPC are told: the state-of-the-world variant, make before break, names that are worked out when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.xds.messages import PATIENCE, WARMING, Request, Response, Rules
from control.xds.store import Entry, Store
from control.xds.stream import Stream

C, E, R, L = "cluster", "endpoints", "route", "listener"
DELTA = Rules((C, E, R, L), pulled=frozenset({E, R}), waits=PATIENCE, warms=frozenset({C}))
WHOLE = replace(DELTA, delta=False, whole=frozenset({C, L}))


def cluster(name: str, value: str = "1") -> Entry:
    return Entry(name, C, value.encode(), follows=((E, name),))


def plain(type_url: str, name: str, value: str = "1", needs: tuple[tuple[str, str], ...] = ()) -> Entry:
    return Entry(name, type_url, value.encode(), needs=needs)


class World:
    def __init__(self, lazy: Iterable[str] = ()) -> None:
        self.store = Store((C, E, R, L), lazy)
        self.store.apply({})
        self.clients: list[Client] = []

    def put(self, *entries: tuple[str, Entry]) -> None:
        changes: dict[str, dict[str, Entry | None]] = {}
        for type_url, entry in entries:
            changes.setdefault(type_url, {})[entry.name] = entry
        self._apply(changes)

    def drop(self, *names: tuple[str, str]) -> None:
        changes: dict[str, dict[str, Entry | None]] = {}
        for type_url, name in names:
            changes.setdefault(type_url, {})[name] = None
        self._apply(changes)

    def _apply(self, changes: dict[str, dict[str, Entry | None]]) -> None:
        changed = self.store.apply(changes)
        for client in self.clients:
            client.stream.note(changed, self.store.number)


class Client:
    """Notes what it is told, as `type: names`; what is gone with a minus."""

    def __init__(self, world: World, rules: Rules = WHOLE) -> None:
        world.clients.append(self)
        self.stream = Stream(world.store, rules)
        self.now = 0.0
        self.wanted: dict[str, tuple[str, ...]] = {}
        self.nonces: dict[str, str] = {}
        self.has: dict[str, dict[str, str]] = {name: {} for name in (C, E, R, L)}

    def ask(self, type_url: str, *names: str, **fields: str) -> None:
        if self.stream.rules.delta:
            new = tuple(name for name in names if name not in self.wanted.get(type_url, ()))
            self.stream.receive(Request(type_url, subscribe=new, **fields), self.now)
        else:
            # In this variant whatever is asked for says which response was the last that had been read.
            nonce = fields.pop("nonce", self.nonces.get(type_url, ""))
            self.stream.receive(Request(type_url, nonce, names, **fields), self.now)
        self.wanted[type_url] = names

    def take(self) -> list[Response]:
        responses = self.stream.next_responses(self.now)
        for response in responses:
            self.apply(response)
        return responses

    def apply(self, response: Response) -> None:
        has = self.has[response.type_url]
        if not self.stream.rules.delta and response.type_url in WHOLE.whole:
            has.clear()
        has.update((entry.name, entry.version) for entry in response.bundle.entries)
        for name in response.removed:
            has.pop(name, None)

    def answer(self, response: Response, error: str = "") -> None:
        self.nonces[response.type_url] = response.nonce
        self.ask(response.type_url, *self.wanted[response.type_url], nonce=response.nonce, error=error)

    def told(self) -> list[str]:
        """Take and answer until there is nothing more."""
        found = []
        while responses := self.take():
            for response in responses:
                found.append(said(response))
                self.answer(response)
        return found


def said(response: Response) -> str:
    names = sorted(entry.name for entry in response.bundle.entries) + [f"-{name}" for name in sorted(response.removed)]
    return f"{response.type_url}: {' '.join(names)}".strip()


def started(rules: Rules = WHOLE) -> tuple[World, Client]:
    """An Envoy that has one listener, one route, one cluster with its endpoints."""
    world = World()
    world.put((C, cluster("c1")), (E, plain(E, "c1")), (R, plain(R, "r", "to c1", ((C, "c1"),))), (L, plain(L, "l")))
    client = Client(world, rules)
    client.ask(C)
    assert client.told() == ["cluster: c1"]
    client.ask(E, "c1")
    assert client.told() == ["endpoints: c1"]
    client.ask(L)
    assert client.told() == ["listener: l"]
    client.ask(R, "r")
    assert client.told() == ["route: r"]
    return world, client


@pytest.mark.parametrize("rules", [WHOLE, DELTA], ids=["state of the world", "delta"])
def test_a_cluster_that_changes_is_followed_by_its_endpoints_once_more(rules: Rules) -> None:
    """Envoy warms a changed cluster with endpoints that come after it, and serves the old one until then."""
    world, client = started(rules)
    world.put((C, cluster("c2")), (E, plain(E, "c2")))
    client.told()
    client.ask(E, "c1", "c2")
    client.told()
    world.put((C, cluster("c1", "2")))
    assert client.told() == ["cluster: c1" if rules.delta else "cluster: c1 c2", "endpoints: c1"]
    assert client.told() == []
    world.put((E, plain(E, "c1", "2")), (C, cluster("c1", "3")))
    assert [one for one in client.told() if one.startswith("endpoints")] == ["endpoints: c1"]
    world.put((E, plain(E, "c1", "3")))
    assert client.told() == ["endpoints: c1"]
    assert client.has[E]["c1"] == world.store.types[E].entries["c1"].version


@pytest.mark.parametrize("rules", [WHOLE, DELTA], ids=["state of the world", "delta"])
def test_endpoints_that_came_before_the_changed_cluster_come_once_more(rules: Rules) -> None:
    world, client = started(rules)
    world.put((E, plain(E, "c1", "2")))
    (early,) = client.take()
    world.put((C, cluster("c1", "2")))
    client.answer(early)
    assert client.told() == ["cluster: c1", "endpoints: c1"]


@pytest.mark.parametrize("rules", [WHOLE, DELTA], ids=["state of the world", "delta"])
def test_a_new_cluster_is_warm_before_a_route_leads_there_and_the_old_one_goes_after(rules: Rules) -> None:
    world, client = started(rules)
    world.put((C, cluster("c2")), (E, plain(E, "c2")), (R, plain(R, "r", "to c2", ((C, "c2"),))))
    world.drop((C, "c1"), (E, "c1"))
    (clusters,) = client.take()
    assert said(clusters) == ("cluster: c2" if rules.delta else "cluster: c1 c2"), "the old one is still in use"
    assert client.take() == []
    client.answer(clusters)
    assert client.take() == [], "the route waits for the endpoints that Envoy is about to ask for"
    assert client.stream.waits_until(client.now) == PATIENCE
    client.ask(E, "c1", "c2")
    (endpoints,) = client.take()
    assert said(endpoints) == "endpoints: c2"
    assert client.take() == []
    client.answer(endpoints)
    assert client.told() == ["route: r", *(["cluster: -c1", "endpoints: -c1"] if rules.delta else ["cluster: c2"])]
    assert list(client.has[C]) == ["c2"]


@pytest.mark.parametrize("rules", [WHOLE, DELTA], ids=["state of the world", "delta"])
def test_endpoints_do_not_wait_for_an_answer_that_waits_for_them(rules: Rules) -> None:
    """An Envoy that has begun answers to clusters when all of them are warm."""
    world, client = started(rules)
    world.put((C, cluster("c2")), (E, plain(E, "c2")), (R, plain(R, "r", "to c2", ((C, "c2"),))))
    (clusters,) = client.take()
    client.ask(E, "c1", "c2")
    (endpoints,) = client.take()
    assert said(endpoints) == "endpoints: c2"
    assert client.take() == []
    client.answer(endpoints)
    assert client.told() == ["route: r"]
    world.put((E, plain(E, "c1", "2")))
    assert client.told() == ["endpoints: c1"], "nor do changes of others"
    client.answer(clusters)
    assert client.told() == []
    assert client.stream.synced(R)


@pytest.mark.parametrize("rules", [WHOLE, DELTA], ids=["state of the world", "delta"])
def test_a_cluster_that_warms_for_long_keeps_back_what_leads_there_and_nothing_else(rules: Rules) -> None:
    """Somebody's name server does not answer: everybody else's policies, which are in listeners, do not wait for it, nor do routes."""
    world, client = started(rules)
    client.ask(R, "r", "s")
    world.put((C, cluster("c2")), (E, plain(E, "c2")), (R, plain(R, "r", "to c2", ((C, "c2"),))), (L, plain(L, "l", "2")))
    world.put((C, plain(C, "dns")), (R, plain(R, "s", "to dns", ((C, "dns"),))))
    (clusters,) = client.take()
    assert said(clusters) == ("cluster: c2 dns" if rules.delta else "cluster: c1 c2 dns")
    assert client.take() == []
    assert client.stream.waits_until(client.now) == PATIENCE
    assert client.stream.oldest_wait() == WARMING, "it is not taken for dead"
    client.ask(E, "c1", "c2")
    assert client.told() == ["endpoints: c2", "route: r"]
    client.now = PATIENCE
    assert client.told() == ["listener: l"]
    world.put((L, plain(L, "l", "3")))
    assert client.told() == ["listener: l"]
    client.answer(clusters)
    assert client.told() == ["route: s"]


@pytest.mark.parametrize("rules", [WHOLE, DELTA], ids=["state of the world", "delta"])
def test_what_changes_while_a_cluster_warms_for_long_is_sent_too(rules: Rules) -> None:
    world, client = started(rules)
    world.put((C, plain(C, "dns")))
    (first,) = client.take()
    world.put((C, cluster("c2")), (E, plain(E, "c2")), (R, plain(R, "r", "to c2", ((C, "c2"),))))
    assert client.take() == []
    client.now = PATIENCE
    (second,) = client.take()
    assert said(second) == ("cluster: c2" if rules.delta else "cluster: c1 c2 dns")
    client.ask(E, "c1", "c2")
    assert client.told() == ["endpoints: c2", "route: r"]
    world.drop((C, "dns"))
    assert client.take() == []
    client.now += PATIENCE
    (third,) = client.take()
    assert said(third) == ("cluster: -dns" if rules.delta else "cluster: c1 c2")
    assert client.stream.oldest_wait() == WARMING
    if rules.delta:  # which answers to each, where the other variant answers to the last only
        client.answer(first)
        client.answer(second, error="no good")
        assert client.stream.states[C].nacks == 1
    assert not client.stream.synced(C)
    client.answer(third)
    assert client.take() == []
    assert client.stream.synced(C)


def test_endpoints_that_are_never_asked_for_are_waited_for_a_moment_only() -> None:
    world, client = started()
    world.put((C, cluster("c2")), (R, plain(R, "r", "to c2", ((C, "c2"),))))
    assert client.told() == ["cluster: c1 c2"]
    client.now = PATIENCE
    assert client.told() == ["route: r"]


def test_a_whole_response_holds_the_old_form_of_what_may_not_be_sent_yet() -> None:
    world, client = started()
    world.put((C, cluster("c1", "2")))
    clusters, endpoints = client.take()
    client.answer(endpoints)
    world.put((L, plain(L, "l", "2")), (L, plain(L, "m", "1")))
    assert client.take() == []
    world.drop((L, "l"))
    client.answer(clusters)
    assert client.told() == ["listener: m"]


def test_of_endpoints_only_those_that_changed_are_sent() -> None:
    world, client = started()
    world.put((C, cluster("c2")), (E, plain(E, "c2")))
    assert client.told() == ["cluster: c1 c2"]
    client.ask(E, "c1", "c2")
    assert client.told() == ["endpoints: c2"]
    world.put((E, plain(E, "c1", "2")))
    assert client.told() == ["endpoints: c1"]
    assert client.stream.synced(E)


def test_names_that_are_not_there_yet_are_sent_when_they_come() -> None:
    world = World()
    client = Client(world)
    client.ask(E, "c1")
    assert client.take() == [], "of endpoints nobody can be told that there are none"
    world.put((E, plain(E, "c1")))
    assert client.told() == ["endpoints: c1"]
    client.ask(L, "nope")
    assert client.told() == ["listener:"], "of listeners one can"


def test_delta_says_what_is_absent() -> None:
    client = Client(World(), DELTA)
    client.ask(E, "c1")
    assert client.told() == ["endpoints: -c1"]


def test_an_answer_to_an_older_response_accepts_nothing_and_its_names_count() -> None:
    """What is dropped and asked for again while a response is on its way is forgotten by the client, and sent again."""
    world, client = started()
    world.put((R, plain(R, "s")))
    client.ask(R, "r", "s")
    (response,) = client.take()
    client.ask(R, "s")
    client.ask(R, "r", "s")
    assert client.take() == []
    assert client.stream.states[R].outstanding
    client.answer(response)
    assert client.told() == ["route: r"]
    assert client.stream.synced(R)


def test_other_names_with_a_nonce_that_is_answered_already_count() -> None:
    """As Envoy sends it: what it asks for from now on, and the response that it had read last."""
    world, client = started()
    world.put((R, plain(R, "s")))
    client.ask(R, "r", "s", nonce=client.nonces[R])
    assert client.told() == ["route: s"]
    client.ask(R, "s", nonce=client.nonces[R])
    client.ask(R, "r", "s", nonce=client.nonces[R])
    assert client.told() == ["route: r"], "it had dropped it, and wants it again"


def test_a_rejection_is_kept_and_not_sent_again() -> None:
    world, client = started()
    world.put((L, plain(L, "l", "bad")))
    (response,) = client.take()
    client.answer(response, error="no good")
    assert client.take() == []
    state = client.stream.states[L]
    assert (state.nacks, state.error, client.stream.synced(L)) == (1, "no good", False)
    world.put((L, plain(L, "l", "good")))
    assert client.told() == ["listener: l"]
    assert client.stream.synced(L)


def test_what_is_asked_for_by_name_may_have_to_be_worked_out_first() -> None:
    world = World(lazy=(L, R, C, E))
    client = Client(world)
    client.ask(L, "shop:80")
    assert client.take() == []
    world.store.prepared.add((L, "shop:80"))
    world.put((L, plain(L, "shop:80")))
    assert client.told() == ["listener: shop:80"]
    client.ask(L, "shop:80", "nope:80")
    assert client.take() == []
    world.store.prepared.add((L, "nope:80"))
    assert client.told() == ["listener: shop:80"]


def test_who_unsubscribes_hears_no_more() -> None:
    world, client = started()
    client.ask(R, "other")
    world.put((R, plain(R, "r", "2")))
    assert client.told() == []
    client.ask(R, "other", "r")
    assert client.told() == ["route: r"], "and is answered anew when it asks again"


CHANGES = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.sampled_from("xyz"), st.booleans()), min_size=1, max_size=10)


@pytest.mark.parametrize("rules", [WHOLE, DELTA], ids=["state of the world", "delta"])
@given(history=CHANGES, data=st.data())
@settings(deadline=None, max_examples=150)
def test_a_route_never_leads_to_a_cluster_that_the_client_lacks(
    rules: Rules, history: list[tuple[str, str | None, bool]], data: st.DataObject
) -> None:
    """Routes a, b, c lead to clusters x, y, z, or are gone; clusters exist exactly as long as a route leads there."""
    world = World()
    client = Client(world, rules)
    client.ask(C)
    client.ask(R, "a", "b", "c")
    leads: dict[str, str] = {}
    waiting: list[Response] = []
    targets: dict[str, str] = {}

    def look() -> None:
        for response in client.stream.next_responses(client.now):
            waiting.append(response)
            client.apply(response)
            if response.type_url == R:
                targets.update((entry.name, entry.needs[0][1]) for entry in response.bundle.entries)
            for name in client.has[R]:
                assert targets[name] in client.has[C], f"{name} leads to {targets[name]}"

    for route, target, slow in history:
        before = set(leads.values())
        if target is None:
            leads.pop(route, None)
            world.drop((R, route))
            if not rules.delta:
                # In the state of the world that cannot be said: who drops the listener that named a route no longer asks for it.
                client.has[R].pop(route, None)
                client.ask(R, *(name for name in client.wanted[R] if name != route))
        else:
            leads[route] = target
            if route not in client.wanted[R]:
                client.ask(R, *client.wanted[R], route)
        now = set(leads.values())
        world.put(*[(C, plain(C, name)) for name in now - before])
        if target is not None:
            world.put((R, plain(R, route, target, ((C, target),))))
        world.drop(*[(C, name) for name in before - now])
        look()
        while waiting and not slow and data.draw(st.booleans()):
            client.answer(waiting.pop(data.draw(st.integers(0, len(waiting) - 1))))
            look()
    while waiting:
        client.answer(waiting.pop())
        look()
    assert {name: targets[name] for name in client.has[R] if name in leads} == leads
    assert set(client.has[C]) == set(leads.values())
