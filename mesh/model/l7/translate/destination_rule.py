"""DestinationRules → clusters.

Of several for one host the subsets are united and the oldest traffic policy counts. What counts for one port of one subset:

    the policy of the rule  <  each block of the subset's policy  <  the settings of the port (the subset's own before the rule's)

where settings of a port replace balancing, pool, ejection and TLS all together: what they leave out is the default again, not the parent's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType

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
from mesh.model.l7.endpoints import Assignment, HostPort
from mesh.model.l7.names import cluster_name
from mesh.model.l7.notes import Notes, Problem, Translated
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.routes import Hash, HashKind
from mesh.model.l7.services import MeshService, Resolution
from mesh.model.l7.texts import clean
from mesh.model.manifest import DestinationRule, Key
from mesh.model.manifest.istio.balancing import ConsistentHash, LoadBalancer
from mesh.model.manifest.istio.destinationrule import (
    ClientTls,
    ConnectionPool,
    HTTPPool,
    OutlierDetection,
    PortPolicy,
    ProxyProtocol,
    Subset,
    TCPPool,
    TrafficPolicy,
)
from mesh.model.manifest.istio.destinationrule import RetryBudget as ManifestBudget
from mesh.model.workload import AppProtocol

SYSTEM = "system"
MAX_SNI = 255
DISCOVERIES = {
    Resolution.STATIC: Discovery.EDS,
    Resolution.NONE: Discovery.ORIGINAL,
    Resolution.DNS: Discovery.DNS,
    Resolution.DNS_ROUND_ROBIN: Discovery.DNS_ONE,
    Resolution.DYNAMIC_DNS: Discovery.DYNAMIC,
}
BY_NAME = (Discovery.DNS, Discovery.DNS_ONE)
SIMPLE = {"RANDOM": Policy.RANDOM, "ROUND_ROBIN": Policy.ROUND_ROBIN}
HTTP_VERSIONS = {
    AppProtocol.HTTP2: HttpVersion.HTTP2,
    AppProtocol.GRPC: HttpVersion.HTTP2,
    AppProtocol.UNKNOWN: HttpVersion.CLIENT,
}


@dataclass(frozen=True, slots=True)
class MergedRule:
    """All DestinationRules of one host, oldest first. `policy_of` is the object whose policy counts, `subset_of` whose each subset is."""

    rules: tuple[Key, ...]
    policy: TrafficPolicy | None
    subsets: Mapping[str, Subset]
    policy_of: Key | None
    subset_of: Mapping[str, Key]


def merge(rules: Sequence[DestinationRule]) -> Translated[MergedRule | None]:
    """`rules` oldest first."""
    notes = Notes()
    policy: TrafficPolicy | None = None
    policy_of: Key | None = None
    subsets: dict[str, Subset] = {}
    subset_of: dict[str, Key] = {}
    for rule in rules:
        if rule.spec.traffic_policy is not None:
            if policy_of is None:
                policy, policy_of = rule.spec.traffic_policy, rule.key
            else:
                notes.add(
                    Problem.CONFLICT, rule.key, "spec.trafficPolicy", f"that of {policy_of}, which is older, counts for {rule.spec.host}"
                )
        for index, subset in enumerate(rule.spec.subsets):
            if subset.name in subsets:
                owner = subset_of[subset.name]
                notes.add(
                    Problem.CONFLICT, rule.key, f"spec.subsets[{index}]", f"{owner}, which is older, has one of this name that counts"
                )
            else:
                subsets[subset.name], subset_of[subset.name] = subset, rule.key
    if not rules:
        return notes.done(None)
    merged = tuple(rule.key for rule in rules)
    return notes.done(MergedRule(merged, policy, MappingProxyType(subsets), policy_of, MappingProxyType(subset_of)))


@dataclass(frozen=True, slots=True)
class Effective:
    """What counts for one port of one subset, block by block."""

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: ManifestBudget | None = None


NOTHING = Effective()


def effective(rule: MergedRule | None, port: int, subset: str) -> Effective:
    if rule is None:
        return NOTHING
    wide = rule.policy or None
    own = rule.subsets[subset].traffic_policy if subset in rule.subsets else None
    found = NOTHING
    for policy in (wide, own):
        if policy is not None:
            found = Effective(
                policy.load_balancer or found.load_balancer,
                policy.connection_pool or found.connection_pool,
                policy.outlier_detection or found.outlier_detection,
                policy.tls or found.tls,
                policy.proxy_protocol or found.proxy_protocol,
                policy.retry_budget or found.retry_budget,
            )
    settings = _of_port(own, port) or _of_port(wide, port)
    if settings is None:
        return found
    return replace(
        found,
        load_balancer=settings.load_balancer,
        connection_pool=settings.connection_pool,
        outlier_detection=settings.outlier_detection,
        tls=settings.tls,
    )


def _of_port(policy: TrafficPolicy | None, port: int) -> PortPolicy | None:
    settings = policy.port_level_settings if policy is not None else ()
    return next((entry for entry in settings if entry.number == port), None)


def cluster(
    mesh: MeshService, rule: MergedRule | None, port: int, subset: str, context: Context, endpoints: Assignment | None = None
) -> Translated[Cluster]:
    """`endpoints` for services that may have some that proxies look up in DNS. The port must be one of the service's."""
    notes = Notes()
    entry = mesh.port(port)
    assert entry is not None
    found = effective(rule, port, subset)
    pool = found.connection_pool.http if found.connection_pool is not None else None
    if found.tls is not None and found.tls.mode in ("SIMPLE", "MUTUAL") and context.kind is Kind.GRPC:
        message = "whether a gRPC client speaks TLS is for its own channel credentials to say"
        notes.add(Problem.NO_EFFECT, _subject(rule, subset), "spec.trafficPolicy.tls", message)
    discovery = DISCOVERIES[mesh.resolution]
    if found.load_balancer is not None and found.load_balancer.simple == "PASSTHROUGH" and discovery is Discovery.EDS:
        if context.kind is Kind.CLIENT:
            discovery = Discovery.ORIGINAL
        else:
            subject = _subject(rule, subset)
            message = "PASSTHROUGH would lead a waypoint back to itself, and gRPC knows none: LEAST_REQUEST"
            notes.add(Problem.NO_EFFECT, subject, "spec.trafficPolicy.loadBalancer.simple", message)
    if endpoints is not None and discovery in BY_NAME:
        discovery = _by_name(discovery, endpoints)
    return notes.done(
        Cluster(
            name=cluster_name(mesh.host, port, subset),
            host=mesh.host,
            namespace=mesh.service.namespace,
            port=port,
            subset=subset,
            discovery=discovery,
            endpoints=endpoints if discovery in BY_NAME else None,
            http=_version(pool, entry.protocol),
            balancing=_balancing(found),
            pool=pool_of(found),
            outlier=_outlier(found.outlier_detection),
            tls=_tls(found.tls, mesh, _subject(rule, subset), notes) if found.tls is not None else None,
            proxy_protocol={None: 0, "V1": 1, "V2": 2}[found.proxy_protocol.version if found.proxy_protocol else None],
        )
    )


