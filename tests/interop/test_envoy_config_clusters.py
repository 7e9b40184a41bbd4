"""DestinationRules, from their YAML to what a real Envoy does: subsets, limits, ejection, localities, TLS, versions of HTTP, PROXY headers.

client ─▶ Envoy (a listener at the service's address) ─▶ endpoints `a`, `b`, `c`
"""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.model.codec.envoy import client, clusters, endpoints, routes
from mesh.model.l7.chains import Chain, Traffic
from mesh.model.l7.clusters import NOBODY, Cluster, Credential, Discovery, Tls
from mesh.model.l7.endpoints import Assignment, Endpoint, HostPort, LocalityGroup, Tunnel
from mesh.model.l7.names import HTTP_PROXY, cluster_name
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.routes import Destination, Forward, PathKind, PathMatch, Retry, Route, RouteMatch, RouteTable, VirtualHost
from mesh.model.l7.services import MeshService
from mesh.model.l7.tcp import TcpDestination, TcpRoute
from mesh.model.l7.translate import balancing, destination_rule
from mesh.model.l7.translate.balancing import Candidate, Viewpoint
from mesh.model.manifest import DestinationRule, parse
from mesh.model.workload import AppProtocol, Locality, Service, ServicePort, SocketAddress, Workload
from tests.interop import envoy, proxied
from tests.interop.proxied import Answer, ask
from tests.interop.upstream import Upstream, upstream

pytestmark = [pytest.mark.interop, pytest.mark.skipif(envoy.binary() is None, reason="Envoy is not installed: make envoy")]

LOCALHOST, TABLE, HOST = "127.0.0.1", "table", "app.shop.svc.cluster.local"
CONTEXT = Context(Kind.CLIENT, "shop")
SERVICE = Service(
    "app", "shop", HOST, ports=(ServicePort(80, 8080, AppProtocol.HTTP11), ServicePort(90, 9090, AppProtocol.GRPC)), canonical=True
)
MESH = MeshService(SERVICE)
PLACES = {"a": Locality("eu", "eu-1"), "b": Locality("eu", "eu-2"), "c": Locality("us", "us-1")}


@dataclass
class Rig:
    envoy: proxied.Proxied
    port: int
    tcp_port: int
    upstreams: Mapping[str, Upstream]
    names: Iterator[int]

    def candidates(self, names: str = "abc") -> list[Candidate]:
        found = []
        for name in names:
            one = self.upstreams[name]
            workload = Workload(name, name, "shop", (ip_address(one.host),), locality=PLACES[name])
            found.append(Candidate(workload, one.port, {"version": {"a": "v1"}.get(name, "v2")}))
        return found

    def use(self, spec: Mapping[str, Any], *, port: int = 80, subset: str = "", names: str = "abc", place: Locality | None = None) -> str:
        """Serve the cluster that the rule comes to, under a name of its own, and send everything there."""
        value = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {"name": "one", "namespace": "shop"},
            "spec": {"host": "app", **spec},
        }
        (rule,) = parse(yaml.safe_dump(value), "test.yaml")
        assert isinstance(rule, DestinationRule)
        merged = destination_rule.merge([rule]).value
        assert merged is not None
        made = destination_rule.cluster(MESH, merged, port, subset, CONTEXT).value
        name = cluster_name(f"{next(self.names)}.test", port, subset)
        found = balancing.assignment(
            name,
            self.candidates(names),
            destination_rule.effective(merged, port, subset),
            Viewpoint(place or Locality()),
            subset=merged.subsets[subset].labels if subset else {},
        )
        self.put(replace(made, name=name), found)
        return name

    def put(self, made: Cluster, found: Assignment, **fields: Any) -> None:
        self.envoy.put(clusters.cluster(made, proxied.CLIENT), endpoints.assignment(found))
        self.serve(Route(RouteMatch(), Forward((Destination(made.name),), **fields)))

    def serve(self, *found: Route) -> None:
        self.envoy.serve(RouteTable(TABLE, (VirtualHost(TABLE, ("*",), found),)), self.port)

    def ask(self, path: str = "/", **headers: str) -> Answer:
        return ask(self.port, path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def servers(self, count: int = 40) -> Counter[str]:
        return Counter(self.ask().server for _ in range(count))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    port, tcp_port = envoy.free_ports(2)
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(upstream(name)) for name in ("a", "b", "c")}
        empty = RouteTable(TABLE, (VirtualHost(TABLE, ("*",), ()),))
        resources = [
            client.listener(Chain(HOST, port, Traffic.HTTP, (ip_address(LOCALHOST),), table=TABLE), proxied.CLIENT),
            routes.route_table(empty),
        ]
        made = stack.enter_context(proxied.proxied(tmp_path_factory.mktemp("clusters"), *resources))
        yield Rig(made, port, tcp_port, upstreams, itertools.count(1))


