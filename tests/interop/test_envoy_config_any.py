"""Whatever document the parser takes: what we make of it a real Envoy takes too, in a waypoint's form and in a client's.

Documents say nearly everything that can be said; then every text in them is exchanged for each of some odd ones, as far as the parser lets
it through; and more are made of the parser's own descriptions. A refusal would be one service's making and every service's loss: a listener
of a waypoint is taken whole or not at all. Many are tried at one time; where Envoy refuses them, halves are, until one is found.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings

from mesh.model.codec.envoy import clusters, routes, waypoint
from mesh.model.l7.chains import Chain, Guard, Traffic
from mesh.model.l7.clusters import Cluster, Credential
from mesh.model.l7.endpoints import Assignment, Endpoint, LocalityGroup
from mesh.model.l7.profile import Context, Kind, Profile
from mesh.model.l7.routes import PathKind, PathMatch, Respond, Route, RouteMatch, RouteTable, VirtualHost
from mesh.model.l7.services import MeshService, Resolution
from mesh.model.l7.telemetry import AccessLog, LogProvider, TraceKind, TraceProvider
from mesh.model.l7.telemetry import Telemetry as L7Telemetry
from mesh.model.l7.texts import usable_regex
from mesh.model.l7.translate import destination_rule
from mesh.model.l7.translate.authorization import enforced
from mesh.model.l7.translate.backends import references
from mesh.model.l7.translate.ports import Written, hosts_of, port_routes
from mesh.model.l7.translate.targets import Target
from mesh.model.l7.translate.telemetry import merged
from mesh.model.l7.translate.tokens import tokens
from mesh.model.manifest import (
    AuthorizationPolicy,
    DestinationRule,
    GRPCRoute,
    HTTPRoute,
    RequestAuthentication,
    TCPRoute,
    Telemetry,
    TLSRoute,
    VirtualService,
    parse_object,
)
from mesh.model.manifest.core import Object
from mesh.model.manifest.gatewayapi.common import ParentRef
from mesh.model.workload import AppProtocol, NetworkAddress, Service, ServicePort, SocketAddress
from tests.interop import envoy, proxied
from tests.model.documents import documents_of
from tests.model.objects import full

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(envoy.binary() is None, reason="Envoy is not installed: make envoy"),
]

TABLE = "app:80"
VIP = ip_address("10.96.0.1")
CONTEXTS = (Context(Kind.WAYPOINT, "shop"), Context(Kind.CLIENT, "shop"))
WAYPOINT = Profile(Kind.WAYPOINT, ("cluster.local", "old.example"), listen="127.0.0.11")
PORTS = (
    ServicePort(80, 8080, AppProtocol.UNKNOWN),
    ServicePort(81, 8081, AppProtocol.HTTP2),
    ServicePort(443, 8443, AppProtocol.TLS),
    ServicePort(9000, 9000, AppProtocol.TCP),
)
FRONTEND = MeshService(
    Service("app", "shop", "app.shop.svc.cluster.local", (NetworkAddress("", VIP),), ports=PORTS, canonical=True), port_names={80: "http"}
)
PROVIDERS = {
    "a": LogProvider("a", "/dev/null"),
    "b": TraceProvider("b", TraceKind.OTLP, "otel", "otel", "app"),
}
NETWORKING, GATEWAY, SECURITY, TELEMETRY = "networking.istio.io", "gateway.networking.k8s.io", "security.istio.io", "telemetry.istio.io"
CHUNK, MOST = 100, 400


@dataclass
class Rig:
    envoy: proxied.Proxied
    files: Path
    said: str = ""

    def takes(self, messages: Sequence[Any]) -> bool:
        version = self.envoy.ads.put(*messages)
        try:
            self.envoy.ads.wait_accepted(version)
        except AssertionError:
            if not self.envoy.ads.refused:
                raise
            self.said = self.envoy.ads.refused[0]
            self.envoy.ads.refused.clear()
            self.envoy.spoiled = True
            return False
        return True

    def check(self, objects: Sequence[Any], make: Callable[[Sequence[Any]], list[Any]]) -> None:
        """That Envoy takes what all of these become."""
        assert len(objects) > 20, "there is something to try"
        for start in range(0, len(objects), CHUNK):
            self._chunk(objects[start : start + CHUNK], make)

    def _chunk(self, objects: Sequence[Any], make: Callable[[Sequence[Any]], list[Any]]) -> None:
        if self.takes(make(objects)):
            return
        assert len(objects) > 1, self.said[-700:]
        half = len(objects) // 2
        self._chunk(objects[:half], make)
        self._chunk(objects[half:], make)
        raise AssertionError(f"refused only together: {self.said}")


def plain() -> list[Any]:
    chain = Chain("app", 80, Traffic.HTTP, (VIP,), table=TABLE)
    return [waypoint.main_internal([chain], WAYPOINT), routes.route_table(RouteTable(TABLE, ()))]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp("any")
    envoy.make_certificates(directory)
    with proxied.proxied(directory / "envoy", *plain(), clusters.main_internal(), waypoint.connect_originate()) as made:
        yield Rig(made, directory)


# Documents

ODD = (
    *("100%", "%X%", "%REQ(x)%", "%%", "%", "a\nb", "a\r\nb", "a\tb", "é", "\u2028", " ", "\x7f", "\\1", "\\", "\\9", '"', "'", "{", "}"),
    *("*", "**", "/", "//", "?", "#", ":", "[::1]", "0", "-", "_", "a" * 300, "(?i)a", "a{1,900}", "(a|b)*c", "^$", ".*", "true", "host"),
    *(":path", "Host", "1.2.3.4", "a.b", "x" * 1024, "/{*}/a", "{**}", "a,b", "a;b", "%DURATION%", "a=b", "$(x)", "\\d+", "[a-z]+"),
)
BESIDE: dict[str, list[str]] = {
    "VirtualService": [
        """
