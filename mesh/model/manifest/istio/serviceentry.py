"""ServiceEntry: a service that no Service object describes, inside the mesh or outside.

Without an address it gets one that a mesh hands out; the parser does not care. What cannot be resolved is refused: a wildcard that would be
looked up in DNS, endpoints where none are used, several where one is.
"""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.core import Object
from mesh.model.manifest.istio import NETWORKING_VERSIONS
from mesh.model.manifest.istio.virtualservice import EXPORT_TO, EXPORTED_ALONE
from mesh.model.manifest.istio.workloadentry import WorkloadEntrySpec
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import LABEL_KEY, LABEL_VALUE, NETWORK, NOTHING, PORT, Choice, ListOf, MapOf
from mesh.model.manifest.status import ServiceEntryStatus, status
from mesh.model.manifest.words import NAME, NONEMPTY, WILD_HOST, upper
from mesh.model.workload import IPNetwork

PROTOCOLS = ("HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "MYSQL", "REDIS", "TCP", "TLS")
FROM_REQUEST = frozenset({"HTTP", "GRPC", "GRPC-WEB", "HTTP2", "TLS", "HTTPS"})
RESOLUTIONS = ("NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntryPort:
    """`target_port` None: as `number`."""

    number: int = item(PORT, required=True, about="The port under which clients address the service.")
    name: str = item(NAME, required=True, about="A name, which no other port has.")
    protocol: str = item(upper(PROTOCOLS), "TCP", about="What is spoken over it: " + ", ".join(PROTOCOLS) + ".")
    target_port: int | None = item(PORT, about="The endpoints' port, if it is another.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadLabels:
    labels: Mapping[str, str] = item(MapOf(LABEL_KEY, LABEL_VALUE, 256), NOTHING, about="Labels that they must have, all of them.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntrySpec:
    hosts: tuple[str, ...] = item(
        ListOf(WILD_HOST, 1, 256, distinct=True), required=True, about="The names of the service; a leading *. is any name below."
    )
    addresses: tuple[IPNetwork, ...] = item(
        ListOf(NETWORK, most=256), (), about="Virtual addresses, or CIDR blocks of them; absent, one is handed out."
    )
    ports: tuple[ServiceEntryPort, ...] = item(ListOf(Record(ServiceEntryPort), most=256, unique="name"), (), about="The service's ports.")
    location: str = item(
        Choice(("MESH_EXTERNAL", "MESH_INTERNAL")),
        "MESH_EXTERNAL",
        about="Whether it is outside the mesh, or a part of it with identities of its own.",
    )
    resolution: str = item(Choice(RESOLUTIONS), "NONE", about="How endpoints are found: as addressed, as listed, or by DNS.")
    endpoints: tuple[WorkloadEntrySpec, ...] = item(ListOf(Record(WorkloadEntrySpec), most=4096), (), about="The endpoints themselves.")
    workload_selector: WorkloadLabels | None = item(Record(WorkloadLabels), about="Pods and WorkloadEntries that are the endpoints.")
    export_to: tuple[str, ...] = item(EXPORT_TO, (), about="Namespaces that may use it: '.' its own, * all; absent, all.")
    subject_alt_names: tuple[str, ...] = item(
        ListOf(NONEMPTY, most=256), (), about="Names of which the server's certificate must hold one."
    )

    RULES = (
        Rule(
            lambda spec: len({port.number for port in spec.ports}) == len(spec.ports),
            "ports",
            "each number once",
            "!has(self.ports) || self.ports.all(one, self.ports.exists_one(other, one.number == other.number))",
        ),
        Rule(
            lambda spec: spec.workload_selector is None or not spec.endpoints,
            "workloadSelector",
            "one of workloadSelector and endpoints",
            "!(has(self.workloadSelector) && has(self.endpoints) && size(self.endpoints) > 0)",
        ),
        Rule(
            lambda spec: spec.resolution in ("NONE", "STATIC") or all(net.prefixlen == net.max_prefixlen for net in spec.addresses),
            "addresses",
            "single addresses with DNS; CIDR blocks only with the resolutions NONE and STATIC",
            "self.resolution in ['NONE', 'STATIC'] || !has(self.addresses) || "
            "!self.addresses.exists(one, one.contains('/') && !one.endsWith('/32') && !one.endsWith('/128'))",
        ),
        Rule(
            lambda spec: spec.resolution not in ("NONE", "DYNAMIC_DNS") or not spec.endpoints,
            "endpoints",
            "no endpoints with the resolutions NONE and DYNAMIC_DNS, which use none",
            "!(self.resolution in ['NONE', 'DYNAMIC_DNS']) || !has(self.endpoints) || size(self.endpoints) == 0",
        ),
        Rule(
            lambda spec: spec.resolution not in ("NONE", "DYNAMIC_DNS") or spec.workload_selector is None,
            "workloadSelector",
            "no workloadSelector with the resolutions NONE and DYNAMIC_DNS, which use no endpoints",
            "!(self.resolution in ['NONE', 'DYNAMIC_DNS']) || !has(self.workloadSelector)",
        ),
        Rule(
            lambda spec: spec.resolution != "DNS_ROUND_ROBIN" or len(spec.endpoints) < 2,
            "endpoints",
            "at most one endpoint with DNS_ROUND_ROBIN",
            "self.resolution != 'DNS_ROUND_ROBIN' || !has(self.endpoints) || size(self.endpoints) < 2",
        ),
        Rule(
            lambda spec: (
                spec.resolution not in ("DNS", "DNS_ROUND_ROBIN")
                or spec.endpoints
                or spec.workload_selector is not None
                or not any(host.startswith("*") for host in spec.hosts)
            ),
            "hosts",
            "names without '*' where endpoints are found by DNS and none are listed",
            "!(self.resolution in ['DNS', 'DNS_ROUND_ROBIN']) || has(self.endpoints) && size(self.endpoints) > 0 || "
            "has(self.workloadSelector) || !self.hosts.exists(host, host.startsWith('*'))",
        ),
        Rule(
            lambda spec: (
                spec.resolution != "STATIC"
                or not any(isinstance(entry.address, str) and ":" not in entry.address for entry in spec.endpoints)
            ),
            "endpoints",
            "addresses of endpoints with STATIC; names only with DNS",
        ),
        Rule(
            lambda spec: (
                spec.resolution != "DYNAMIC_DNS"
                or (spec.location == "MESH_EXTERNAL" and not spec.addresses and all(port.protocol in FROM_REQUEST for port in spec.ports))
            ),
            "resolution",
            "DYNAMIC_DNS only with MESH_EXTERNAL, without addresses, and with protocols whose requests name the host: "
            + ", ".join(sorted(FROM_REQUEST)),
        ),
        EXPORTED_ALONE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntry(Object):
    """Makes a service known that no Service describes: one outside the mesh, or on machines that are no pods."""

    KIND = "ServiceEntry"
    API_VERSIONS = NETWORKING_VERSIONS

    spec: ServiceEntrySpec = item(Record(ServiceEntrySpec), required=True, about="The service's names, ports and endpoints.")
    status: Any = status(ServiceEntryStatus, "What became of the service, and the addresses that were handed out.")
