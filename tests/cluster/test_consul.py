"""The Consul source against a real agent: what an operator does by its HTTP API is what is handed over, whatever becomes of the agent."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from control.sources.consul.meter import NoMeter
from control.sources.consul.settings import ConsulSettings
from control.sources.consul.source import ConsulSource
from control.sources.consul.tuning import Tuning
from mesh.model.manifest import DestinationRule
from tests.cluster import consul as consuls
from tests.cluster.consul import Consul
from tests.control.consul.rig import Sink, run, state, working

pytestmark = pytest.mark.cluster

TUNING = Tuning(wait=5.0, first_wait=0.1, most_wait=0.5, renew=0.0)
MASTER = "11111111-2222-3333-4444-555555555555"


class Counting(NoMeter):
    def __init__(self) -> None:
        self.questions: Counter[str] = Counter()
        self.set_backs = 0

    def answered(self, question: str) -> None:
        self.questions[question] += 1

    def set_back(self) -> None:
        self.set_backs += 1


def source(consul: Consul, meter: Counting | None = None, **more: Any) -> AbstractAsyncContextManager[Sink]:
    settings = replace(ConsulSettings(address=consul.url), **more)
    return working(ConsulSource(settings, tuning=TUNING, meter=meter))


async def synced(sink: Sink) -> None:
    await sink.until(lambda: state(sink).synced and not state(sink).error)


def test(main: Callable[[], Awaitable[None]]) -> None:
    async def coroutine() -> None:
        await main()

    run(coroutine())


test.__test__ = False  # type: ignore[attr-defined]


async def does(action: Callable[..., object], *arguments: Any, **more: Any) -> None:
    """What an operator does; the source goes on meanwhile."""
    await asyncio.to_thread(action, *arguments, **more)


def test_registration_tags_weights_and_deregistration(consul_agent: Consul) -> None:
    async def main() -> None:
        async with source(consul_agent) as sink:
            await synced(sink)
            assert sink.names == set()
            meta = {"protocol": "http", "version": "2", "culvert-port": "80"}
            weights = {"Passing": 10, "Warning": 2}
            await does(consul_agent.register, "web", "10.0.0.1", 8080, id="web-1", tags=["v2", "Team A"], meta=meta, Weights=weights)
            await does(consul_agent.register, "web", "10.0.0.2", 8081, id="web-2", tags=["v1.9"], meta=meta)
            await sink.until(lambda: sink.addresses("web") == ["10.0.0.1", "10.0.0.2"])
            found = sink.entry("web")
            assert found is not None
            assert found.spec.hosts == ("web.service.consul",)
            assert [(port.number, port.name, port.protocol) for port in found.spec.ports] == [(80, "http-80", "HTTP")]
            assert [(one.weight, dict(one.ports)) for one in found.spec.endpoints] == [(10, {"http-80": 8080}), (1, {"http-80": 8081})]
            (rule,) = [one for one in sink.held["consul/web"].objects if isinstance(one, DestinationRule)]
            chosen = {
                subset.name: [str(one.address) for one in found.spec.endpoints if subset.labels.items() <= one.labels.items()]
                for subset in rule.spec.subsets
            }
            assert chosen == {"v2": ["10.0.0.1"], "team-a---e18d322f14": ["10.0.0.1"], "v1--9": ["10.0.0.2"]}
            await does(consul_agent.deregister, "web-2")
            await sink.until(lambda: sink.addresses("web") == ["10.0.0.1"])
            await does(consul_agent.deregister, "web-1")
            await sink.until(lambda: sink.names == set())

    test(main)


def test_what_no_list_shows_is_seen(consul_agent: Consul) -> None:
    """The same name, tags and checks; another address."""

    async def main() -> None:
        consul_agent.register("web", "10.0.0.1", 80)
        async with source(consul_agent) as sink:
            await synced(sink)
            body = {"ID": "web", "Name": "web", "Address": "10.0.0.2", "Port": 80}
            await does(consul_agent.put, "agent/service/register", body)
            await sink.until(lambda: sink.addresses("web") == ["10.0.0.2"])
            node = {"Node": "far", "Address": "10.0.1.1", "Service": {"Service": "far", "Port": 80}}
            await does(consul_agent.put, "catalog/register", node)
            await sink.until(lambda: sink.addresses("far") == ["10.0.1.1"])
            await does(consul_agent.put, "catalog/register", {"Node": "far", "Address": "10.0.1.2"})
            await sink.until(lambda: sink.addresses("far") == ["10.0.1.2"])

    test(main)


def test_health_and_maintenance_decide_who_serves(consul_agent: Consul) -> None:
    async def main() -> None:
        for number in (1, 2):
            weights = {"Passing": 5, "Warning": 1}
            consul_agent.register("web", f"10.0.0.{number}", 80, id=f"web-{number}", tags=[f"v{number}"], Weights=weights)
        async with source(consul_agent) as sink:
            await synced(sink)

            def serving() -> list[tuple[str, int | None]]:
                found = sink.entry("web")
                assert found is not None
                return [(str(one.address), one.weight) for one in found.spec.endpoints]

            assert serving() == [("10.0.0.1", 5), ("10.0.0.2", 5)]
            await does(consul_agent.set_health, "web-1", "critical")
            await sink.until(lambda: serving() == [("10.0.0.2", 5)])
            await does(consul_agent.set_health, "web-1", "warning")
            await sink.until(lambda: serving() == [("10.0.0.1", 1), ("10.0.0.2", 5)])
            await does(consul_agent.put, "agent/service/maintenance/web-2?enable=true")
            await sink.until(lambda: serving() == [("10.0.0.1", 1)])
            await does(consul_agent.put, "agent/maintenance?enable=true")
            await sink.until(lambda: serving() == [])
            (rule,) = [one for one in sink.held["consul/web"].objects if isinstance(one, DestinationRule)]
            assert [subset.name for subset in rule.spec.subsets] == ["v1", "v2"]
            await does(consul_agent.put, "agent/maintenance?enable=false")
            await does(consul_agent.put, "agent/service/maintenance/web-2?enable=false")
            await does(consul_agent.set_health, "web-1", "passing")
            await sink.until(lambda: serving() == [("10.0.0.1", 5), ("10.0.0.2", 5)])

    test(main)


def test_a_service_that_flaps_is_handed_over_a_few_times_and_ends_up_right(consul_agent: Consul) -> None:
    async def main() -> None:
        consul_agent.register("web", "10.0.0.1", 80)
        consul_agent.register("db", "10.0.0.2", 80)
        async with source(consul_agent) as sink:
            await synced(sink)
            loop = asyncio.get_running_loop()
            began = loop.time()
            for turn in range(200):
                await does(consul_agent.set_health, "web", "passing" if turn % 2 else "critical")
            seconds = loop.time() - began
            assert sink.puts.count("consul/web") <= 1 + TUNING.service_burst + TUNING.service_rate * seconds + 1
            await does(consul_agent.set_health, "web", "critical")
            await does(consul_agent.set_health, "db", "critical")
            await sink.until(lambda: sink.addresses("db") == [])
            await sink.until(lambda: sink.addresses("web") == [])
            assert sink.puts.count("consul/db") == 2

    test(main)


def test_where_nothing_happens_little_is_asked(consul_agent: Consul) -> None:
    async def main() -> None:
        consul_agent.register("web", "10.0.0.1", 80)
        meter = Counting()
        async with source(consul_agent, meter) as sink:
            await synced(sink)
            await asyncio.sleep(1.0)  # Consul itself settles: it writes of its own node
            before = meter.questions.total()
            await asyncio.sleep(2.0)
            assert meter.questions.total() - before <= 3  # a busy loop would ask thousands of times

    test(main)


def test_an_agent_that_restarts_with_its_data_changes_nothing(consul_agent: Consul) -> None:
    async def main() -> None:
        consul_agent.register("web", "10.0.0.1", 80)
        async with source(consul_agent) as sink:
            await synced(sink)
            await does(consul_agent.stop)
            await sink.until(lambda: state(sink).error)
            assert state(sink).synced
            assert state(sink).stale_since
            assert sink.names == {"web"}
            await does(consul_agent.start)
            await sink.until(lambda: not state(sink).error and state(sink).stale_since is None)
            # A check of the TTL kind is critical until somebody says otherwise.
            await does(consul_agent.set_health, "web", "passing")
            await sink.until(lambda: sink.addresses("web") == ["10.0.0.1"])
            assert sink.removed == []
            await does(consul_agent.register, "db", "10.0.0.2", 80)
            await sink.until(lambda: "db" in sink.names)

    test(main)


def test_an_index_that_goes_backwards_is_noticed_and_what_was_known_stays_for_the_grace(tmp_path: Path) -> None:
    async def main() -> None:
        with consuls.running(tmp_path / "consul", durable=False) as consul:
            for number in range(20):  # so that the new history has smaller numbers than this one
                consul.register(f"web-{number}", "10.0.0.1", 80)
            meter = Counting()
            async with source(consul, meter, grace=8.0) as sink:
                await synced(sink)
                await does(consul.restart)
                await sink.until(lambda: not state(sink).error and meter.set_backs)
                assert len(sink.names) == 20
                await does(consul.register, "web-0", "10.0.0.2", 80)
                await does(consul.register, "new", "10.0.0.3", 80)
                await sink.until(lambda: "new" in sink.names)
                assert len(sink.names) == 21
                await sink.until(lambda: sink.names == {"web-0", "new"})  # the grace is over
                await does(consul.set_health, "new", "critical")  # and blocking queries work on
                await sink.until(lambda: sink.addresses("new") == [])

    test(main)


def test_servers_without_a_leader_leave_everything_in_force(consul_agent: Consul, tmp_path: Path) -> None:
    """The server is told of another one that never comes, so that it has no majority: raft's own recovery file."""
    peers = tmp_path / "consul" / "data" / "raft" / "peers.json"

    def write(*servers: tuple[str, str]) -> None:
        peers.write_text(json.dumps([{"id": id, "address": address, "non_voter": False} for id, address in servers]))

    async def main() -> None:
        consul_agent.register("web", "10.0.0.1", 80)
        me = (tmp_path / "consul" / "data" / "node-id").read_text().strip()
        address = consul_agent.get("status/leader")[1]
        other = "99999999-0000-0000-0000-000000000000"
        async with source(consul_agent) as sink:
            await synced(sink)
            await does(consul_agent.stop)
            write((me, address), (other, "127.0.0.1:9"))
            consul_agent.program.start()
            await sink.until(lambda: "No cluster leader" in state(sink).error)
            assert state(sink).stale_since
            assert (sink.names, sink.removed) == ({"web"}, [])
            await does(consul_agent.stop)
            write((me, address))
            await does(consul_agent.start)
            await sink.until(lambda: not state(sink).error)
            assert sink.removed == []

    test(main)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"consul_namespace": "shop"}, "Namespaces are a Consul Enterprise feature"),
        ({"partition": "team"}, "Partitions are a Consul Enterprise feature"),
        ({"datacenter": "dc9"}, "No path to datacenter"),
    ],
)
def test_what_this_consul_does_not_have_is_said_in_its_own_words(consul_agent: Consul, more: dict[str, str], words: str) -> None:
    async def main() -> None:
        async with source(consul_agent, **more) as sink:
            await sink.until(lambda: words in state(sink).error)
            assert not state(sink).synced

    test(main)


