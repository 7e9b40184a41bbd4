"""GatewayClass and Gateway, which is an ingress, or, with the class istio-waypoint, a waypoint. v1 and v1beta1 are the same."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from mesh.model.manifest.core import Object
from mesh.model.manifest.gatewayapi import GROUP
from mesh.model.manifest.gatewayapi.common import (
    CONTROLLER,
    GROUP_NAME,
    KIND_NAME,
    SECTION,
    LabelSelector,
    LocalRef,
    ObjectRef,
    SecretRef,
)
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import DNS_LABEL, LABEL_KEY, LABEL_VALUE, NOTHING, PORT, Choice, ListOf, MapOf, Text
from mesh.model.manifest.status import GatewayClassStatus, GatewayStatus, status
from mesh.model.manifest.words import HOSTNAME, NAME

VERSIONS = (f"{GROUP}/v1", f"{GROUP}/v1beta1")
WAYPOINT_CLASS = "istio-waypoint"
PROTOCOL = Text(
    r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?|[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9]+",
    "HTTP, HTTPS, TLS, TCP, HBONE, or <domain>/<protocol>",
    255,
)
KNOWN_PROTOCOLS = ("HTTP", "HTTPS", "TLS", "TCP", "HBONE")
PLAIN, HOSTLESS = ("HTTP", "TCP", "UDP"), ("TCP", "UDP")
OPTIONS = MapOf(LABEL_KEY, Text(longest=4096), 16)
NO_OPTIONS = "no option of TLS is defined here"
NO_CLIENT_TLS = "listeners ask for no client certificates"
NO_BACKEND_TLS = "gateways show their mesh identity alone"
NO_PARAMETERS = "there is nothing that parameters could set"
NO_LISTENER_SETS = "ListenerSets are not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParametersRef:
    group: str = item(GROUP_NAME, required=True, about="Its API group; empty for the core API.")
    kind: str = item(KIND_NAME, required=True, about="Its kind.")
    name: str = item(NAME, required=True, about="Its name.")
    namespace: str = item(DNS_LABEL, "", about="Its namespace, if its kind lives in one.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayClassSpec:
    controller_name: str = item(CONTROLLER, required=True, about="Who makes gateways of this class work.")
    parameters_ref: ParametersRef | None = item(Record(ParametersRef), about="Settings of the class.", unsupported=NO_PARAMETERS)
    description: str = item(Text(longest=64), "", about="What the class is for.")

    RULES = (
        # Only who holds the older version can know: the server.
        Rule(
            lambda spec: True,
            "controllerName",
            "the controllerName that it has: it never changes",
            "self.controllerName == oldSelf.controllerName",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayClass(Object):
    """A kind of gateway, and who makes such gateways work."""

    KIND = "GatewayClass"
    API_VERSIONS = VERSIONS
    NAMESPACED = False

    spec: GatewayClassSpec = item(Record(GatewayClassSpec), required=True, about="Who is responsible for gateways of the class.")
    status: Any = status(GatewayClassStatus, "Whether the class was accepted.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteKind:
    group: str = item(GROUP_NAME, GROUP, about="The API group of the routes.")
    kind: str = item(KIND_NAME, required=True, about="The kind of the routes.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteNamespaces:
    from_: str = item(Choice(("All", "Selector", "Same", "None")), "Same", about="Namespaces whose routes may be attached.")
    selector: LabelSelector | None = item(Record(LabelSelector), about="Labels of the namespaces, with Selector.")

    RULES = (
        Rule(
            lambda namespaces: (namespaces.selector is not None) == (namespaces.from_ == "Selector"),
            "selector",
            "a selector with from: Selector, and with nothing else",
            "has(self.selector) == (self.from == 'Selector')",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedRoutes:
    """Which routes may attach themselves; at a waypoint, which namespaces may use it."""

    namespaces: RouteNamespaces = item(Record(RouteNamespaces), RouteNamespaces(), about="Namespaces whose routes may be attached.")
    kinds: tuple[RouteKind, ...] = item(
        ListOf(Record(RouteKind), most=8), (), about="Kinds of routes that may; absent, those of the protocol."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerTls:
    mode: str = item(Choice(("Terminate", "Passthrough")), "Terminate", about="Whether TLS is ended here, or passed on unopened.")
    certificate_refs: tuple[SecretRef, ...] = item(
        ListOf(Record(SecretRef), most=64), (), about="Secrets with the certificate and its key."
    )
    options: Mapping[str, str] = item(OPTIONS, NOTHING, about="Further settings.", unsupported=NO_OPTIONS)

    RULES = (
        Rule(
            lambda tls: tls.mode != "Terminate" or tls.certificate_refs or tls.options,
            "certificateRefs",
            "certificateRefs where TLS is ended",
            "self.mode != 'Terminate' || has(self.certificateRefs) && size(self.certificateRefs) > 0 || "
            "has(self.options) && size(self.options) > 0",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    name: str = item(SECTION, required=True, about="A name, which no other listener has.")
    hostname: str = item(HOSTNAME, "", about="The host that it serves; absent, every one.")
    port: int = item(PORT, required=True, about="The port that is listened on.")
    protocol: str = item(
        PROTOCOL,
        required=True,
        about="What is spoken: HTTP, HTTPS, TLS, TCP, or HBONE at a waypoint.",
        unsupported=lambda name: "" if name in KNOWN_PROTOCOLS else f"{name} is not carried; accepted: {', '.join(KNOWN_PROTOCOLS)}",
    )
    tls: ListenerTls | None = item(Record(ListenerTls), about="TLS, with the protocols HTTPS and TLS.")
    allowed_routes: AllowedRoutes = item(Record(AllowedRoutes), AllowedRoutes(), about="Which routes may be attached.")


ADDRESS_TYPES = ("IPAddress", "Hostname", "NamedAddress")


def _good_address(address: GatewayAddress) -> bool:
    if address.type != "IPAddress" or not address.value:
        return True
    try:
        ip_address(address.value)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAddress:
    type: str = item(
        Text(r"[a-zA-Z0-9./_-]+", "IPAddress, Hostname, or <domain>/<type>", 253),
        "IPAddress",
        about="What the value is: IPAddress or Hostname.",
    )
    value: str = item(Text(longest=253), "", about="The address; absent, one of that type is handed out.")

    RULES = (
        Rule(
            _good_address,
            "value",
            "an IP address, since that is its type",
            "self.type != 'IPAddress' || !has(self.value) || self.value == '' || isIP(self.value)",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Infrastructure:
    labels: Mapping[str, str] = item(MapOf(LABEL_KEY, LABEL_VALUE, 8), NOTHING, about="Labels of what is made for the gateway.")
    annotations: Mapping[str, str] = item(
        MapOf(LABEL_KEY, Text(longest=4096), 8), NOTHING, about="Annotations of what is made for the gateway."
    )
    parameters_ref: LocalRef | None = item(Record(LocalRef), about="Settings of the gateway.", unsupported=NO_PARAMETERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendValidation:
    ca_certificate_refs: tuple[ObjectRef, ...] = item(ListOf(Record(ObjectRef), 1, 8), required=True, about="Authorities of clients.")
    mode: str = item(Choice(("AllowValidOnly", "AllowInsecureFallback")), "AllowValidOnly", about="Whether others are let in too.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendConfig:
    validation: FrontendValidation | None = item(Record(FrontendValidation), about="How clients' certificates are verified.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PortConfig:
    port: int = item(PORT, required=True, about="The listener's port.")
    tls: FrontendConfig = item(Record(FrontendConfig), required=True, about="TLS towards clients there.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendTls:
    default: FrontendConfig = item(Record(FrontendConfig), required=True, about="TLS towards clients of all listeners.")
    per_port: tuple[PortConfig, ...] = item(ListOf(Record(PortConfig), most=64, unique="port"), (), about="TLS towards clients by port.")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTls:
    client_certificate_ref: SecretRef | None = item(Record(SecretRef), about="The certificate that backends are shown.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTls:
    frontend: FrontendTls | None = item(Record(FrontendTls), about="TLS towards clients.", unsupported=NO_CLIENT_TLS, guard=True)
    backend: BackendTls | None = item(Record(BackendTls), about="TLS towards backends.", unsupported=NO_BACKEND_TLS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerNamespaces:
    from_: str = item(Choice(("All", "Selector", "Same", "None")), "None", about="Namespaces whose ListenerSets may be attached.")
    selector: LabelSelector | None = item(Record(LabelSelector), about="Labels of the namespaces, with Selector.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedListeners:
    namespaces: ListenerNamespaces = item(
        Record(ListenerNamespaces), ListenerNamespaces(), about="Namespaces whose ListenerSets may be attached."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySpec:
    gateway_class_name: str = item(NAME, required=True, about=f"Its GatewayClass: {WAYPOINT_CLASS} for a waypoint.")
    listeners: tuple[Listener, ...] = item(ListOf(Record(Listener), 1, 64, unique="name"), required=True, about="What is listened on.")
    addresses: tuple[GatewayAddress, ...] = item(
        ListOf(Record(GatewayAddress), most=16),
        (),
        about="Addresses that it should have.",
        unsupported="its addresses are those of its Service",
    )
    infrastructure: Infrastructure | None = item(Record(Infrastructure), about="What is made for the gateway.")
    tls: GatewayTls | None = item(Record(GatewayTls), about="TLS of all listeners.")
    allowed_listeners: AllowedListeners | None = item(
        Record(AllowedListeners), about="Which ListenerSets may be attached.", unsupported=NO_LISTENER_SETS
    )
    default_scope: str = item(
        Choice(("All", "None")), "", about="Whether routes may use it as a default.", unsupported="no Gateway is a default here"
    )

    RULES = (
        Rule(
            lambda spec: all(listener.tls is None for listener in spec.listeners if listener.protocol in PLAIN),
            "listeners",
            "no tls with the protocols HTTP, TCP and UDP",
            "self.listeners.all(one, !(one.protocol in ['HTTP', 'TCP', 'UDP']) || !has(one.tls))",
        ),
        Rule(
            lambda spec: all(
                listener.tls is None or listener.tls.mode == "Terminate" for listener in spec.listeners if listener.protocol == "HTTPS"
            ),
            "listeners",
            "tls.mode Terminate with the protocol HTTPS",
            "self.listeners.all(one, one.protocol != 'HTTPS' || !has(one.tls) || one.tls.mode == 'Terminate')",
        ),
        Rule(
            lambda spec: all(not listener.hostname for listener in spec.listeners if listener.protocol in HOSTLESS),
            "listeners",
            "no hostname with the protocols TCP and UDP",
            "self.listeners.all(one, !(one.protocol in ['TCP', 'UDP']) || !has(one.hostname))",
        ),
        Rule(
            lambda spec: len({(entry.port, entry.protocol, entry.hostname) for entry in spec.listeners}) == len(spec.listeners),
            "listeners",
            "each port, protocol and hostname once",
            "self.listeners.all(one, self.listeners.exists_one(other, one.port == other.port && one.protocol == other.protocol && "
            "(has(one.hostname) ? has(other.hostname) && one.hostname == other.hostname : !has(other.hostname))))",
        ),
        Rule(
            lambda spec: spec.gateway_class_name != WAYPOINT_CLASS or all(entry.protocol == "HBONE" for entry in spec.listeners),
            "listeners",
            "the protocol HBONE alone at a waypoint",
            f"self.gatewayClassName != '{WAYPOINT_CLASS}' || self.listeners.all(one, one.protocol == 'HBONE')",
        ),
    )

    @property
    def waypoint(self) -> bool:
        return self.gateway_class_name == WAYPOINT_CLASS


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway(Object):
    """Where traffic comes into the mesh; or, with the class istio-waypoint, the proxy that services and namespaces are routed by."""

    KIND = "Gateway"
    API_VERSIONS = VERSIONS

    spec: GatewaySpec = item(Record(GatewaySpec), required=True, about="The gateway's class, and what it listens on.")
    status: Any = status(GatewayStatus, "Whether the gateway works, and under which addresses.")
