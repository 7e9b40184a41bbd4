"""Clusters: one port of a service, or one subset of it, as a proxy reaches it. What DestinationRule can say, with Istio's defaults filled
in.

Limits that are None are not set: nobody is turned away. An absent `Outlier` is no passive health check.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from mesh.model.l7.endpoints import Assignment
from mesh.model.l7.routes import Hash

CONNECT_TIMEOUT = timedelta(seconds=10)
IDLE = timedelta(hours=1)


class Discovery(Enum):
    """Where endpoints come from: the control plane; a name that is resolved, all its addresses (DNS) or one at a time (DNS_ONE); the
    address that the connection was meant for (ORIGINAL); the host that each request names (DYNAMIC). STATIC ones are in the cluster itself.
    """

    EDS = "eds"
    STATIC = "static"
    DNS = "dns"
    DNS_ONE = "one of dns"
    ORIGINAL = "original destination"
    DYNAMIC = "dynamic"


class Policy(Enum):
    LEAST_REQUEST = "least request"
    ROUND_ROBIN = "round robin"
    RANDOM = "random"
    RING_HASH = "ring hash"
    MAGLEV = "maglev"


@dataclass(frozen=True, slots=True)
class Warmup:
    """How a new endpoint's weight grows over `window`, from `minimum` percent, by an exponent of 1/`aggression`."""

    window: timedelta
    minimum: float = 10.0
    aggression: float = 1.0


@dataclass(frozen=True, slots=True)
class Balancing:
    """`hashes` are for RING_HASH and MAGLEV. `panic` is the share of healthy endpoints, in percent, below which health is ignored.
    `by_locality`: localities get traffic by their weights, whatever their number of endpoints.
    """

    policy: Policy = Policy.LEAST_REQUEST
    hashes: tuple[Hash, ...] = ()
    ring_size: int = 1024
    table_size: int = 65537
    warmup: Warmup | None = None
    panic: float = 0.0
    by_locality: bool = False


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Zero leaves a value to the kernel."""

    probes: int = 0
    time: timedelta = timedelta()
    interval: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """Retries that may be going on: `percent` of the requests that are, but at least `least`."""

    percent: float = 20.0
    least: int = 3


class HttpVersion(Enum):
    """CLIENT: as the client spoke to the proxy."""

    HTTP1 = "1.1"
    HTTP2 = "2"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Pool:
    """`ping` is {interval, timeout} of HTTP/2 keep-alive. `per_connection` 1 is no keep-alive."""

    connect_timeout: timedelta = CONNECT_TIMEOUT
    connections: int | None = None
    keepalive: Keepalive | None = None
    longest: timedelta | None = None
    tcp_idle: timedelta | None = IDLE
    pending: int | None = None
    requests: int | None = None
    retries: int | None = None
    per_connection: int | None = None
    http_idle: timedelta | None = IDLE
    streams: int | None = None
    ping: tuple[timedelta, timedelta] | None = None
    retry_budget: RetryBudget | None = None


@dataclass(frozen=True, slots=True)
class Outlier:
    """Counts of 0 are off. `split` keeps errors that we saw ourselves (connect, reset, timeout) apart from those that were answered.
    `codes`: statuses that count as errors beside 5xx.
    """

    consecutive_5xx: int = 5
    gateway_errors: int = 0
    split: bool = False
    local_failures: int = 5
    interval: timedelta = timedelta(seconds=10)
    ejection: timedelta = timedelta(seconds=30)
    max_percent: int = 10
    codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Credential:
    """Where a certificate or roots come from: a file of the proxy's, or a secret that it asks the control plane for."""

    file: str = ""
    secret: str = ""


SYSTEM_ROOTS = Credential()
"""What the proxy's operating system trusts."""
NOBODY = "no server at all"
"""As the one name that a certificate may have: nobody issues one for it."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS that the proxy begins toward endpoints. One of `sans` must be in the server's certificate; where there are none, `sni` must, if
    there is one. `certificate` and `key` are for mutual TLS; a secret holds both. `insecure`: the server proves nothing.
    """

    roots: Credential = SYSTEM_ROOTS
    certificate: Credential | None = None
    key: Credential | None = None
    crl: Credential | None = None
    sni: str = ""
    sans: tuple[str, ...] = ()
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """`endpoints` are for those that bring their own (STATIC, DNS). `host`, `namespace`, `port` and `subset` tell what it stands for.
    `proxy_protocol` 0 is none, else the version whose header goes first.
    """

    name: str
    host: str
    port: int
    namespace: str = ""
    subset: str = ""
    discovery: Discovery = Discovery.EDS
    endpoints: Assignment | None = None
    http: HttpVersion = HttpVersion.HTTP1
    balancing: Balancing = field(default=Balancing())
    pool: Pool = field(default=Pool())
    outlier: Outlier | None = None
    tls: Tls | None = None
    proxy_protocol: int = 0
