"""How clients come to know of changes: in turns, in order, never by halves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import Gauge

from control.auth import Caller
from control.xds.clients import AT_ONCE, MAX_PENDING, Client, Clients, View
from control.xds.messages import Refusal, Request
from control.xds.store import Entry, Store
from control.xds.stream import Stream
from control.xds.tunnels import TUNNEL_RULES, TUNNEL_TYPES
from mesh.model.codec.proto import ADDRESS_TYPE, AUTHORIZATION_TYPE

COUNT = 10
MANY = AT_ONCE // COUNT + 1
"""Changes that so many clients take in turns."""


class World:
    """A store with clients, each of which has all of it."""

    def __init__(self) -> None:
        self.store = Store(TUNNEL_TYPES)
        self.gauge = Gauge("behind", "Clients that are", registry=None)
        self.clients = Clients(self.gauge)
        self.store.apply({})
        for number in range(COUNT):
            self.join(number)
        self.publish(1, "1")
        for client in self.clients.values():
            drain(client)
            client.wake.clear()

    def join(self, number: int, **view: Callable[..., None]) -> Client:
        client = self.clients[number] = Client(number, Caller(node=f"n{number}"), "peer", 0.0)
        client.view = View(self.store, TUNNEL_RULES, "tunnel", **view)  # type: ignore[arg-type]
        client.stream = Stream(self.store, TUNNEL_RULES, number)
        for type_url in TUNNEL_TYPES:
            client.stream.receive(Request(type_url), 0.0)
        drain(client)
        return client

    def publish(self, workloads: int, value: str, *policies: str) -> None:
        """So many workloads that have this value, and name these policies."""
        needs = tuple((AUTHORIZATION_TYPE, name) for name in policies)
        addresses = {f"w{index}": Entry(f"w{index}", ADDRESS_TYPE, value.encode(), needs=needs) for index in range(workloads)}
        named = {name: Entry(name, AUTHORIZATION_TYPE, b"p", named=True) for name in policies}
        self.clients.publish(self.store, self.store.apply({AUTHORIZATION_TYPE: named, ADDRESS_TYPE: addresses}))

    def behind(self) -> list[int]:
        return [client.number for client in self.clients.values() if client.pending]


def drain(client: Client) -> list[str]:
    """What it is told, until there is nothing more; each response is acknowledged."""
    assert client.stream is not None
    found = []
    client.catch_up()
    while responses := client.stream.next_responses(0.0):
        for response in responses:
            found.append(f"{response.type_url.rpartition('.')[2]} {len(response.bundle.entries)}")
            client.stream.receive(Request(response.type_url, response.nonce), 0.0)
    return found


def run(main: Callable[[World], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await main(World())

    asyncio.run(bounded())


def test_a_small_change_is_everybodys_at_once() -> None:
    async def main(world: World) -> None:
        world.publish(1, "2")
        assert world.behind() == []
        assert all(client.wake.is_set() for client in world.clients.values())
        await world.clients.told()

    run(main)


def test_many_changes_are_noted_in_turns_between_which_others_have_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.xds.clients.SLICE", 1e-9)

    async def main(world: World) -> None:
        world.publish(MANY, "2")
        seen = [len(world.behind())]
        told = asyncio.create_task(world.clients.told())
        while not told.done():
            await asyncio.sleep(0)
            seen.append(len(world.behind()))
            woken = {client.number for client in world.clients.values() if client.wake.is_set()}
            assert woken.isdisjoint(world.behind()), "who is woken has noted it"
        assert seen[0] == COUNT
        assert {before - after for before, after in itertools.pairwise(seen)} <= {0, 1}, "one at a time"
        assert seen[-1] == world.gauge._value.get() == 0
        assert [drain(client) for client in world.clients.values()] == [[f"Address {MANY}"]] * COUNT

    run(main)


def test_who_is_looked_at_before_its_turn_sees_all_of_it() -> None:
    """The policy before the workloads that name it, as if it had been noted at once."""

    async def main(world: World) -> None:
        world.publish(MANY, "2", "p")
        assert len(world.behind()) == COUNT
        client = world.clients[COUNT - 1]
        assert client.stream is not None
        assert not client.stream.synced(ADDRESS_TYPE)
        assert drain(client) == ["Authorization 1", f"Address {MANY}"]
        assert client.stream.synced(ADDRESS_TYPE)
        await world.clients.told()
        assert drain(client) == [], "it is not told twice"

    run(main)


def test_changes_of_which_none_was_noted_are_noted_in_order_and_with_their_numbers() -> None:
    async def main(world: World) -> None:
        number = world.store.number
        world.publish(MANY, "2")
        world.publish(MANY - 1, "3", "p")
        world.publish(1, "4")  # however small, it comes after them
        assert len(world.behind()) == COUNT
        await world.clients.told()
        client = world.clients[0]
        assert client.stream is not None
        noted = client.stream.states[ADDRESS_TYPE].noted
        assert [(noted[name].first, noted[name].last) for name in ("w0", "w1", f"w{MANY - 1}")] == [
            (number + 1, number + 3),
            (number + 1, number + 2),
            (number + 1, number + 1),
        ]
        assert drain(client) == ["Authorization 1", f"Address {MANY}"]

    run(main)


def test_who_leaves_before_its_turn_keeps_nobody_waiting() -> None:
    async def main(world: World) -> None:
        world.publish(MANY, "2")
        del world.clients[0]
        await world.clients.told()
        assert world.behind() == []

    run(main)


def test_who_comes_before_the_turns_are_over_is_not_told_twice() -> None:
    async def main(world: World) -> None:
        world.publish(MANY, "2")
        late = world.join(COUNT)
        await world.clients.told()
        assert drain(late) == []

    run(main)


def test_what_was_not_noted_is_bounded() -> None:
    async def main(world: World) -> None:
        for value in range(3 * MAX_PENDING):
            world.publish(MANY, f"v{value}")
            assert len(world.clients[0].pending) <= MAX_PENDING
        await world.clients.told()
        assert drain(world.clients[0]) == [f"Address {MANY}"]

    run(main)


def test_who_may_not_have_it_is_broken_before_it_is_told() -> None:
    async def main(world: World) -> None:
        def permitted(changes: object) -> None:
            raise Refusal("not for you")

        client = world.join(COUNT, permitted=permitted)
        world.publish(MANY, "2")
        assert client.broken is None
        client.catch_up()
        assert str(client.broken) == "not for you"
        await world.clients.told()
        assert world.behind() == []

    run(main)
