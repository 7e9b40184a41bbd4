"""Short ways to say what is analysed, and what is found in it: each finding as `CODE severity subject field`."""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from control.analyze import Analysis, Given, Options, analyze
from mesh.model.manifest import parse_object
from tests.control.objects import namespace, service

ISTIO, SECURITY, GATEWAY_API = "networking.istio.io/v1", "security.istio.io/v1", "gateway.networking.k8s.io/v1"
AMBIENT = "istio.io/dataplane-mode: ambient"


def thing(version: str, kind: str, name: str, spec: str = "", where: str = "shop", meta: str = "") -> str:
    place = f"name: {name}" + (f", namespace: {where}" if where else "")
    return f"{{apiVersion: {version}, kind: {kind}, metadata: {{{place}{', ' + meta if meta else ''}}}, spec: {{{spec}}}}}"


def vs(name: str, spec: str, where: str = "shop", meta: str = "") -> str:
    return thing(ISTIO, "VirtualService", name, spec, where, meta)


def dr(name: str, spec: str, where: str = "shop", meta: str = "") -> str:
    return thing(ISTIO, "DestinationRule", name, spec, where, meta)


def se(name: str, spec: str, where: str = "shop", meta: str = "") -> str:
    return thing(ISTIO, "ServiceEntry", name, spec, where, meta)


def istio_gateway(name: str, spec: str, where: str = "shop", meta: str = "") -> str:
    return thing(ISTIO, "Gateway", name, spec, where, meta)


def gateway(name: str, spec: str, where: str = "shop", meta: str = "") -> str:
    return thing(GATEWAY_API, "Gateway", name, spec, where, meta)


def waypoint(name: str = "wp", where: str = "shop", meta: str = "", routes: str = "") -> str:
    allowed = f", allowedRoutes: {{{routes}}}" if routes else ""
    return gateway(
        name, f"gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE{allowed}}}]", where, meta
    )


def http_route(name: str, spec: str, where: str = "shop", meta: str = "") -> str:
    return thing(GATEWAY_API, "HTTPRoute", name, spec, where, meta)


def to_service(name: str = "cart", more: str = "") -> str:
    """A parentRef."""
    return f"parentRefs: [{{group: '', kind: Service, name: {name}{', ' + more if more else ''}}}]"


def deployment(name: str, where: str = "shop", labels: str = "", spec: str = "", ports: str = "[{name: http, containerPort: 8080}]") -> str:
    own = labels or f"app: {name}"
    pod = f"containers: [{{name: c, ports: {ports}}}]" + (f", {spec}" if spec else "")
    template = f"metadata: {{labels: {{{own}}}}}, spec: {{{pod}}}"
    return thing("apps/v1", "Deployment", name, f"selector: {{matchLabels: {{}}}}, template: {{{template}}}", where)


def ap(name: str, spec: str, where: str = "shop", meta: str = "") -> str:
    return thing(SECURITY, "AuthorizationPolicy", name, spec, where, meta)


def pa(name: str, spec: str, where: str = "shop", meta: str = "") -> str:
    return thing(SECURITY, "PeerAuthentication", name, spec, where, meta)


def ra(name: str, spec: str, where: str = "shop") -> str:
    return thing(SECURITY, "RequestAuthentication", name, spec, where)


def account(name: str, where: str = "shop") -> str:
    return f"{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: {where}}}}}"


def cart(ports: str = "{port: 80, name: http, targetPort: 8080}", meta: str = "") -> str:
    return service("cart", f"selector: {{app: cart}}, ports: [{ports}]", meta)


SHOP = namespace("shop", f"{AMBIENT}, istio.io/use-waypoint: wp")
PLAIN = namespace("shop", AMBIENT)
"""Without a waypoint."""
MESH = (SHOP, waypoint(), cart(), deployment("cart"))
"""A namespace in the mesh with a waypoint and a service: nothing is wrong with it."""
TUNNELS = (PLAIN, cart(), deployment("cart"))
"""The same without a waypoint."""


# More that several tests say.

OTHER = namespace("other", AMBIENT)
PRICES = (
    OTHER,
    service("prices", "selector: {app: prices}, ports: [{port: 80, name: http, targetPort: 8080}]", "namespace: other"),
    deployment("prices", "other"),
)
API = se("api", "hosts: [api.test], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]")
EDGE = istio_gateway("edge", "selector: {app: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.test]}]")
IN = gateway("in", "gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]")
BACK = "rules: [{backendRefs: [{name: cart, port: 80}]}]"
AT_GATEWAY = "parentRefs: [{name: in}]"
RANDOM = "trafficPolicy: {loadBalancer: {simple: RANDOM}}"
V1 = dr("d", "host: cart, subsets: [{name: v1, labels: {version: v1}}]")
VERSIONED = (SHOP, waypoint(), cart(), deployment("cart", labels="app: cart, version: v1"))


def to(destination: str, hosts: str = "cart") -> str:
    """A VirtualService's spec with one rule."""
    return f"hosts: [{hosts}], http: [{{route: [{{destination: {{{destination}}}}}]}}]"


def given(*texts: str) -> Given:
    """Each is a file, called 0.yaml and so on."""
    made = Given()
    for index, text in enumerate(texts):
        made.file(f"{index}.yaml", text)
    return made


def in_cluster(*texts: str) -> Given:
    """As an API server holds them."""
    made = Given()
    made.cluster((f"object {index}", parse_object(yaml.safe_load(text), f"object {index}")) for index, text in enumerate(texts))
    return made


def said(analysis: Analysis) -> list[str]:
    return [words(finding.code.name, finding.code.severity.word, finding.subject, finding.field) for finding in analysis.findings]


def words(*parts: str) -> str:
    return " ".join(filter(None, parts))


def found(*texts: str, options: Options | None = None) -> list[str]:
    return said(analyze(given(*texts), options or Options()))


def found_in_cluster(*texts: str) -> list[str]:
    return said(analyze(in_cluster(*texts), Options()))


Case = tuple[Iterable[str], list[str]]
