"""What a client is told, request by request. No network: changes of a store in, responses out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.xds.messages import PATIENCE, Request, Response
from mesh.model.codec.proto import ADDRESS_TYPE, AUTHORIZATION_TYPE
from mesh.model.policy import Action, Authorization, PolicyScope
from mesh.model.workload import Workload
from tests.control.objects import ip
from tests.control.streams import NOTHING, TYPES, Client, State, World, said


def test_wildcard_gets_everything_then_only_changes() -> None:
    world = World(a="1", b="1")
    client = Client(world)
    client.ask()
    response = client.told()
    assert said(response) == (["a", "b"], [])
    assert client.told() is None, "nothing more before the acknowledgement"
    client.ack(response)
    assert client.told() is None, "nothing has changed"
    world.change(a="2", c="1")
    assert said(client.told()) == (["a", "c"], ["b"])


def test_the_first_request_of_each_type_is_answered_even_when_there_is_nothing() -> None:
    client = Client(World())
    for type_url in TYPES:
        client.ask(type_url)
        response = client.told()
        assert said(response) == ([], [])
        client.ack(response)


def test_changes_during_a_wait_arrive_as_one() -> None:
    world = World(a="1")
    client = Client(world)
    client.ask()
    response = client.told()
    for value in "2345":
        world.change(a=value, b=value)
    assert client.told() is None
    client.ack(response)
    assert said(client.told()) == (["a", "b"], [])


def test_one_type_that_waits_does_not_stop_the_other_and_policies_go_first() -> None:
    world = World(a="1")
    client = Client(world)
    client.ask(ADDRESS_TYPE)
    waiting = client.told()
    client.ask(AUTHORIZATION_TYPE)
    policies = client.told()
    assert policies is not None
    client.ack(policies)
    policy = Authorization("p", "ns", PolicyScope.NAMESPACE, Action.DENY)
    world.publish(replace(world.state, policies=(policy,)))
    response = client.told()
    assert response is not None
    assert (response.type_url, said(response)) == (AUTHORIZATION_TYPE, (["ns/p"], []))
    client.ack(response)
    client.ack(waiting)
    world.change(a="2")
    world.publish(replace(world.state, policies=(replace(policy, action=Action.ALLOW),)))
    response = client.told()
    assert response is not None
    assert response.type_url == AUTHORIZATION_TYPE
    assert client.told() is None, "the policies are not answered yet"
    client.ack(response)
    response = client.told()
    assert response is not None
    assert response.type_url == ADDRESS_TYPE


def naming(*policies: str) -> State:
    """A workload that names these policies, and the policies."""
    found = tuple(Authorization(name, "ns", PolicyScope.WORKLOAD, Action.DENY) for name in policies)
    workload = Workload("w", "w", "ns", (ip("10.0.0.1"),), policies=tuple(policy.key for policy in found))
    return replace(NOTHING, workloads=(workload,), policies=found)


class Both:
    """A client of both types that notes what its workload named and what it did not have. Time passes where a test says so."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stream = world.stream()
        self.holds: dict[str, dict[str, str]] = {name: {} for name in TYPES}
        self.policies: dict[str, PolicyScope] = {}
        self.named: tuple[str, ...] = ()
        self.told: list[str] = []
        self.now = 0.0

    def ask(self, *types: str, **fields: object) -> None:
        for type_url in types:
            self.stream.receive(Request(type_url, **fields), self.now)  # type: ignore[arg-type]

    def take(self) -> list[Response]:
        """Apply what there is, without an answer."""
        responses = self.stream.next_responses(self.now)
        for response in responses:
            self.told += [f"+{entry.name}" for entry in response.bundle.entries] + [f"-{name}" for name in response.removed]
            for entry in response.bundle.entries:
                self.holds[response.type_url][entry.name] = entry.version
                value = self.world.values[entry.name]
                assert entry.version == self.world.versions(response.type_url)[entry.name]
                if isinstance(value, Workload):
                    self.named = value.policies
                elif isinstance(value, Authorization):
                    self.policies[entry.name] = value.scope
            for name in response.removed:
                self.holds[response.type_url].pop(name, None)
                self.policies.pop(name, None)
            assert set(self.named) <= self.policies.keys(), f"a named policy is missing: {self.told}"
        return responses

    def answer(self, *responses: Response, error: str = "") -> None:
        for response in responses:
            self.ask(response.type_url, nonce=response.nonce, error=error)

    def settle(self, error: str = "") -> list[str]:
        self.told = []
        while responses := self.take():
            self.answer(*responses, error=error)
        return self.told

    @property
    def covered(self) -> bool:
        """The workload is subject to ns/p."""
        scope = self.policies.get("ns/p")
        return scope is not None and (scope is not PolicyScope.WORKLOAD or "ns/p" in self.named)