def _by_name(wanted: Discovery, endpoints: Assignment) -> Discovery:
    """Where all have addresses, these are told like any others, so that tunnels lead there. Names cannot be told so; where one is wanted,
    proxies refuse several, or none.
    """
    found = [endpoint for group in endpoints.groups for endpoint in group.endpoints]
    if not any(isinstance(endpoint.address, HostPort) for endpoint in found):
        return Discovery.EDS
    return wanted if len(found) == 1 else Discovery.DNS


def _subject(rule: MergedRule | None, subset: str) -> Key:
    assert rule is not None
    found = rule.subset_of.get(subset) or rule.policy_of
    assert found is not None
    return found


def _version(pool: HTTPPool | None, protocol: AppProtocol) -> HttpVersion:
    version = HTTP_VERSIONS.get(protocol, HttpVersion.HTTP1)
    if pool is None:
        return version
    if pool.use_client_protocol:
        return HttpVersion.CLIENT
    if pool.h2_upgrade_policy == "UPGRADE":
        return HttpVersion.HTTP2
    if pool.h2_upgrade_policy == "DO_NOT_UPGRADE" and version is HttpVersion.CLIENT:
        return HttpVersion.HTTP1
    return version


def hashes_of(balancer: LoadBalancer | None) -> tuple[Hash, ...]:
    hashed = balancer.consistent_hash if balancer is not None else None
    return () if hashed is None else (_hash(hashed),)


def _hash(hashed: ConsistentHash) -> Hash:
    if hashed.http_header_name:
        return Hash(HashKind.HEADER, hashed.http_header_name)
    if hashed.http_query_parameter_name:
        return Hash(HashKind.QUERY, hashed.http_query_parameter_name)
    cookie = hashed.http_cookie
    if cookie is None:
        return Hash(HashKind.SOURCE_IP)
    attributes = tuple((clean(entry.name), clean(entry.value)) for entry in cookie.attributes)
    return Hash(HashKind.COOKIE, clean(cookie.name) or "-", clean(cookie.path), _seconds(cookie.ttl), attributes)


