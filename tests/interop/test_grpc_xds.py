"""Proxyless gRPC: what we encode is taken by gRPC's own client (the C core, by grpcio), and it does what the routes say.

client (xds:///) ─▶ one of the servers `a`, `b`, `c`, chosen by listener, route table, clusters and endpoints from ADS
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from mesh.model.codec.envoy import grpc as encode
from mesh.model.l7.clusters import Cluster
from mesh.model.l7.endpoints import Assignment
from mesh.model.l7.names import BLACK_HOLE, cluster_name, route_table_name
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.routes import (
    MILLION,
    Destination,
    Fault,
    Forward,
    Hash,
    HashKind,
    HeaderMatch,
    PathKind,
    PathMatch,
    Redirect,
    Respond,
    Retry,
    Route,
    RouteMatch,
    RouteTable,
    VirtualHost,
)
from mesh.model.l7.services import MeshService
from mesh.model.l7.texts import PRESENT, TextKind, TextMatch, exact, regex
from mesh.model.l7.translate import balancing, destination_rule
from mesh.model.l7.translate import grpc as fitting
from mesh.model.l7.translate.balancing import Candidate
from mesh.model.manifest import DestinationRule, Key, parse
from mesh.model.workload import AppProtocol, Locality, Service, ServicePort, Workload
from tests.interop.ads import Ads
from tests.interop.proxied import eventually

pytestmark = pytest.mark.interop

HOST, PORT = "app.shop.svc.cluster.local", 80
NAME = f"{HOST}:{PORT}"
MESH = MeshService(Service("app", "shop", HOST, ports=(ServicePort(PORT, 8080, AppProtocol.GRPC),), canonical=True))
CONTEXT = Context(Kind.GRPC, "shop")
SUBJECT = Key("Service", "shop", "app")


@dataclass
class Server(grpc.GenericRpcHandler):
    """Answers every call with its name; the header `x-fail` names a status that the first `x-times` calls of `x-key` end with."""

    name: str
    calls: Counter[str] = field(default_factory=Counter)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:  # type: ignore[type-arg]
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        headers = dict(context.invocation_metadata())
        key = str(headers.get("x-key", ""))
        self.calls[key] += 1
        if "x-slow" in headers:
            time.sleep(float(headers["x-slow"]))
        if "x-fail" in headers and self.calls[key] <= int(headers.get("x-times", "1000")):
            context.abort(grpc.StatusCode[str(headers["x-fail"])], "as asked")
        return self.name.encode()


@dataclass
class Rig:
    ads: Ads
    servers: Mapping[str, tuple[Server, int]]
    numbers: Iterator[int]
    process: subprocess.Popen[str] | None = None

    def candidates(self, names: str = "abc") -> list[Candidate]:
        found = []
        for name in names:
            workload = Workload(name, name, "shop", (ip_address("127.0.0.1"),), locality=Locality("eu", f"eu-{name}"))
            found.append(Candidate(workload, self.servers[name][1], {"version": "v1" if name == "a" else "v2"}))
        return found

    def cluster(self, spec: Mapping[str, Any] | None = None, subset: str = "", names: str = "abc") -> str:
        """A cluster as the rule has it, under a name of its own."""
        merged = None
        if spec is not None:
            value = {
                "apiVersion": "networking.istio.io/v1",
                "kind": "DestinationRule",
                "metadata": {"name": "one", "namespace": "shop"},
                "spec": {"host": "app", **spec},
            }
            (rule,) = parse(yaml.safe_dump(value), "test.yaml")
            assert isinstance(rule, DestinationRule)
            merged = destination_rule.merge([rule]).value
        made: Cluster = destination_rule.cluster(MESH, merged, PORT, subset, CONTEXT).value
        name = cluster_name(f"{next(self.numbers)}.test", PORT, subset)
        found: Assignment = balancing.assignment(
            name,
            self.candidates(names),
            destination_rule.effective(merged, PORT, subset),
            subset=merged.subsets[subset].labels if merged is not None and subset else {},
        )
        self.ads.put(encode.cluster(replace(made, name=name)), encode.assignment(found))
        return name

    @contextmanager
    def client(self, *found: Route) -> Iterator[Client]:
        """A new client, whose routes these are."""
        fitted = fitting.for_clients(found, SUBJECT).value
        table = RouteTable(route_table_name(HOST, PORT), (VirtualHost(HOST, ("*",), fitted),))
        self.ads.put(encode.listener(NAME, table.name), encode.route_table(table, slack=encode.SLACK_OF_C_CORE))
        settings = {
            "xds_servers": [
                {"server_uri": f"127.0.0.1:{self.ads.port}", "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
            ],
            "node": {"id": "sidecar~127.0.0.1~a.shop~shop.svc"},
        }
        environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(settings)}
        with subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("grpc_client.py")), f"xds:///{NAME}"],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            try:
                yield Client(process)
                assert self.ads.refused == []
            finally:
                process.kill()
                self.ads.refused.clear()


@dataclass
class Client:
    process: subprocess.Popen[str]

    def call(
        self, method: str = "/shop.Cart/Add", count: int = 1, timeout: float = 20, wait: bool = True, **headers: str
    ) -> list[tuple[str, str]]:
        wanted = {
            "wait": wait,
            "method": method,
            "count": count,
            "timeout": timeout,
            "headers": {name.replace("_", "-"): value for name, value in headers.items()},
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        return [(code, text) for code, text in json.loads(self.process.stdout.readline())]

    def servers(self, method: str = "/shop.Cart/Add", count: int = 1, **headers: str) -> Counter[str]:
        answers = self.call(method, count, **headers)
        assert {code for code, _ in answers} == {"OK"}, answers
        return Counter(text for _, text in answers)

    def reaches_all(self) -> None:
        """Calls that wait for a connection all go by the first that there is."""
        eventually(lambda: set(self.servers(count=30)) == {"a", "b", "c"}, "every endpoint gets calls")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with ExitStack() as stack:
        servers: dict[str, tuple[Server, int]] = {}
        for name in "abc":
            handler = Server(name)
            server = grpc.server(ThreadPoolExecutor(8), handlers=[handler])
            servers[name] = (handler, server.add_insecure_port("127.0.0.1:0"))
            server.start()
            stack.callback(server.stop, 0)
        ads = stack.enter_context(Ads())
        ads.put(*encode.black_hole())
        yield Rig(ads, servers, itertools.count(1))


def to(*names: str, **fields: Any) -> Forward:
    return Forward(tuple(Destination(name) for name in names), **fields)


def path(kind: PathKind, value: str) -> RouteMatch:
    return RouteMatch(PathMatch(kind, value))


def header(name: str, text: TextMatch = PRESENT, negated: bool = False) -> RouteMatch:
    return RouteMatch(headers=(HeaderMatch(name, text, negated),))


def test_every_endpoint(rig: Rig) -> None:
    with rig.client(Route(RouteMatch(), to(rig.cluster()))) as client:
        client.reaches_all()


def test_weights(rig: Rig) -> None:
    shares = Forward((Destination(rig.cluster(names="a"), 90), Destination(rig.cluster(names="b"), 10)))
    with rig.client(Route(RouteMatch(), shares)) as client:
        found = client.servers(count=400)
        assert set(found) == {"a", "b"}
        assert 15 <= found["b"] <= 75


def test_matches(rig: Rig) -> None:
    a, b, c = (rig.cluster(names=name) for name in "abc")
    with rig.client(
        Route(path(PathKind.EXACT, "/shop.Cart/Exact"), to(a)),
        Route(path(PathKind.SEGMENTS, "/shop.Prefix"), to(a)),
        Route(path(PathKind.REGEX, "/shop[.].+/Rx"), to(a)),
        Route(header("x-user", exact("ann")), to(a)),
        Route(header("x-user", TextMatch(TextKind.PREFIX, "b")), to(b)),
        Route(header("x-kind", regex("[0-9]+")), to(b)),
        Route(header("x-no", exact("no"), True), to(c)),
    ) as client:
        for method, headers, server in (
            ("/shop.Cart/Exact", {}, "a"),
            ("/shop.Prefix/Any", {}, "a"),
            ("/shop.X/Rx", {}, "a"),
            ("/shop.X/Y", {"x_user": "ann"}, "a"),
            ("/shop.X/Y", {"x_user": "bob"}, "b"),
            ("/shop.X/Y", {"x_kind": "42"}, "b"),
            ("/shop.X/Y", {"x_kind": "4x"}, "c"),
            ("/shop.PrefixLonger/Y", {}, "c"),
        ):
            assert set(client.servers(method, **headers)) == {server}, (method, headers)
        ((code, _),) = client.call("/shop.X/Y", x_no="no")
        assert code == "UNAVAILABLE", "no route"


def test_subsets_by_header(rig: Rig) -> None:
    spec = {"subsets": [{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}]}
    v1, v2 = rig.cluster(spec, "v1"), rig.cluster(spec, "v2")
    with rig.client(Route(header("end-user", exact("jason")), to(v2)), Route(RouteMatch(), to(v1))) as client:
        assert set(client.servers(count=10)) == {"a"}
        eventually(lambda: set(client.servers(count=20, end_user="jason")) == {"b", "c"}, "both of v2")


def test_retries(rig: Rig) -> None:
    name = rig.cluster(names="a")
    with rig.client(
        Route(path(PathKind.PREFIX, "/shop.Once/"), to(name, retry=Retry(0))),
        Route(RouteMatch(), to(name, retry=Retry(2, ("connect-failure", "unavailable", "cancelled"), backoff=timedelta(milliseconds=1)))),
    ) as client:
        assert client.call("/shop.A/B", x_fail="UNAVAILABLE", x_times="2", x_key="r1") == [("OK", "a")]
        assert client.call("/shop.A/B", x_fail="UNAVAILABLE", x_times="5", x_key="r2")[0][0] == "UNAVAILABLE"
        assert client.call("/shop.A/B", x_fail="INTERNAL", x_times="1", x_key="r3")[0][0] == "INTERNAL"
        assert client.call("/shop.Once/B", x_fail="UNAVAILABLE", x_times="1", x_key="r4")[0][0] == "UNAVAILABLE"
        calls = rig.servers["a"][0].calls
        assert [calls[key] for key in ("r1", "r2", "r3", "r4")] == [3, 3, 1, 1]


def test_timeout(rig: Rig) -> None:
    name = rig.cluster(names="a")
    with rig.client(
        Route(path(PathKind.PREFIX, "/shop.Free/"), to(name)), Route(RouteMatch(), to(name, timeout=timedelta(milliseconds=300)))
    ) as client:
        assert client.call("/shop.Free/X", x_slow="0.5")[0][0] == "OK"
        assert client.call()[0][0] == "OK"
        began = time.monotonic()
        assert client.call(x_slow="5")[0][0] == "DEADLINE_EXCEEDED"
        # The C core takes one to two seconds off, which the encoder has put on.
        assert 0.2 <= time.monotonic() - began < 2


def test_fault(rig: Rig) -> None:
    name = rig.cluster(names="a")
    with rig.client(
        Route(path(PathKind.PREFIX, "/shop.Abort/"), to(name), fault=Fault(abort_grpc=8, abort_share=MILLION)),
        Route(path(PathKind.PREFIX, "/shop.Http/"), to(name), fault=Fault(abort_status=404, abort_share=MILLION)),
        Route(RouteMatch(), to(name), fault=Fault(delay=timedelta(milliseconds=400), delay_share=MILLION)),
    ) as client:
        assert client.call("/shop.Abort/X")[0][0] == "RESOURCE_EXHAUSTED"
        assert client.call("/shop.Http/X")[0][0] == "UNIMPLEMENTED"
        began = time.monotonic()
        assert client.call()[0][0] == "OK"
        assert time.monotonic() - began >= 0.35


def test_what_a_client_cannot_do_fails(rig: Rig) -> None:
    with rig.client(
        Route(path(PathKind.PREFIX, "/shop.Denied/"), Respond(403)),
        Route(path(PathKind.PREFIX, "/shop.Moved/"), Redirect("https")),
        Route(RouteMatch(), Respond(200, b"hello")),
    ) as client:
        assert client.call("/shop.Denied/X")[0][0] == "PERMISSION_DENIED"
        assert client.call("/shop.Moved/X")[0][0] == "UNAVAILABLE"
        assert client.call()[0][0] == "UNAVAILABLE"


POLICIES: list[dict[str, Any]] = [
    {"loadBalancer": {"simple": "LEAST_REQUEST"}},
    {"loadBalancer": {"simple": "RANDOM"}},
    {"loadBalancer": {"simple": "ROUND_ROBIN", "warmup": {"duration": "10s"}}},
    {"loadBalancer": {"simple": "PASSTHROUGH"}},
    {"outlierDetection": {}},
    {"outlierDetection": {"consecutive5xxErrors": 1, "interval": "1s", "maxEjectionPercent": 100}},
    {"connectionPool": {"tcp": {"maxConnections": 1}, "http": {"http2MaxRequests": 100, "maxRetries": 1}}},
    {"tls": {"mode": "SIMPLE"}, "retryBudget": {}},
    {"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "*", "to": {"eu/eu-a": 50, "eu/*": 50}}]}}},
]


@pytest.mark.parametrize("policy", POLICIES, ids=[json.dumps(policy)[:40] for policy in POLICIES])
def test_every_policy_is_taken(rig: Rig, policy: dict[str, Any]) -> None:
    with rig.client(Route(RouteMatch(), to(rig.cluster({"trafficPolicy": policy})))) as client:
        client.reaches_all()


@pytest.mark.parametrize("place", ["ringHash", "maglev"])
def test_hash(rig: Rig, place: str) -> None:
    name = rig.cluster({"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user", place: {}}}}})
    with rig.client(Route(RouteMatch(), to(name, hashes=(Hash(HashKind.HEADER, "x-user"),)))) as client:
        found = {user: set(client.servers(count=5, x_user=user)) for user in "abcdefghij"}
        assert all(len(servers) == 1 for servers in found.values())
        assert len(set().union(*found.values())) > 1


def test_limit_of_requests(rig: Rig) -> None:
    name = rig.cluster({"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 2}}}}, names="a")
    with rig.client(Route(RouteMatch(), to(name))) as client:
        client.call()
        codes = Counter(code for code, _ in client.call(count=6, x_slow="0.5"))
        assert codes == {"OK": 2, "UNAVAILABLE": 4}


def test_what_does_not_exist_fails_and_keeps_nobody_waiting(rig: Rig) -> None:
    half = Forward((Destination(rig.cluster(names="a")), Destination(BLACK_HOLE)))
    began = time.monotonic()
    with rig.client(Route(path(PathKind.PREFIX, "/shop.Gone/"), to(BLACK_HOLE)), Route(RouteMatch(), half)) as client:
        assert client.call("/shop.Gone/X", wait=False)[0][0] == "UNAVAILABLE"
        assert {code for code, _ in client.call(count=40, wait=False)} == {"OK", "UNAVAILABLE"}
    assert time.monotonic() - began < 10
