"""DestinationRules → clusters: what counts of several, and what each field becomes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from mesh.model.l7.clusters import (
    NOBODY,
    SYSTEM_ROOTS,
    Balancing,
    Cluster,
    Credential,
    Discovery,
    HttpVersion,
    Keepalive,
    Outlier,
    Policy,
    Pool,
    RetryBudget,
    Tls,
    Warmup,
)
from mesh.model.l7.endpoints import Assignment, Endpoint, HostPort, LocalityGroup
from mesh.model.l7.notes import Problem
from mesh.model.l7.profile import Context
from mesh.model.l7.routes import Hash, HashKind
from mesh.model.l7.services import MeshService, Resolution
from mesh.model.l7.translate.destination_rule import cluster, effective, merge
from mesh.model.manifest import DestinationRule
from mesh.model.workload import AppProtocol, SocketAddress
from tests.model.l7.objects import CLIENT, GRPC, WAYPOINT, host, made, service

SECOND = timedelta(seconds=1)


def rule(name: str = "one", **spec: Any) -> DestinationRule:
    found: DestinationRule = made("DestinationRule", {"host": "app", **spec}, name)
    return found


def of(policy: dict[str, Any] | None, mesh: MeshService | None = None, context: Context = WAYPOINT, port: int = 80) -> Cluster:
    merged = merge([rule(trafficPolicy=policy)] if policy is not None else []).value
    return cluster(mesh or service(), merged, port, "", context).value


def test_defaults() -> None:
    assert of(None) == Cluster(f"outbound|80||{host('app')}", host("app"), 80, "shop")


def test_several_rules() -> None:
    old = rule("old", trafficPolicy={"loadBalancer": {"simple": "RANDOM"}}, subsets=[{"name": "v1", "labels": {"version": "v1"}}])
    young = rule(
        "young",
        trafficPolicy={"loadBalancer": {"simple": "ROUND_ROBIN"}},
        subsets=[{"name": "v1", "labels": {"version": "x"}}, {"name": "v2", "labels": {"version": "v2"}}],
    )
    found = merge([old, young])
    assert found.value is not None
    assert {name: dict(subset.labels) for name, subset in found.value.subsets.items()} == {"v1": {"version": "v1"}, "v2": {"version": "v2"}}
    assert cluster(service(), found.value, 80, "", WAYPOINT).value.balancing.policy is Policy.RANDOM
    assert [(note.problem, note.subject.name, note.field) for note in found.notes] == [
        (Problem.CONFLICT, "young", "spec.trafficPolicy"),
        (Problem.CONFLICT, "young", "spec.subsets[0]"),
    ]


def settings(timeout: str) -> dict[str, Any]:
    return {"connectionPool": {"tcp": {"connectTimeout": timeout}}}


RANDOM = {"loadBalancer": {"simple": "RANDOM"}}
PORT = {"port": {"number": 80}}


@pytest.mark.parametrize(
    ("wide", "own", "timeout", "random"),
    [
        (settings("1s"), None, 1, False),
        ({**settings("1s"), **RANDOM}, settings("2s"), 2, True),
        ({**RANDOM, "portLevelSettings": [{**PORT, **settings("3s")}]}, None, 3, False),
        ({**RANDOM, "portLevelSettings": [{**PORT, **settings("3s")}]}, settings("2s"), 3, False),
        ({"portLevelSettings": [{**PORT, **settings("3s")}]}, {"portLevelSettings": [{**PORT, **settings("4s")}]}, 4, False),
        ({**RANDOM, "portLevelSettings": [{"port": {"number": 81}, **settings("3s")}]}, None, None, True),
    ],
)
def test_what_counts(wide: dict[str, Any], own: dict[str, Any] | None, timeout: int | None, random: bool) -> None:
    subset = {"name": "v1", "labels": {"version": "v1"}, **({"trafficPolicy": own} if own is not None else {})}
    merged = merge([rule(trafficPolicy=wide, subsets=[subset])]).value
    found = effective(merged, 80, "v1")
    pool = found.connection_pool
    assert (pool.tcp.connect_timeout if pool is not None and pool.tcp is not None else None) == timeout
    assert (found.load_balancer is not None) is random


BALANCING: list[tuple[dict[str, Any], Balancing]] = [
    ({"simple": "LEAST_CONN"}, Balancing()),
    ({"simple": "ROUND_ROBIN", "warmup": {"duration": "30s"}}, Balancing(Policy.ROUND_ROBIN, warmup=Warmup(30 * SECOND))),
    ({"warmupDurationSecs": "10s"}, Balancing(warmup=Warmup(10 * SECOND, 10.0, 1.0))),
    ({"consistentHash": {"useSourceIp": True}}, Balancing(Policy.RING_HASH, (Hash(HashKind.SOURCE_IP),))),
    (
        {"consistentHash": {"httpHeaderName": "X-User", "maglev": {"tableSize": 101}}},
        Balancing(Policy.MAGLEV, (Hash(HashKind.HEADER, "x-user"),), table_size=101),
    ),
    (
        {"consistentHash": {"httpQueryParameterName": "u", "minimumRingSize": 64}},
        Balancing(Policy.RING_HASH, (Hash(HashKind.QUERY, "u"),), ring_size=64),
    ),
    (
        {"consistentHash": {"httpCookie": {"name": "c", "path": "/", "ttl": "0s", "attributes": [{"name": "SameSite", "value": "Lax"}]}}},
        Balancing(Policy.RING_HASH, (Hash(HashKind.COOKIE, "c", "/", timedelta(), (("SameSite", "Lax"),)),)),
    ),
    ({"localityLbSetting": {"distribute": [{"from": "*", "to": {"a": 100}}]}}, Balancing(by_locality=True)),
    ({"localityLbSetting": {"distribute": [{"from": "*", "to": {"a": 100}}], "enabled": False}}, Balancing()),
]


@pytest.mark.parametrize(("written", "balancing"), BALANCING, ids=[str(case[0])[:50] for case in BALANCING])
def test_balancing(written: dict[str, Any], balancing: Balancing) -> None:
    assert of({"loadBalancer": written}).balancing == balancing


POOLS: list[tuple[dict[str, Any], Pool]] = [
    (
        {
            "tcp": {
                "maxConnections": 5,
                "connectTimeout": "3s",
                "maxConnectionDuration": "1h",
                "idleTimeout": "0s",
                "tcpKeepalive": {"probes": 3, "time": "10s"},
            }
        },
        Pool(3 * SECOND, 5, Keepalive(3, 10 * SECOND), timedelta(hours=1), None),
    ),
    (
        {
            "http": {
                "http1MaxPendingRequests": 1,
                "http2MaxRequests": 2,
                "maxRequestsPerConnection": 3,
                "maxRetries": 4,
                "idleTimeout": "5s",
                "maxConcurrentStreams": 6,
                "http2KeepAlive": {"interval": "7s", "timeout": "8s"},
            }
        },
        Pool(pending=1, requests=2, per_connection=3, retries=4, http_idle=5 * SECOND, streams=6, ping=(7 * SECOND, 8 * SECOND)),
    ),
    ({"http": {"http2MaxRequests": 0, "maxRequestsPerConnection": 0}}, Pool()),
]


@pytest.mark.parametrize(("written", "pool"), POOLS, ids=[str(case[0])[:50] for case in POOLS])
def test_pools(written: dict[str, Any], pool: Pool) -> None:
    assert of({"connectionPool": written}).pool == pool


def test_retry_budget() -> None:
    assert of({"retryBudget": {}}).pool == Pool(retry_budget=RetryBudget(20, 3))


OUTLIERS: list[tuple[dict[str, Any], Outlier, float]] = [
    ({}, Outlier(), 0),
    ({"consecutive5xxErrors": 0, "minHealthPercent": 30}, Outlier(0), 30),
    ({"consecutiveErrors": 7}, Outlier(gateway_errors=7), 0),
    ({"consecutiveGatewayErrors": 2, "consecutiveErrors": 7}, Outlier(gateway_errors=2), 0),
    (
        {
            "splitExternalLocalOriginErrors": True,
            "consecutiveLocalOriginFailures": 1,
            "interval": "1s",
            "baseEjectionTime": "2s",
            "maxEjectionPercent": 0,
            "outlierDetectionHttpErrorCodes": [429, 418, 429],
        },
        Outlier(5, 0, True, 1, SECOND, 2 * SECOND, 0, (418, 429)),
        0,
    ),
]


@pytest.mark.parametrize(("written", "outlier", "panic"), OUTLIERS, ids=[str(case[0])[:50] for case in OUTLIERS])
def test_outliers(written: dict[str, Any], outlier: Outlier, panic: float) -> None:
    found = of({"outlierDetection": written})
    assert (found.outlier, found.balancing.panic) == (outlier, panic)


NAMED = replace(service(), service=replace(service().service, subject_alt_names=("spiffe://x/y",)))
TLS: list[tuple[dict[str, Any], MeshService, Tls | None]] = [
    ({"mode": "DISABLE"}, service(), None),
    ({"mode": "ISTIO_MUTUAL"}, service(), None),
    ({"mode": "SIMPLE"}, service(), Tls(sni=host("app"))),
    ({"mode": "SIMPLE", "caCertificates": "system"}, service(), Tls(SYSTEM_ROOTS, sni=host("app"))),
    (
        {"mode": "SIMPLE", "caCertificates": "/ca", "sni": "a.b", "subjectAltNames": ["c.d"], "caCrl": "/crl"},
        service(),
        Tls(Credential("/ca"), crl=Credential("/crl"), sni="a.b", sans=("c.d",)),
    ),
    ({"mode": "SIMPLE"}, NAMED, Tls(sni=host("app"), sans=("spiffe://x/y",))),
    ({"mode": "SIMPLE", "insecureSkipVerify": True}, service(), Tls(sni=host("app"), insecure=True)),
    (
        {"mode": "MUTUAL", "clientCertificate": "/c", "privateKey": "/k"},
        service(),
        Tls(certificate=Credential("/c"), key=Credential("/k"), sni=host("app")),
    ),
    ({"mode": "SIMPLE", "sni": "x" * 256, "insecureSkipVerify": True}, service(), Tls(sans=(NOBODY,))),
    ({"mode": "SIMPLE", "credentialName": "c", "subjectAltNames": ["c.d"]}, service(), Tls(sni=host("app"), sans=(NOBODY,))),
    ({"mode": "MUTUAL", "credentialName": "c", "insecureSkipVerify": True}, service(), Tls(sni=host("app"), sans=(NOBODY,))),
]


@pytest.mark.parametrize(("written", "mesh", "tls"), TLS, ids=[str(case[0])[:60] for case in TLS])
def test_tls(written: dict[str, Any], mesh: MeshService, tls: Tls | None) -> None:
    assert of({"tls": written}, mesh).tls == tls


@pytest.mark.parametrize(
    ("written", "context", "said"),
    [
        ({"mode": "SIMPLE"}, WAYPOINT, None),
        ({"mode": "ISTIO_MUTUAL"}, GRPC, None),
        ({"mode": "SIMPLE"}, GRPC, (Problem.NO_EFFECT, "tls")),
        ({"mode": "SIMPLE", "credentialName": "c"}, WAYPOINT, (Problem.UNSUPPORTED, "tls.credentialName")),
        ({"mode": "SIMPLE", "sni": "x" * 256}, CLIENT, (Problem.UNSUPPORTED, "tls.sni")),
    ],
)
def test_what_is_said_of_tls(written: dict[str, Any], context: Context, said: tuple[Problem, str] | None) -> None:
    merged = merge([rule(trafficPolicy={"tls": written})]).value
    notes = cluster(service(), merged, 80, "", context).notes
    assert [(note.problem, note.field) for note in notes] == ([(said[0], f"spec.trafficPolicy.{said[1]}")] if said else [])


@pytest.mark.parametrize(
    ("protocol", "http", "version"),
    [
        (AppProtocol.HTTP11, {}, HttpVersion.HTTP1),
        (AppProtocol.HTTP2, {}, HttpVersion.HTTP2),
        (AppProtocol.GRPC, {}, HttpVersion.HTTP2),
        (AppProtocol.UNKNOWN, {}, HttpVersion.CLIENT),
        (AppProtocol.HTTP11, {"h2UpgradePolicy": "UPGRADE"}, HttpVersion.HTTP2),
        (AppProtocol.UNKNOWN, {"h2UpgradePolicy": "DO_NOT_UPGRADE"}, HttpVersion.HTTP1),
        (AppProtocol.GRPC, {"h2UpgradePolicy": "DO_NOT_UPGRADE"}, HttpVersion.HTTP2),
        (AppProtocol.HTTP11, {"useClientProtocol": True}, HttpVersion.CLIENT),
    ],
)
def test_version_of_http(protocol: AppProtocol, http: dict[str, Any], version: HttpVersion) -> None:
    policy = {"connectionPool": {"http": {**http, "maxRetries": 1}}}
    assert of(policy, service(ports={80: protocol})).http is version


@pytest.mark.parametrize(("version", "number"), [("V1", 1), ("V2", 2)])
def test_proxy_protocol(version: str, number: int) -> None:
    assert of({"proxyProtocol": {"version": version}}).proxy_protocol == number


@pytest.mark.parametrize(
    ("resolution", "discovery"),
    [
        (Resolution.STATIC, Discovery.EDS),
        (Resolution.DNS, Discovery.DNS),
        (Resolution.DNS_ROUND_ROBIN, Discovery.DNS_ONE),
        (Resolution.NONE, Discovery.ORIGINAL),
        (Resolution.DYNAMIC_DNS, Discovery.DYNAMIC),
    ],
)
def test_discovery(resolution: Resolution, discovery: Discovery) -> None:
    assert of(None, service(resolution=resolution)).discovery is discovery


NAME, OTHER_NAME = Endpoint(HostPort("a.example", 80)), Endpoint(HostPort("b.example", 80))
ADDRESS = Endpoint(SocketAddress(ip_address("10.0.0.1"), 80))


@pytest.mark.parametrize(
    ("ends", "discovery", "one"),
    [
        ((), Discovery.EDS, Discovery.EDS),
        ((ADDRESS, ADDRESS), Discovery.EDS, Discovery.EDS),
        ((NAME,), Discovery.DNS, Discovery.DNS_ONE),
        ((NAME, OTHER_NAME), Discovery.DNS, Discovery.DNS),
        ((NAME, ADDRESS), Discovery.DNS, Discovery.DNS),
    ],
)
def test_only_names_are_looked_up(ends: tuple[Endpoint, ...], discovery: Discovery, one: Discovery) -> None:
    ends_by_place = Assignment("c", tuple(LocalityGroup((end,)) for end in ends))
    for resolution, expected in ((Resolution.DNS, discovery), (Resolution.DNS_ROUND_ROBIN, one)):
        made = cluster(service(resolution=resolution), None, 80, "", WAYPOINT, ends_by_place).value
        assert (made.discovery, made.endpoints) == (expected, None if expected is Discovery.EDS else ends_by_place)
    assert cluster(service(), None, 80, "", WAYPOINT, ends_by_place).value.discovery is Discovery.EDS


@pytest.mark.parametrize(
    ("context", "discovery", "said"), [(CLIENT, Discovery.ORIGINAL, 0), (WAYPOINT, Discovery.EDS, 1), (GRPC, Discovery.EDS, 1)]
)
def test_passthrough(context: Context, discovery: Discovery, said: int) -> None:
    merged = merge([rule(trafficPolicy={"loadBalancer": {"simple": "PASSTHROUGH"}})]).value
    found = cluster(service(), merged, 80, "", context)
    assert found.value.discovery is discovery
    assert [note.problem for note in found.notes] == [Problem.NO_EFFECT] * said
