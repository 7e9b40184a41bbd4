"""EndpointSlice of discovery.k8s.io/v1: the endpoints of a Service, as a cluster's controllers write them."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.core import UNREAD, Object
from mesh.model.manifest.pods import PROTOCOL
from mesh.model.manifest.record import Record, item
from mesh.model.manifest.shapes import DNS_LABEL, DNS_NAME, NOTHING, PORT, STRING, Choice, Flag, ListOf, MapOf
from mesh.model.manifest.words import NONEMPTY

SERVICE_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConditions:
    """None: unknown, which counts as ready."""

    ready: bool | None = item(Flag())
    serving: bool | None = item(Flag())
    terminating: bool | None = item(Flag())


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReference:
    """What is behind an endpoint."""

    api_version: str = item(STRING, "")
    kind: str = item(STRING, "")
    namespace: str = item(STRING, "")
    name: str = item(STRING, "")
    uid: str = item(STRING, "")
    resource_version: str = item(STRING, "")
    field_path: str = item(STRING, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    addresses: tuple[str, ...] = item(ListOf(NONEMPTY, 1, 100), required=True)
    conditions: EndpointConditions = item(Record(EndpointConditions), EndpointConditions())
    hostname: str = item(DNS_LABEL, "")
    target_ref: ObjectReference | None = item(Record(ObjectReference))
    node_name: str = item(DNS_NAME, "")
    zone: str = item(STRING, "")
    hints: Any = item(UNREAD)
    deprecated_topology: Mapping[str, str] = item(MapOf(STRING, STRING), NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPort:
    """`port` None: every one."""

    name: str = item(STRING, "")
    protocol: str = item(PROTOCOL, "TCP")
    port: int | None = item(PORT)
    app_protocol: str = item(STRING, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSlice(Object):
    KIND = "EndpointSlice"
    API_VERSIONS = ("discovery.k8s.io/v1",)

    address_type: str = item(Choice(("IPv4", "IPv6", "FQDN")), required=True)
    endpoints: tuple[Endpoint, ...] = item(ListOf(Record(Endpoint), most=1000), ())
    ports: tuple[EndpointPort, ...] = item(ListOf(Record(EndpointPort), most=20000), ())

    @property
    def service(self) -> str:
        """The name of the Service, in the slice's own namespace; empty if it is of none."""
        return self.labels.get(SERVICE_LABEL, "")
