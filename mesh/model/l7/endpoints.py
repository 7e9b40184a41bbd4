"""Who is behind a cluster: endpoints by locality and priority, some of them at the end of a tunnel."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mesh.model.workload import Locality, SocketAddress

NOWHERE = Locality()


class EndpointHealth(Enum):
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class HostPort:
    """An endpoint by a name that its proxy resolves."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The endpoint is reached by HBONE; `identities` are the SPIFFE URIs that the certificate at the tunnel's end may prove, and never
    none. `via`: that end is a waypoint before the endpoint, which is asked for the endpoint's address.
    """

    identities: tuple[str, ...]
    via: SocketAddress | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`address` is a socket's, a name and port, or the path of a socket in the proxy's file system. Port 0, where there is a tunnel: the
    one that the connection was meant for. `workload` is `name;namespace;canonical name;revision;cluster`, for metrics.
    """

    address: SocketAddress | HostPort | str
    weight: int = 1
    health: EndpointHealth = EndpointHealth.HEALTHY
    tunnel: Tunnel | None = None
    workload: str = ""


@dataclass(frozen=True, slots=True)
class LocalityGroup:
    """Endpoints of one place and one priority: 0 is used first. `weight` counts only where the cluster balances by locality."""

    endpoints: tuple[Endpoint, ...]
    locality: Locality = NOWHERE
    priority: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    cluster: str
    groups: tuple[LocalityGroup, ...] = ()
