"""How many views and names there may be, who makes room, and that nothing of it keeps policies waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from grpc import StatusCode

from control.auth import Caller
from control.resolve import Changes
from control.resolve.l7.plans import CLUSTER_TYPE, LISTENER_TYPE, Ref, resources
from control.resolve.l7.views import View
from control.xds.clients import Hello
from control.xds.clients import View as Served
from control.xds.messages import Exhausted
from control.xds.proxies import Proxies, proxy_entries
from mesh.model.l7.profile import Kind
from mesh.model.manifest import parse_file
from tests.control.objects import resolved
from tests.control.plane import Stream, pod, running
from tests.control.resolve.l7 import WEB
from tests.control.test_bad_clients import ended, metric

POD = Caller(namespace="shop", account="a", pod="p")
OTHER = Caller(namespace="shop", account="a", pod="q")
NODE = Caller(node="n1", impersonates=True)


def envoy(port: int, caller: Caller = POD) -> Hello:
    return Hello(caller, "sidecar~10.0.0.1~p.shop~shop.svc.cluster.local", {"HTTP_PROXY_PORT": str(port)}, "envoy", LISTENER_TYPE, True)


def grpc(caller: Caller = POD) -> Hello:
    return Hello(caller, "sidecar~10.0.0.1~p.shop~shop.svc.cluster.local", {}, "grpc-go", LISTENER_TYPE, True)


class World:
    """Proxies over a mesh that is worked on when a test says so."""

    def __init__(self) -> None:
        self.mesh = resolved(WEB)
        self.proxies = Proxies(self.mesh, lambda: None, lambda store, changes: None)

    async def open(self, hello: Hello) -> Served:
        return await self.proxies.open(hello)

    def settle(self, most: int | None = None) -> None:
        """Until there is nothing more."""
        while self.mesh.waiting:
            self.step(most)

    def step(self, most: int | None = None) -> None:
        changes = self.mesh.settle(self.mesh.take_pins(most))
        self.mesh.publish(changes)
        self.proxies.apply(changes, proxy_entries(changes.l7))

    def ports(self) -> list[int]:
        return sorted(view.ports[1] for view in self.proxies.views)


def run(main: Callable[[World], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main(World())

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MAX_VIEWS": 5, "MAX_OF_POD": 2, "MAX_OF_OTHERS": 4, "MAX_NAMES": 6, "MAX_NAMES_OF_CLIENT": 4}.items():
        monkeypatch.setattr(f"control.xds.views.{name}", value)


def names(*found: str) -> set[str]:
    return set(found)


# Views


def test_a_caller_that_opens_one_after_the_other_keeps_as_many_as_it_may() -> None:
    async def main(world: World) -> None:
        for port in range(1, 20):
            (await world.open(envoy(port))).close()
            world.settle()
        assert world.ports() == [18, 19]
        assert {ref.view.ports[1] for ref in world.mesh.engine.args(resources)} == {18, 19}, "nothing of the others is worked out"

    run(main)


def test_views_that_are_looked_at_make_no_room() -> None:
    async def main(world: World) -> None:
        one, two = [await world.open(envoy(port)) for port in (1, 2)]
        world.settle()
        with pytest.raises(Exhausted, match="more than 2 views of shop/p") as caught:
            await world.open(envoy(3))
        assert caught.value.bound == "caller_views"
        again = await world.open(envoy(1))
        one.close()
        with pytest.raises(Exhausted):
            await world.open(envoy(3))
        two.close()
        again.close()
        await world.open(envoy(3))
        assert world.ports() == [1, 3], "the one that was left first ended"

    run(main)


def test_all_callers_together_have_a_bound_and_take_the_room_of_idle_views() -> None:
    async def main(world: World) -> None:
        (await world.open(envoy(1, NODE))).close()
        for port in (2, 3, 4):
            await world.open(envoy(port, NODE))
        await world.open(envoy(5))
        world.settle()
        await world.open(envoy(6, OTHER))
        assert world.ports() == [2, 3, 4, 5, 6]
        with pytest.raises(Exhausted, match="more than 5 views") as caught:
            await world.open(envoy(7, OTHER))
        assert caught.value.bound == "views"

    run(main)


def test_what_is_not_worked_out_yet_makes_no_room() -> None:
    async def main(world: World) -> None:
        for port in (1, 2):
            (await world.open(envoy(port))).close()
        with pytest.raises(Exhausted):
            await world.open(envoy(3))
        world.settle()
        await world.open(envoy(3))

    run(main)


def test_a_view_that_ended_and_is_wanted_again_at_once_is_whole() -> None:
    """Before the mesh has heard of its end: in one batch nothing would have changed, and nobody been told."""

    async def main(world: World) -> None:
        (await world.open(envoy(1))).close()
        world.settle()
        before = sorted(next(iter(world.proxies.views.values())).entries[LISTENER_TYPE])
        world.proxies._end(next(iter(world.proxies.views)), "idle")
        served = await world.open(envoy(1))
        world.step()
        assert (served.store.number, served.store.types[LISTENER_TYPE].entries) == (0, {}), "what ends is not what is wanted"
        world.settle()
        assert sorted(served.store.types[LISTENER_TYPE].entries) == before != []

    run(main)


def test_an_idle_view_ends_by_itself_once_it_is_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.xds.proxies.LINGER", 0.001)

    async def main(world: World) -> None:
        (await world.open(envoy(1))).close()
        await asyncio.sleep(0.01)
        assert world.ports() == [1]
        world.settle()
        while world.proxies.views:
            await asyncio.sleep(0.001)
        world.settle()
        assert world.mesh.engine.count(resources) == 0

    run(main)


# Names


def test_names_that_nobody_asks_for_any_more_make_room() -> None:
    async def main(world: World) -> None:
        good, bad = [await world.open(grpc(caller)) for caller in (POD, OTHER)]
        good.want(LISTENER_TYPE, names("web:80"))
        bad.want(LISTENER_TYPE, names("x1:1", "x2:1", "x3:1"))
        world.settle()
        bad.want(LISTENER_TYPE, names("x1:1", "y1:1", "y2:1"))
        world.settle()
        (viewed,) = world.proxies.views.values()
        assert {ref.name for ref in viewed.wanted} == {"web:80", "x1:1", "x2:1", "x3:1", "y1:1", "y2:1"}
        bad.close()
        bad_again = await world.open(grpc(OTHER))
        bad_again.want(LISTENER_TYPE, names("z1:1", "z2:1"))
        assert {ref.name for ref in viewed.wanted} >= {"web:80", "z1:1", "z2:1"}
        assert len(viewed.wanted) == 6
        assert not viewed.wanted.keys() & {Ref(next(iter(world.proxies.views)), LISTENER_TYPE, name) for name in ("x2:1", "x3:1")}
        world.settle()
        assert viewed.settled

    run(main)


def test_names_that_clients_ask_for_are_never_dropped() -> None:
    async def main(world: World) -> None:
        clients = [await world.open(grpc(caller)) for caller in (POD, OTHER)]
        for number, client in enumerate(clients):
            client.want(LISTENER_TYPE, names(*(f"x{number}-{index}:1" for index in range(3))))
        world.settle()
        with pytest.raises(Exhausted, match="more than 6 names asked for by clients of grpc of shop") as caught:
            clients[0].want(LISTENER_TYPE, names("x0-0:1", "x0-1:1", "x0-2:1", "web:80"))
        assert caught.value.bound == "names"
        clients[1].close()
        clients[0].want(LISTENER_TYPE, names("x0-0:1", "x0-1:1", "x0-2:1", "web:80"))

    run(main)


def test_one_client_does_not_take_all_names_of_a_view() -> None:
    async def main(world: World) -> None:
        client = await world.open(grpc())
        client.want(LISTENER_TYPE, names(*(f"x{index}:1" for index in range(4))))
        with pytest.raises(Exhausted, match="more than 4 names asked for by one client"):
            client.want(LISTENER_TYPE, names(*(f"x{index}:1" for index in range(5))))
        client.want(LISTENER_TYPE, names(*(f"y{index}:1" for index in range(2))))

    run(main)


def test_a_name_that_was_dropped_and_is_wanted_again_at_once_is_there() -> None:
    async def main(world: World) -> None:
        one, two = [await world.open(grpc(caller)) for caller in (POD, OTHER)]
        one.want(LISTENER_TYPE, names("web:80", "x1:1", "x2:1"))
        world.settle()
        assert "web:80" in one.store.types[LISTENER_TYPE].entries
        one.want(LISTENER_TYPE, names("x1:1", "x2:1"))
        two.want(LISTENER_TYPE, names("z1:1", "z2:1", "z3:1", "z4:1"))  # the last takes the place of web:80
        assert not one.store.knows(LISTENER_TYPE, "web:80")
        world.settle()
        two.want(LISTENER_TYPE, names("z1:1"))
        world.settle()
        one.want(LISTENER_TYPE, names("web:80"))
        assert not one.store.knows(LISTENER_TYPE, "web:80"), "it is being worked out"
        world.settle()
        assert "web:80" in one.store.types[LISTENER_TYPE].entries
        assert one.store.knows(LISTENER_TYPE, "web:80")

    run(main)


# Apart from policies

POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: late, namespace: shop}
"""


