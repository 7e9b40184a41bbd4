"""The source, and what it kept in a life before this one."""

from __future__ import annotations

import asyncio

from control.resolve import Mesh, MeshSettings
from tests.control.consul.fake import FakeConsul
from tests.control.consul.rig import Book, in_a_loop, running, state, synced


def test_what_was_kept_is_handed_over_at_once_and_counts_when_consul_does_not_come() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80, Tags=["v1"])
        consul.register("bad_name", "10.0.0.1", 80)
        book = Book()
        async with synced(consul, book=book) as sink:
            held = dict(sink.held)
        await consul.stop()
        async with running(consul, book=book) as sink:
            await sink.until(lambda: state(sink).synced)
            assert sink.held == held
            assert state(sink).stale_since == book.confirmed
            await consul.start()
            await sink.until(lambda: state(sink).stale_since is None)
            assert len(sink.puts) == 2

    in_a_loop(test)


def test_what_was_kept_and_is_lost_is_filled_anew_while_consul_is_away() -> None:
    async def test(consul: FakeConsul) -> None:
        for number in range(250):
            consul.register(f"web{number}", "10.0.0.1", 80 + number)
        consul.register("bad", "10.0.0.1", 0)
        book = Book()
        async with synced(consul, book=book) as sink:
            rows = {origin: row.value for origin, row in book.rows.items()}
            assert len(rows) == 252
            await consul.stop()
            book.lose()
            assert not book.whole
            async with asyncio.timeout(5):
                while book.asks:
                    await asyncio.sleep(0.001)
            assert book.whole
            assert {origin: row.value for origin, row in book.rows.items()} == rows
            held = dict(sink.held)
        async with running(consul, book=book) as other:
            await other.until(lambda: state(other).synced)
            assert other.held == held

    in_a_loop(test)


def test_what_went_while_we_were_away_is_removed_and_what_an_emptied_consul_lost_is_not() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        consul.register("db", "10.0.0.2", 5432)
        book = Book()
        async with synced(consul, book=book):
            pass
        consul.deregister("db")
        async with synced(consul, book=book) as sink:
            assert sink.names == {"web"}
            assert [row for row in book.rows if row != "indexes"] == ["consul/web"]
        await consul.lose_everything()
        async with running(consul, book=book, grace=30.0) as sink:
            consul.register("new", "10.0.0.3", 80)
            await sink.until(lambda: "new" in sink.names)
            assert sink.names == {"web", "new"}

    in_a_loop(test)


def test_the_last_accepted_version_survives_a_restart_of_ours() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        book = Book()
        async with synced(consul, book=book) as sink:
            accepted = sink.held["consul/web"]
            consul.register("web", "10.0.0.1", 0)
            await sink.until(lambda: sink.held["consul/web"].refused)
        async with running(consul, book=book) as other:
            await other.until(lambda: state(other).synced)
            assert other.recalled == {"consul/web": accepted}
            assert other.puts == ["consul/web"]
            assert other.held["consul/web"].refused

    in_a_loop(test)


def test_the_last_accepted_version_is_in_force_after_a_restart_of_ours() -> None:
    """As the control plane does it: an object that was never accepted would be left out of the mesh."""

    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        book = Book()
        async with synced(consul, book=book) as sink:
            consul.register("web", "10.0.0.1", 0)
            await sink.until(lambda: sink.held["consul/web"].refused)
        async with running(consul, book=book) as other:
            await other.until(lambda: state(other).synced)
        mesh = Mesh(MeshSettings())
        for parsed in other.recalled.values():
            mesh.recall(parsed)
        for origin, parsed in other.held.items():
            mesh.put("consul", origin, parsed)
        mesh.publish(mesh.settle(mesh.take()))
        assert [[str(address) for address in workload.addresses] for workload in mesh.workloads.values()] == [["10.0.0.1"]]
        assert mesh.refused()

    in_a_loop(test)


def test_what_another_version_of_us_kept_is_not_used() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        book = Book()
        book.put("consul/web", b'{"some": "thing"}')
        book.complete()
        async with synced(consul, book=book) as sink:
            assert sink.puts == ["consul/web"]

    in_a_loop(test)