def test_subsets(rig: Rig) -> None:
    spec = {"subsets": [{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}]}
    rig.use(spec, subset="v1")
    assert set(rig.servers()) == {"a"}
    rig.use(spec, subset="v2")
    assert set(rig.servers()) == {"b", "c"}
    rig.use(spec)
    assert set(rig.servers(80)) == {"a", "b", "c"}


POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("random", {"loadBalancer": {"simple": "RANDOM"}}),
    ("round robin with warm-up", {"loadBalancer": {"simple": "ROUND_ROBIN", "warmup": {"duration": "10s", "aggression": 2}}}),
    ("least request with warm-up", {"loadBalancer": {"simple": "LEAST_CONN", "warmupDurationSecs": "10s"}}),
    (
        "pools",
        {"connectionPool": {"tcp": {"connectTimeout": "3s", "maxConnectionDuration": "1h", "tcpKeepalive": {"probes": 3, "time": "60s"}}}},
    ),
    ("more pools", {"connectionPool": {"http": {"maxRequestsPerConnection": 1, "http2KeepAlive": {"interval": "5s", "timeout": "2s"}}}}),
    ("streams", {"connectionPool": {"http": {"useClientProtocol": True, "maxConcurrentStreams": 10}}}),
    ("retry budget", {"retryBudget": {"percent": 30, "minRetryConcurrency": 5}}),
    ("codes", {"outlierDetection": {"outlierDetectionHttpErrorCodes": [418, 429], "splitExternalLocalOriginErrors": True}}),
    ("everything off", {"outlierDetection": {"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 0}}),
]


@pytest.mark.parametrize("policy", [case[1] for case in POLICIES], ids=[case[0] for case in POLICIES])
def test_envoy_takes_every_policy(rig: Rig, policy: dict[str, Any]) -> None:
    rig.use({"trafficPolicy": policy})
    assert set(rig.servers()) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "hashed",
    [
        {"httpHeaderName": "x-user"},
        {"httpHeaderName": "x-user", "maglev": {"tableSize": 101}},
        {"httpHeaderName": "x-user", "ringHash": {"minimumRingSize": 8192}},
    ],
)
def test_hash_by_header(rig: Rig, hashed: dict[str, Any]) -> None:
    rig.use({"trafficPolicy": {"loadBalancer": {"consistentHash": hashed}}})
    found = {user: {rig.ask(x_user=user).server for _ in range(5)} for user in "abcdefghij"}
    assert all(len(servers) == 1 for servers in found.values())
    assert len(set().union(*found.values())) > 1


def test_hash_by_query_and_by_cookie(rig: Rig) -> None:
    rig.use({"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpQueryParameterName": "u"}}}})
    assert all(len({rig.ask(f"/?u={user}").server for _ in range(5)}) == 1 for user in "abcd")
    cookie = {"name": "session", "path": "/", "ttl": "0s", "attributes": [{"name": "SameSite", "value": "Strict"}]}
    rig.use({"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpCookie": cookie}}}})
    first = rig.ask()
    made = first.headers["set-cookie"]
    assert made.startswith("session=")
    assert "SameSite=Strict" in made
    assert {rig.ask(cookie=made.partition(";")[0]).server for _ in range(10)} == {first.server}


