"""Configuration of the control plane: read once from the environment, here and nowhere else.

Each field is followed by its variable, meaning, unit, default and off-switch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from mesh.io.http import parse_address
from mesh.model.errors import ConfigError, Refusal
from mesh.model.identity import DEFAULT_TRUST_DOMAIN
from mesh.model.manifest.shapes import DNS_LABEL, DNS_NAME, Report, Text
from mesh.model.manifest.tree import Node
from mesh.model.state import DEFAULT_ROOT_NAMESPACE

DAY = 86400
LONGEST_LEAF = 90 * DAY


@dataclass(frozen=True, kw_only=True)
class Config:
    manifests: tuple[Path, ...]
    """CULVERT_MANIFESTS: directories of YAML files, separated by colons. Required."""

    ca_dir: Path
    """CULVERT_CA_DIR: where the CA's state and keys (0600) are kept, its roots published, and commands taken; made if missing. Required."""

    node_tokens: Path
    """CULVERT_NODE_TOKENS: directory with one file per node, named as the node, holding its bearer token. Required."""

    xds_address: str = "[::]:15012"
    """CULVERT_XDS_ADDRESS: xDS and CA over TLS. Empty switches it off."""

    xds_plaintext: str = "127.0.0.1:15010"
    """CULVERT_XDS_PLAINTEXT: the same without TLS; loopback only. Empty switches it off."""

    http_address: str = ":15014"
    """CULVERT_HTTP_ADDRESS: readiness, metrics, debug."""

    server_names: tuple[str, ...] = ("istiod.istio-system.svc",)
    """CULVERT_SERVER_NAMES: DNS names or IPs in the serving certificate, separated by commas."""

    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    """CULVERT_ROOT_NAMESPACE: policies there without selector are for all of the mesh."""

    trust_domain: str = DEFAULT_TRUST_DOMAIN
    """CULVERT_TRUST_DOMAIN: of every identity that is issued."""

    cert_ttl: int = DAY
    """CULVERT_CERT_TTL: lifetime of workload certificates that ask for none, and the longest that is given. Seconds, 1 to 90 days."""

    ca_mount: Path | None = None
    """CULVERT_CA_MOUNT: directory of a CA that others keep: Istio's `cacerts`, or a Secret of cert-manager. Default: off, our own CA."""

    intermediate_ttl: int = 365 * DAY
    """CULVERT_INTERMEDIATE_TTL: lifetime of our own intermediate, which is renewed at half of it. Seconds, 1 minute to 10 years."""

    cluster: str = "Kubernetes"
    """CLUSTER_ID: prefix of workloads' uids."""

    cluster_domain: str = "cluster.local"
    """CULVERT_CLUSTER_DOMAIN: what Service names end in."""

    instance: str = ""
    """CULVERT_INSTANCE: name of this control plane in logs."""

    log_level: str = "info"
    """LOG_LEVEL: error, warn, info, debug, trace, or `scope=level` pairs with commas."""

    log_format: str = "json"
    """LOG_FORMAT: json or text."""


def from_environment(environ: Mapping[str, str] | None = None) -> Config:
    """ConfigError with everything that is wrong."""
    source = os.environ if environ is None else environ  # noqa: TID251 - this is the one place
    refusals: list[Refusal] = []

    def refuse(name: str, value: str, accepted: str) -> None:
        refusals.append(Refusal("environment", "", name, repr(value), accepted))

    def required(name: str) -> str:
        value = source.get(name, "")
        if not value:
            refuse(name, value, "a path")
        return value

    def address(name: str, default: str) -> str:
        value = source.get(name, default)
        if value:
            try:
                parse_address(value)
            except ValueError:
                refuse(name, value, "host:port, [v6]:port, :port, or nothing for off")
        return value

    def named(name: str, default: str, shape: Text) -> str:
        value = source.get(name) or default
        report = Report("")
        shape.read(Node(value, 0), "", report)
        if report.refusals:
            refuse(name, value, shape.accepted)
        return value

    manifests = tuple(Path(part) for part in required("CULVERT_MANIFESTS").split(":") if part)
    plaintext = address("CULVERT_XDS_PLAINTEXT", Config.xds_plaintext)
    if plaintext and not _loopback(plaintext):
        refuse("CULVERT_XDS_PLAINTEXT", plaintext, "a loopback address: tokens must not cross a wire in clear")
    names = tuple(name.strip() for name in source.get("CULVERT_SERVER_NAMES", Config.server_names[0]).split(",") if name.strip())
    if not names:
        refuse("CULVERT_SERVER_NAMES", source["CULVERT_SERVER_NAMES"], "at least one name")
    ttl = source.get("CULVERT_CERT_TTL") or str(Config.cert_ttl)
    if not ttl.isascii() or not ttl.isdigit() or not 1 <= int(ttl) <= LONGEST_LEAF:
        refuse("CULVERT_CERT_TTL", ttl, f"seconds from 1 to {LONGEST_LEAF}")
        ttl = "1"
    intermediate = source.get("CULVERT_INTERMEDIATE_TTL") or str(Config.intermediate_ttl)
    if not intermediate.isascii() or not intermediate.isdigit() or not 60 <= int(intermediate) <= 3650 * DAY:
        refuse("CULVERT_INTERMEDIATE_TTL", intermediate, f"seconds from 60 to {3650 * DAY}")
        intermediate = "60"
    config = Config(
        manifests=manifests,
        ca_dir=Path(required("CULVERT_CA_DIR")),
        node_tokens=Path(required("CULVERT_NODE_TOKENS")),
        xds_address=address("CULVERT_XDS_ADDRESS", Config.xds_address),
        xds_plaintext=plaintext,
        http_address=address("CULVERT_HTTP_ADDRESS", Config.http_address),
        server_names=names,
        root_namespace=named("CULVERT_ROOT_NAMESPACE", Config.root_namespace, DNS_LABEL),
        trust_domain=named("CULVERT_TRUST_DOMAIN", Config.trust_domain, DNS_NAME),
        cert_ttl=int(ttl),
        ca_mount=Path(mount) if (mount := source.get("CULVERT_CA_MOUNT", "")) else None,
        intermediate_ttl=int(intermediate),
        cluster=source.get("CLUSTER_ID") or Config.cluster,
        cluster_domain=named("CULVERT_CLUSTER_DOMAIN", Config.cluster_domain, DNS_NAME),
        instance=source.get("CULVERT_INSTANCE", ""),
        log_level=source.get("LOG_LEVEL") or Config.log_level,
        log_format=source.get("LOG_FORMAT") or Config.log_format,
    )
    if refusals:
        raise ConfigError(*refusals)
    return config


def _loopback(address: str) -> bool:
    """Whether a listening address can be reached from this machine only. One that cannot be read was refused already."""
    try:
        host, _ = parse_address(address)
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
