"""What a view is served, as messages that a test can look into."""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf.json_format import MessageToDict

from control.resolve import Mesh
from control.resolve.l7.plans import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, Ref
from control.resolve.l7.views import View
from mesh.model.l7.profile import Kind
from tests.control.objects import pod, resolved, service

MESSAGES: dict[str, Any] = {
    CLUSTER_TYPE: cluster_pb2.Cluster,
    ENDPOINT_TYPE: endpoint_pb2.ClusterLoadAssignment,
    LISTENER_TYPE: listener_pb2.Listener,
    ROUTE_TYPE: route_pb2.RouteConfiguration,
}
NETWORKING = "networking.istio.io/v1"
CLIENT, WAYPOINT = View(Kind.CLIENT, "shop"), View(Kind.WAYPOINT, "shop", "wp", tunnels=True)
WEB = service("web", "clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, name: http, targetPort: http}]")
PODS = (pod("web-1", "10.0.0.1", labels="app: web, version: v1"), pod("web-2", "10.0.0.2", labels="app: web, version: v2"))


class Served:
    """Everything of one view, kept up to date by `feed`."""

    def __init__(self, view: View, *texts: str, mesh: Mesh | None = None) -> None:
        self.view = view
        self.mesh = mesh or resolved(*texts)
        self.mesh.pin(view)
        self.mesh.publish(self.mesh.settle(self.mesh.take()))
        assert self.mesh.engine.bugs == []

    def names(self, type_url: str) -> set[str]:
        return {ref.name for ref in self.mesh.resources_of(self.view) if ref.type_url == type_url}

    def get(self, type_url: str, name: str) -> Any:
        return MESSAGES[type_url].FromString(self.mesh.resources_of(self.view)[Ref(self.view, type_url, name)].body)

    def clusters(self, name: str, index: int = 0) -> list[str]:
        """Where the routes of a table lead, in their order; with weights where there are several."""
        found = []
        for route in self.get(ROUTE_TYPE, name).virtual_hosts[index].routes:
            action = route.route
            if action.HasField("weighted_clusters"):
                found.append(" ".join(f"{one.name}={one.weight.value}" for one in action.weighted_clusters.clusters))
            else:
                found.append(action.cluster or "-")
        return found

    def addresses(self, name: str) -> list[str]:
        """The endpoints of a cluster."""
        made = MessageToDict(self.get(ENDPOINT_TYPE, name))
        found = []
        for group in made.get("endpoints", ()):
            for entry in group.get("lbEndpoints", ()):
                address = entry["endpoint"]["address"]
                if "socketAddress" in address:
                    found.append(f"{address['socketAddress']['address']}:{address['socketAddress']['portValue']}")
                else:
                    found.append(f"tunnel {address['envoyInternalAddress']['endpointId']}")
        return found


def rule(name: str, host: str, subsets: str = "v1 v2", *, where: str = "shop", more: str = "", meta: str = "") -> str:
    found = ", ".join(f"{{name: {one}, labels: {{version: {one}}}}}" for one in subsets.split())
    return (
        f"{{apiVersion: {NETWORKING}, kind: DestinationRule, metadata: {{name: {name}, namespace: {where}{meta}}}, "
        f"spec: {{host: '{host}'{f', subsets: [{found}]' if found else ''}{more}}}}}"
    )


def routes(name: str, hosts: str, http: str, *, where: str = "shop", more: str = "", meta: str = "") -> str:
    return (
        f"{{apiVersion: {NETWORKING}, kind: VirtualService, metadata: {{name: {name}, namespace: {where}{meta}}}, "
        f"spec: {{hosts: [{hosts}], http: [{http}]{more}}}}}"
    )


def to(subset: str, host: str = "web", weight: int = 1) -> str:
    return f"{{destination: {{host: {host}, subset: {subset}}}, weight: {weight}}}"