def test_limits(rig: Rig) -> None:
    pool = {"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1, "http2MaxRequests": 1}}
    rig.use({"trafficPolicy": {"connectionPool": pool}}, names="a")
    with ThreadPoolExecutor(4) as workers:
        answers = list(workers.map(lambda _: rig.ask("/slow/0.5"), range(4)))
    statuses = Counter(answer.status for answer in answers)
    assert statuses[200] >= 1
    assert statuses[503] >= 1
    assert all(answer.headers.get("x-envoy-overloaded") == "true" for answer in answers if answer.status == 503)


def test_ejection(rig: Rig) -> None:
    detection = {"consecutive5xxErrors": 2, "interval": "60s", "baseEjectionTime": "60s", "maxEjectionPercent": 100}
    rig.use({"trafficPolicy": {"outlierDetection": detection}}, names="ab")
    for _ in range(20):
        rig.ask("/status/503")
    # Envoy gathers changes of health for up to a second.
    proxied.eventually(lambda: rig.ask().status == 503, "both are out, and nothing panics")
    rig.use({"trafficPolicy": {"outlierDetection": {**detection, "minHealthPercent": 50}}}, names="ab")
    for _ in range(20):
        rig.ask("/status/503")
    proxied.eventually(
        lambda: rig.ask().status == 200 and sum(rig.envoy.stats("lb_healthy_panic").values()) > 0, "Envoy knows that both are out"
    )
    assert rig.ask().status == 200, "below the share that was asked for, ejections do not count"


def test_codes_that_count_as_errors(rig: Rig) -> None:
    detection = {"consecutive5xxErrors": 2, "interval": "60s", "baseEjectionTime": "60s", "maxEjectionPercent": 100}
    rig.use({"trafficPolicy": {"outlierDetection": {**detection, "outlierDetectionHttpErrorCodes": [418]}}}, names="a")
    for _ in range(3):
        rig.ask("/status/418")
    proxied.eventually(lambda: rig.ask().status == 503, "it is out")
    rig.use({"trafficPolicy": {"outlierDetection": detection}}, names="a")
    for _ in range(3):
        rig.ask("/status/418")
    assert rig.ask().status == 200


def test_the_nearest_first(rig: Rig) -> None:
    policy = {"outlierDetection": {"maxEjectionPercent": 100}}
    place = Locality("eu", "eu-2")
    rig.use({"trafficPolicy": policy}, place=place)
    assert set(rig.servers()) == {"b"}
    rig.use({"trafficPolicy": policy}, names="ac", place=place)
    assert set(rig.servers()) == {"a"}
    failover = {"loadBalancer": {"localityLbSetting": {"failover": [{"from": "asia", "to": "us"}]}}}
    rig.use({"trafficPolicy": {**policy, **failover}}, place=Locality("asia", "asia-1"))
    assert set(rig.servers()) == {"c"}


def test_priorities_by_labels(rig: Rig) -> None:
    setting = {"localityLbSetting": {"failoverPriority": ["version=v1"]}}
    rig.use({"trafficPolicy": {"outlierDetection": {}, "loadBalancer": setting}})
    assert set(rig.servers()) == {"a"}


def test_shares_of_localities(rig: Rig) -> None:
    setting = {"localityLbSetting": {"distribute": [{"from": "eu/*", "to": {"eu/eu-1": 80, "us": 20}}]}}
    rig.use({"trafficPolicy": {"loadBalancer": setting}}, place=Locality("eu", "eu-2"))
    found = rig.servers(300)
    assert set(found) == {"a", "c"}
    assert 30 <= found["c"] <= 100


def test_a_retry_goes_elsewhere(rig: Rig) -> None:
    rig.use({"trafficPolicy": {"loadBalancer": {"simple": "ROUND_ROBIN"}}})
    name = rig.use({"trafficPolicy": {"loadBalancer": {"simple": "ROUND_ROBIN"}}})
    retry = Retry(2, ("reset",))
    rig.serve(Route(RouteMatch(PathMatch(PathKind.PREFIX, "/close")), Forward((Destination(name),), retry=retry)))
    before = {server: one.seen["/close/here"] for server, one in rig.upstreams.items()}
    assert rig.ask("/close/here").status == 503
    assert [one.seen["/close/here"] - before[server] for server, one in rig.upstreams.items()] == [1, 1, 1]


def test_names_that_the_proxy_looks_up(rig: Rig) -> None:
    one = rig.upstreams["a"]
    for discovery in (Discovery.DNS, Discovery.DNS_ONE):
        name = f"{discovery.value}"
        found = Assignment(name, (LocalityGroup((Endpoint(HostPort("localhost", one.port)),)),))
        rig.put(Cluster(name, "localhost", one.port, discovery=discovery, endpoints=found), found)
        proxied.eventually(lambda: rig.ask().server == "a", discovery.value)


def test_addresses_beside_names_that_the_proxy_looks_up(rig: Rig) -> None:
    """An address at the end of a tunnel is reached plainly where the node has the tunnel, and else not at all."""
    one, meshed = rig.upstreams["a"], rig.upstreams["b"]
    ends = (
        Endpoint(HostPort("localhost", one.port)),
        Endpoint(SocketAddress(ip_address(meshed.host), meshed.port), tunnel=Tunnel(("spiffe://cluster.local/ns/a/sa/b",))),
    )
    found = Assignment("mixed", (LocalityGroup(ends[:1]), LocalityGroup(ends[1:], Locality("eu"))))
    made = Cluster("mixed", "localhost", one.port, discovery=Discovery.DNS, endpoints=found)
    for profile, servers in ((replace(proxied.CLIENT, tunnels=False), {"a", "b"}), (proxied.CLIENT, {"a"})):
        rig.envoy.put(clusters.cluster(made, profile))
        rig.serve(Route(RouteMatch(), Forward((Destination(made.name),))))
        proxied.eventually(lambda: {rig.ask().server for _ in range(20)} == servers, str(servers))  # noqa: B023 - at once
    rig.envoy.check()


def test_names_that_requests_name(rig: Rig) -> None:
    one = rig.upstreams["b"]
    (port,) = envoy.free_ports(1)
    cluster = Cluster("dynamic", "*", 80, discovery=Discovery.DYNAMIC)
    chain = Chain("dynamic", port, Traffic.HTTP, (ip_address(LOCALHOST),), table="dynamic", dynamic=True)
    route = Route(RouteMatch(), Forward((Destination(cluster.name),)))
    rig.envoy.put(
        clusters.cluster(cluster, proxied.CLIENT),
        client.listener(chain, proxied.CLIENT),
        routes.route_table(RouteTable("dynamic", (VirtualHost("d", ("localhost", f"localhost:{one.port}"), (route,)),))),
    )
    proxied.eventually(lambda: ask(port, headers={"host": f"localhost:{one.port}"}).server == "b", "found by its name")
    assert ask(port, headers={"host": "elsewhere"}).status == 404


# TLS and other transports


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    now = datetime.now(UTC)

    def make(name: str, issuer: tuple[Any, Any] | None, names: Sequence[str]) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[0].subject if issuer else subject)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(minutes=2)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
        made = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
        (directory / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / f"{name}.key").write_bytes(private)
        return made, key

    root = make("root", None, ())
    server, _ = make("server", root, ["api.example", HOST])
    for name, serials in (("revoked", [server.serial_number]), ("nothing-revoked", [])):
        revoked = x509.CertificateRevocationListBuilder().issuer_name(root[0].subject)
        revoked = revoked.last_update(now - timedelta(minutes=1)).next_update(now + timedelta(days=1))
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(minutes=1))
            revoked = revoked.add_revoked_certificate(entry.build())
        signed = revoked.sign(root[1], hashes.SHA256())
        (directory / f"{name}.crl").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    make("client", root, ["client.example"])
    make("stranger", None, ())
    return directory


