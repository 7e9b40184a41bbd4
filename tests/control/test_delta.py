"""What a client is told, request by request. No network: snapshots in, responses out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.resolve import Resolved
from control.snapshot import TYPES, Snapshot, build
from control.xds.delta import MAX_KEYS, DeltaStream, Refusal, Request, Response
from mesh.model.codec.proto import ADDRESS_TYPE, AUTHORIZATION_TYPE
from mesh.model.policy import Action, Authorization, PolicyScope
from mesh.model.workload import NamespacedHostname, NetworkAddress, Service, Workload
from tests.control.objects import ip

NOTHING = Resolved((), (), (), {}, (), ())


class World:
    """Workloads by uid with a value each; every change makes the next snapshot."""

    def __init__(self, **values: str) -> None:
        self.snapshot = Snapshot()
        self.resolved = NOTHING
        self.change(**values)

    def change(self, **values: str) -> None:
        found = tuple(Workload(name, name, "ns", (ip(f"10.0.0.{ord(name[0])}"),), node=value) for name, value in values.items())
        self.publish(replace(self.resolved, workloads=found))

    def publish(self, resolved: Resolved) -> None:
        self.resolved = resolved
        self.snapshot = build(resolved, self.snapshot)


class Client:
    """One stream that applies what it is told, as a tunnel does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stream = DeltaStream(TYPES)
        self.holds: dict[str, str] = {}
        self.now = 0.0

    def ask(self, type_url: str = ADDRESS_TYPE, **fields: object) -> None:
        self.stream.receive(Request(type_url, **fields))  # type: ignore[arg-type]

    def told(self) -> Response | None:
        self.now += 1
        responses = self.stream.next_responses(self.world.snapshot, self.now)
        assert len(responses) < 2
        return responses[0] if responses else None

    def ack(self, response: Response | None, error: str = "") -> None:
        assert response is not None
        for entry, _ in response.resources:
            self.holds[entry.name] = entry.version
        for name in response.removed:
            self.holds.pop(name, None)
        self.ask(response.type_url, nonce=response.nonce, error=error)


def said(response: Response | None) -> tuple[list[str], list[str]] | None:
    """(names of resources, removed names)"""
    return None if response is None else (sorted(entry.name for entry, _ in response.resources), sorted(response.removed))


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
        assert said(client.told()) == ([], [])


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
    world.publish(replace(world.resolved, policies=(policy,)))
    response = client.told()
    assert response is not None
    assert (response.type_url, said(response)) == (AUTHORIZATION_TYPE, (["ns/p"], []))
    client.ack(response)
    client.ack(waiting)
    world.change(a="2")
    world.publish(replace(world.resolved, policies=(replace(policy, action=Action.ALLOW),)))
    assert [entry.type_url for entry in client.stream.next_responses(world.snapshot, 0)] == [AUTHORIZATION_TYPE, ADDRESS_TYPE]


def naming(*policies: str) -> Resolved:
    """A workload that names these policies, and the policies."""
    found = tuple(Authorization(name, "ns", PolicyScope.WORKLOAD, Action.DENY) for name in policies)
    workload = Workload("w", "w", "ns", (ip("10.0.0.1"),), policies=tuple(policy.key for policy in found))
    return replace(NOTHING, workloads=(workload,), policies=found)