@pytest.mark.parametrize("consistency", ["stale", "consistent"])
def test_every_way_to_ask_gives_the_same(consul_agent: Consul, consistency: str) -> None:
    async def main() -> None:
        consul_agent.register("web", "10.0.0.1", 80)
        async with source(consul_agent, consistency=consistency, datacenter="dc1", datacenter_names=True) as sink:
            await synced(sink)
            found = sink.entry("web")
            assert found is not None
            assert found.spec.hosts == ("web.service.consul", "web.service.dc1.consul")
            await does(consul_agent.set_health, "web", "critical")
            await sink.until(lambda: sink.addresses("web") == [])

    test(main)


# Access rules


@pytest.fixture
def guarded(tmp_path: Path) -> Any:
    """An agent that denies what no token allows."""
    consul = Consul(tmp_path / "consul")
    path = tmp_path / "consul" / "consul.json"
    tokens = {"initial_management": MASTER, "agent": MASTER}
    acl = {"enabled": True, "default_policy": "deny", "tokens": tokens}
    path.write_text(json.dumps({**json.loads(path.read_text()), "acl": acl}))
    consul.program.start()
    try:
        consul.program.wait_until("a leader that knows its rules", lambda: _rules_are_there(consul), consuls.START_SECONDS)
        yield consul
    finally:
        consul.close()


