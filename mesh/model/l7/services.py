"""A service as routes and clusters need to know it: what the mesh says of it, where its endpoints come from, and what rules were made for
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mesh.model.l7.chains import Traffic
from mesh.model.workload import AppProtocol, Service, ServicePort


class Resolution(Enum):
    """The words of ServiceEntry. STATIC covers Kubernetes Services: the control plane knows the endpoints."""

    STATIC = "STATIC"
    NONE = "NONE"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    DYNAMIC_DNS = "DYNAMIC_DNS"


@dataclass(frozen=True, slots=True)
class MeshService:
    """`external`: nobody behind it is in the mesh. `labels` of subsets and policies are not here: they come from DestinationRules."""

    service: Service
    resolution: Resolution = Resolution.STATIC
    external: bool = False

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
