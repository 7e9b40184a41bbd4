"""Workloads and services: what the mesh knows of who runs where. Frozen; made only by the codecs.

An address is always a pair of network name and IP, since pods of different networks may share IPs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import NamedTuple

from mesh.model.identity import DEFAULT_TRUST_DOMAIN, Identity

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

OUTBOUND_PORT = 15001
PLAINTEXT_PORT = 15006
HBONE_PORT = 15008
TUNNEL_PORTS = frozenset({OUTBOUND_PORT, PLAINTEXT_PORT, HBONE_PORT})


class SocketAddress(NamedTuple):
    """An IP and a TCP port, both as the kernel reports them (v4-mapped v6 already unmapped)."""

    ip: IPAddress
    port: int

    def __str__(self) -> str:
        return f"{_written(self.ip)}:{self.port}"


@lru_cache(maxsize=8192)
def _written(ip: IPAddress) -> str:
    """As it stands before a port. Logs and headers write the same few addresses for every connection."""
    return f"[{ip}]" if ip.version == 6 else str(ip)


class NetworkAddress(NamedTuple):
    """An IP on a named network ("" is the only network there is where nobody names one)."""

    network: str
    ip: IPAddress


class NamespacedHostname(NamedTuple):
    """A service's key: `<namespace>/<hostname>` on the wire."""

    namespace: str
    hostname: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.hostname}"


class TunnelProtocol(Enum):
    NONE = "TCP"
    HBONE = "HBONE"


class WorkloadType(Enum):
    DEPLOYMENT = "deployment"
    CRONJOB = "cronjob"
    POD = "pod"
    JOB = "job"


class Health(Enum):
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"


class NetworkMode(Enum):
    STANDARD = "Standard"
    HOST_NETWORK = "HostNetwork"


class AppProtocol(Enum):
    UNKNOWN = ""
    HTTP11 = "http11"
    HTTP2 = "http2"
    GRPC = "grpc"
    TCP = "tcp"
    TLS = "tls"


class Scope(Enum):
    """What two ends may share, from far to near; load balancing prefers endpoints that share more of these."""

    REGION = "Region"
    ZONE = "Zone"
    SUBZONE = "Subzone"
    NODE = "Node"
    CLUSTER = "Cluster"
    NETWORK = "Network"


class LbMode(Enum):
    STANDARD = "Standard"
    STRICT = "Strict"
    FAILOVER = "Failover"
    PASSTHROUGH = "Passthrough"


class HealthPolicy(Enum):
    ONLY_HEALTHY = "OnlyHealthy"
    ALLOW_ALL = "AllowAll"


class Visibility(Enum):
    PUBLIC = "Public"
    NAMESPACE = "Namespace"


@dataclass(frozen=True, slots=True)
class Locality:
    region: str = ""
    zone: str = ""
    subzone: str = ""


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """Where a waypoint or network gateway is: a service's hostname or a plain address, and its HBONE port."""

    destination: NamespacedHostname | NetworkAddress
    hbone_port: int = HBONE_PORT


@dataclass(frozen=True, slots=True)
class WeightedWaypoint:
    destination: GatewayAddress
    weight: int


@dataclass(frozen=True, slots=True)
class LoadBalancing:
    preference: tuple[Scope, ...] = ()
    mode: LbMode = LbMode.STANDARD
    health: HealthPolicy = HealthPolicy.ONLY_HEALTHY


@dataclass(frozen=True, slots=True)
class ServicePort:
    """`target` 0 means that each endpoint says its own port (a named target port)."""

    port: int
    target: int
    protocol: AppProtocol = AppProtocol.UNKNOWN


EMPTY: Mapping[NamespacedHostname, Mapping[int, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Workload:
    """One pod or other endpoint. `services` maps a service to {service port: this endpoint's port}."""

    uid: str
    name: str
    namespace: str
    addresses: tuple[IPAddress, ...] = ()
    network: str = ""
    protocol: TunnelProtocol = TunnelProtocol.NONE
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    service_account: str = "default"
    node: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    workload_type: WorkloadType = WorkloadType.POD
    workload_name: str = ""
    native_tunnel: bool = False
    waypoint: GatewayAddress | None = None
    network_gateway: GatewayAddress | None = None
    policies: tuple[str, ...] = ()
    health: Health = Health.HEALTHY
    cluster: str = "Kubernetes"
    hostname: str = ""
    services: Mapping[NamespacedHostname, Mapping[int, int]] = field(default_factory=lambda: EMPTY)
    application_tunnel_port: int | None = None
    application_tunnel_proxy: bool = False
    locality: Locality = Locality()
    network_mode: NetworkMode = NetworkMode.STANDARD
    capacity: int = 1

    @property
    def identity(self) -> Identity:
        return Identity(self.trust_domain, self.namespace, self.service_account)


@dataclass(frozen=True, slots=True)
class Service:
    """A name with virtual addresses. `vip_networks` are CIDR VIPs; `canonical` marks Kubernetes Services."""

    name: str
    namespace: str
    hostname: str
    vips: tuple[NetworkAddress, ...] = ()
    vip_networks: tuple[tuple[str, IPNetwork], ...] = ()
    ports: tuple[ServicePort, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    waypoint: GatewayAddress | None = None
    weighted_waypoints: tuple[WeightedWaypoint, ...] = ()
    load_balancing: LoadBalancing | None = None
    canonical: bool = False
    visibility: Visibility = Visibility.PUBLIC

    @property
    def key(self) -> NamespacedHostname:
        return NamespacedHostname(self.namespace, self.hostname)
