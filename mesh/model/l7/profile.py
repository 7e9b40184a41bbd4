"""For whom resources are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from mesh.model.identity import DEFAULT_TRUST_DOMAIN
from mesh.model.state import DEFAULT_ROOT_NAMESPACE
from mesh.model.workload import HBONE_PORT


class Kind(Enum):
    """A waypoint stands before services for all of their clients; a client proxy beside one client; gRPC is a client without a proxy."""

    WAYPOINT = "waypoint"
    CLIENT = "client"
    GRPC = "grpc"


class PathNormalization(Enum):
    NONE = "NONE"
    BASE = "BASE"
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"


NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Context:
    """Whose view a translation takes: the proxy's namespace and labels. For a waypoint, its own namespace, not its clients'."""

    kind: Kind
    namespace: str
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    cluster_domain: str = "cluster.local"


@dataclass(frozen=True, slots=True)
class Profile:
    """What an encoder has to know of the proxies that it writes for.

    `trust_domains`: the mesh's own first, then its aliases. `hbone_port`: where tunnels listen. `system_roots`: the file in the proxies'
    file system that holds what the operating system trusts. `bind`: client proxies listen on services' addresses themselves, because those
    are local where they run; else connections are redirected to one port. `tunnels`: they end endpoints' tunnels themselves; else their
    node does. `listen`: the address of a proxy's own listeners.
    """

    kind: Kind
    trust_domains: tuple[str, ...] = (DEFAULT_TRUST_DOMAIN,)
    hbone_port: int = HBONE_PORT
    system_roots: str = "/etc/ssl/certs/ca-certificates.crt"
    normalization: PathNormalization = PathNormalization.BASE
    bind: bool = False
    tunnels: bool = True
    listen: str = "0.0.0.0"
