"""Which kinds there are, in which versions, and what objects of them are called."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from mesh.model.manifest.core import Namespace, Node, Object, ServiceAccount
from mesh.model.manifest.endpoints import EndpointSlice
from mesh.model.manifest.gatewayapi.gateways import Gateway, GatewayClass
from mesh.model.manifest.gatewayapi.grants import ReferenceGrant
from mesh.model.manifest.gatewayapi.grpc import GRPCRoute
from mesh.model.manifest.gatewayapi.http import HTTPRoute
from mesh.model.manifest.gatewayapi.l4 import TCPRoute, TLSRoute, TLSRouteAlpha2
from mesh.model.manifest.istio.destinationrule import DestinationRule
from mesh.model.manifest.istio.gateway import IstioGateway
from mesh.model.manifest.istio.serviceentry import ServiceEntry
from mesh.model.manifest.istio.telemetry import Telemetry
from mesh.model.manifest.istio.virtualservice import VirtualService
from mesh.model.manifest.istio.workloadentry import WorkloadEntry
from mesh.model.manifest.peerauth import PeerAuthentication
from mesh.model.manifest.pods import Deployment, Pod
from mesh.model.manifest.requestauth import RequestAuthentication
from mesh.model.manifest.security import AuthorizationPolicy
from mesh.model.manifest.services import Service

KINDS: tuple[type[Object], ...] = (
    *(Namespace, ServiceAccount, Node, Pod, Deployment, Service, EndpointSlice),
    *(AuthorizationPolicy, PeerAuthentication, RequestAuthentication),
    *(VirtualService, DestinationRule, ServiceEntry, WorkloadEntry, IstioGateway, Telemetry),
    *(GatewayClass, Gateway, HTTPRoute, GRPCRoute, TCPRoute, TLSRoute, TLSRouteAlpha2, ReferenceGrant),
)
"""Every class that objects are made of. A version whose schema differs from the others' has a class of its own, made from theirs."""

Policy = AuthorizationPolicy | PeerAuthentication | RequestAuthentication
POLICY_GROUP = "security.istio.io"
POLICY_KINDS = frozenset({AuthorizationPolicy.KIND, PeerAuthentication.KIND, RequestAuthentication.KIND})


def group_of(version: str) -> str:
    """The group of an apiVersion; empty for the core API."""
    return version.rpartition("/")[0]


# (group, kind) → apiVersion → class, and kind → its types.
SERVED: dict[tuple[str, str], dict[str, type[Object]]] = {}
for _cls in KINDS:
    for _version in _cls.API_VERSIONS:
        SERVED.setdefault((group_of(_version), _cls.KIND), {})[_version] = _cls
GROUPS = frozenset(group for group, _ in SERVED)
OF_KIND: dict[str, list[type[Object]]] = {}
for (_, _kind), _classes in SERVED.items():
    OF_KIND.setdefault(_kind, []).append(next(iter(_classes.values())))


def type_of(group: str, kind: str) -> str:
    """What objects of a kind are called in a `Key`. Where the group is not one that has it, but the kind is known: what was meant, as far
    as that can be told; a kind of a group that is none of ours has that group in its name, so that it is never taken for one of ours.
    """
    known = SERVED.get((group, kind))
    if known is not None:
        return next(iter(known.values())).TYPE
    meant = OF_KIND.get(kind)
    if meant is None:
        return kind
    return meant[0].TYPE if group in GROUPS or kind in POLICY_KINDS or not group else f"{kind}.{group}"


def served(group: str, kind: str) -> Mapping[str, type[Object]]:
    """The classes of a kind by apiVersion; none where the group has no such kind."""
    return SERVED.get((group, kind), {})


def known_kind(kind: str) -> bool:
    return kind in OF_KIND


def accepted_instead(kind: str) -> str:
    """What a refusal of a kind tells that is accepted: one that is much the same, else all, without their versions."""
    names = sorted({*OF_KIND, "List"})
    near = get_close_matches(kind, names, 1, 0.7)
    return f"a known kind, such as {near[0]}" if near else ", ".join(names)


def versions_of(kind: str) -> list[str]:
    """The apiVersions of a kind, in whatever groups have it."""
    return [version for (_, each), classes in SERVED.items() if each == kind for version in classes]


def namespaced(group: str, kind: str) -> bool:
    """Whether objects of a kind live in a namespace. Unknown ones may well."""
    known = list(served(group, kind).values()) or OF_KIND.get(kind, [])
    return not known or known[0].NAMESPACED