@pytest.fixture
def tls_server(rig: Rig, certificates: Path) -> Iterator[Upstream]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.load_verify_locations(certificates / "root.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    asked: list[str] = []
    context.sni_callback = lambda sock, name, _: asked.append(name or "")
    with upstream("tls", tls=context) as one:
        one.documents["names"] = asked  # type: ignore[assignment]
        yield one


def use_tls(rig: Rig, one: Upstream, tls: Mapping[str, Any]) -> Answer:
    value = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "one", "namespace": "shop"},
        "spec": {"host": "app", "trafficPolicy": {"tls": dict(tls)}},
    }
    (rule,) = parse(yaml.safe_dump(value), "test.yaml")
    assert isinstance(rule, DestinationRule)
    return serve_tls(rig, one, destination_rule.cluster(MESH, destination_rule.merge([rule]).value, 80, "", CONTEXT).value)


def serve_tls(rig: Rig, one: Upstream, made: Cluster) -> Answer:
    name = cluster_name(f"{next(rig.names)}.test", 80)
    rig.put(replace(made, name=name), Assignment(name, (LocalityGroup((proxied.plain_endpoint(one),)),)))
    return rig.ask()


def test_tls_to_endpoints(rig: Rig, tls_server: Upstream, certificates: Path) -> None:
    roots = str(certificates / "root.pem")
    asked: Any = tls_server.documents["names"]
    assert use_tls(rig, tls_server, {"mode": "SIMPLE", "caCertificates": roots}).server == "tls"
    assert asked[-1] == HOST, "the service's own name is asked for, and checked"
    assert use_tls(rig, tls_server, {"mode": "SIMPLE", "caCertificates": roots, "sni": "api.example"}).server == "tls"
    assert asked[-1] == "api.example"
    named = {"mode": "SIMPLE", "caCertificates": roots, "sni": "x.example", "subjectAltNames": ["api.example"]}
    assert use_tls(rig, tls_server, named).server == "tls"
    assert use_tls(rig, tls_server, {**named, "subjectAltNames": ["other.example"]}).status == 503
    assert use_tls(rig, tls_server, {"mode": "SIMPLE", "caCertificates": roots, "sni": "other.example"}).status == 503
    assert use_tls(rig, tls_server, {"mode": "SIMPLE", "caCertificates": str(certificates / "stranger.pem")}).status == 503
    assert use_tls(rig, tls_server, {"mode": "SIMPLE"}).status == 503, "the system trusts no such root"
    assert use_tls(rig, tls_server, {"mode": "SIMPLE", "insecureSkipVerify": True}).server == "tls"
    for name, status in (("nothing-revoked", 200), ("revoked", 503)):
        crl = {"caCertificates": roots, "caCrl": str(certificates / f"{name}.crl")}
        assert use_tls(rig, tls_server, {"mode": "SIMPLE", **crl}).status == status
    unbelieved = Tls(roots=Credential(file=roots), sni=HOST, sans=(NOBODY,))
    assert serve_tls(rig, tls_server, replace(destination_rule.cluster(MESH, None, 80, "", CONTEXT).value, tls=unbelieved)).status == 503
    for closed in ({"credentialName": "c"}, {"sni": "x" * 256}):
        assert use_tls(rig, tls_server, {"mode": "SIMPLE", "insecureSkipVerify": True, **closed}).status == 503
    pair = {"clientCertificate": str(certificates / "client.pem"), "privateKey": str(certificates / "client.key")}
    assert use_tls(rig, tls_server, {"mode": "MUTUAL", "caCertificates": roots, **pair}).headers["x-client"] == "client.example"


