"""What a node tunnel can be told, all by environment variables; Istio's names where Istio has one. Only this file reads the environment."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mesh.io.http import parse_address
from mesh.model.errors import ConfigError, Refusal

T = TypeVar("T")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. Under each field: its variable, meaning, unit, default, and how to switch it off."""

    instance: str
    """CULVERT_INSTANCE. Names this tunnel in logs where several run on one kernel. Default: the node's name."""

    node_name: str
    """NODE_NAME. The node, as workloads name it. Default: empty (no locality preference by node)."""

    network: str
    """NETWORK. The network this node is on, told to the control plane. Default: empty, the only one."""

    cluster_id: str
    """CLUSTER_ID. Sent to the control plane and shown in telemetry. Default: Kubernetes."""

    pod_name: str
    """POD_NAME. This tunnel's own pod. Default: ztunnel."""

    pod_namespace: str
    """POD_NAMESPACE. Default: istio-system."""

    instance_ip: str
    """INSTANCE_IP. This tunnel's own address, part of its xDS node id. Default: 127.0.0.1."""

    xds_address: str
    """XDS_ADDRESS. Control plane, https://host:port or http://host:port. Default: https://istiod.istio-system.svc:15012."""

    xds_root_ca: Path | None
    """XDS_ROOT_CA. PEM file that proves it; `SYSTEM` for the system's roots. Default: ./var/run/secrets/istio/root-cert.pem."""

    xds_server_name: str | None
    """ALT_XDS_HOSTNAME. DNS name in its certificate, where that is not the address's host. Default: off."""

    ca_address: str
    """CA_ADDRESS. Certificate service. Default: XDS_ADDRESS."""

    ca_root_ca: Path | None
    """CA_ROOT_CA. As XDS_ROOT_CA. Default: XDS_ROOT_CA."""

    ca_server_name: str | None
    """ALT_CA_HOSTNAME. As ALT_XDS_HOSTNAME. Default: ALT_XDS_HOSTNAME."""

    auth_token: Path | None
    """AUTH_TOKEN. File with the bearer token, read at each use; `none` for none. Default: ./var/run/secrets/tokens/istio-token."""

    secret_ttl: float
    """SECRET_TTL. Lifetime to ask of the CA, a duration. Default: 24h."""

    inpod_uds: Path
    """INPOD_UDS. The agent's ZDS socket. Default: /var/run/ztunnel/ztunnel.sock."""

    mark_file: Path | None
    """CULVERT_MARK_FILE. File from which the socket mark is read at every ZDS connect. Default: off; the mark is then PACKET_MARK."""

    packet_mark: int
    """PACKET_MARK. Socket mark where there is no mark file. Default: 1337, Istio's."""

    admin_address: str
    """ADMIN_ADDR. Default: 127.0.0.1:15000. Must be a loopback address."""

    metrics_address: str
    """STATS_ADDR. Default: [::]:15020."""

    readiness_address: str
    """READINESS_ADDR. Default: [::]:15021."""

    drain_deadline: float
    """CONNECTION_TERMINATION_DEADLINE, a duration; else TERMINATION_GRACE_PERIOD_SECONDS - 5 (- 1 if that is 10 or less); else 5 s.
    Seconds from SIGTERM until connections that still run are reset."""

    ipv6: bool
    """IPV6_ENABLED. Listen on IPv6 in pods. Default: true."""

    response_baggage: bool
    """ENABLE_RESPONSE_BAGGAGE. Describe the destination to the client's tunnel. Default: true."""

    access_log: Path | None
    """CULVERT_ACCESS_LOG. File for the access log. Default: standard output. Off: LOG_LEVEL=info,access=off."""

    log_level: str
    """LOG_LEVEL. `info` or `info,xds=debug`. Default: info."""

    log_format: str
    """LOG_FORMAT. json or text. Default: json."""

    max_connections: int
    """CULVERT_MAX_CONNECTIONS. Connections carried at once; more are refused. Default: 100000. 0: no bound but the descriptors."""

    max_connections_per_pod: int
    """CULVERT_MAX_CONNECTIONS_PER_POD. The same for one pod. Default: 0, off."""

    pool_streams: int
    """POOL_MAX_STREAMS_PER_CONNECTION. Default: 100."""

    pool_idle: float
    """POOL_UNUSED_RELEASE_TIMEOUT. A tunnel without streams is closed after this, a duration. Default: 5m."""

    connect_timeout: float
    """CULVERT_CONNECT_TIMEOUT. TCP connects, a duration. Default: 10s."""

    handshake_timeout: float
    """CULVERT_HANDSHAKE_TIMEOUT. TLS handshakes, a duration. Default: 10s."""

    workload_timeout: float
    """CULVERT_WORKLOAD_TIMEOUT. How long a connection waits for its own pod's workload and certificate, a duration. Default: 5s."""

    node_metadata: Mapping[str, str]
    """ISTIO_META_<NAME>. Sent to the control plane as node metadata <NAME>."""


