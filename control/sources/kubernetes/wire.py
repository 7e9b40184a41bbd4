"""The JSON of an API server, as far as it is read: lists, watch events, and of core objects what resolution looks at.

msgspec skips what is not named here without building it. What is built of a core object is small enough to be kept on disk as it is, in the
same form (`omit_defaults`), so that one reader serves both.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct, field


class ListMeta(Struct):
    version: str = field(name="resourceVersion", default="")
    next: str = field(name="continue", default="")


class Page(Struct):
    """A page of a list."""

    metadata: ListMeta
    items: list[msgspec.Raw] | None = None


class Event(Struct):
    """A line of a watch. `object` is a Status where `type` is ERROR."""

    type: str
    object: msgspec.Raw


class HeadMeta(Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    version: str = field(name="resourceVersion", default="")
    generation: int = 0


class Head(Struct):
    """Any object, just enough to know which one and which version."""

    metadata: HeadMeta


class Owner(Struct, rename="camel", omit_defaults=True):
    kind: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    controller: bool | None = None


class Meta(Struct, rename="camel", omit_defaults=True):
    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[Owner] | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Plain(Struct, omit_defaults=True):
    """Of namespaces, nodes and service accounts their metadata is all that is read."""

    metadata: Meta


# Pods


class ContainerPort(Struct, rename="camel", omit_defaults=True):
    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(Struct, rename="camel", omit_defaults=True):
    name: str
    ports: list[ContainerPort] | None = None
    restart_policy: str = ""


class PodSpec(Struct, rename="camel", omit_defaults=True):
    containers: list[Container] = []
    init_containers: list[Container] | None = None
    service_account_name: str = ""
    node_name: str = ""
    host_network: bool = False
    hostname: str = ""
    subdomain: str = ""


class Condition(Struct, omit_defaults=True):
    type: str
    status: str


class PodIP(Struct, omit_defaults=True):
    ip: str


class PodStatus(Struct, omit_defaults=True):
    phase: str = "Pending"
    pod_ip: str = field(name="podIP", default="")
    pod_ips: list[PodIP] | None = field(name="podIPs", default=None)
    conditions: list[Condition] | None = None


class Pod(Struct, omit_defaults=True):
    metadata: Meta
    spec: PodSpec
    status: PodStatus = field(default_factory=PodStatus)


# Services


class ServicePort(Struct, rename="camel", omit_defaults=True):
    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None
    app_protocol: str = ""
    node_port: int = 0


class ServiceSpec(Struct, rename="camel", omit_defaults=True):
    type: str = "ClusterIP"
    selector: dict[str, str] | None = None
    ports: list[ServicePort] | None = None
    cluster_ip: str = field(name="clusterIP", default="")
    cluster_ips: list[str] | None = field(name="clusterIPs", default=None)
    ip_families: list[str] | None = None
    ip_family_policy: str = ""
    publish_not_ready_addresses: bool = False
    internal_traffic_policy: str = ""
    external_traffic_policy: str = ""
    traffic_distribution: str = ""
    external_name: str = ""
    session_affinity: str = ""


class Service(Struct, omit_defaults=True):
    metadata: Meta
    spec: ServiceSpec


# EndpointSlices


class EndpointConditions(Struct, omit_defaults=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Reference(Struct, omit_defaults=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class Endpoint(Struct, rename="camel", omit_defaults=True):
    addresses: list[str] = []
    conditions: EndpointConditions | None = None
    hostname: str = ""
    node_name: str = ""
    zone: str = ""
    target_ref: Reference | None = None


class EndpointPort(Struct, rename="camel", omit_defaults=True):
    name: str = ""
    protocol: str = "TCP"
    port: int | None = None
    app_protocol: str = ""


class EndpointSlice(Struct, rename="camel", omit_defaults=True):
    metadata: Meta
    address_type: str = ""
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


CoreObject = Plain | Pod | Service | EndpointSlice

event = msgspec.json.Decoder(Event)
page = msgspec.json.Decoder(Page)
head = msgspec.json.Decoder(Head)
encode = msgspec.json.Encoder().encode

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises."""