def client_view(port: int) -> View:
    return View(Kind.CLIENT, "shop", ports=(1, port))


def test_what_is_asked_for_is_taken_a_part_at_a_time_and_never_let_go_and_wanted_at_once() -> None:
    mesh = resolved(WEB)
    first, second = (Ref(View(Kind.GRPC, "shop"), LISTENER_TYPE, name) for name in ("a:1", "b:1"))
    for wanted in (first, second, client_view(1), client_view(2), first):
        mesh.pin(wanted)
    mesh.unpin(client_view(2))
    mesh.pin(client_view(2))
    assert [len(mesh.take_pins(2).pins) for _ in range(5)] == [2, 1, 1, 2, 1]
    assert mesh.waiting == 0


def test_a_policy_does_not_wait_for_all_views(tmp_path: Path) -> None:
    async def main(_: World) -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane:
            pipeline, told, done = plane.plane.pipeline, [], asyncio.Event()
            while not pipeline.ready:
                await asyncio.sleep(0.01)

            def published(changes: Changes) -> None:
                if changes.pinned and len(told) == 1:
                    pipeline.put("files", "late.yaml", parse_file(POLICY, "late.yaml"))
                told.append("policy" if changes.policies else len(changes.pinned))
                if sum(count for count in told if isinstance(count, int)) == 8:
                    done.set()

            pipeline.published = published
            for port in range(1, 9):
                plane.plane.mesh.pin(client_view(port))
            pipeline.poke()
            await done.wait()
            views = [count for count in told if count]
            assert sorted(map(str, views)) == ["1"] * 8 + ["policy"]
            assert views.index("policy") <= 2

    run(main)


def test_who_finds_no_room_is_told_and_counted(tmp_path: Path) -> None:
    async def main(_: World) -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane, plane.channel() as channel:
            streams = []
            for port in range(1, 6):
                stream = Stream(channel)
                node = {"id": "sidecar~10.0.0.1~a.shop~shop.svc", "metadata": {"HTTP_PROXY_PORT": str(port)}}
                await stream.ask(CLUSTER_TYPE, node=node)
                if port < 5:
                    await stream.read()
                streams.append(stream)
            assert await ended(streams[-1].call) == (StatusCode.RESOURCE_EXHAUSTED, "more than 4 views of node n1")
            assert await metric(plane, 'culvert_xds_cut_off_total{reason="caller_views"}') == 1
            assert await metric(plane, "culvert_xds_views") == 4
            streams[0].call.cancel()
            while plane.plane.xds.places.total > 3:
                await asyncio.sleep(0.01)
            stream = Stream(channel)
            await stream.ask(CLUSTER_TYPE, node=node)
            await stream.read()
            assert await metric(plane, 'culvert_xds_views_ended_total{why="room"}') == 1

    run(main)
