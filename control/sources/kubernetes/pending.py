"""EndpointSlice, Node and `parse_object` until `mesh.model.manifest` has them: this file goes then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mesh.model.manifest import Object, Parsed, parse_file
from mesh.model.workload import IPAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Node(Object):
    KIND = "Node"
    API_VERSIONS = ("v1",)
    NAMESPACED = False

    spec: Any = None
    status: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPort:
    name: str = ""
    protocol: str = "TCP"
    port: int | None = None
    app_protocol: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    addresses: tuple[IPAddress, ...] = ()
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    hostname: str = ""
    node_name: str = ""
    zone: str = ""
    target_kind: str = ""
    target_namespace: str = ""
    target_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSlice(Object):
    KIND = "EndpointSlice"
    API_VERSIONS = ("discovery.k8s.io/v1",)

    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = field(default=())


def parse_object(value: Mapping[str, Any], origin: str) -> Parsed:
    """JSON is YAML."""
    return parse_file(msgspec.json.encode(value).decode(), origin)
