"""DestinationRule: what happens between the choice of a service and that of its endpoint: pools, balancing, ejection, TLS, subsets."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.core import Object, Selector
from mesh.model.manifest.istio import NETWORKING_VERSIONS
from mesh.model.manifest.istio.actions import PortSelector
from mesh.model.manifest.istio.balancing import LoadBalancer
from mesh.model.manifest.istio.virtualservice import EXPORT_TO, EXPORTED_ALONE
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import DNS_LABEL, LABELS, NOTHING, PORT, Choice, Flag, Integer, ListOf, Number
from mesh.model.manifest.status import IstioStatus, status
from mesh.model.manifest.words import COUNT, DURATION, NONEMPTY, POSITIVE, UNSIGNED, WILD_HOST

PERCENT = Integer(0, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpKeepalive:
    """Times in seconds; None: as the operating system has it."""

    probes: int | None = item(UNSIGNED, about="How many probes may stay without an answer.")
    time: float | None = item(POSITIVE, about="How long a connection is idle before it is probed.")
    interval: float | None = item(POSITIVE, about="The time between probes.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TCPPool:
    """Times in seconds. None: without limit, or the default of the mesh."""

    max_connections: int | None = item(COUNT, about="How many connections there may be; also with HTTP.")
    connect_timeout: float | None = item(POSITIVE, about="How long connecting may take; absent, 10s.")
    tcp_keepalive: TcpKeepalive | None = item(Record(TcpKeepalive), about="Probes of idle connections.")
    max_connection_duration: float | None = item(POSITIVE, about="How long a connection may live.")
    idle_timeout: float | None = item(DURATION, about="How long a connection may be idle; absent, 1h; 0s for ever.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Http2Keepalive:
    interval: float = item(POSITIVE, required=True, about="How often the other side is pinged.")
    timeout: float = item(POSITIVE, required=True, about="How long its answer may take.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPPool:
    """Times in seconds. None: without limit, or the default of the mesh. The two limits of requests are for both versions of HTTP."""

    http1_max_pending_requests: int | None = item(
        COUNT, name="http1MaxPendingRequests", about="How many requests may wait for a connection."
    )
    http2_max_requests: int | None = item(COUNT, name="http2MaxRequests", about="How many requests may be under way.")
    max_requests_per_connection: int | None = item(COUNT, about="After how many requests a connection is closed; 0 for never, 1 for each.")
    max_retries: int | None = item(COUNT, about="How many requests may be tried again at one time.")
    idle_timeout: float | None = item(DURATION, about="How long a connection without requests lives; absent, 1h.")
    h2_upgrade_policy: str = item(
        Choice(("DEFAULT", "DO_NOT_UPGRADE", "UPGRADE")), "DEFAULT", name="h2UpgradePolicy", about="Whether HTTP/1.1 goes on as HTTP/2."
    )
    use_client_protocol: bool = item(Flag(), False, about="Whether the destination is spoken to in the client's version of HTTP.")
    max_concurrent_streams: int | None = item(COUNT, about="How many requests one HTTP/2 connection may carry at one time.")
    http2_keep_alive: Http2Keepalive | None = item(Record(Http2Keepalive), name="http2KeepAlive", about="Pings over HTTP/2 connections.")

    RULES = (
        Rule(
            lambda pool: not (pool.use_client_protocol and pool.h2_upgrade_policy == "UPGRADE"),
            "useClientProtocol",
            "useClientProtocol without UPGRADE",
            "!(has(self.useClientProtocol) && self.useClientProtocol && self.h2UpgradePolicy == 'UPGRADE')",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionPool:
    tcp: TCPPool | None = item(Record(TCPPool), about="Limits of connections.")
    http: HTTPPool | None = item(Record(HTTPPool), about="Limits of requests.")

    RULES = (Rule(lambda pool: pool.tcp or pool.http, "", "at least one of tcp and http", "has(self.tcp) || has(self.http)"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDetection:
    """Times in seconds; None where Envoy's own default counts. That it is there at all turns ejection on."""

    consecutive5xx_errors: int | None = item(
        UNSIGNED, name="consecutive5xxErrors", about="After how many errors in a row an endpoint is left out; absent, 5; 0 for never."
    )
    consecutive_gateway_errors: int | None = item(UNSIGNED, about="As consecutive5xxErrors, counting 502, 503 and 504 alone.")
    consecutive_local_origin_failures: int | None = item(
        UNSIGNED, about="As consecutive5xxErrors, counting failures to reach the endpoint; absent, 5."
    )
    split_external_local_origin_errors: bool = item(Flag(), False, about="Whether failures to reach an endpoint are counted apart.")
    consecutive_errors: int | None = item(COUNT, about="The old way to say consecutiveGatewayErrors.")
    interval: float | None = item(POSITIVE, about="How often endpoints are looked at; absent, 10s.")
    base_ejection_time: float | None = item(POSITIVE, about="How long an endpoint is left out, times how often it was; absent, 30s.")
    max_ejection_percent: int | None = item(PERCENT, about="How many of a hundred endpoints may be left out; absent, 10.")
    min_health_percent: int | None = item(PERCENT, about="With fewer healthy endpoints of a hundred, nobody is left out; absent, 0.")
    outlier_detection_http_error_codes: tuple[int, ...] = item(
        ListOf(Integer(100, 599), most=500), (), about="Status codes that count as errors."
    )