class Both:
    """A client of both types that acknowledges everything, and notes what its workload named and what it did not have."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stream = DeltaStream(TYPES)
        self.policies: set[str] = set()
        self.named: tuple[str, ...] = ()
        self.told: list[str] = []

    def ask(self, *types: str, **fields: object) -> None:
        for type_url in types:
            self.stream.receive(Request(type_url, **fields))  # type: ignore[arg-type]

    def apply(self, acknowledge: bool = True) -> list[Response]:
        """Take what there is; without acknowledgement the responses are returned instead of answered."""
        responses = self.stream.next_responses(self.world.snapshot, 0)
        for response in responses:
            self.told += [f"+{entry.name}" for entry, _ in response.resources] + [f"-{name}" for name in response.removed]
            for entry, _ in response.resources:
                if isinstance(entry.value, Workload):
                    self.named = entry.value.policies
                else:
                    self.policies.add(entry.name)
            self.policies -= set(response.removed)
            assert set(self.named) <= self.policies, f"a named policy is missing: {self.told}"
            if acknowledge:
                self.stream.receive(Request(response.type_url, nonce=response.nonce))
        return responses

    def settle(self) -> list[str]:
        self.told = []
        while self.apply():
            pass
        return self.told


def test_a_policy_comes_before_it_is_named_and_goes_after() -> None:
    world = World()
    world.publish(naming("one"))
    client = Both(world)
    client.ask(*TYPES)
    assert client.settle() == ["+ns/one", "+w"]
    world.publish(naming("two"))
    assert client.settle() == ["+ns/two", "+w", "-ns/one"]
    world.publish(naming())
    assert client.settle() == ["+w", "-ns/two"]
    assert client.policies == set()


def test_a_workload_waits_for_a_policy_that_cannot_be_sent_yet() -> None:
    world = World()
    world.publish(naming("one"))
    client = Both(world)
    client.ask(*TYPES)
    client.settle()
    world.publish(naming("one", "two"))
    policies, addresses = client.apply(acknowledge=False)
    client.ask(ADDRESS_TYPE, nonce=addresses.nonce)
    world.publish(naming("one", "three"))
    assert client.apply() == [], "the policies of the first change are not acknowledged"
    client.ask(AUTHORIZATION_TYPE, nonce=policies.nonce)
    assert client.settle() == ["+ns/three", "+w", "-ns/two"]


def test_a_reconnecting_client_keeps_a_policy_until_nothing_names_it() -> None:
    """Whatever it asks for first."""
    world = World()
    world.publish(naming("one"))
    old = world.snapshot
    world.publish(naming())
    for order in (TYPES, TYPES[::-1]):
        client = Both(world)
        client.policies, client.named = {"ns/one"}, ("ns/one",)
        for type_url in order:
            client.ask(type_url, versions={name: entry.version for name, entry in old.entries[type_url].items()})
            client.apply()
        client.settle()
        assert client.policies == set()


def test_a_client_of_policies_alone_is_told_what_is_gone() -> None:
    world = World()
    world.publish(naming("one"))
    client = Both(world)
    client.ask(AUTHORIZATION_TYPE)
    assert client.settle() == ["+ns/one"]
    world.publish(naming())
    assert client.settle() == ["-ns/one"]


def test_a_reconnecting_client_is_sent_what_differs_and_told_what_is_gone() -> None:
    world = World(same="1", other="2")
    client = Client(world)
    version = world.snapshot.entries[ADDRESS_TYPE]["same"].version
    client.ask(versions={"same": version, "other": "old", "gone": "x", "rejected": ""})
    assert said(client.told()) == (["other"], ["gone", "rejected"])


def test_versions_come_from_content_alone() -> None:
    one, two = World(a="1"), World(b="9")
    two.change(a="2")
    two.change(a="1")
    assert one.snapshot.entries[ADDRESS_TYPE]["a"].version == two.snapshot.entries[ADDRESS_TYPE]["a"].version


def test_a_change_that_changes_nothing_is_the_same_snapshot_and_objects_are_encoded_once() -> None:
    world = World(a="1", b="1")
    before = world.snapshot
    world.change(a="1", b="1")
    assert world.snapshot is before
    world.change(a="1", b="2")
    assert world.snapshot.entries[ADDRESS_TYPE]["a"] is before.entries[ADDRESS_TYPE]["a"]


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
    assert (state.nacks, state.error, state.acked) == (1, "", world.snapshot.number)


def test_a_stale_nonce_acknowledges_nothing() -> None:
    world = World(a="1")
    client = Client(world)
    client.ask()
    client.told()
    client.ask(nonce="77")
    world.change(a="2")
    assert client.told() is None
    assert client.stream.oldest_wait() == 1.0


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
    assert response.resources[0][1] == ("/10.0.0.97",)
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
    with pytest.raises(Refusal, match="keys subscribed"):
        client.ask(subscribe=tuple(f"n{index}" for index in range(MAX_KEYS + 1)))
    with pytest.raises(Refusal, match="unknown type"):
        client.ask("type.googleapis.com/envoy.config.cluster.v3.Cluster")


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
    assert client.holds == {name: entry.version for name, entry in world.snapshot.entries[ADDRESS_TYPE].items()}
