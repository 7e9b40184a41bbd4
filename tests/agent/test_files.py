"""What the agent keeps in files (records, redirections), reads from its environment, and tells on its admin port."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from agent import config
from agent.admin import Admin
from agent.metrics import Metrics
from agent.records import Record, Records
from agent.redirection import MAX_STATE, RedirectionFiles
from agent.routing import Before
from mesh.io.http import HttpServer, Request
from mesh.io.log import Levels
from mesh.model.errors import ConfigError
from tests.agent.fakes import FakeNode, FakeTunnel
from tests.agent.virtual import run

RECORD = Record(7, "u1", "/run/netns/x", 4026532177, Before((("net/ipv4/tcp_fwmark_accept", "0"),), rules=(4,), routes=(4, 6)))


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records = Records(str(tmp_path / "pods"), boot="b1")
    assert records.get(7) is None
    records.put(RECORD)
    records.put(replace(RECORD, cookie=8))
    assert list(Records(str(tmp_path / "pods"), boot="b1")) == [RECORD, replace(RECORD, cookie=8)]
    assert stat.S_IMODE((tmp_path / "pods" / "7.json").stat().st_mode) == 0o600
    records.remove(7)
    records.remove(7)
    assert [record.cookie for record in records] == [8]


def test_records_of_an_earlier_boot_are_about_namespaces_that_are_gone(tmp_path: Path) -> None:
    Records(str(tmp_path), boot="b1").put(RECORD)
    later = Records(str(tmp_path), boot="b2")
    assert later.get(7) is None
    assert list(later) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": "b1"}', '{"boot": "b1", "uid": "u", "netns": "n", "inode": "x", "before": {}}'])
def test_a_broken_record_does_not_stop_the_agent(tmp_path: Path, text: str) -> None:
    records = Records(str(tmp_path), boot="b1")
    records.put(RECORD)
    (tmp_path / "9.json").write_text(text)
    (tmp_path / "other.json").write_text("not ours")
    assert list(records) == [RECORD]


def test_redirections(tmp_path: Path) -> None:
    files = RedirectionFiles(str(tmp_path / "out"))
    files.report("u1", "enabled")
    files.report("u2", "pending: two\nlines " + "x" * 1000)
    assert (tmp_path / "out" / "u1").read_text() == "enabled\n"
    text = (tmp_path / "out" / "u2").read_text()
    assert text.startswith("pending: two lines xxx")
    assert len(text) == MAX_STATE + 1
    assert RedirectionFiles(str(tmp_path / "out")).enabled() == {"u1"}
    files.withdraw("u1")
    files.withdraw("u1")
    assert sorted(files.all()) == ["u2"]


def test_the_environment_has_defaults() -> None:
    found = config.load({"NODE_NAME": "n1"})
    assert (found.instance, found.zds_socket, found.mark_file) == (
        "n1",
        "/run/culvert/agent/ztunnel.sock",
        "/run/culvert/agent/tunnel-mark",
    )
    assert found.http_address == "127.0.0.1:15030"
    assert config.load({"CULVERT_HTTP_ADDRESS": ""}).http_address == ""
    assert config.load({"INPOD_UDS": "/var/run/ztunnel/ztunnel.sock"}).zds_socket == "/var/run/ztunnel/ztunnel.sock"


def test_what_the_environment_must_not_say() -> None:
    with pytest.raises(ConfigError) as raised:
        config.load({"CULVERT_PODS_DIR": "pods", "LOG_FORMAT": "xml", "CULVERT_HTTP_ADDRESS": "here", "INPOD_UDS": "/" + "x" * 110})
    assert [refusal.subject for refusal in raised.value.refusals] == ["CULVERT_PODS_DIR", "INPOD_UDS", "LOG_FORMAT", "CULVERT_HTTP_ADDRESS"]


def test_the_admin_port_tells_the_state() -> None:
    async def main() -> None:
        node = FakeNode()
        node.pod("a", 1)
        node.pod("b", 2)
        node.host.listening = {1}
        await node.reconciler.start()
        tunnel = FakeTunnel(node.tunnels)
        await node.settle()
        metrics = Metrics(lambda: {"captured": 5, "kernel_no_listener": 2}, node.reconciler.members, node.tunnels)
        metrics.count("enrolled")
        missing = "the list of pods was not read yet"
        admin = Admin(metrics, node.reconciler.members, {"x.json": "bad"}, node.tunnels, Levels("info"), lambda: missing)
        server = HttpServer(admin.routes())

        async def get(path: str) -> tuple[int, str]:
            answer = await server.answer(Request("GET", path))
            return answer.status, answer.body.decode()

        lines = (await get("/metrics"))[1].splitlines()
        for line in (
            'culvert_kernel_events_total{reason="captured"} 5.0',
            'culvert_kernel_events_total{reason="kernel_no_listener"} 2.0',
            'nodeagent_reconcile_events_total{type="enrolled"} 1.0',
            'nodeagent_reconcile_events_total{type="failed"} 0.0',
            "ztunnel_connected 1.0",
            'culvert_pods{state="enabled"} 1.0',
            'culvert_pods{state="pending"} 1.0',
        ):
            assert line in lines
        assert await get("/healthz") == (200, "ok\n")
        assert await get("/readyz") == (503, f"not ready: {missing}\n")
        missing = ""
        assert await get("/readyz") == (200, "ready\n")
        status, text = await get("/pods")
        assert status == 200
        for word in (
            '"state": "enabled"',
            '"state": "pending: the tunnel accepted the pod, but listens on no',
            '"x.json": "bad"',
            '"accepted": 2',
        ):
            assert word in text
        tunnel.disconnect()
        await node.reconciler.stop()

    run(main())


def test_log_levels_can_be_changed_while_it_runs() -> None:
    async def main() -> None:
        node = FakeNode()
        levels = Levels("info")
        admin = Admin(Metrics(dict, {}, node.tunnels), {}, {}, node.tunnels, levels, str)
        server = HttpServer(admin.routes())
        try:
            answer = await server.answer(Request("POST", "/logging", {"level": ["reconcile:debug"]}))
            assert (answer.status, answer.body) == (200, b"info,reconcile=debug\n")
            assert (await server.answer(Request("POST", "/logging", {"level": ["loud"]}))).status == 400
        finally:
            await server.answer(Request("POST", "/logging", {"reset": [""]}))
        assert str(levels) == "info"

    asyncio.run(main())