def settled(state: State) -> Both:
    """A client that has all of this."""
    world = World()
    world.publish(state)
    client = Both(world)
    client.ask(*TYPES)
    client.settle()
    return client


def scoped(scope: PolicyScope, *, named: bool, policy: bool = True) -> State:
    found = naming("p") if named else naming()
    return replace(found, policies=(Authorization("p", "ns", scope, Action.DENY),) if policy else ())


def test_a_policy_comes_before_it_is_named_and_goes_after() -> None:
    client = settled(naming("one"))
    client.world.publish(naming("two"))
    assert client.settle() == ["+ns/two", "+w", "-ns/one"]
    client.world.publish(naming())
    assert client.settle() == ["+w", "-ns/two"]
    assert client.policies == {}


@pytest.mark.parametrize("error", ["", "w: no good"])
def test_each_step_waits_for_the_answer_to_the_one_before(error: str) -> None:
    client = settled(naming("one"))
    client.world.publish(naming("two"))
    for step in ("+ns/two", "+w", "-ns/one"):
        client.told = []
        responses = client.take()
        assert client.told == [step]
        assert client.take() == [], "not answered yet"
        client.answer(*responses, error=error)
    assert client.take() == []


def test_workloads_follow_although_policies_change_all_the_time() -> None:
    """What was answered when a workload changed is enough, if it names nothing newer."""
    client = settled(naming("one"))
    world = client.world
    for round_ in range(5):
        action = Action.ALLOW if round_ % 2 else Action.DENY
        policies = (Authorization("one", "ns", PolicyScope.WORKLOAD, action), Authorization(f"p{round_}", "ns", PolicyScope.GLOBAL, action))
        workload = replace(world.state.workloads[0], node=f"n{round_}")
        waiting = client.take()
        world.publish(replace(world.state, workloads=(workload,), policies=policies))
        client.answer(*waiting)
    assert client.told.count("+w") == 3, "in every other round"
    client.settle()
    assert client.holds == {name: world.versions(name) for name in TYPES}


def test_a_workload_that_names_what_is_newer_still_waits_for_that() -> None:
    client = settled(naming("one"))
    client.world.publish(naming("one", "two"))
    policies = client.take()
    client.world.publish(naming("one", "three"))
    assert client.take() == [], "the policies of the first change are not acknowledged"
    client.answer(*policies)
    assert client.settle() == ["+ns/three", "+w", "-ns/two"]


def test_what_left_and_came_back_before_the_workloads_followed_stays() -> None:
    client = settled(naming("one"))
    client.world.publish(naming())
    (addresses,) = client.take()
    client.world.publish(naming("one"))
    client.answer(addresses)
    assert client.settle() == ["+w"]
    assert client.policies.keys() == {"ns/one"}


def test_a_workload_that_follows_late_keeps_the_policy() -> None:
    """The removal waits for the workloads of its own snapshot, not of an earlier one."""
    client = settled(naming("one"))
    client.world.change(w="elsewhere")
    (earlier,) = client.take()
    client.world.publish(naming())
    assert client.take() == []
    client.answer(earlier)
    assert client.settle() == ["+w", "-ns/one"]


@pytest.mark.parametrize("wide", [PolicyScope.GLOBAL, PolicyScope.NAMESPACE])
def test_a_policy_that_narrows_applies_all_the_time(wide: PolicyScope) -> None:
    client = settled(scoped(wide, named=False))
    client.world.publish(scoped(PolicyScope.WORKLOAD, named=True))
    for step in ("+w", "+ns/p"):
        client.told = []
        responses = client.take()
        assert client.told == [step]
        assert client.covered
        assert client.take() == []
        client.answer(*responses)
    assert client.take() == []
    assert client.policies == {"ns/p": PolicyScope.WORKLOAD}
    client.world.publish(scoped(wide, named=False))
    for step in ("+ns/p", "+w"):
        client.told = []
        client.answer(*client.take())
        assert client.told == [step], "the other way round it widens first"
        assert client.covered


