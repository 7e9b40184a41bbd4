"""What the control plane says of itself over HTTP: readiness, metrics, and what it serves, to whom, and what it refused."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from google.protobuf.json_format import MessageToDict

from control.exposition import CONTENT_TYPE
from control.metrics import Metrics
from control.pipeline import Pipeline
from control.resolve import Mesh
from control.xds.server import XdsServer, short
from control.xds.store import Store
from mesh.io.http import Request, Response, Routes, json_response, text
from mesh.model.codec.proto import authorization_to, service_to, workload_to
from mesh.model.policy import Authorization, PolicyScope
from mesh.model.workload import Service, Workload

MAX_ADDRESSES = 16
MAX_DENYING = 20  # refusals that are told beside their number


def routes(xds: XdsServer, pipeline: Pipeline, metrics: Metrics, problems: Callable[[], list[str]] = list) -> Routes:
    """`problems`: what does not work now beside the sources, a sentence each."""
    life = secrets.token_hex(4)  # numbers begin anew with each

    def ready(_: Request) -> Response:
        waiting = [source.name for source in pipeline.sources if not source.state.synced]
        if pipeline.ready:
            return text("ready\n" + "".join(f"{line}\n" for line in stale(pipeline, time.time())))
        return text(f"not ready: {', '.join(waiting) or 'what was read'} has not been taken in yet\n", 503)

    def metrics_page(_: Request) -> Response:
        return Response(200, metrics.exposition(), CONTENT_TYPE)

    one_at_a_time = asyncio.Semaphore(1)

    async def snapshot(_: Request) -> Response:
        async with one_at_a_time:
            view = snapshot_view(pipeline.mesh, pipeline.tunnels)
            return await asyncio.to_thread(lambda: json_response(view()))

    def sync(_: Request) -> Response:
        found = {"snapshot": pipeline.tunnels.number, "clients": xds.debug(), "sources": sources_view(pipeline, time.time())}
        return json_response({**found, "refused": refused_view(pipeline.mesh), "problems": problems()})

    async def refusals(_: Request) -> Response:
        async with one_at_a_time:
            view = refusals_view(pipeline.mesh)
            return await asyncio.to_thread(lambda: json_response(view()))

    def names(request: Request) -> Response:
        number = pipeline.tunnels.number
        tag = f'"{life}-{number}"'
        if request.headers.get("if-none-match") == tag:
            return Response(304, headers=(("etag", tag),))
        return replace(json_response(names_view(pipeline.mesh, number)), headers=(("etag", tag),))

    return {
        ("GET", "/ready"): ready,
        ("GET", "/metrics"): metrics_page,
        ("GET", "/debug/snapshot"): snapshot,
        ("GET", "/debug/names"): names,
        ("GET", "/debug/sync"): sync,
        ("GET", "/debug/refusals"): refusals,
    }


def stale(pipeline: Pipeline, now: float) -> list[str]:
    """What is not known to be current, a line each."""
    return [
        f"{source.name}: what is served may be {now - source.state.stale_since:.0f} s old: {source.state.error}"
        for source in pipeline.sources
        if source.state.stale_since is not None
    ]


def sources_view(pipeline: Pipeline, now: float) -> dict[str, Any]:
    return {
        source.name: {
            "synced": source.state.synced,
            "stale_seconds": None if source.state.stale_since is None else round(now - source.state.stale_since, 3),
            "error": source.state.error or None,
        }
        for source in pipeline.sources
    }


def snapshot_view(mesh: Mesh, tunnels: Store) -> Callable[[], dict[str, Any]]:
    """What is served now. What is returned makes it readable, on any thread: a second of work for ten thousand pods."""
    number, statuses = tunnels.number, dict(mesh.statuses)
    values: dict[str, Workload | Service | Authorization] = {**mesh.workloads, **mesh.services, **mesh.policies}
    entries = {short(type_url): dict(store.entries) for type_url, store in tunnels.types.items()}

    def view() -> dict[str, Any]:
        resources = {
            name: {key: {"version": entry.version, **_as_json(values[key])} for key, entry in sorted(held.items())}
            for name, held in entries.items()
        }
        status = [{"object": entry.subject, "where": entry.where, "notes": list(entry.notes)} for _, entry in sorted(statuses.items())]
        return {"number": number, "resources": resources, "status": status}

    return view


def refusals_view(mesh: Mesh) -> Callable[[], list[dict[str, str]]]:
    """What is refused now. What is returned makes it readable, on any thread: one entry per refused value; `consequence` is of the whole
    object, "" where nothing but its absence follows.
    """
    refused = mesh.refused_view()
    return lambda: [
        {
            "file": refusal.where,
            "object": refusal.subject,
            "field": refusal.field,
            "value": refusal.value,
            "accepted": refusal.accepted,
            "consequence": consequence,
        }
        for entry, consequence in refused()
        for refusal in entry.refusals
    ]


def refused_view(mesh: Mesh) -> dict[str, Any]:
    """How much is refused, and what is denied for that. `shut`: everything is, in all of the mesh."""
    rejections = mesh.catalog.rejections
    held = ((subject, rejections[subject]) for subject in mesh.consequences if subject in rejections)
    denying = (
        {"file": entry.refusals[0].where, "object": entry.refusals[0].subject, "consequence": consequence}
        for subject, rejection in held
        if not rejection.kept
        for entry, consequence in zip(rejection.refused, mesh.consequences[subject], strict=False)
    )
    told = list(islice(denying, MAX_DENYING))
    shut = any(policy.scope is PolicyScope.GLOBAL and not policy.enforceable for policy in mesh.policies.values())
    return {"objects": sum(len(rejection.refused) for rejection in rejections.values()), "denying": told, "shut": shut}


def names_view(mesh: Mesh, number: int) -> dict[str, Any]:
    """The addresses of names that no DNS of a cluster knows: of ServiceEntries, and of services in Consul."""
    inside = f".svc.{mesh.settings.cluster_domain}"
    found: dict[str, list[str]] = {}
    for service in sorted(mesh.services.values(), key=lambda one: (one.hostname, one.namespace)):
        if service.vips and "*" not in service.hostname and not service.hostname.endswith(inside):
            found.setdefault(service.hostname, [str(vip.ip) for vip in service.vips][:MAX_ADDRESSES])
    return {"number": number, "names": found}


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