def test_proxy_protocol(rig: Rig) -> None:
    seen: list[bytes] = []
    with socket.create_server((LOCALHOST, 0)) as listener:

        def serve() -> None:
            for _ in range(8):
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    seen.append(sock.recv(65536))
                    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        for version, start in (("V1", b"PROXY TCP4 127.0.0.1 "), ("V2", b"\r\n\r\n\x00\r\nQUIT\n")):
            value = {
                "apiVersion": "networking.istio.io/v1",
                "kind": "DestinationRule",
                "metadata": {"name": "one", "namespace": "shop"},
                "spec": {"host": "app", "trafficPolicy": {"proxyProtocol": {"version": version}}},
            }
            (rule,) = parse(yaml.safe_dump(value), "test.yaml")
            assert isinstance(rule, DestinationRule)
            made = destination_rule.cluster(MESH, destination_rule.merge([rule]).value, 80, "", CONTEXT).value
            name = cluster_name(f"{next(rig.names)}.test", 80)
            endpoint = Endpoint(proxied.address(LOCALHOST, listener.getsockname()[1]))
            seen.clear()
            rig.put(replace(made, name=name), Assignment(name, (LocalityGroup((endpoint,)),)))
            assert rig.ask().status == 200
            assert seen[-1].startswith(start)
        listener.close()


def test_listeners_of_a_client(rig: Rig) -> None:
    """TCP at a port of its own, and everything by name through the HTTP proxy."""
    name = rig.use({"trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}})
    (proxy_port,) = envoy.free_ports(1)
    tcp = Chain("tcp", rig.tcp_port, Traffic.TCP, (ip_address(LOCALHOST),), tcp=(TcpRoute((TcpDestination(name),)),))
    domains = client.domains(HOST, "shop", 80, [ip_address("10.96.0.9")])
    table = routes.route_table(RouteTable("x", (VirtualHost(HOST, tuple(domains), (Route(RouteMatch(), Forward((Destination(name),))),)),)))
    rig.envoy.put(
        client.listener(tcp, proxied.CLIENT),
        client.http_proxy(proxied.CLIENT, proxy_port),
        routes.joined([table], HTTP_PROXY),
        client.virtual_outbound(proxied.CLIENT, envoy.free_ports(1)[0]),
        clusters.passthrough(),
    )
    proxied.eventually(lambda: ask(rig.tcp_port).status == 200, "the TCP listener listens")
    for url in ("http://app.shop/x", f"http://{HOST}/x", "http://app.shop.svc:80/x", "http://10.96.0.9/x"):
        proxied.eventually(lambda url=url: ask(proxy_port, url).status == 200, url)  # type: ignore[misc]
        assert ask(proxy_port, url, headers={"host": url.split("/")[2]}).echo["path"] == "/x"
    assert ask(proxy_port, "http://unknown.shop/").status == 404
    assert ask(proxy_port, "http://app.shop:81/").status == 404