def from_environment(environment: Mapping[str, str] | None = None) -> Config:
    """Raises ConfigError naming every variable that cannot be read."""
    env = _Reader(os.environ if environment is None else environment)  # noqa: TID251 - this is the file that may
    xds_address = env.text("XDS_ADDRESS", "https://istiod.istio-system.svc:15012")
    root = env.text("XDS_ROOT_CA", "./var/run/secrets/istio/root-cert.pem")
    ca_root = env.text("CA_ROOT_CA", root)
    token = env.text("AUTH_TOKEN", "./var/run/secrets/tokens/istio-token")
    grace = env.parsed("TERMINATION_GRACE_PERIOD_SECONDS", None, duration, "a duration such as 30s")
    deadline = 5.0 if grace is None else max(0.0, grace - (5.0 if grace > 10 else 1.0))
    server_name = env.text("ALT_XDS_HOSTNAME", "")
    node = env.text("NODE_NAME", "")
    whole = "a whole number"
    config = Config(
        instance=env.text("CULVERT_INSTANCE", node),
        node_name=node,
        network=env.text("NETWORK", ""),
        cluster_id=env.text("CLUSTER_ID", "Kubernetes"),
        pod_name=env.text("POD_NAME", "ztunnel"),
        pod_namespace=env.text("POD_NAMESPACE", "istio-system"),
        instance_ip=env.parsed("INSTANCE_IP", "127.0.0.1", lambda raw: str(ipaddress.ip_address(raw)), "an IP address"),
        xds_address=env.parsed("XDS_ADDRESS", xds_address, _endpoint, "https://host:port or http://host:port"),
        xds_root_ca=None if root == "SYSTEM" else Path(root),
        xds_server_name=server_name or None,
        ca_address=env.parsed("CA_ADDRESS", xds_address, _endpoint, "https://host:port or http://host:port"),
        ca_root_ca=None if ca_root == "SYSTEM" else Path(ca_root),
        ca_server_name=env.text("ALT_CA_HOSTNAME", server_name) or None,
        auth_token=None if token == "none" else Path(token),  # noqa: S105 - the word for "no token"
        secret_ttl=env.parsed("SECRET_TTL", 86400.0, duration, "a duration such as 24h"),
        inpod_uds=Path(env.text("INPOD_UDS", "/var/run/ztunnel/ztunnel.sock")),
        mark_file=Path(mark) if (mark := env.text("CULVERT_MARK_FILE", "")) else None,
        packet_mark=env.parsed("PACKET_MARK", 0x539, lambda raw: int(raw, 0), "a number such as 1337 or 0x539"),
        admin_address=env.parsed("ADMIN_ADDR", "127.0.0.1:15000", _loopback, "a loopback address and port"),
        metrics_address=env.parsed("STATS_ADDR", "[::]:15020", _listening, "an address and port"),
        readiness_address=env.parsed("READINESS_ADDR", "[::]:15021", _listening, "an address and port"),
        drain_deadline=env.parsed("CONNECTION_TERMINATION_DEADLINE", deadline, duration, "a duration such as 25s"),
        ipv6=env.parsed("IPV6_ENABLED", True, _switch, "true or false"),
        response_baggage=env.parsed("ENABLE_RESPONSE_BAGGAGE", True, _switch, "true or false"),
        access_log=Path(access) if (access := env.text("CULVERT_ACCESS_LOG", "")) else None,
        log_level=env.text("LOG_LEVEL", "info"),
        log_format=env.parsed("LOG_FORMAT", "json", _log_format, "json or text"),
        max_connections=env.parsed("CULVERT_MAX_CONNECTIONS", 100_000, _count, whole),
        max_connections_per_pod=env.parsed("CULVERT_MAX_CONNECTIONS_PER_POD", 0, _count, whole),
        pool_streams=env.parsed("POOL_MAX_STREAMS_PER_CONNECTION", 100, _positive, "a whole number above 0"),
        pool_idle=env.parsed("POOL_UNUSED_RELEASE_TIMEOUT", 300.0, duration, "a duration such as 5m"),
        connect_timeout=env.parsed("CULVERT_CONNECT_TIMEOUT", 10.0, duration, "a duration such as 10s"),
        handshake_timeout=env.parsed("CULVERT_HANDSHAKE_TIMEOUT", 10.0, duration, "a duration such as 10s"),
        workload_timeout=env.parsed("CULVERT_WORKLOAD_TIMEOUT", 5.0, duration, "a duration such as 5s"),
        node_metadata=env.prefixed("ISTIO_META_"),
    )
    if env.refusals:
        raise ConfigError(*env.refusals)
    return config


