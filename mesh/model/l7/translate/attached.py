"""Which of Gateway API's routes are for a port of a service, and for whom.

A route in the service's namespace is its producer's: every client goes by it. One of another namespace is a consumer's: only clients of
that namespace do, and for them it takes the place of the producer's. A client's own proxy knows which of the two it is; a waypoint serves
both, and tells them apart by the namespace that the client's certificate proves. What a consumer writes changes nothing for anybody else:
whatever is decided between routes is decided for one audience at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.services import MeshService
from mesh.model.manifest import GRPCRoute, HTTPRoute, TCPRoute, TLSRoute
from mesh.model.manifest.gatewayapi.common import SERVICE_GROUPS, ParentRef

AnyRoute = HTTPRoute | GRPCRoute | TCPRoute | TLSRoute
R = TypeVar("R", bound=AnyRoute)
NETWORKING = "networking.istio.io"


@dataclass(frozen=True, slots=True)
class Audience:
    """The routes of some clients, oldest first. `namespace`: theirs, where a proxy has to tell them from others; "" where it has not."""

    namespace: str = ""
    http: tuple[HTTPRoute, ...] = ()
    grpc: tuple[GRPCRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()

    @property
    def requests(self) -> tuple[HTTPRoute | GRPCRoute, ...]:
        return (*self.http, *self.grpc)

    @property
    def every(self) -> tuple[AnyRoute, ...]:
        return (*self.http, *self.grpc, *self.tls, *self.tcp)


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


def audiences(routes: Iterable[AnyRoute], mesh: MeshService, port: int, context: Context) -> Sequence[Audience]:
    """The attached routes by whom they are for: consumers', by namespace, and last everybody's. At a client only those that may count for
    it, and in the order in which they do.
    """
    found: dict[str, list[AnyRoute]] = {}
    for route in routes:
        if attached(route, mesh, port):
            found.setdefault("" if route.namespace == mesh.service.namespace else route.namespace, []).append(route)
    everybody = found.pop("", [])
    if context.kind is not Kind.WAYPOINT:
        return [_audience("", entries) for entries in (found.get(context.namespace), everybody) if entries]
    return [*(_audience(name, found[name]) for name in sorted(found)), *([_audience("", everybody)] if everybody else [])]


def _audience(namespace: str, routes: Iterable[AnyRoute]) -> Audience:
    ordered = sorted(routes, key=age)
    return Audience(namespace, _of(HTTPRoute, ordered), _of(GRPCRoute, ordered), _of(TLSRoute, ordered), _of(TCPRoute, ordered))


def _of(cls: type[R], routes: Iterable[AnyRoute]) -> tuple[R, ...]:
    return tuple(route for route in routes if isinstance(route, cls))


def age(route: AnyRoute) -> tuple[str, str]:
    """Oldest first, then by name. Without a time of creation: after those that have one."""
    return (route.metadata.creation_timestamp or "~", f"{route.namespace}/{route.name}")
