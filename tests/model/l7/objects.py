"""Manifests and services for tables: as short as a row of one wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import yaml

from mesh.model.l7.notes import Note, Problem, Translated
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.services import MeshService
from mesh.model.l7.translate.destination_rule import merge
from mesh.model.l7.translate.targets import Target
from mesh.model.manifest import DestinationRule, parse
from mesh.model.workload import AppProtocol, NetworkAddress, Service, ServicePort

NAMESPACE = "shop"
WAYPOINT = Context(Kind.WAYPOINT, NAMESPACE)
CLIENT = Context(Kind.CLIENT, NAMESPACE, {"app": "web", "version": "v1"})
GRPC = Context(Kind.GRPC, NAMESPACE)
GROUPS = {
    "VirtualService": "networking.istio.io/v1",
    "DestinationRule": "networking.istio.io/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
    "TLSRoute": "gateway.networking.k8s.io/v1",
    "TCPRoute": "gateway.networking.k8s.io/v1",
    "AuthorizationPolicy": "security.istio.io/v1",
    "RequestAuthentication": "security.istio.io/v1",
    "Telemetry": "telemetry.istio.io/v1",
}


def made(kind: str, spec: Mapping[str, Any], name: str = "one", namespace: str = NAMESPACE, age: int = 0, **annotations: str) -> Any:
    """`age`: the higher, the older; 0 is without a time."""
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "annotations": annotations}
    if age:
        metadata["creationTimestamp"] = f"20{99 - age:02}-01-01T00:00:00Z"
    value = {"apiVersion": GROUPS[kind], "kind": kind, "metadata": metadata, "spec": spec}
    (entry,) = parse(yaml.safe_dump(value), "test.yaml")
    return entry


def host(name: str, namespace: str = NAMESPACE) -> str:
    return f"{name}.{namespace}.svc.cluster.local"


def service(
    name: str = "app",
    namespace: str = NAMESPACE,
    ports: Mapping[int, AppProtocol] | None = None,
    vips: Sequence[str] = ("10.96.0.1",),
    **fields: Any,
) -> MeshService:
    found = ports if ports is not None else {80: AppProtocol.HTTP11}
    return MeshService(
        Service(
            name,
            namespace,
            host(name, namespace),
            vips=tuple(NetworkAddress("", ip_address(vip)) for vip in vips),
            ports=tuple(ServicePort(port, port + 8000, protocol) for port, protocol in found.items()),
            canonical=True,
        ),
        port_names={port: f"p{port}" for port in found},
        **fields,
    )


def target(name: str = "app", rule: Mapping[str, Any] | None = None, namespace: str = NAMESPACE, **fields: Any) -> Target:
    rules: list[DestinationRule] = [] if rule is None else [made("DestinationRule", {"host": name, **rule}, namespace=namespace)]
    return Target(service(name, namespace, **fields), merge(rules).value)


def targets(*found: Target) -> dict[str, Target]:
    return {entry.mesh.host: entry for entry in found}


def problems(found: Translated[Any]) -> list[tuple[Problem, str]]:
    """What notes say, as far as a table can: the word, and the field."""
    return [(note.problem, note.field) for note in found.notes]


def only(found: Translated[Any]) -> Note:
    (note,) = found.notes
    return note