def prepare_process() -> None:
    """To be called before gRPC is first imported: it reads these from the environment once, as libraries do."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # noqa: TID251 - we start the key helper, and fork for nothing else
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # noqa: TID251


def duration(raw: str) -> float:
    """Seconds in `90`, `250ms`, `1h30m`. ValueError otherwise."""
    if raw.isdigit():
        return float(raw)
    if not raw or _DURATION.sub("", raw):
        raise ValueError(f"{raw!r}: expected a duration such as 1h30m, 90s, 250ms")
    return sum(float(amount) * _UNITS[unit] for amount, unit in _DURATION.findall(raw))


class _Reader:
    """Reads variables, and collects what is wrong with them. An empty value counts as unset."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.refusals: list[Refusal] = []

    def text(self, name: str, default: str) -> str:
        return self._environment.get(name) or default

    def parsed(self, name: str, default: T, parse: Callable[[str], T], accepted: str) -> T:
        raw = self._environment.get(name)
        if not raw:
            return default
        try:
            return parse(raw)
        except ValueError:
            self.refusals.append(Refusal("environment", "", name, repr(raw), accepted))
            return default

    def prefixed(self, prefix: str) -> dict[str, str]:
        return {name[len(prefix) :]: value for name, value in self._environment.items() if name.startswith(prefix)}


def _endpoint(raw: str) -> str:
    scheme, separator, rest = raw.rpartition("://")
    host, port = parse_address(rest.rstrip("/"))
    if not host or not port or (separator and scheme not in ("http", "https")):
        raise ValueError(raw)
    return raw


def _listening(raw: str) -> str:
    parse_address(raw)
    return raw


def _loopback(raw: str) -> str:
    host, _ = parse_address(raw)
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise ValueError(raw)
    return raw


def _switch(raw: str) -> bool:
    if raw.lower() not in ("true", "false", "1", "0"):
        raise ValueError(raw)
    return raw.lower() in ("true", "1")


def _count(raw: str) -> int:
    if not raw.isdigit():
        raise ValueError(raw)
    return int(raw)


def _positive(raw: str) -> int:
    if not _count(raw):
        raise ValueError(raw)
    return int(raw)


def _log_format(raw: str) -> str:
    if raw not in ("json", "text"):
        raise ValueError(raw)
    return raw
