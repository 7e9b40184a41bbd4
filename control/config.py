"""What a control plane can be told, all by environment variables. Only this file reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.io.http import parse_address
from mesh.model.errors import ConfigError, Refusal


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. Under each field: its variable, meaning, unit, default, and how to switch it off."""

    instance: str
    """CULVERT_INSTANCE. Names this control plane in logs. Default: control."""

    manifests: tuple[Path, ...]
    """CULVERT_MANIFESTS. Directories of YAML manifests, separated by colons; all of one mesh. Required."""

    ca_dir: Path
    """CULVERT_CA_DIR. Where the root key (0600) and root-cert.pem are kept, and made at first start. Default: /var/lib/culvert/ca."""

    node_tokens: Path
    """CULVERT_NODE_TOKENS. Directory with one file per node, named after it, that holds its bearer token. Required."""

    xds_address: str
    """CULVERT_XDS_ADDRESS. xDS and certificates over TLS. Default: [::]:15012."""

    xds_plaintext: str
    """CULVERT_XDS_PLAINTEXT. The same in plaintext; loopback only. Default: 127.0.0.1:15010. Off: empty."""

    http_address: str
    """CULVERT_HTTP_ADDRESS. Readiness, metrics, debug. Default: [::]:15014."""

    server_names: tuple[str, ...]
    """CULVERT_SERVER_NAMES. DNS names in the serving certificate, separated by commas. Default: istiod.istio-system.svc."""

    root_namespace: str
    """CULVERT_ROOT_NAMESPACE. Its policies apply to the whole mesh. Default: istio-system."""

    trust_domain: str
    """CULVERT_TRUST_DOMAIN. Default: cluster.local."""

    cluster_id: str
    """CLUSTER_ID. The cluster's name in workload uids and telemetry. Default: Kubernetes."""

    cluster_domain: str
    """CLUSTER_DOMAIN. DNS suffix of services. Default: cluster.local."""

    network: str
    """NETWORK. The network that the pods are on. Default: empty, the only one."""

    certificate_ttl: float
    """CULVERT_CERT_TTL. Longest (and default) lifetime of a workload's certificate, seconds. Default: 86400."""

    log_level: str
    """LOG_LEVEL. `info` or `info,xds=debug`. Default: info."""

    log_format: str
    """LOG_FORMAT. json or text. Default: json."""


def from_environment(environment: Mapping[str, str] = os.environ) -> Config:  # noqa: TID251 - this is the place
    """The configuration. Raises ConfigError with every value that is not accepted."""
    refusals: list[Refusal] = []

    def refuse(name: str, accepted: str) -> None:
        refusals.append(Refusal("environment", "", name, repr(environment.get(name, "")), accepted))

    def required(name: str, accepted: str) -> str:
        value = environment.get(name, "")
        if not value:
            refuse(name, accepted)
        return value

    def address(name: str, default: str, *, loopback: bool = False, optional: bool = False) -> str:
        value = environment.get(name, default)
        if not value and optional:
            return ""
        try:
            host, _ = parse_address(value)
        except ValueError:
            refuse(name, "host:port, [ipv6]:port or :port")
            return value
        if loopback and host not in ("127.0.0.1", "::1", "localhost"):
            refuse(name, "a loopback address, since this port is not encrypted")
        return value

    def seconds(name: str, default: str) -> float:
        try:
            value = float(environment.get(name, default))
        except ValueError:
            value = 0
        if not 10 <= value <= 90 * 86400:
            refuse(name, "seconds, from 10 to 7776000 (90 days)")
        return value

    log_format = environment.get("LOG_FORMAT", "json")
    if log_format not in ("json", "text"):
        refuse("LOG_FORMAT", "json or text")
    config = Config(
        instance=environment.get("CULVERT_INSTANCE", "control"),
        manifests=tuple(Path(part) for part in required("CULVERT_MANIFESTS", "directories, separated by colons").split(":") if part),
        ca_dir=Path(environment.get("CULVERT_CA_DIR", "/var/lib/culvert/ca")),
        node_tokens=Path(required("CULVERT_NODE_TOKENS", "a directory with one token file per node")),
        xds_address=address("CULVERT_XDS_ADDRESS", "[::]:15012"),
        xds_plaintext=address("CULVERT_XDS_PLAINTEXT", "127.0.0.1:15010", loopback=True, optional=True),
        http_address=address("CULVERT_HTTP_ADDRESS", "[::]:15014"),
        server_names=tuple(name for name in environment.get("CULVERT_SERVER_NAMES", "istiod.istio-system.svc").split(",") if name),
        root_namespace=environment.get("CULVERT_ROOT_NAMESPACE", "istio-system"),
        trust_domain=environment.get("CULVERT_TRUST_DOMAIN", "cluster.local"),
        cluster_id=environment.get("CLUSTER_ID", "Kubernetes"),
        cluster_domain=environment.get("CLUSTER_DOMAIN", "cluster.local"),
        network=environment.get("NETWORK", ""),
        certificate_ttl=seconds("CULVERT_CERT_TTL", "86400"),
        log_level=environment.get("LOG_LEVEL", "info"),
        log_format=log_format,
    )
    if refusals:
        raise ConfigError(*refusals)
    return config
