"""WorkloadEntry: an endpoint that is no pod. Also how a ServiceEntry writes its own endpoints."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.core import Object
from mesh.model.manifest.istio import NETWORKING_VERSIONS
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import DNS_NAME, IPV4, IPV6, LABELS, NOTHING, PORT, MapOf, Parsed, Text
from mesh.model.manifest.status import IstioStatus, status
from mesh.model.manifest.words import ADDRESS, DNS, NONEMPTY, UNSIGNED
from mesh.model.workload import IPAddress, Locality

UNIX = "unix://"


def _address(text: str) -> IPAddress | str:
    """An IP address, a DNS name, or `unix://` and a path."""
    if text.startswith(UNIX):
        return text
    if re.fullmatch(rf"{IPV4}|{IPV6}", text):
        address: IPAddress = ADDRESS.parse(text)
        return address
    if text.rpartition(".")[2].isdigit():
        raise ValueError(text)
    return text.lower()


ENDPOINT_ADDRESS = Parsed(
    _address, "an IP address, a DNS name, or unix:// and a path from the root", rf"unix://[/@].*[^/]|{IPV4}|{IPV6}|{DNS}", 256
)


def _locality(text: str) -> Locality:
    return Locality(*text.split("/"))


LOCALITY = Parsed(_locality, "<region>/<zone>/<subzone>, or the first of them", r"[^/]+(?:/[^/]*){0,2}", 2048)
NO_SOCKETS = "tunnels and waypoints reach no sockets in another machine's file system"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEntrySpec:
    """`address` is an IP, a name that the endpoint is looked up by, `unix://…`, or None for one behind a network's gateway."""

    address: IPAddress | str | None = item(
        ENDPOINT_ADDRESS,
        about="Where the endpoint is: an IP address, a DNS name, or a socket's path after unix://.",
        unsupported=lambda address: NO_SOCKETS if isinstance(address, str) and address.startswith(UNIX) else "",
    )
    ports: Mapping[str, int] = item(
        MapOf(NONEMPTY, PORT, 128), NOTHING, about="Its own ports, by the names of the service's; absent, the service's target ports."
    )
    labels: Mapping[str, str] = item(LABELS, NOTHING, about="Labels, as of a pod.")
    network: str = item(Text(longest=2048), "", about="The network that it is in, if that is not reached directly.")
    locality: Locality = item(LOCALITY, Locality(), about="Where it runs: <region>/<zone>/<subzone>.")
    weight: int | None = item(UNSIGNED, about="Its share among the endpoints of a service; absent, 1.")
    service_account: str = item(DNS_NAME, "", about="The service account whose identity it proves; absent, it is outside the mesh.")

    RULES = (
        Rule(
            lambda spec: spec.address is not None or spec.network,
            "address",
            "an address, or a network whose gateway leads to it",
            "has(self.address) || has(self.network) && self.network != ''",
        ),
        Rule(
            lambda spec: not (isinstance(spec.address, str) and spec.address.startswith(UNIX)) or not spec.ports,
            "ports",
            "no ports with a socket's path",
            "!has(self.address) || !self.address.startsWith('unix://') || !has(self.ports) || size(self.ports) == 0",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEntry(Object):
    """An endpoint that is no pod, such as a virtual machine; services find it by its labels."""

    KIND = "WorkloadEntry"
    API_VERSIONS = NETWORKING_VERSIONS

    spec: WorkloadEntrySpec = item(Record(WorkloadEntrySpec), required=True, about="Where the endpoint is, and who it is.")
    status: Any = status(IstioStatus, "What became of the endpoint.")