hosts: [app]
http:
- name: one
  match:
  - {name: m, uri: {exact: /a}, authority: {exact: a}, method: {prefix: G}, headers: {x-a: {prefix: p}}, queryParams: {q: {exact: v}}}
  route:
  - {destination: {host: app, subset: v1}, weight: 1, headers: {request: {set: {x-b: c}, add: {x-c: d}, remove: [x-d]}}}
  - {destination: {host: b.c}, weight: 1, headers: {response: {set: {x-b: c}, add: {x-c: d}, remove: [x-d]}}}
  rewrite: {uri: /b, authority: c}
  headers: {request: {set: {host: h, x-e: f}}, response: {add: {x-g: h}}}
  corsPolicy: {allowOrigins: [{exact: a}, {prefix: b}, {regex: c}], allowHeaders: [x-a], exposeHeaders: [x-b]}
- match:
  - uri: {regex: /b}
    headers: {x-a: {regex: r}}
    withoutHeaders: {x-b: {exact: e}}
    scheme: {regex: s}
  route: [{destination: {host: app}}]
  rewrite: {uriRegexRewrite: {match: /a, rewrite: b}}
- match: [{uri: {prefix: /c}, headers: {"@request.auth.claims[a][b]": {exact: c}}}]
  redirect: {uri: /x, authority: y}
- match: [{uri: {prefix: /d}}]
  redirect: {prefixRewrite: /x}
- match: [{uri: {exact: /e}}]
  directResponse: {status: 200, body: {string: text}}
  headers: {response: {set: {x-a: b}}}
- match: [{uri: {regex: /f}}]
  rewrite: {uri: /g}
  route: [{destination: {host: app}}]
"""
    ],
    "Telemetry": [
        """
accessLogging: [{filter: {expression: response.code >= 400}}]
tracing:
- customTags: {a: {literal: {value: b}}, c: {header: {name: d, defaultValue: e}}, f: {formatter: {value: g}}, h: {environment: {name: i}}}
"""
    ],
    "AuthorizationPolicy": [
        """
