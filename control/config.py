"""Configuration of the control plane: read once from the environment, here and nowhere else.

Each field is followed by its variable, meaning, unit, default and off-switch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from control.auth import TRUSTED
from control.sources.consul.settings import ConsulSettings, settings_of
from control.variables import described, misspelt
from mesh.io.http import parse_address
from mesh.model.errors import ConfigError, Refusal
from mesh.model.identity import DEFAULT_TRUST_DOMAIN
from mesh.model.manifest.shapes import DNS_LABEL, DNS_NAME, Report, Text
from mesh.model.manifest.tree import Node
from mesh.model.state import DEFAULT_ROOT_NAMESPACE

DAY = 86400
LONGEST_LEAF = 90 * DAY


@dataclass(frozen=True, kw_only=True)
class KubernetesConfig:
    kubeconfig: Path | None = None
    """CULVERT_KUBERNETES: `true` inside a cluster, for the pod's service account; otherwise the path of a kubeconfig. Empty: no cluster."""

    context: str = ""
    """CULVERT_KUBERNETES_CONTEXT: one of the kubeconfig's contexts. Default: its current one."""

    namespace: str = DEFAULT_ROOT_NAMESPACE
    """CULVERT_NAMESPACE: where the control plane lives: its Lease and its CA's Secret."""

    ca_secret: str = "culvert-ca"  # noqa: S105 - a name
    """CULVERT_CA_SECRET: Secret that all replicas keep the CA in; CULVERT_CA_DIR has a copy. `-`: in CULVERT_CA_DIR alone."""

    webhook_address: str = ":15017"
    """CULVERT_WEBHOOK_ADDRESS: admission, over TLS. Empty switches it off."""

    trusted: frozenset[str] = TRUSTED
    """CULVERT_TRUSTED_ACCOUNTS: namespace/name of service accounts that may ask for certificates of all pods on their node, separated by
    commas. Default: istio-system/ztunnel.
    """


@dataclass(frozen=True, kw_only=True)
class Config:
    ca_dir: Path
    """CULVERT_CA_DIR: where the CA's state and keys (0600) are kept, its roots published, and commands taken; made if missing. Required."""

    manifests: tuple[Path, ...] = ()
    """CULVERT_MANIFESTS: directories of YAML files, separated by colons. At least one source is required: this, Kubernetes, or Consul."""

    kubernetes: KubernetesConfig | None = None
    """CULVERT_KUBERNETES and its kin: an API server. Default: none."""

    consul: ConsulSettings | None = None
    """CULVERT_CONSUL and its kin (`control.sources.consul.settings`): a Consul agent. Default: none."""

    keep: Path | None = None
    """CULVERT_KEEP: file (0600) in which is kept what Kubernetes and Consul last said, for a start without them. Default: nothing is."""

    node_tokens: Path | None = None
    """CULVERT_NODE_TOKENS: directory with one file per node, named as the node, holding its bearer token. Required without Kubernetes."""

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


def variables() -> dict[str, str]:
    """Everything that can be told, with its description."""
    return described(Config, KubernetesConfig, ConsulSettings)


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

    manifests = tuple(Path(part) for part in source.get("CULVERT_MANIFESTS", "").split(":") if part)
    kubernetes = _kubernetes(source, address, named, refuse)
    try:
        consul = settings_of(source)
    except ConfigError as error:
        refusals += error.refusals
        consul = None
    if not manifests and not any(source.get(name) for name in ("CULVERT_KUBERNETES", "CULVERT_CONSUL")):
        refuse("CULVERT_MANIFESTS", "", "a path; or CULVERT_KUBERNETES or CULVERT_CONSUL: one source at least")
    tokens = source.get("CULVERT_NODE_TOKENS", "") if source.get("CULVERT_KUBERNETES") else required("CULVERT_NODE_TOKENS")
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
        kubernetes=kubernetes,
        consul=consul,
        keep=Path(keep) if (keep := source.get("CULVERT_KEEP", "")) else None,
        ca_dir=Path(required("CULVERT_CA_DIR")),
        node_tokens=Path(tokens) if tokens else None,
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
    for name, near in misspelt(source, variables()):
        refuse(name, source[name], f"{near}, if that is meant: no variable is called so")
    if refusals:
        raise ConfigError(*refusals)
    return config


Address = Callable[[str, str], str]
Named = Callable[[str, str, Text], str]


def _kubernetes(
    source: Mapping[str, str], address: Address, named: Named, refuse: Callable[[str, str, str], None]
) -> KubernetesConfig | None:
    where = source.get("CULVERT_KUBERNETES", "")
    if not where:
        return None
    context = source.get("CULVERT_KUBERNETES_CONTEXT", "")
    if where == "true" and context:
        refuse("CULVERT_KUBERNETES_CONTEXT", context, "nothing, inside a cluster")
    trusted = frozenset(name.strip() for name in source.get("CULVERT_TRUSTED_ACCOUNTS", ",".join(TRUSTED)).split(",") if name.strip())
    for name in sorted(trusted):
        if not re.fullmatch(r"[-a-z0-9]{1,63}/[-.a-z0-9]{1,253}", name):
            refuse("CULVERT_TRUSTED_ACCOUNTS", name, "namespace/name, separated by commas")
    return KubernetesConfig(
        kubeconfig=None if where == "true" else Path(where),
        context=context,
        namespace=named("CULVERT_NAMESPACE", KubernetesConfig.namespace, DNS_LABEL),
        ca_secret="" if source.get("CULVERT_CA_SECRET") == "-" else named("CULVERT_CA_SECRET", KubernetesConfig.ca_secret, DNS_NAME),
        webhook_address=address("CULVERT_WEBHOOK_ADDRESS", KubernetesConfig.webhook_address),
        trusted=trusted,
    )


def _loopback(address: str) -> bool:
    """Whether a listening address can be reached from this machine only. One that cannot be read was refused already."""
    try:
        host, _ = parse_address(address)
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
