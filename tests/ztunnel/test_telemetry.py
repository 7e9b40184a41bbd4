"""The access log's lines and the metrics page, for connections that are made up."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from ipaddress import ip_address
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mesh.io.log import Levels, LineSink
from mesh.model import policy
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from mesh.model.workload import NamespacedHostname, Service, SocketAddress, Workload
from mesh.wire.baggage import Baggage
from mesh.wire.zds import WorkloadInfo
from ztunnel import metrics as metrics_module
from ztunnel.accesslog import AccessLog
from ztunnel.connections import Connection, Registry
from ztunnel.metrics import Metrics

CLIENT, SERVER = SocketAddress(ip_address("10.0.0.1"), 4000), SocketAddress(ip_address("10.0.0.2"), 15008)
TARGET = SocketAddress(ip_address("10.0.0.2"), 80)
A = Workload("a", "a-pod", "shop", canonical_name="a", canonical_revision="v1", workload_name="a-deploy", cluster="c1")
B = Workload("b", "b-pod", "store", canonical_name="b", workload_name="b-deploy", cluster="c1")
SERVICE = Service("b", "store", NamespacedHostname("store", "b.store").hostname)


class FakePod:
    def __init__(self, uid: str = "uid") -> None:
        self.uid = uid
        self.info = WorkloadInfo("a-pod", "shop", "default")


class Outgoing(Connection):
    aborted: Reason | None = None

    def abort(self, reason: Reason) -> None:
        self.aborted = reason
        self.finished(reason)


class Incoming(Outgoing):
    inbound = True
    hbone = True
    client_sends = False
    question: policy.Connection | None = None

    @property
    def policy_input(self) -> policy.Connection | None:
        return self.question


class Lab:
    def __init__(self, form: str = "json", limit: int = 0, per_pod: int = 0) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.now = 0.0
        self.metrics = Metrics("1.2.3")
        self.log = AccessLog(LineSink(self.writer), form, clock=lambda: 1_700_000_000.25)
        self.registry = Registry(self.metrics, self.log, lambda: self.now, limit, per_pod)
        self.metrics.live = lambda: self.registry

    def open(self, kind: type[Outgoing], uid: str = "uid") -> Any:
        connection = kind(self.registry, FakePod(uid), CLIENT, SERVER)  # type: ignore[arg-type]
        connection.source_workload, connection.destination_workload = A, B
        connection.service = SERVICE
        connection.opened()
        return connection

    def lines(self) -> list[str]:
        self.log.close()
        try:
            return os.read(self.reader, 65536).decode().splitlines()
        except BlockingIOError:
            return []

    def value(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(self.metrics.page().decode())
        return sum(s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items())


def run(check: Any, *arguments: Any, **options: Any) -> None:
    async def main() -> None:
        Levels("info")
        check(Lab(*arguments, **options))

    asyncio.run(main())


def test_an_outbound_line() -> None:
    def check(lab: Lab) -> None:
        connection = lab.open(Outgoing)
        connection.hbone, connection.target = True, TARGET
        connection.source_identity, connection.destination_identity = A.identity, B.identity
        connection.sent, connection.received = 10, 2000
        lab.now = 1.2344
        connection.finished(Reason.OK)
        (line,) = lab.lines()
        assert list(json.loads(line).items()) == [
            ("level", "info"),
            ("time", "2023-11-14T22:13:20.250000Z"),
            ("scope", "access"),
            ("message", "connection complete"),
            ("src.addr", "10.0.0.1:4000"),
            ("src.workload", "a-pod"),
            ("src.namespace", "shop"),
            ("src.identity", "spiffe://cluster.local/ns/shop/sa/default"),
            ("src.cluster", "c1"),
            ("dst.addr", "10.0.0.2:15008"),
            ("dst.hbone_addr", "10.0.0.2:80"),
            ("dst.service", "b.store"),
            ("dst.workload", "b-pod"),
            ("dst.namespace", "store"),
            ("dst.identity", "spiffe://cluster.local/ns/store/sa/default"),
            ("dst.cluster", "c1"),
            ("direction", "outbound"),
            ("bytes_sent", 10),
            ("bytes_recv", 2000),
            ("duration", "1234ms"),
            ("reason", "ok"),
        ]

    run(check)


def test_an_inbound_failure_in_text() -> None:
    def check(lab: Lab) -> None:
        connection = lab.open(Incoming)
        connection.source_workload = None
        connection.claimed = Baggage(namespace="far\taway", workload_name='q"')
        connection.sent, connection.received = 2000, 10  # of the app, and to it
        connection.finished(Reason.POLICY_DENY, "shop/p rule[0]")
        (line,) = lab.lines()
        assert line.split("\t") == [
            "2023-11-14T22:13:20.250000Z",
            "error",
            "access",
            "connection complete",
            "src.addr=10.0.0.1:4000",
            'src.workload="q\\""',
            'src.namespace="far\\taway"',
            "dst.addr=10.0.0.2:15008",
            'dst.service="b.store"',
            'dst.workload="b-pod"',
            'dst.namespace="store"',
            'dst.cluster="c1"',
            "direction=inbound",
            "bytes_sent=2000",
            "bytes_recv=10",
            "duration=0ms",
            "reason=policy_deny",
            'error="policy_deny: shop/p rule[0] (a DENY policy matches)"',
        ]

    run(check, "text")


def test_an_early_refusal() -> None:
    def check(lab: Lab) -> None:
        lab.registry.refused(False, Reason.SELF_CALL, "", CLIENT, None)
        (line,) = map(json.loads, lab.lines())
        assert (line["level"], line["message"], line["reason"], line["direction"]) == ("warn", "connection failed", "self_call", "outbound")
        assert "dst.addr" not in line
        assert lab.value("culvert_refused_total", reason="self_call", direction="outbound") == 1

    run(check)


def test_levels_switch_the_access_log_off_but_not_the_metrics() -> None:
    def check(lab: Lab) -> None:
        levels = Levels("info")
        levels.set("access=off")
        try:
            lab.open(Outgoing).finished(Reason.OK)
            lab.registry.refused(True, Reason.TLS_HANDSHAKE, "", None, None)
        finally:
            levels.reset()
        assert lab.lines() == []
        assert lab.value("istio_tcp_connections_closed_total") == 1

    run(check)


def test_lines_leave_together_at_the_end_of_the_turn() -> None:
    async def main() -> None:
        Levels("info")
        lab = Lab()
        for _ in range(3):
            lab.open(Outgoing).finished(Reason.OK)
        assert lab.log.sink.pending > 0
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert lab.log.sink.pending == 0
        assert len(lab.lines()) == 3

    asyncio.run(main())


def test_metrics_of_both_directions_name_what_client_and_server_sent() -> None:
    def check(lab: Lab) -> None:
        out, into = lab.open(Outgoing), lab.open(Incoming)
        out.sent, out.received = 10, 2000
        into.sent, into.received = 2000, 10
        for reporter in ("source", "destination"):
            # running connections count too, and once
            for _ in range(2):
                assert lab.value("istio_tcp_received_bytes_total", reporter=reporter) == 10
                assert lab.value("istio_tcp_sent_bytes_total", reporter=reporter) == 2000
            assert lab.value("istio_tcp_sockets_open", reporter=reporter) == 1
        out.sent = 11
        out.established = True
        out.finished(Reason.TUNNEL_LOST)
        into.finished(Reason.OK)
        out.finished(Reason.OK)  # the second end is none
        assert lab.value("istio_tcp_received_bytes_total", reporter="source") == 11
        assert lab.value("istio_tcp_sockets_open") == 0
        closed = "istio_tcp_connections_closed_total"
        assert lab.value(closed, reporter="source", response_flags="CONNECT", connection_security_policy="unknown") == 1
        assert lab.value(closed, reporter="destination", response_flags="-", connection_security_policy="mutual_tls") == 1
        assert lab.value("istio_tcp_connections_failed_total") == 1
        assert lab.value("culvert_ended_total", reason="tunnel_lost", direction="outbound") == 1
        assert lab.value("culvert_refused_total") == 0

    run(check)


def test_labels() -> None:
    def check(lab: Lab) -> None:
        connection = lab.open(Outgoing)
        connection.finished(Reason.OK)
        families = text_string_to_metric_families(lab.metrics.page().decode())
        (sample,) = [s for f in families for s in f.samples if s.name == "istio_tcp_connections_opened_total"]
        assert sample.labels == {
            "reporter": "source",
            "source_workload": "a-deploy",
            "source_canonical_service": "a",
            "source_canonical_revision": "v1",
            "source_workload_namespace": "shop",
            "source_principal": "unknown",
            "source_app": "a",
            "source_version": "v1",
            "source_cluster": "c1",
            "destination_service": "b.store",
            "destination_service_namespace": "store",
            "destination_service_name": "b",
            "destination_workload": "b-deploy",
            "destination_canonical_service": "b",
            "destination_canonical_revision": "unknown",
            "destination_workload_namespace": "store",
            "destination_principal": "unknown",
            "destination_app": "b",
            "destination_version": "unknown",
            "destination_cluster": "c1",
            "request_protocol": "tcp",
            "response_flags": "-",
            "connection_security_policy": "unknown",
        }

    run(check)


def test_label_values_are_escaped_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MAX_SERIES", 2)

    def check(lab: Lab) -> None:
        for number in range(10):
            connection = lab.open(Incoming)
            connection.source_workload = None
            connection.claimed = Baggage(workload_name=f'evil"\\\n{number}')
            connection.source_identity = Identity("td", "ns", f"sa-{number}")
            connection.finished(Reason.OK)
        page = lab.metrics.page().decode()
        assert 'source_workload="evil\\"\\\\\\n0"' in page
        assert lab.value("istio_tcp_connections_closed_total") == 10
        assert page.count("istio_tcp_connections_closed_total{") <= 3

    run(check)


def test_the_registry_bounds_all_and_each_pod() -> None:
    def check(lab: Lab) -> None:
        first = lab.open(Outgoing, "one")
        assert lab.registry.full("one")
        assert not lab.registry.full("two")
        lab.open(Outgoing, "two")
        assert lab.registry.full("three")
        first.finished(Reason.OK)
        assert not lab.registry.full("one")

    run(check, limit=2, per_pod=1)


def test_the_registry_ends_what_is_asked_for_and_tells_when_it_is_empty() -> None:
    def check(lab: Lab) -> None:
        empty: list[int] = []
        lab.registry.on_empty = lambda: empty.append(1)
        one, two = lab.open(Outgoing, "one"), lab.open(Outgoing, "two")
        lab.registry.close_pod("one", Reason.POD_REMOVED)
        assert (one.aborted, two.aborted, empty) == (Reason.POD_REMOVED, None, [])
        lab.registry.close_all(Reason.DRAINING)
        assert (two.aborted, empty, lab.registry.size) == (Reason.DRAINING, [1], 0)

    run(check)


def test_reevaluation_asks_once_per_question_and_spares_outbound() -> None:
    def check(lab: Lab) -> None:
        allowed, denied = (policy.Connection(None, ip, TARGET.ip, 80) for ip in (CLIENT.ip, ip_address("10.0.0.9")))
        connections = [lab.open(kind) for kind in (Incoming, Incoming, Incoming, Outgoing)]
        for connection, question in zip(connections, (allowed, denied, denied), strict=False):
            connection.question = question
        asked: list[policy.Connection] = []

        def judge(question: policy.Connection) -> policy.Decision:
            asked.append(question)
            return policy.Decision(question == allowed, Reason.POLICY_DENY)

        gone = lab.registry.reevaluate("uid", judge)
        assert {connection for connection, _ in gone} == {connections[1], connections[2]}
        assert sorted(asked) == sorted([allowed, denied])
        assert [connection.aborted for connection in connections] == [None, Reason.POLICY_REVOKED, Reason.POLICY_REVOKED, None]

    run(check)


def test_process_metrics_and_build() -> None:
    def check(lab: Lab) -> None:
        assert lab.value("istio_build", component="ztunnel", tag="1.2.3") == 1
        assert lab.value("process_open_fds") > 2
        assert lab.value("process_max_fds") > 2
        assert lab.value("process_resident_memory_bytes") > 1 << 20
        assert logging.getLogger("access").isEnabledFor(logging.INFO)

    run(check)
