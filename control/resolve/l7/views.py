"""For whom L7 resources are made. Proxies that see the same share a view, and what is made for it."""

from __future__ import annotations

from typing import NamedTuple

from control.resolve.engine import Read
from control.resolve.tables import NOWHERE, SETTINGS
from mesh.model.codec.envoy.client import PROXY_PORT
from mesh.model.l7.profile import Context, Kind, Profile
from mesh.model.workload import OUTBOUND_PORT, Locality

CLIENT_PORTS = (OUTBOUND_PORT, PROXY_PORT)


class View(NamedTuple):
    """`namespace` is the proxy's own; `gateway` the name of the waypoint that it is. `bind`: it listens on services' own addresses.
    `tunnels`: it ends endpoints' tunnels itself, with an identity of its own; otherwise the tunnel of its node does. `ports`: of an Envoy
    beside a client, where redirected connections and requests to its HTTP proxy come in. `c_core`: a gRPC client of that make, which needs
    more time than it is told.
    """

    kind: Kind
    namespace: str
    gateway: str = ""
    locality: Locality = NOWHERE
    bind: bool = False
    tunnels: bool = False
    ports: tuple[int, int] = CLIENT_PORTS
    c_core: bool = False

    def anywhere(self) -> View:
        """The same eyes without a place: routes do not depend on where the proxy runs."""
        return self._replace(locality=NOWHERE, bind=False, tunnels=False, ports=CLIENT_PORTS, c_core=False)

    def unplaced(self) -> View:
        """The same without a place, but with its own way to connect: what a cluster is may depend on that."""
        bare = self.anywhere()
        return bare._replace(bind=self.bind, tunnels=self.tunnels) if self.kind is Kind.CLIENT else bare

    def __str__(self) -> str:
        return f"{self.kind.value} {self.namespace}/{self.gateway}" if self.gateway else f"{self.kind.value} of {self.namespace}"


def context(read: Read, view: View) -> Context:
    settings = read(SETTINGS, None)
    return Context(view.kind, view.namespace, root_namespace=settings.root_namespace, cluster_domain=settings.cluster_domain)


def profile(read: Read, view: View) -> Profile:
    tunnels = view.kind is Kind.WAYPOINT or view.tunnels
    return Profile(view.kind, (read(SETTINGS, None).trust_domain,), bind=view.bind, tunnels=tunnels)
