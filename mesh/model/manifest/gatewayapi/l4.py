"""TCPRoute and TLSRoute. Their rules match nothing, so that a second one could never be reached: there is exactly one, in every version."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mesh.model.manifest.core import Object
from mesh.model.manifest.gatewayapi import GROUP
from mesh.model.manifest.gatewayapi.common import PARENTS_APART, SECTION, BackendRef, RouteSpec
from mesh.model.manifest.record import Record, item
from mesh.model.manifest.shapes import ListOf
from mesh.model.manifest.status import RouteStatus, status
from mesh.model.manifest.words import HOSTNAME


@dataclass(frozen=True, slots=True, kw_only=True)
class L4RouteRule:
    name: str = item(SECTION, "", about="A name for the rule.")
    backend_refs: tuple[BackendRef, ...] = item(ListOf(Record(BackendRef), 1, 16), required=True, about="Where connections go, by weight.")


ONE_RULE = ListOf(Record(L4RouteRule), 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TCPRouteSpec(RouteSpec):
    rules: tuple[L4RouteRule, ...] = item(ONE_RULE, required=True, about="The one rule: where connections go.")

    RULES = (PARENTS_APART,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TCPRoute(Object):
    """Routes connections by weight, from a Gateway or inside the mesh."""

    KIND = "TCPRoute"
    API_VERSIONS = (f"{GROUP}/v1", f"{GROUP}/v1alpha2")

    spec: TCPRouteSpec = item(Record(TCPRouteSpec), required=True, about="What the route is attached to, and where connections go.")
    status: Any = status(RouteStatus, "What became of the route at each of its parents.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSRouteSpec(RouteSpec):
    hostnames: tuple[str, ...] = item(ListOf(HOSTNAME, 1, 1024), required=True, about="Server names that clients ask for.")
    rules: tuple[L4RouteRule, ...] = item(ONE_RULE, required=True, about="The one rule: where connections go.")

    RULES = (PARENTS_APART,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSRoute(Object):
    """Routes TLS connections by server name, without opening them."""

    KIND = "TLSRoute"
    API_VERSIONS: ClassVar[tuple[str, ...]] = (f"{GROUP}/v1", f"{GROUP}/v1alpha3")

    spec: TLSRouteSpec = item(Record(TLSRouteSpec), required=True, about="What the route is attached to, and where connections go.")
    status: Any = status(RouteStatus, "What became of the route at each of its parents.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSRouteSpecAlpha2(TLSRouteSpec):
    """Before v1alpha3, a route without server names took every one."""

    hostnames: tuple[str, ...] = item(ListOf(HOSTNAME, most=16), (), about="Server names that clients ask for; none for every one.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSRouteAlpha2(TLSRoute):
    __doc__ = TLSRoute.__doc__

    API_VERSIONS = (f"{GROUP}/v1alpha2",)

    spec: TLSRouteSpecAlpha2 = item(
        Record(TLSRouteSpecAlpha2), required=True, about="What the route is attached to, and where connections go."
    )
