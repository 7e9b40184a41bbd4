"""EndpointSlice, Node and `parse_object` as `mesh.model.manifest` has them elsewhere already: at the merge this file goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mesh.model.manifest import Object, Parsed, parse_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Node(Object):
    KIND = "Node"
    API_VERSIONS = ("v1",)
    NAMESPACED = False

    spec: Any = None
    status: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConditions:
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReference:
    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    field_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    hostname: str = ""
    target_ref: ObjectReference | None = None
    node_name: str = ""
    zone: str = ""
    hints: Any = None
    deprecated_topology: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPort:
    name: str = ""
    protocol: str = "TCP"
    port: int | None = None
    app_protocol: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSlice(Object):
    KIND = "EndpointSlice"
    API_VERSIONS = ("discovery.k8s.io/v1",)

    address_type: str
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


def parse_object(value: Mapping[str, Any], origin: str) -> Parsed:
    """JSON is YAML."""
    return parse_file(msgspec.json.encode(value).decode(), origin)
