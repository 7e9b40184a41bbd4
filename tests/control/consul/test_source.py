"""The source against a Consul in this process: what it hands over, and what it makes of failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from control.sources.consul.tuning import Tuning
from mesh.model.manifest import Key
from tests.control.consul.fake import CUT, HANG_UP, NO_HTTP, NO_INDEX, NO_JSON, NO_LEADER, WRONG_SHAPE, FakeConsul, plain
from tests.control.consul.rig import QUICK, in_a_loop, running, state, synced

# What Consul says is handed over


def test_what_is_there_at_the_start_is_handed_over_once_and_then_it_is_synced() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80, Tags=["v1"])
        consul.register("db", "10.0.0.2", 5432)
        async with synced(consul) as sink:
            assert sink.keys == {
                Key("ServiceEntry", "consul", "web"),
                Key("DestinationRule", "consul", "web"),
                Key("ServiceEntry", "consul", "db"),
            }
            assert sorted(sink.puts) == ["consul/db", "consul/web"]
            assert (state(sink).stale_since, state(sink).error) == (None, "")

    in_a_loop(test)


def test_a_catalogue_that_has_only_consul_is_synced_too() -> None:
    async def test(consul: FakeConsul) -> None:
        async with synced(consul) as sink:
            assert sink.held == {}

    in_a_loop(test)


def test_an_empty_namespace_of_consul_enterprise_is_synced_too() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.instances.clear()
        async with synced(consul, consul_namespace="shop") as sink:
            assert sink.held == {}

    in_a_loop(test)


@pytest.mark.parametrize(
    ("change", "addresses"),
    [
        (lambda consul: consul.register("web", "10.0.0.3", 80, id="web-3"), ["10.0.0.1", "10.0.0.3"]),
        (lambda consul: consul.register("web", "10.0.0.4", 80, Tags=["v2"]), ["10.0.0.4"]),
        (lambda consul: consul.register("web", "10.0.0.5", 80), ["10.0.0.5"]),  # seen in no list
        (lambda consul: consul.set_health("web", "critical"), []),
        (lambda consul: consul.set_node_health("node-1", "critical"), []),
        (lambda consul: consul.deregister("web"), None),
    ],
)
def test_a_change_is_handed_over(change: Callable[[FakeConsul], None], addresses: list[str] | None) -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        consul.register("db", "10.0.0.2", 5432, node="node-2")
        async with synced(consul) as sink:
            assert sink.addresses("web") == ["10.0.0.1"]
            change(consul)
            await sink.until(lambda: sink.addresses("web") == addresses)
            assert sink.puts.count("consul/db") == 1  # others have nothing to do with it

    in_a_loop(test)


def test_the_address_of_a_node_is_its_instances() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "", 80)
        async with synced(consul) as sink:
            assert sink.addresses("web") == ["10.255.0.1"]
            consul.set_node("node-1", "10.255.0.2")
            await sink.until(lambda: sink.addresses("web") == ["10.255.0.2"])

    in_a_loop(test)


def test_what_changes_nothing_is_not_handed_over_again() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        async with synced(consul) as sink:
            for _ in range(3):
                consul.touch()
                await consul.until_asked("/v1/catalog/services")
            consul.set_health("web", "warning")  # the same weight
            consul.register("log", "10.0.0.3", 80)
            await sink.until(lambda: sink.addresses("log"))
            assert sink.puts == ["consul/web", "consul/log"]

    in_a_loop(test)


def test_sidecars_of_consuls_own_mesh_are_not_handed_over() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web-sidecar-proxy", "10.0.0.1", 21000, Kind="connect-proxy")
        consul.register("web", "10.0.0.1", 80)
        async with synced(consul) as sink:
            assert sink.names == {"web"}
            consul.register("web", "10.0.0.1", 80, Kind="connect-proxy")  # it became one
            await sink.until(lambda: sink.names == set())

    in_a_loop(test)


def test_an_instance_that_is_no_good_is_said_and_the_others_are_handed_over() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        consul.register("web", "web.example.com", 80, id="web-2")
        async with synced(consul) as sink:
            assert sink.addresses("web") == ["10.0.0.1"]
            (refusal,) = sink.refusals("web")
            assert refusal.startswith("consul/web: Consul service web: instance web-2 on node-1: Service.Address: web.example.com is not")

    in_a_loop(test)


def test_a_service_of_many_instances_is_handed_over_without_holding_the_loop() -> None:
    async def test(consul: FakeConsul) -> None:
        for number in range(300):
            consul.register("web", f"10.0.{number // 250}.{number % 250 + 1}", 80, id=f"web-{number}")
        async with synced(consul) as sink:
            assert len(sink.addresses("web") or ()) == 300

    in_a_loop(test)


def test_few_connections_are_held_however_many_services_there_are() -> None:
    async def test(consul: FakeConsul) -> None:
        for number in range(200):
            consul.register(f"web-{number}", f"10.0.0.{number + 1}", 80)
        async with synced(consul) as sink:
            assert len(sink.held) == 200
            assert consul.most_connections <= 3 + QUICK.reads
            assert all(count == 1 for path, count in consul.asked.items() if path.startswith("/v1/health/service/"))

    in_a_loop(test)


def test_a_service_that_flaps_is_handed_over_a_few_times_and_ends_up_right() -> None:
    tuning = replace(QUICK, service_burst=3, service_rate=10.0, watch_burst=5, watch_rate=100.0)

    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        async with synced(consul, tuning) as sink:
            began = time.monotonic()
            for tick in range(100):
                consul.set_health("web", "critical" if tick % 2 == 0 else "passing")
                await asyncio.sleep(0.002)
            seconds = time.monotonic() - began
            assert len(sink.puts) <= 1 + 3 + 10 * seconds + 1
            consul.set_health("web", "critical")
            await sink.until(lambda: sink.addresses("web") == [])

    in_a_loop(test)


# Failures


PATHS = ("/v1/catalog/services", "/v1/health/state/any", "/v1/catalog/nodes", "/v1/health/service/web")
FAULTS = {
    "cut": CUT,
    "no HTTP": NO_HTTP,
    "hang up": HANG_UP,
    "no JSON": NO_JSON,
    "no index": NO_INDEX,
    "no leader": NO_LEADER,
    "500": plain(500, "oops"),
    "429": plain(429, "slow down"),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", FAULTS)
def test_an_answer_that_is_none_is_asked_for_again(path: str, name: str) -> None:
    fault = FAULTS[name]

    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        consul.faults[path] = [fault, fault]
        async with synced(consul) as sink:
            assert sink.addresses("web") == ["10.0.0.1"]
            consul.faults[path] = [fault]
            consul.register("web", "10.0.0.2", 80)
            await sink.until(lambda: sink.addresses("web") == ["10.0.0.2"])
            assert sink.removed == []

    in_a_loop(test)


def test_one_question_that_is_never_answered_does_not_keep_the_loop_busy() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        consul.faults["/v1/health/state/any"] = [NO_JSON] * 10_000
        async with running(consul, replace(QUICK, first_wait=0.1, most_wait=0.1)) as sink:
            await sink.until(lambda: state(sink).error)
            consul.touch()
            before = time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - before < 0.15
            assert not state(sink).synced

    in_a_loop(test)


def test_answers_of_any_size_are_read() -> None:
    async def test(consul: FakeConsul) -> None:
        for number in range(1500):
            consul.register("web", f"10.0.{number // 250}.{number % 250 + 1}", 80, id=f"web-{number}", Meta={"note": "x" * 300})
        async with synced(consul) as sink:
            assert len(sink.addresses("web") or ()) == 1500
            consul.set_node_health("node-1", "critical")
            await sink.until(lambda: sink.addresses("web") == [])

    in_a_loop(test)


def test_a_consul_that_is_away_leaves_everything_in_force_and_its_age_is_said() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        async with synced(consul) as sink:
            before = time.time()
            await consul.stop()
            await sink.until(lambda: state(sink).error)
            assert state(sink).synced
            assert before - 5 < state(sink).stale_since <= time.time()
            assert "Consul http://127.0.0.1" in state(sink).error
            assert sink.names == {"web"}
            consul.instances["web"].service["Address"] = "10.0.0.2"
            await consul.start()
            await sink.until(lambda: not state(sink).error and state(sink).stale_since is None)
            assert sink.addresses("web") == ["10.0.0.2"]  # what was missed was read before it is called current

    in_a_loop(test)


def test_behind_a_relay_it_is_called_what_people_call_it() -> None:
    async def test(consul: FakeConsul) -> None:
        async with synced(consul, called="http://consul.example:8500") as sink:
            await consul.stop()
            await sink.until(lambda: state(sink).error)
            assert state(sink).error.startswith("Consul http://consul.example:8500: ")
            assert consul.url.rpartition(":")[2] not in state(sink).error

    in_a_loop(test)


def test_a_consul_that_comes_late_is_waited_for() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        await consul.stop()
        async with running(consul) as sink:
            await sink.until(lambda: state(sink).error)
            assert not state(sink).synced
            await consul.start()
            await sink.until(lambda: state(sink).synced)
            assert sink.names == {"web"}

    in_a_loop(test)


def test_without_leader_what_is_known_stays_and_the_reason_is_said() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        async with synced(consul) as sink:
            consul.leader = False
            consul.touch()
            await consul.restart()
            await sink.until(lambda: "No cluster leader" in state(sink).error)
            assert sink.names == {"web"}
            consul.leader = True
            await sink.until(lambda: not state(sink).error)
            assert len(sink.puts) == 1

    in_a_loop(test)


def test_a_restart_with_the_same_data_hands_over_nothing() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        async with synced(consul) as sink:
            await consul.restart()
            await consul.until_asked("/v1/health/service/web")
            await sink.until(lambda: state(sink).stale_since is None)
            assert (sink.puts, sink.removed) == (["consul/web"], [])

    in_a_loop(test)


def test_a_restart_without_data_removes_nothing_that_comes_back() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        consul.register("db", "10.0.0.2", 5432)
        for _ in range(20):
            consul.touch()
        async with synced(consul, grace=30.0) as sink:
            await consul.lose_everything()
            consul.register("web", "10.0.0.1", 80)
            consul.register("new", "10.0.0.3", 80)
            await sink.until(lambda: "new" in sink.names)
            assert sink.names == {"web", "db", "new"}
            consul.register("db", "10.0.0.2", 5432)
            consul.register("db", "10.0.0.4", 5432, id="db-2")
            await sink.until(lambda: sink.addresses("db") == ["10.0.0.2", "10.0.0.4"])
            assert sink.removed == []
            assert sink.puts.count("consul/web") == 1

    in_a_loop(test)


def test_after_the_grace_an_emptied_consul_is_believed() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        consul.register("web", "10.0.0.2", 80, id="web-2")
        consul.register("db", "10.0.0.3", 5432)
        async with synced(consul, grace=0.3) as sink:
            await consul.lose_everything()
            consul.register("web", "10.0.0.2", 80, id="web-2")
            await sink.until(lambda: sink.names == {"web"})
            await sink.until(lambda: sink.addresses("web") == ["10.0.0.2"])

    in_a_loop(test)


def test_a_service_whose_answers_stay_unreadable_is_refused_until_they_are_not() -> None:
    async def test(consul: FakeConsul) -> None:
        consul.register("web", "10.0.0.1", 80)
        consul.register("db", "10.0.0.2", 5432)
        consul.faults["/v1/health/service/web"] = [WRONG_SHAPE] * 5
        async with running(consul) as sink:
            await sink.until(lambda: "web" in sink.names)
            assert "the answer cannot be read" in sink.refusals("web")[0]
            await sink.until(lambda: state(sink).synced)
            assert sink.addresses("db") == ["10.0.0.2"]
            await sink.until(lambda: sink.addresses("web") == ["10.0.0.1"])

    in_a_loop(test)


def test_the_default_numbers_are_sane() -> None:
    tuning = Tuning()
    assert tuning.wait <= 600  # Consul's limit
    assert 3 + tuning.reads < 200  # what an agent allows one client
    assert tuning.service_rate <= 1