def _rules_are_there(consul: Consul) -> bool:
    try:
        return ask(consul, "GET", "acl/tokens")[0] == 200
    except OSError:
        return False


def ask(consul: Consul, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """As the one who may do everything."""
    host, _, port = consul.address.rpartition(":")
    connection = HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request(method, f"/v1/{path}", json.dumps(body) if body is not None else None, {"X-Consul-Token": MASTER})
        with connection.getresponse() as response:
            answer = response.read()
            return response.status, json.loads(answer) if answer.startswith((b"{", b"[", b'"')) else answer
    finally:
        connection.close()


def policy(consul: Consul, name: str, rules: str) -> None:
    status, answer = ask(consul, "PUT", "acl/policy", {"Name": name, "Rules": rules})
    assert status == 200, answer


def token(consul: Consul, *policies: str) -> tuple[str, str]:
    """(accessor, secret)"""
    status, answer = ask(consul, "PUT", "acl/token", {"Policies": [{"Name": name} for name in policies]})
    assert status == 200, answer
    return answer["AccessorID"], answer["SecretID"]


def test_a_token_sees_what_its_rules_allow_and_what_is_missing_is_said(guarded: Consul, tmp_path: Path) -> None:
    file = tmp_path / "token"

    async def main() -> None:
        for name in ("web", "db"):
            assert ask(guarded, "PUT", "agent/service/register", {"Name": name, "Address": "10.0.0.1", "Port": 80})[0] == 200
        policy(guarded, "web", 'service "web" { policy = "read" }')
        policy(guarded, "all", 'service_prefix "" { policy = "read" }')
        policy(guarded, "nodes", 'node_prefix "" { policy = "read" }')
        async with source(guarded) as sink:  # nobody's token
            await sink.until(lambda: "access rules hide every service" in state(sink).error)
            assert not state(sink).synced
        file.write_text(token(guarded, "web")[1])
        async with source(guarded, token_file=file) as sink:
            await sink.until(lambda: "hide the instances of 1 services (web)" in state(sink).error)
            file.write_text("00000000-0000-0000-0000-00000000dead")
        async with source(guarded, token_file=file) as sink:
            await sink.until(lambda: "ACL not found" in state(sink).error)
            accessor, secret = token(guarded, "web", "nodes")
            file.write_text(secret)
            await sink.until(lambda: state(sink).synced and not state(sink).error)
            assert sink.names == {"web"}
            status, answer = ask(guarded, "PUT", f"acl/token/{accessor}", {"Policies": [{"Name": "all"}, {"Name": "nodes"}]})
            assert status == 200, answer
            ask(guarded, "PUT", "agent/service/register", {"Name": "log", "Address": "10.0.0.1", "Port": 80})
            await sink.until(lambda: sink.names == {"web", "db", "log"})
            assert ask(guarded, "DELETE", f"acl/token/{accessor}")[0] == 200
            ask(guarded, "PUT", "agent/service/deregister/log")
            await sink.until(lambda: "ACL not found" in state(sink).error)
            assert sink.names >= {"web", "db"}  # what is known stays in force

    test(main)