action: DENY
rules:
- to: [{operation: {hosts: [a], methods: [b], paths: [c], notHosts: [d], notMethods: [e], notPaths: [f]}}]
- from: [{source: {principals: [a], namespaces: [b], requestPrincipals: [c], trustDomains: [d]}}]
- from: [{source: {notPrincipals: [a], notNamespaces: [b], notRequestPrincipals: [c], notTrustDomains: [d]}}]
- when: [{key: "request.headers[x]", values: [a], notValues: [b]}]
- when: [{key: "request.auth.claims[a][b]", values: [a]}, {key: connection.sni, values: [b]}, {key: request.auth.principal, values: [c]}]
- when: [{key: "experimental.envoy.filters.a.b[c]", values: [a]}]
"""
    ],
}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where texts are."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    elif isinstance(value, str):
        yield path


def spoiled(document: dict[str, Any], path: tuple[Any, ...], text: str) -> dict[str, Any]:
    """With another text in one place; where that is in a mapping, also with another key."""
    made = copy.deepcopy(document)
    holder: Any = made["spec"]
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = text
    return made


def renamed(document: dict[str, Any], path: tuple[Any, ...], text: str) -> dict[str, Any]:
    made = copy.deepcopy(document)
    holder: Any = made["spec"]
    for step in path[:-1]:
        holder = holder[step]
    if isinstance(holder, dict):
        holder[text] = holder.pop(path[-1])
    return made


def documents(cls: type[Object], group: str, made: int = 60) -> list[Any]:
    """What the parser takes of all these; always the same choice of them, where there are very many."""
    rich = [full((group, cls.KIND))]
    rich += [{**rich[0], "spec": yaml.safe_load(text)} for text in BESIDE.get(cls.KIND, ())]
    raw = list(rich)
    for document in rich:
        for path, text in itertools.product(leaves(document["spec"]), ODD):
            raw += [spoiled(document, path, text), renamed(document, path, text)]

    @settings(
        max_examples=made,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(documents_of(cls))
    def collect(document: dict[str, Any]) -> None:
        raw.append(document)

    collect()
    several = list(dict.fromkeys(map(json.dumps, raw)))
    random.Random(0).shuffle(several)
    found: list[Any] = []
    for document in (*map(json.dumps, rich), *several):
        parsed = parse_object(json.loads(document), "test")
        found += parsed.objects
        if len(found) == MOST:
            break
    return found


# Routes


def of_services(written: Callable[[Any], Written]) -> Callable[[Sequence[Any]], list[Any]]:
    """Each object is about a service of its own; with every host that it names known and granted, and with none."""

    def make(objects: Sequence[Any]) -> list[Any]:
        chains: list[Chain] = []
        messages: list[Any] = []
        for number, (found, (context, known)) in enumerate(itertools.product(objects, ((CONTEXTS[0], True), (CONTEXTS[1], False)))):
            inputs = written(found)
            hosts = hosts_of(inputs, context) if known else ()
            services = {host: replace(FRONTEND, service=replace(FRONTEND.service, hostname=host)) for host in hosts}
            granted = references(inputs.routes, context) if known else frozenset()
            inputs = replace(inputs, targets={host: Target(service) for host, service in services.items()}, granted=granted)
            for port in PORTS:
                made = port_routes(Target(FRONTEND), port.port, inputs, context).value
                name = f"app{number}"
                table = f"{name}:{port.port}" if made.table is not None else ""
                chains.append(Chain(name, port.port, made.traffic, (VIP + number,), table=table, tcp=made.tcp, claims=made.by_claims))
                if made.table is not None:
                    messages.append(routes.route_table(replace(made.table, name=table)))
        return [waypoint.main_internal(chains, WAYPOINT), *messages]

    return make


LEAF = parse_object(
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "leaf"},
        "spec": {"http": [{"route": [{"destination": {"host": "app"}}]}]},
    },
    "test",
).objects[0]


def of_virtual_service(found: VirtualService) -> Written:
    assert isinstance(LEAF, VirtualService)
    wanted = {(rule.delegate.namespace or found.namespace, rule.delegate.name) for rule in found.spec.http if rule.delegate is not None}
    return Written(virtual_services=(found,), delegates=dict.fromkeys(wanted, LEAF))


def attach(route: Any) -> Any:
    """The same route, on our service."""
    return replace(route, spec=replace(route.spec, parent_refs=(ParentRef(group="", kind="Service", name="app", namespace="shop"),)))


def test_virtual_services(rig: Rig) -> None:
    rig.check(documents(VirtualService, NETWORKING), of_services(of_virtual_service))


def test_http_routes(rig: Rig) -> None:
    rig.check(documents(HTTPRoute, GATEWAY), of_services(lambda found: Written(http_routes=(attach(found),))))


def test_grpc_routes(rig: Rig) -> None:
    rig.check(documents(GRPCRoute, GATEWAY), of_services(lambda found: Written(grpc_routes=(attach(found),))))


def test_tls_and_tcp_routes(rig: Rig) -> None:
    rig.check(documents(TLSRoute, GATEWAY), of_services(lambda found: Written(tls_routes=(attach(found),))))
    rig.check(documents(TCPRoute, GATEWAY), of_services(lambda found: Written(tcp_routes=(attach(found),))))


# Clusters


def test_destination_rules(rig: Rig) -> None:
    def make(objects: Sequence[DestinationRule]) -> list[Any]:
        messages: list[Any] = []
        resolutions = itertools.cycle((Resolution.STATIC, Resolution.DNS, Resolution.NONE))
        for number, (found, context) in enumerate(itertools.product(objects, CONTEXTS)):
            rule = destination_rule.merge([found]).value
            assert rule is not None
            mesh = replace(FRONTEND, resolution=next(resolutions))
            for port, subset in itertools.product(PORTS[:2], ("", *rule.subsets)):
                name = f"{number}|{port.port}|{subset}"
                groups = (LocalityGroup((Endpoint(SocketAddress(VIP, 80)),)),)
                made = destination_rule.cluster(mesh, rule, port.port, subset, context, Assignment(name, groups)).value
                messages.append(clusters.cluster(there(replace(made, name=name), rig.files), replace(WAYPOINT, kind=context.kind)))
        return messages

    rig.check(documents(DestinationRule, NETWORKING), make)


def there(cluster: Cluster, files: Path) -> Cluster:
    """With files that exist in the places of those that are named: Envoy reads them when it is told of them."""
    tls = cluster.tls
    if tls is None:
        return cluster
    roots = Credential(str(files / "root.pem")) if tls.roots.file else tls.roots
    if tls.certificate is not None:
        tls = replace(tls, certificate=Credential(str(files / "a.pem")), key=Credential(str(files / "a.key")))
    return replace(cluster, tls=replace(tls, roots=roots, crl=None))


# What guards and watches


def chains_of(make: Callable[[Any], Chain]) -> Callable[[Sequence[Any]], list[Any]]:
    def listener(objects: Sequence[Any]) -> list[Any]:
        chains = [replace(make(found), host=f"app{number}", addresses=(VIP + number,)) for number, found in enumerate(objects)]
        return [waypoint.main_internal(chains, WAYPOINT)]

    return listener


HTTP = Chain("app", 80, Traffic.HTTP, (VIP,), table=TABLE)


def test_authorization_policies(rig: Rig) -> None:
    tcp = port_routes(Target(FRONTEND), 9000, Written(), CONTEXTS[0]).value.tcp

    def make(found: AuthorizationPolicy) -> Chain:
        made = enforced([found], WAYPOINT.trust_domains).value
        return replace(HTTP, traffic=Traffic.AUTO, guard=Guard(made.http, made.tcp), tcp=tcp)

    rig.check(documents(AuthorizationPolicy, SECURITY), chains_of(make))


@pytest.mark.parametrize("remote", [True, False])
def test_request_authentications(rig: Rig, remote: bool) -> None:
    found = documents(RequestAuthentication, SECURITY, 200)
    servers = {cluster.name: cluster for one in found for cluster in tokens([one], {}, {}, remote=remote).value.clusters}

    def make(one: RequestAuthentication) -> Chain:
        return replace(HTTP, guard=Guard(jwt=tokens([one], {}, {}, remote=remote).value.rules), claims=remote)

    assert rig.takes([clusters.cluster(cluster, WAYPOINT) for cluster in servers.values()]), rig.said
    rig.check(found, chains_of(make))


def test_telemetries(rig: Rig) -> None:
    provider = PROVIDERS["b"]
    assert isinstance(provider, TraceProvider)
    base = L7Telemetry((AccessLog(LogProvider("a", "/dev/null")),))

    def make(found: Telemetry) -> Chain:
        made = merged([found], PROVIDERS, Kind.WAYPOINT, base).value
        return replace(HTTP, telemetry=replace(made, tracing=replace(made.tracing, provider=provider)))

    rig.check(documents(Telemetry, TELEMETRY), chains_of(make))


def test_large_expressions(rig: Rig) -> None:
    """Larger than Envoy takes when it is not told otherwise, and as large as we take."""
    pattern = "/(?:[a-z]{1,40}|[0-9]{1,40}){1,10}"
    assert usable_regex(pattern)
    match = RouteMatch(PathMatch(PathKind.REGEX, pattern))
    assert rig.takes([routes.route_table(RouteTable(TABLE, (VirtualHost("a", ("*",), (Route(match, Respond(200)),)),)))]), rig.said
    assert not usable_regex("(?:a{1,1000}){1,100}")
