"""The source, a Consul that has access rules, and every way to ask it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.control.consul.fake import FakeConsul
from tests.control.consul.rig import QUICK, in_a_loop, running, state, synced

# Access rules


def test_a_token_comes_from_its_file_and_a_new_one_is_found_there(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")

    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        consul.token = "old"
        async with synced(consul, token_file=file) as sink:
            assert set(consul.tokens) == {"old"}
            consul.token = "new"
            consul.touch()
            await sink.until(lambda: "403 ACL not found" in state(sink).error)
            assert "service:read and node:read" in state(sink).error
            assert sink.names == {"web"}
            file.write_text("new")
            await sink.until(lambda: not state(sink).error)
            assert consul.tokens[-1] == "new"

    in_a_loop(test)


def test_a_token_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "token"

    async def test(consul: FakeConsul) -> None:
        async with running(consul, token_file=file) as sink:
            await sink.until(lambda: "a file for Consul cannot be used" in state(sink).error)
            assert str(file) in state(sink).error
            assert sum(consul.asked.values()) == 0
            file.write_text("secret")
            await sink.until(lambda: state(sink).synced)
            assert set(consul.tokens) == {"secret"}

    in_a_loop(test)


def test_a_list_that_rules_emptied_is_not_believed() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        async with synced(consul) as sink:
            consul.hidden = {"web", "consul"}
            consul.touch()
            await sink.until(lambda: "access rules hide every service" in state(sink).error)
            assert sink.names == {"web"}

    in_a_loop(test)


def test_a_list_without_even_consul_is_not_believed() -> None:
    """As who has no token gets it where rules deny: nothing says that something was hidden."""

    async def test(consul: FakeConsul) -> None:
        consul.instances.clear()
        async with running(consul) as sink:
            await sink.until(lambda: "access rules hide every service" in state(sink).error)
            assert not state(sink).synced

    in_a_loop(test)


def test_what_rules_hide_later_stays_and_what_is_gone_goes() -> None:
    async def test(consul: FakeConsul) -> None:
        for name in ("web", "db", "log"):
            consul.register(name, "10.0.0.1", 80)
        async with synced(consul) as sink:
            consul.hidden = {"web"}
            consul.deregister("db")
            await sink.until(lambda: sink.names == {"web", "log"})
            await sink.until(lambda: "hide the instances of 1 services (web)" in state(sink).error)
            consul.hidden = set()
            consul.touch()
            await sink.until(lambda: not state(sink).error)
            assert sink.names == {"web", "log"}

    in_a_loop(test)


def test_instances_that_rules_hide_are_said() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        consul.register("db", "10.0.0.2", 80)
        consul.hidden_instances = {"web"}
        async with running(consul) as sink:
            await sink.until(lambda: state(sink).synced)
            assert sink.names == {"db"}
            assert "hide the instances of 1 services (web)" in state(sink).error
            assert state(sink).stale_since is None

    in_a_loop(test)


# Ways to ask


def test_datacenter_partition_namespace_and_consistency_are_part_of_every_question() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        queries: list[str] = []
        route = consul._route

        def noted(path: str, query: dict[str, str]) -> object:
            queries.append("&".join(f"{name}={value}" for name, value in query.items() if name in ("dc", "ns", "partition", "stale")))
            return route(path, query)

        consul._route = noted  # type: ignore[assignment,method-assign]
        async with synced(consul, datacenter="dc2", partition="p", consul_namespace="n", consistency="stale"):
            assert set(queries) == {"dc=dc2&partition=p&ns=n&stale="}

    in_a_loop(test)


def test_a_server_without_leader_that_answers_all_the_same_removes_nothing_and_is_said() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        async with synced(consul, consistency="stale") as sink:
            consul.stale_leader = False
            consul.deregister("web")
            consul.register("db", "10.0.0.2", 5432)
            await sink.until(lambda: "no leader" in state(sink).error and "db" in sink.names)
            assert sink.names == {"web", "db"}
            consul.stale_leader = True
            consul.touch()
            await sink.until(lambda: sink.names == {"db"})

    in_a_loop(test)


def test_everything_is_read_again_from_time_to_time() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        async with synced(consul, replace(QUICK, resync=0.05)) as sink:
            consul.instances["web"].service["Address"] = "10.0.0.2"  # nobody was told
            await sink.until(lambda: sink.addresses("web") == ["10.0.0.2"])
            assert state(sink).stale_since is None

    in_a_loop(test)