def _balancing(found: Effective) -> Balancing:
    balancer = found.load_balancer
    outlier = found.outlier_detection
    panic = float(outlier.min_health_percent or 0) if outlier is not None else 0.0
    if balancer is None:
        return Balancing(panic=panic)
    locality = balancer.locality_lb_setting
    by_locality = locality is not None and locality.enabled is not False and bool(locality.distribute)
    warming = balancer.warming
    made = Balancing(
        policy=SIMPLE.get(balancer.simple, Policy.LEAST_REQUEST),
        warmup=Warmup(timedelta(seconds=warming.duration), warming.minimum_percent, warming.aggression) if warming is not None else None,
        panic=panic,
        by_locality=by_locality,
    )
    hashed = balancer.consistent_hash
    if hashed is None:
        return made
    made = replace(made, hashes=hashes_of(balancer))
    if hashed.maglev is not None:
        return replace(made, policy=Policy.MAGLEV, table_size=hashed.maglev.table_size)
    return replace(made, policy=Policy.RING_HASH, ring_size=hashed.ring_size)


def pool_of(found: Effective) -> Pool:
    tcp = (found.connection_pool.tcp if found.connection_pool is not None else None) or TCPPool()
    http = (found.connection_pool.http if found.connection_pool is not None else None) or HTTPPool()
    budget = found.retry_budget
    keepalive = tcp.tcp_keepalive
    ping = http.http2_keep_alive
    default = Pool()
    return Pool(
        connect_timeout=_seconds(tcp.connect_timeout) or default.connect_timeout,
        connections=tcp.max_connections or None,
        keepalive=Keepalive(keepalive.probes or 0, _seconds(keepalive.time) or timedelta(), _seconds(keepalive.interval) or timedelta())
        if keepalive is not None
        else None,
        longest=_seconds(tcp.max_connection_duration),
        tcp_idle=_idle(tcp.idle_timeout, default.tcp_idle),
        pending=http.http1_max_pending_requests or None,
        requests=http.http2_max_requests or None,
        retries=http.max_retries or None,
        per_connection=http.max_requests_per_connection or None,
        http_idle=_idle(http.idle_timeout, default.http_idle),
        streams=http.max_concurrent_streams or None,
        ping=(timedelta(seconds=ping.interval), timedelta(seconds=ping.timeout)) if ping is not None else None,
        retry_budget=RetryBudget(budget.percent, budget.min_retry_concurrency) if budget is not None else None,
    )


def _outlier(found: OutlierDetection | None) -> Outlier | None:
    """That the block is there, if empty, turns it on."""
    if found is None:
        return None
    default = Outlier()
    gateway = found.consecutive_gateway_errors if found.consecutive_gateway_errors is not None else found.consecutive_errors
    return Outlier(
        consecutive_5xx=default.consecutive_5xx if found.consecutive5xx_errors is None else found.consecutive5xx_errors,
        gateway_errors=gateway or 0,
        split=found.split_external_local_origin_errors,
        local_failures=default.local_failures
        if found.consecutive_local_origin_failures is None
        else found.consecutive_local_origin_failures,
        interval=_seconds(found.interval) or default.interval,
        ejection=_seconds(found.base_ejection_time) or default.ejection,
        max_percent=default.max_percent if found.max_ejection_percent is None else found.max_ejection_percent,
        codes=tuple(sorted(set(found.outlier_detection_http_error_codes))),
    )


def _tls(found: ClientTls, mesh: MeshService, subject: Key, notes: Notes) -> Tls | None:
    """DISABLE and ISTIO_MUTUAL leave it to the mesh, whose tunnels are mutual TLS anyway. A name is always checked: where none is given,
    the one that SNI asks for.
    """
    if found.mode in ("DISABLE", "ISTIO_MUTUAL"):
        return None
    sni = found.sni or ("" if mesh.host.startswith("*") else mesh.host)
    names = found.subject_alt_names or mesh.service.subject_alt_names
    if len(sni.encode()) > MAX_SNI:
        message = f"longer than the {MAX_SNI} bytes that a server name may have: no server is believed to be this one"
        notes.add(Problem.UNSUPPORTED, subject, "spec.trafficPolicy.tls.sni", message)
        return Tls(sans=(NOBODY,))
    if found.credential_name:
        message = "proxies are given no Secrets of this kind: no server is believed to be this one"
        notes.add(Problem.UNSUPPORTED, subject, "spec.trafficPolicy.tls.credentialName", message)
        return Tls(sni=sni, sans=(NOBODY,))
    mutual = found.mode == "MUTUAL" and found.client_certificate and found.private_key
    roots = found.ca_certificates
    return Tls(
        roots=Credential(file=roots) if roots and roots != SYSTEM else SYSTEM_ROOTS,
        certificate=Credential(file=found.client_certificate) if mutual else None,
        key=Credential(file=found.private_key) if mutual else None,
        crl=Credential(file=found.ca_crl) if found.ca_crl else None,
        sni=sni,
        sans=names,
        insecure=bool(found.insecure_skip_verify),
    )


def _seconds(value: float | None) -> timedelta | None:
    return None if value is None else timedelta(seconds=value)


def _idle(value: float | None, default: timedelta | None) -> timedelta | None:
    """0 is never."""
    return default if value is None else timedelta(seconds=value) or None
