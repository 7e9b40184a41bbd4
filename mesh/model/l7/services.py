"""A service as routes and clusters need to know it: what the mesh says of it, and where its endpoints come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from mesh.model.l7.chains import Traffic
from mesh.model.workload import AppProtocol, Service, ServicePort


class Resolution(Enum):
    """The words of ServiceEntry. STATIC covers Kubernetes Services: the control plane knows the endpoints."""

    STATIC = "STATIC"
    NONE = "NONE"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    DYNAMIC_DNS = "DYNAMIC_DNS"


NO_NAMES: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MeshService:
    """`port_names` by number, for what refers to ports by name. `external`: nobody behind it is in the mesh. `distribution` is what a
    Kubernetes Service says of its traffic: PreferClose and so on.
    """

    service: Service
    resolution: Resolution = Resolution.STATIC
    external: bool = False
    port_names: Mapping[int, str] = field(default_factory=lambda: NO_NAMES)
    distribution: str = ""

    @property
    def host(self) -> str:
        return self.service.hostname

    def port(self, number: int) -> ServicePort | None:
        return next((entry for entry in self.service.ports if entry.port == number), None)


def traffic_of(protocol: AppProtocol) -> Traffic:
    match protocol:
        case AppProtocol.HTTP11 | AppProtocol.HTTP2 | AppProtocol.GRPC:
            return Traffic.HTTP
        case AppProtocol.TLS:
            return Traffic.TLS
        case AppProtocol.TCP:
            return Traffic.TCP
        case AppProtocol.UNKNOWN:
            return Traffic.AUTO
