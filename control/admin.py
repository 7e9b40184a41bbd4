"""What the control plane says of itself over HTTP: readiness, metrics, and what it serves, to whom, and what it refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict

from control.metrics import CONTENT_TYPE, Metrics
from control.resolve import Resolved
from control.snapshot import Snapshot
from control.xds.server import XdsServer, short
from mesh.io.http import Request, Response, Routes, json_response, text
from mesh.model.codec.proto import authorization_to, service_to, workload_to
from mesh.model.policy import Authorization
from mesh.model.workload import Service, Workload

Current = Callable[[], Resolved | None]


def routes(xds: XdsServer, current: Current, metrics: Metrics) -> Routes:
    """`current` is what was last resolved, None before the sources are read."""

    def ready(_: Request) -> Response:
        return text("ready\n") if xds.snapshot.number else text("not ready: the manifests have not been read yet\n", 503)

    def metrics_page(_: Request) -> Response:
        return Response(200, metrics.exposition(), CONTENT_TYPE)

    def snapshot(_: Request) -> Response:
        return json_response(snapshot_view(xds.snapshot, current()))

    def sync(_: Request) -> Response:
        return json_response({"snapshot": xds.snapshot.number, "clients": xds.debug()})

    def refusals(_: Request) -> Response:
        return json_response(refusals_view(current()))

    return {
        ("GET", "/ready"): ready,
        ("GET", "/metrics"): metrics_page,
        ("GET", "/debug/snapshot"): snapshot,
        ("GET", "/debug/sync"): sync,
        ("GET", "/debug/refusals"): refusals,
    }


def snapshot_view(snapshot: Snapshot, resolved: Resolved | None) -> dict[str, Any]:
    resources = {
        short(type_url): {name: {"version": entry.version, **_as_json(entry.value)} for name, entry in sorted(entries.items())}
        for type_url, entries in snapshot.entries.items()
    }
    status = [
        {"object": entry.subject, "where": entry.where, "notes": list(entry.notes)} for entry in (resolved.status if resolved else ())
    ]
    return {"number": snapshot.number, "resources": resources, "status": status}


def refusals_view(resolved: Resolved | None) -> list[dict[str, str]]:
    """One entry per refused value; `consequence` is of the whole object, "" where nothing but its absence follows."""
    return [
        {
            "file": refusal.where,
            "object": refusal.subject,
            "field": refusal.field,
            "value": refusal.value,
            "accepted": refusal.accepted,
            "consequence": consequence,
        }
        for entry, consequence in (resolved.refused if resolved else ())
        for refusal in entry.refusals
    ]


def _as_json(value: Workload | Service | Authorization) -> Mapping[str, Any]:
    """Protobuf's JSON, with addresses as people write them."""
    if isinstance(value, Workload):
        found = MessageToDict(workload_to(value), preserving_proto_field_name=True)
        return {**found, "addresses": [str(ip) for ip in value.addresses]}
    if isinstance(value, Service):
        found = MessageToDict(service_to(value), preserving_proto_field_name=True)
        vips = [f"{vip.network}/{vip.ip}" for vip in value.vips] + [f"{name}/{network}" for name, network in value.vip_networks]
        return {**found, "addresses": vips}
    return MessageToDict(authorization_to(value), preserving_proto_field_name=True)