def test_a_policy_that_narrows_and_goes_is_only_removed() -> None:
    client = settled(scoped(PolicyScope.NAMESPACE, named=False))
    client.world.publish(scoped(PolicyScope.WORKLOAD, named=True))
    addresses = client.take()
    client.world.publish(scoped(PolicyScope.WORKLOAD, named=False, policy=False))
    client.answer(*addresses)
    assert client.settle() == ["+w", "-ns/p"]


def test_a_policy_that_goes_and_comes_back_narrow_applies_all_the_time() -> None:
    client = settled(scoped(PolicyScope.NAMESPACE, named=False))
    client.world.publish(replace(scoped(PolicyScope.WORKLOAD, named=False, policy=False), workloads=()))
    addresses = client.take()
    client.world.publish(scoped(PolicyScope.WORKLOAD, named=True))
    client.answer(*addresses)
    while responses := client.take():
        assert client.covered or not client.named
        client.answer(*responses)
    assert client.policies == {"ns/p": PolicyScope.WORKLOAD}


scopes = st.lists(st.tuples(st.sampled_from(PolicyScope), st.booleans()), min_size=1, max_size=8)


@settings(deadline=None)
@given(scopes, st.data())
def test_a_workload_under_a_policy_stays_under_it(states: list[tuple[PolicyScope, bool]], data: st.DataObject) -> None:
    """It exists in every snapshot, wide or named; answers come at any time, one by one."""
    client = settled(scoped(PolicyScope.GLOBAL, named=False))
    waiting: list[Response] = []
    for scope, allow in states:
        found = scoped(scope, named=scope is PolicyScope.WORKLOAD)
        policy = replace(found.policies[0], action=Action.ALLOW if allow else Action.DENY)
        client.world.publish(replace(found, policies=(policy,)))
        for _ in range(data.draw(st.integers(0, 4), "steps")):
            waiting += client.take()
            assert client.covered
            if waiting and data.draw(st.booleans(), "answer"):
                client.answer(waiting.pop(data.draw(st.integers(0, len(waiting) - 1), "which")))
    client.answer(*waiting)
    while responses := client.take():
        assert client.covered
        client.answer(*responses)
    assert client.policies == {"ns/p": states[-1][0]}
    assert client.holds == {name: client.world.versions(name) for name in TYPES}
    assert all(client.stream.synced(name) for name in TYPES)


def test_a_narrow_policy_that_changes_is_not_kept_back() -> None:
    client = settled(scoped(PolicyScope.WORKLOAD, named=True))
    found = client.world.state
    client.world.publish(replace(found, policies=(replace(found.policies[0], action=Action.ALLOW),)))
    assert client.settle() == ["+ns/p"]


def test_a_reconnecting_client_may_hold_the_wide_form() -> None:
    world = World()
    world.publish(scoped(PolicyScope.NAMESPACE, named=False))
    old = {name: world.versions(name) for name in TYPES}
    world.publish(scoped(PolicyScope.WORKLOAD, named=True))
    for order in (TYPES, TYPES[::-1]):
        client = Both(world)
        client.policies = {"ns/p": PolicyScope.NAMESPACE}
        for type_url in order:
            client.ask(type_url, versions=old[type_url])
            client.answer(*client.take())
            assert client.covered
        while responses := client.take():
            assert client.covered
            client.answer(*responses)
        assert client.policies == {"ns/p": PolicyScope.WORKLOAD}


def test_a_reconnecting_client_keeps_a_policy_until_nothing_names_it() -> None:
    """Whatever it asks for first."""
    world = World()
    world.publish(naming("one"))
    old = {name: world.versions(name) for name in TYPES}
    world.publish(naming())
    for order in (TYPES, TYPES[::-1]):
        client = Both(world)
        client.policies, client.named = {"ns/one": PolicyScope.WORKLOAD}, ("ns/one",)
        for type_url in order:
            client.ask(type_url, versions=old[type_url])
            client.answer(*client.take())
        client.settle()
        assert client.policies == {}


