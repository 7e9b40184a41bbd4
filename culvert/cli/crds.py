"""`culvert crds`: the CustomResourceDefinitions of every API that the parser describes, made of its descriptions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from culvert.cli.output import UsageError, note
from mesh.model.manifest.core import Object
from mesh.model.manifest.kinds import SERVED
from mesh.model.manifest.record import fields_of
from mesh.model.manifest.schema import object_schema

# The server demands it of groups that are the Kubernetes project's own. We are not its authors, and ours are other schemas than theirs.
APPROVAL = {"api-approved.kubernetes.io": "unapproved, made by Culvert of its own parser"}
HEADER = "# Made by `culvert crds` of the parser's descriptions. Not to be edited.\n"
GATEWAY_API, ISTIO = "gateway.networking.k8s.io", "istio-io"


@dataclass(frozen=True, slots=True)
class Column:
    """What `kubectl get` shows; with a priority of 1 only `-o wide`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Names:
    plural: str
    short: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()


AGE = Column("Age", ".metadata.creationTimestamp", "date")


def condition(name: str, of: str = ".status") -> Column:
    return Column(name, f'{of}.conditions[?(@.type=="{name}")].status')


ACCEPTED, ENFORCED, PROGRAMMED = condition("Accepted"), condition("Enforced"), condition("Programmed")
ROUTE_ACCEPTED = condition("Accepted", ".status.parents[*]")
HOSTNAMES = Column("Hostnames", ".spec.hostnames")

# (group, kind) → what kubectl calls it, as Istio and the Gateway API do.
NAMES = {
    ("networking.istio.io", "VirtualService"): Names(
        "virtualservices", ("vs",), (Column("Gateways", ".spec.gateways"), Column("Hosts", ".spec.hosts"), ACCEPTED)
    ),
    ("networking.istio.io", "DestinationRule"): Names("destinationrules", ("dr",), (Column("Host", ".spec.host"), ACCEPTED)),
    ("networking.istio.io", "ServiceEntry"): Names(
        "serviceentries",
        ("se",),
        (Column("Hosts", ".spec.hosts"), Column("Location", ".spec.location"), Column("Resolution", ".spec.resolution"), ACCEPTED),
    ),
    ("networking.istio.io", "WorkloadEntry"): Names("workloadentries", ("we",), (Column("Address", ".spec.address"), ACCEPTED)),
    ("networking.istio.io", "Gateway"): Names("gateways", ("gw",), (ACCEPTED,)),
    ("telemetry.istio.io", "Telemetry"): Names("telemetries", ("telemetry",), (ACCEPTED, ENFORCED)),
    ("security.istio.io", "AuthorizationPolicy"): Names(
        "authorizationpolicies", ("ap",), (Column("Action", ".spec.action"), ACCEPTED, ENFORCED)
    ),
    ("security.istio.io", "PeerAuthentication"): Names(
        "peerauthentications", ("pa",), (Column("Mode", ".spec.mtls.mode"), ACCEPTED, ENFORCED)
    ),
    ("security.istio.io", "RequestAuthentication"): Names("requestauthentications", ("ra",), (ACCEPTED, ENFORCED)),
    (GATEWAY_API, "GatewayClass"): Names(
        "gatewayclasses",
        ("gc",),
        (Column("Controller", ".spec.controllerName"), ACCEPTED, AGE, Column("Description", ".spec.description", priority=1)),
    ),
    (GATEWAY_API, "Gateway"): Names(
        "gateways", ("gtw",), (Column("Class", ".spec.gatewayClassName"), Column("Address", ".status.addresses[*].value"), PROGRAMMED)
    ),
    (GATEWAY_API, "HTTPRoute"): Names("httproutes", (), (HOSTNAMES, ROUTE_ACCEPTED)),
    (GATEWAY_API, "GRPCRoute"): Names("grpcroutes", (), (HOSTNAMES, ROUTE_ACCEPTED)),
    (GATEWAY_API, "TCPRoute"): Names("tcproutes", (), (ROUTE_ACCEPTED,)),
    (GATEWAY_API, "TLSRoute"): Names("tlsroutes", (), (HOSTNAMES, ROUTE_ACCEPTED)),
    (GATEWAY_API, "ReferenceGrant"): Names("referencegrants", ("refgrant",)),
}


def definitions() -> dict[str, dict[str, Any]]:
    """Every CustomResourceDefinition by its name."""
    made = (_definition(group, kind, names) for (group, kind), names in NAMES.items())
    return {entry["metadata"]["name"]: entry for entry in made}


def _definition(group: str, kind: str, names: Names) -> dict[str, Any]:
    classes = SERVED[(group, kind)]
    family = ["gateway-api"] if group == GATEWAY_API else [ISTIO, f"{group.partition('.')[0]}-istio-io"]
    annotations = {"annotations": APPROVAL} if group.endswith(".k8s.io") else {}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.plural}.{group}", **annotations},
        "spec": {
            "group": group,
            "names": {
                "categories": family,
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": names.plural,
                **({"shortNames": list(names.short)} if names.short else {}),
                "singular": kind.lower(),
            },
            "scope": "Namespaced" if next(iter(classes.values())).NAMESPACED else "Cluster",
            "versions": [_version(name.rpartition("/")[2], cls, names) for name, cls in classes.items()],
        },
    }


def _version(name: str, cls: type[Object], names: Names) -> dict[str, Any]:
    columns = names.columns if AGE in names.columns else (*names.columns, AGE)
    has_status = any(entry.wire == "status" for entry in fields_of(cls))
    return {
        "name": name,
        "served": True,
        "storage": name == "v1",
        "schema": {"openAPIV3Schema": object_schema(cls)},
        **({"subresources": {"status": {}}} if has_status else {}),
        "additionalPrinterColumns": [_column(column) for column in columns],
    }


def _column(column: Column) -> dict[str, Any]:
    more = {"priority": column.priority} if column.priority else {}
    return {"name": column.name, "type": column.type, "jsonPath": column.path, **more}


class _Dumper(yaml.CSafeDumper):
    """Without anchors: a schema that stands twice is written twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def text_of(definition: dict[str, Any]) -> str:
    return HEADER + yaml.dump(definition, Dumper=_Dumper, sort_keys=False, width=140, allow_unicode=True)


def run_crds(output: Path | None) -> None:
    texts = {f"{name}.yaml": text_of(definition) for name, definition in definitions().items()}
    if output is None:
        print("---\n".join(texts.values()), end="")
        return
    try:
        _write(output, texts.items())
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error
    note(f"{len(texts)} definitions written to {output}")


def _write(directory: Path, texts: Iterable[tuple[str, str]]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts:
        (directory / name).write_text(text)
