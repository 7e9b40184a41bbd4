"""Services. An ExternalName one is understood and left out by whoever resolves: it names no address of ours."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from mesh.model.manifest.core import UNREAD, Object
from mesh.model.manifest.pods import PROTOCOL, SECONDS
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import (
    LABELS,
    NOTHING,
    PORT,
    PORT_NAME,
    PORT_OR_NAME,
    SERVICE_NAME,
    STRING,
    Choice,
    Either,
    Flag,
    ListOf,
    Parsed,
    Text,
)
from mesh.model.workload import IPAddress

CLUSTER_IP = Either((Text("None", "None"), Text("", "an empty string"), Parsed(ip_address, "an IPv4 or IPv6 address")))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    """`target_port` is a number, a name of the pods' ports, or None for the same as `port`."""

    port: int = item(PORT, required=True)
    name: str = item(PORT_NAME, "")
    target_port: int | str | None = item(PORT_OR_NAME)
    protocol: str = item(PROTOCOL, "TCP")
    app_protocol: str = item(STRING, "")
    node_port: int | None = item(PORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    type: str = item(Choice(("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")), "ClusterIP")
    selector: Mapping[str, str] = item(LABELS, NOTHING)
    ports: tuple[ServicePort, ...] = item(ListOf(Record(ServicePort)), ())
    cluster_ip: IPAddress | str = item(CLUSTER_IP, "", name="clusterIP")
    cluster_ips: tuple[IPAddress | str, ...] = item(ListOf(CLUSTER_IP, most=2), (), name="clusterIPs")
    ip_families: tuple[str, ...] = item(ListOf(Choice(("IPv4", "IPv6")), most=2), ())
    ip_family_policy: str = item(Choice(("SingleStack", "PreferDualStack", "RequireDualStack")), "SingleStack")
    publish_not_ready_addresses: bool = item(Flag(), False)
    internal_traffic_policy: str = item(Choice(("Cluster", "Local")), "Cluster")
    traffic_distribution: str = item(Choice(("PreferClose", "PreferSameZone", "PreferSameNode")), "")
    external_name: str = item(STRING, "")
    external_ips: Any = item(UNREAD, name="externalIPs")
    external_traffic_policy: str = item(Choice(("Cluster", "Local")), "")
    session_affinity: str = item(Choice(("None", "ClientIP")), "None")
    session_affinity_config: Any = item(UNREAD)
    allocate_load_balancer_node_ports: bool | None = item(Flag())
    health_check_node_port: int | None = item(SECONDS)
    load_balancer_class: str = item(STRING, "")
    load_balancer_ip: str = item(STRING, "", name="loadBalancerIP")
    load_balancer_source_ranges: Any = item(UNREAD)

    RULES = (
        Rule(
            lambda spec: len({(port.port, port.protocol) for port in spec.ports}) == len(spec.ports),
            "ports",
            "each port and protocol once",
        ),
        Rule(
            lambda spec: len(spec.ports) < 2 or len({port.name for port in spec.ports} - {""}) == len(spec.ports),
            "ports",
            "a different name for each port, where there are several",
        ),
        Rule(
            lambda spec: not (spec.cluster_ip and spec.cluster_ips) or spec.cluster_ips[0] == spec.cluster_ip,
            "clusterIPs",
            "clusterIP as the first of them",
        ),
        Rule(
            lambda spec: len(spec.cluster_ips) < 2 or len({getattr(ip, "version", 0) for ip in spec.cluster_ips} - {0}) == 2,
            "clusterIPs",
            "one IPv4 and one IPv6 address, where there are two",
        ),
    )

    @property
    def headless(self) -> bool:
        return "None" in (self.cluster_ip, *self.cluster_ips)

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The virtual addresses; none for a headless service, or where none were assigned yet."""
        return tuple(ip for ip in (self.cluster_ips or (self.cluster_ip,)) if not isinstance(ip, str))


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Object):
    KIND = "Service"
    API_VERSIONS = ("v1",)
    NAME = SERVICE_NAME

    spec: ServiceSpec = item(Record(ServiceSpec), required=True)
    status: Any = item(UNREAD)