TLS_MODES = ("DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL")
NO_SECRETS = "waypoints read certificates from files and from the mesh's authority, never from Secrets"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    mode: str = item(Choice(TLS_MODES), "DISABLE", about="TLS towards the destination; DISABLE and ISTIO_MUTUAL leave it to the mesh.")
    client_certificate: str = item(NONEMPTY, "", about="The file of the client's certificate, for MUTUAL.")
    private_key: str = item(NONEMPTY, "", about="The file of the client's key, for MUTUAL.")
    ca_certificates: str = item(
        NONEMPTY, "", about="The file of authorities that the server's certificate may come from; absent, the system's."
    )
    credential_name: str = item(NONEMPTY, "", about="A Secret with all of these.", unsupported=NO_SECRETS, guard=True)
    subject_alt_names: tuple[str, ...] = item(
        ListOf(NONEMPTY, most=256), (), about="Names of which the server's certificate must hold one."
    )
    sni: str = item(NONEMPTY, "", about="The server name that is asked for.")
    insecure_skip_verify: bool | None = item(Flag(), about="Whether any certificate of the server is taken.")
    ca_crl: str = item(NONEMPTY, "", about="The file of certificates that were revoked.")

    RULES = (
        Rule(
            lambda tls: tls.mode != "MUTUAL" or tls.credential_name or (tls.client_certificate and tls.private_key),
            "mode",
            "clientCertificate and privateKey with MUTUAL",
            "self.mode != 'MUTUAL' || has(self.credentialName) || has(self.clientCertificate) && has(self.privateKey)",
        ),
        Rule(
            lambda tls: not tls.credential_name or not (tls.client_certificate or tls.private_key or tls.ca_certificates or tls.ca_crl),
            "credentialName",
            "credentialName, or files",
            "!has(self.credentialName) || "
            "!(has(self.clientCertificate) || has(self.privateKey) || has(self.caCertificates) || has(self.caCrl))",
        ),
        Rule(
            lambda tls: (
                tls.mode != "ISTIO_MUTUAL" or not (tls.client_certificate or tls.private_key or tls.ca_certificates or tls.credential_name)
            ),
            "mode",
            "no certificates of one's own with ISTIO_MUTUAL",
            "self.mode != 'ISTIO_MUTUAL' || !(has(self.clientCertificate) || has(self.privateKey) || has(self.caCertificates) || "
            "has(self.credentialName))",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    protocol: str = item(Choice(("CONNECT", "POST")), "CONNECT", about="How the other proxy is asked.")
    target_host: str = item(NONEMPTY, required=True, about="Where the other proxy connects.")
    target_port: int = item(PORT, required=True, about="The port there.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyProtocol:
    version: str = item(Choice(("V1", "V2")), "V1", about="The version of the PROXY protocol that the destination is sent.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """`budget_interval` in seconds."""

    percent: float = item(Number(0, 100), 20.0, about="How many of a hundred requests under way may be further tries.")
    min_retry_concurrency: int = item(UNSIGNED, 3, about="How many further tries may always be under way.")
    budget_interval: float = item(DURATION, 0.0, about="How long past requests count; 0s for those under way alone.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPolicy:
    port: PortSelector = item(Record(PortSelector), required=True, about="The port of the service.")
    load_balancer: LoadBalancer | None = item(Record(LoadBalancer), about="How endpoints are chosen.")
    connection_pool: ConnectionPool | None = item(Record(ConnectionPool), about="Limits of connections and requests.")
    outlier_detection: OutlierDetection | None = item(Record(OutlierDetection), about="When an endpoint is left out for its errors.")
    tls: ClientTls | None = item(Record(ClientTls), about="TLS towards the destination.")

    @property
    def number(self) -> int:
        return self.port.number


PORT_POLICIES_APART = Rule(
    lambda policy: len({entry.number for entry in policy.port_level_settings}) == len(policy.port_level_settings),
    "portLevelSettings",
    "each port once",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPolicy:
    load_balancer: LoadBalancer | None = item(Record(LoadBalancer), about="How endpoints are chosen.")
    connection_pool: ConnectionPool | None = item(Record(ConnectionPool), about="Limits of connections and requests.")
    outlier_detection: OutlierDetection | None = item(Record(OutlierDetection), about="When an endpoint is left out for its errors.")
    tls: ClientTls | None = item(Record(ClientTls), about="TLS towards the destination.")
    port_level_settings: tuple[PortPolicy, ...] = item(
        ListOf(Record(PortPolicy), most=4096), (), about="Settings of single ports, which take nothing over from the others."
    )
    tunnel: Tunnel | None = item(
        Record(Tunnel), about="Another proxy to go through.", unsupported="what leaves the mesh goes straight to its destination"
    )
    proxy_protocol: ProxyProtocol | None = item(Record(ProxyProtocol), about="A header that tells the destination who the client is.")
    retry_budget: RetryBudget | None = item(Record(RetryBudget), about="How many further tries there may be.")

    RULES = (
        Rule(
            lambda policy: policy != TrafficPolicy(),
            "",
            "at least one setting",
            "has(self.loadBalancer) || has(self.connectionPool) || has(self.outlierDetection) || has(self.tls) || "
            "has(self.portLevelSettings) && size(self.portLevelSettings) > 0 || "
            "has(self.tunnel) || has(self.proxyProtocol) || has(self.retryBudget)",
        ),
        Rule(
            lambda policy: policy.tunnel is None or policy.proxy_protocol is None,
            "tunnel",
            "one of tunnel and proxyProtocol",
            "!(has(self.tunnel) && has(self.proxyProtocol))",
        ),
        PORT_POLICIES_APART,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    name: str = item(DNS_LABEL, required=True, about="What routes call it.")
    labels: Mapping[str, str] = item(LABELS, NOTHING, about="Labels of the service's endpoints that belong to it.")
    traffic_policy: TrafficPolicy | None = item(Record(TrafficPolicy), about="Settings that replace those above, each as a whole.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationRuleSpec:
    host: str = item(WILD_HOST, required=True, about="The service's name; without a dot, one of the rule's own namespace.")
    traffic_policy: TrafficPolicy | None = item(Record(TrafficPolicy), about="Settings for every endpoint of the service.")
    subsets: tuple[Subset, ...] = item(
        ListOf(Record(Subset), most=1024, unique="name"), (), about="Versions of the service, for routes to name."
    )
    export_to: tuple[str, ...] = item(EXPORT_TO, (), about="Namespaces whose clients the rule is for: '.' its own, * all; absent, all.")
    workload_selector: Selector | None = item(
        Record(Selector), about="Clients that the rule is for.", unsupported="a waypoint serves every client, and cannot tell them apart"
    )

    RULES = (EXPORTED_ALONE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationRule(Object):
    """Says how a service's endpoints are used: subsets, balancing, limits, ejection and TLS."""

    KIND = "DestinationRule"
    API_VERSIONS = NETWORKING_VERSIONS

    spec: DestinationRuleSpec = item(Record(DestinationRuleSpec), required=True, about="The service, and how it is used.")
    status: Any = status(IstioStatus, "What became of the rule.")
