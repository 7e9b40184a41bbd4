"""Which of Gateway API's routes are for a port of a service, and for whom.

A route in the service's namespace is its producer's: every client goes by it. One of another namespace is a consumer's: only clients of
that namespace do, and for them it takes the place of the producer's. A client's own proxy knows which of the two it is; a waypoint serves
both, and tells them apart by the namespace that the client's certificate proves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.services import MeshService
from mesh.model.l7.translate.targets import service_host
from mesh.model.manifest import GRPCRoute, HTTPRoute, TCPRoute, TLSRoute
from mesh.model.manifest.gatewayapi.common import SERVICE_GROUPS, Backend, ParentRef

AnyRoute = HTTPRoute | GRPCRoute | TCPRoute | TLSRoute
R = TypeVar("R", bound=AnyRoute)
NETWORKING = "networking.istio.io"


@dataclass(frozen=True, slots=True)
class Audience(Generic[R]):
    """Routes, oldest first, and the namespace whose clients they are for; "" for all."""

    namespace: str
    routes: tuple[R, ...]


def attached(route: AnyRoute, mesh: MeshService, port: int) -> bool:
    return any(_names(ref, route.namespace, mesh, port) for ref in route.spec.parent_refs)


def _names(ref: ParentRef, owner: str, mesh: MeshService, port: int) -> bool:
    service = mesh.service
    kind = ("Service", ref.group in SERVICE_GROUPS) if service.canonical else ("ServiceEntry", ref.group == NETWORKING)
    return (
        (ref.kind, True) == kind
        and ref.name == service.name
        and (ref.namespace or owner) == service.namespace
        and ref.port in (None, port)
        and ref.section_name in ("", mesh.port_names.get(port, ""))
    )


def audiences(routes: Iterable[R], mesh: MeshService, port: int, context: Context) -> Sequence[Audience[R]]:
    """The attached routes by whom they are for: consumers' first, then everybody's. At a client only those that count for it."""
    found: dict[str, list[R]] = {}
    for route in sorted((route for route in routes if attached(route, mesh, port)), key=age):
        found.setdefault("" if route.namespace == mesh.service.namespace else route.namespace, []).append(route)
    if context.kind is not Kind.WAYPOINT:
        own = found.get(context.namespace) or found.get("")
        return [Audience("", tuple(own))] if own else []
    return [Audience(namespace, tuple(found[namespace])) for namespace in sorted(found, key=lambda name: (name == "", name))]


def age(route: AnyRoute) -> tuple[str, str]:
    """Oldest first, then by name. Without a time of creation: after those that have one."""
    return (route.metadata.creation_timestamp or "~", f"{route.namespace}/{route.name}")


def backend_host(backend: Backend, owner: str, context: Context) -> str:
    """The host that a backend names; "" where it names no service."""
    if backend.kind == "Service" and backend.group in SERVICE_GROUPS:
        return service_host(backend.name, backend.namespace or owner, context)
    if backend.kind == "Hostname" and backend.group == NETWORKING:
        return backend.name
    return ""


def backend_hosts(routes: Iterable[AnyRoute], context: Context) -> frozenset[str]:
    """The hosts that these send traffic to."""
    found: set[str] = set()
    for route in routes:
        for rule in route.spec.rules:
            found.update(backend_host(entry, route.namespace, context) for entry in rule.backend_refs)
            filters = getattr(rule, "filters", ())
            mirrors = [entry.request_mirror for entry in filters if entry.request_mirror is not None]
            found.update(backend_host(mirror.backend_ref, route.namespace, context) for mirror in mirrors)
    return frozenset(found - {""})