def test_who_asks_for_workloads_first_is_sent_policies_first() -> None:
    world = World()
    world.publish(naming("one"))
    client = Both(world)
    client.ask(ADDRESS_TYPE)
    assert client.take() == []
    assert client.stream.waits_until(0.0) == PATIENCE
    client.ask(AUTHORIZATION_TYPE)
    assert client.stream.waits_until(0.0) is None
    assert client.settle() == ["+ns/one", "+w"]


def test_a_client_of_both_with_nothing_to_tell_is_answered_for_both() -> None:
    world = World()
    client = Both(world)
    client.ask(*TYPES[::-1])
    (policies,) = client.take()
    client.answer(policies)
    (addresses,) = client.take()
    assert [policies.type_url, addresses.type_url] == [AUTHORIZATION_TYPE, ADDRESS_TYPE]
    assert said(policies) == said(addresses) == ([], [])


def test_a_client_of_workloads_alone_waits_a_moment_and_then_never() -> None:
    world = World(w="1")
    client = Both(world)
    client.ask(ADDRESS_TYPE)
    client.now = PATIENCE * 0.9
    assert client.take() == []
    client.now = PATIENCE
    assert client.settle() == ["+w"]
    assert client.stream.waits_until(client.now) is None
    world.change(w="2")
    assert client.settle() == ["+w"]


def test_a_client_of_policies_alone_is_told_what_is_gone() -> None:
    world = World()
    world.publish(naming("one"))
    client = Both(world)
    client.ask(AUTHORIZATION_TYPE)
    assert client.settle() == ["+ns/one"]
    world.publish(naming())
    assert client.settle() == [], "it may still ask for workloads"
    client.now = PATIENCE
    assert client.settle() == ["-ns/one"]


def test_a_reconnecting_client_is_sent_what_differs_and_told_what_is_gone() -> None:
    world = World(same="1", other="2")
    client = Client(world)
    version = world.versions()["same"]
    client.ask(versions={"same": version, "other": "old", "gone": "x", "rejected": ""})
    assert said(client.told()) == (["other"], ["gone", "rejected"])


def test_versions_come_from_content_alone() -> None:
    one, two = World(a="1"), World(b="9")
    two.change(a="2")
    two.change(a="1")
    assert one.versions()["a"] == two.versions()["a"]


def test_a_change_that_changes_nothing_is_none() -> None:
    world = World(a="1", b="1")
    before, number = dict(world.store.types[ADDRESS_TYPE].entries), world.store.number
    world.change(a="1", b="1")
    assert world.store.number == number
    world.change(a="1", b="2")
    assert world.store.number == number + 1
    assert world.store.types[ADDRESS_TYPE].entries["a"] is before["a"]


def test_a_rejection_is_kept_and_nothing_is_sent_again() -> None:
    world = World(a="1")
    client = Client(world)
    client.ask()
    client.ack(client.told(), error="a: no good")
    state = client.stream.states[ADDRESS_TYPE]
    assert (state.nacks, state.error, state.acked) == (1, "a: no good", 0)
    assert client.told() is None, "the same again would be rejected again"
    world.change(a="2")
    client.ack(client.told())
    assert (state.nacks, state.error, state.acked) == (1, "", world.store.number)


def test_a_stale_nonce_acknowledges_nothing() -> None:
    world = World(a="1")
    client = Client(world)
    client.ask()
    client.told()
    client.ask(nonce="77")
    world.change(a="2")
    assert client.told() is None
    assert client.stream.oldest_wait() == 1.0


worlds = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123"), max_size=6)


@settings(deadline=None)
@given(st.lists(worlds, min_size=1, max_size=8), st.data())
def test_after_every_acknowledgement_the_client_holds_what_there_is(states: list[dict[str, str]], data: st.DataObject) -> None:
    """Whatever changes come between acknowledgements and reconnects, a client that applies each response ends with the newest state."""
    world = World()
    client = Client(world)
    client.ask()
    waiting: Response | None = None
    for state in states:
        world.change(**state)
        waiting = waiting or client.told()
        if waiting is not None and data.draw(st.booleans(), "acknowledge"):
            client.ack(waiting)
            waiting = None
        if data.draw(st.booleans(), "reconnect"):
            waiting, held = None, client.holds
            client = Client(world)
            client.holds = held
            client.ask(versions=dict(held))
    waiting = waiting or client.told()
    while waiting is not None:
        client.ack(waiting)
        waiting = client.told()
    assert client.holds == world.versions()
