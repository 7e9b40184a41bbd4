"""Services: what a manifest asks for, which addresses it gets, and which pods answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from culvert.playground.addresses import SERVICES4, SERVICES6, service_addresses, service_host_of
from culvert.playground.fields import Fields, Report
from culvert.playground.podspec import PodSpec

# What a cloud's balancer or a NodePort would need: inside the cluster such a service is its cluster address.
IGNORED = (
    "allocateLoadBalancerNodePorts",
    "externalTrafficPolicy",
    "internalTrafficPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "trafficDistribution",
)


@dataclass(frozen=True, slots=True)
class ServicePort:
    name: str
    port: int
    target: int | str
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """`families` are 4 and 6 in the order in which the service gets addresses; `requested` is the address that the manifest names."""

    namespace: str
    name: str
    selector: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[ServicePort, ...] = ()
    headless: bool = False
    families: tuple[int, ...] = (4,)
    requested: str = ""
    external_name: str = ""
    publish_not_ready: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Backend:
    """A running pod as services see it. `addresses` are of both families; `ready` is the pod's Ready condition."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    addresses: tuple[str, ...]
    spec: PodSpec
    ready: bool


@dataclass(frozen=True, slots=True)
class Endpoint:
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class ServicePortState:
    """One port of one service in one family: its address and who answers."""

    service: str
    protocol: str
    address: str
    port: int
    endpoints: tuple[Endpoint, ...]


def parse_service(manifest: Mapping[str, Any], report: Report) -> ServiceSpec:
    metadata = manifest.get("metadata") or {}
    fields = Fields(manifest.get("spec"), "spec", report)
    kind = fields.string("type", "ClusterIP", among=("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"))
    address = fields.string("clusterIP")
    addresses = fields.strings("clusterIPs")
    headless = "None" in (address, *addresses)
    requested = "" if headless else (address or (addresses[0] if addresses else ""))
    if requested and not _in_range(requested):
        report.refuse("spec.clusterIP", requested, f"an address of {SERVICES4} or {SERVICES6}, None, or nothing")
        requested = ""
    policy = fields.string("ipFamilyPolicy", "SingleStack", among=("SingleStack", "PreferDualStack", "RequireDualStack"))
    names = fields.strings("ipFamilies")
    for name in names:
        if name not in ("IPv4", "IPv6"):
            report.refuse("spec.ipFamilies", name, "IPv4 or IPv6")
    families = tuple(6 if name == "IPv6" else 4 for name in names) or ((6,) if ":" in requested else (4,))
    if policy != "SingleStack" and len(families) == 1:
        families = (*families, 10 - families[0])
    if fields.string("sessionAffinity", "None", among=("None", "ClientIP")) == "ClientIP":
        report.refuse("spec.sessionAffinity", "ClientIP", "None: the playground spreads connections at random")
    ports = tuple(_port(child, report) for child in fields.children("ports"))
    names_of_ports = [port.name for port in ports]
    if len(ports) > 1 and ("" in names_of_ports or len(set(names_of_ports)) < len(ports)):
        report.refuse("spec.ports", names_of_ports, "a different name for each port, where there are several")
    external = fields.string("externalName")
    if not ports and kind != "ExternalName" and not headless:
        report.refuse("spec.ports", [], "at least one port")
    result = ServiceSpec(
        namespace=str(metadata.get("namespace") or "default"),
        name=str(metadata.get("name")),
        selector=fields.labels("selector"),
        ports=ports,
        headless=headless,
        families=families,
        requested=requested,
        external_name=external if kind == "ExternalName" else "",
        publish_not_ready=bool(fields.take("publishNotReadyAddresses")),
    )
    fields.ignore(*IGNORED)
    fields.finish()
    return result


def _port(fields: Fields, report: Report) -> ServicePort:
    port = fields.integer("port", 1, 1, 65535)
    if fields.has("targetPort"):
        target = fields.port("targetPort")
    else:
        fields.take("targetPort")
        target = port
    result = ServicePort(fields.string("name"), port, target, fields.string("protocol", "TCP", among=("TCP", "UDP")))
    fields.ignore("appProtocol", "nodePort")
    fields.finish()
    return result


def _in_range(address: str) -> bool:
    try:
        return service_host_of(address) is not None
    except ValueError:
        return False


def cluster_addresses(service: ServiceSpec, host: int) -> tuple[str, ...]:
    """The service's virtual addresses, the first family first; none for headless and external ones."""
    if service.headless or service.external_name:
        return ()
    four, six = service_addresses(host)
    return tuple(str(four if family == 4 else six) for family in service.families)


def backends(service: ServiceSpec, pods: Iterable[Backend]) -> list[Backend]:
    """The pods that answer for a service, in a stable order. A service without a selector has none."""
    if not service.selector:
        return []
    chosen = [
        pod
        for pod in pods
        if pod.namespace == service.namespace
        and (pod.ready or service.publish_not_ready)
        and all(pod.labels.get(key) == value for key, value in service.selector.items())
    ]
    return sorted(chosen, key=lambda pod: pod.name)


def port_states(service: ServiceSpec, addresses: tuple[str, ...], pods: Iterable[Backend]) -> list[ServicePortState]:
    """Every (address, port) of the service with its endpoints of the same family. Pods without a named target port are left out."""
    chosen = backends(service, pods)
    states = []
    for address in addresses:
        for port in service.ports:
            endpoints = []
            for pod in chosen:
                target = pod.spec.named_port(port.target) if isinstance(port.target, str) else port.target
                own = next((ip for ip in pod.addresses if (":" in ip) == (":" in address)), None)
                if target is not None and own is not None:
                    endpoints.append(Endpoint(own, target))
            states.append(ServicePortState(service.key, port.protocol, address, port.port, tuple(endpoints)))
    return states
