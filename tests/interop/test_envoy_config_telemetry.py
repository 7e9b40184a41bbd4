"""Logs and traces that a real Envoy writes, and what it is started with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest

from mesh.model.codec.envoy import client, routes
from mesh.model.l7.chains import Chain, Traffic
from mesh.model.l7.clusters import Cluster, HttpVersion
from mesh.model.l7.endpoints import Endpoint, LocalityGroup
from mesh.model.l7.names import cluster_name
from mesh.model.l7.routes import Destination, Forward, Route, RouteMatch, RouteTable, VirtualHost
from mesh.model.l7.tcp import TcpDestination, TcpRoute
from mesh.model.l7.telemetry import AccessLog, LogProvider, Tag, TagSource, Telemetry, TraceKind, TraceProvider, Tracing
from tests.interop import envoy, proxied
from tests.interop.proxied import ask, eventually
from tests.interop.upstream import Upstream, upstream

pytestmark = [pytest.mark.interop, pytest.mark.skipif(envoy.binary() is None, reason="Envoy is not installed: make envoy")]

LOCALHOST, TABLE = ip_address("127.0.0.1"), "table"
APP = cluster_name("app.example", 80)
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass
class Collector(grpc.GenericRpcHandler):
    """Takes spans, and keeps the bytes of them."""

    spans: list[bytes] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        if details.method != EXPORT:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.spans.append(request) or b"")


@dataclass
class Rig:
    envoy: proxied.Proxied
    directory: Path
    port: int
    tcp_port: int
    upstream: Upstream
    collector: Collector

    def use(self, telemetry: Telemetry) -> None:
        """Listeners that log so, on ports of their own, so that none that is going away answers."""
        self.port, self.tcp_port = envoy.free_ports(2)
        http = Chain(f"http{self.port}", self.port, Traffic.HTTP, (LOCALHOST,), table=TABLE, telemetry=telemetry)
        tcp = Chain(
            f"tcp{self.tcp_port}", self.tcp_port, Traffic.TCP, (LOCALHOST,), tcp=(TcpRoute((TcpDestination(APP),)),), telemetry=telemetry
        )
        self.envoy.put(client.listener(http, proxied.CLIENT), client.listener(tcp, proxied.CLIENT))
        for port in (self.port, self.tcp_port):
            eventually(lambda port=port: ask(port, "/warm").status == 200, "listening")  # type: ignore[misc]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp("telemetry")
    (directory / "token").write_text("who-i-am")
    with ExitStack() as stack:
        app = stack.enter_context(upstream("app"))
        collector = Collector()
        server = grpc.server(ThreadPoolExecutor(2), handlers=[collector])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        stack.callback(server.stop, 0)
        table = RouteTable(TABLE, (VirtualHost(TABLE, ("*",), (Route(RouteMatch(), Forward((Destination(APP),)), "the-route"),)),))
        otel = Cluster("otel", "otel", 4317, http=HttpVersion.HTTP2)
        resources = [
            routes.route_table(table),
            *proxied.service(Cluster(APP, "app.example", 80), [LocalityGroup((proxied.plain_endpoint(app),))]),
            *proxied.service(otel, [LocalityGroup((Endpoint(proxied.address("127.0.0.1", port)),))]),
        ]
        made = stack.enter_context(proxied.proxied(directory / "envoy", *resources, token=str(directory / "token")))
        yield Rig(made, directory, 0, 0, app, collector)


def test_the_proxy_says_who_it_is(rig: Rig) -> None:
    assert rig.envoy.ads.tokens == ["Bearer who-i-am"]


def test_istios_own_format(rig: Rig) -> None:
    path = rig.directory / "text.log"
    rig.use(Telemetry((AccessLog(LogProvider("envoy", str(path))),)))
    assert ask(rig.port, "/logged?q=1", headers={"user-agent": "tester", "host": "h"}).status == 200
    assert ask(rig.tcp_port, "/through-tcp").status == 200
    eventually(lambda: path.exists() and "/logged" in path.read_text(), "a line is written", 15)
    (line,) = [line for line in path.read_text().splitlines() if "/logged" in line]
    assert '] "GET /logged?q=1 HTTP/1.1" 200 - via_upstream - "-" 0 ' in line
    assert '"tester" "' in line
    assert f'"h" "127.0.0.1:{rig.upstream.port}" {APP} ' in line
    assert line.endswith("- the-route")


def test_json_and_a_filter(rig: Rig) -> None:
    path = rig.directory / "json.log"
    layout = (("path", "%REQ(:PATH)%"), ("code", "%RESPONSE_CODE%"))
    rig.use(Telemetry((AccessLog(LogProvider("json", str(path), json=layout), "response.code >= 400 && request.path != '/not'"),)))
    for wanted in ("/status/200", "/status/404", "/status/503"):
        ask(rig.port, wanted)
    eventually(lambda: path.exists() and "503" in path.read_text(), "lines are written", 15)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"path": "/status/404", "code": 404},
        {"path": "/status/503", "code": 503},
    ]


TAGS = (Tag("team", TagSource.LITERAL, "red"), Tag("agent", TagSource.HEADER, "user-agent"), Tag("proto", TagSource.FORMAT, "%PROTOCOL%"))


def test_spans_over_otlp(rig: Rig) -> None:
    provider = TraceProvider("otel", TraceKind.OTLP, "otel", "otel", "the-app")
    rig.use(Telemetry(tracing=Tracing(provider, 100, TAGS)))
    rig.collector.spans.clear()
    answer = ask(rig.port, "/traced", headers={"user-agent": "tester"})
    assert "traceparent" in answer.echo["headers"]
    eventually(lambda: any(b"/traced" in span for span in rig.collector.spans), "a span arrives", 15)
    (span,) = [span for span in rig.collector.spans if b"/traced" in span]
    for text in (b"the-app", b"app.example:80/*", b"team", b"red", b"tester"):
        assert text in span


def test_spans_to_zipkin(rig: Rig) -> None:
    rig.use(Telemetry(tracing=Tracing(TraceProvider("zipkin", TraceKind.ZIPKIN, APP, "zipkin.example"), 100)))
    assert "x-b3-traceid" in ask(rig.port, "/b3").echo["headers"]
    assert rig.upstream.wait_for("/api/v2/spans", 15)


@pytest.mark.parametrize("tracing", [Tracing(TraceProvider("otel", TraceKind.OTLP, "otel", "otel"), 0), Tracing()])
def test_nothing_is_traced(rig: Rig, tracing: Tracing) -> None:
    rig.use(Telemetry(tracing=replace(tracing, sampling=0)))
    rig.collector.spans.clear()
    assert ask(rig.port, "/untraced").status == 200
    assert not any(b"/untraced" in span for span in rig.collector.spans)
