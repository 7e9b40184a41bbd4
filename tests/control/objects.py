"""Short ways to say manifests, and what becomes of them, in tests."""

from __future__ import annotations

from ipaddress import ip_address

from control.catalog import Catalog
from control.resolve import MeshSettings, Resolved, resolve
from mesh.model.manifest import load_directory
from mesh.model.workload import IPAddress, Service, Workload

SECURITY = "apiVersion: security.istio.io/v1"


def ip(text: str) -> IPAddress:
    return ip_address(text)


def namespace(name: str, labels: str = "") -> str:
    return f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}"


def pod(name: str, address: str = "10.0.0.1", *, labels: str = "app: web", meta: str = "", spec: str = "", status: str = "") -> str:
    """A running, ready pod of namespace shop on node n1 with port 8080, called http."""
    where = "" if "namespace:" in meta else "namespace: shop, "
    container = "containers: [{name: c, ports: [{containerPort: 8080, name: http}, {containerPort: 53, name: dns, protocol: UDP}]}]"
    default = f'phase: Running, podIPs: [{{ip: "{address}"}}], conditions: [{{type: Ready, status: "True"}}]'
    return (
        f"{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, {where}labels: {{{labels}}}{', ' + meta if meta else ''}}}, "
        f"spec: {{nodeName: n1, {container}{', ' + spec if spec else ''}}}, status: {{{status or default}}}}}"
    )


def service(name: str, spec: str, meta: str = "") -> str:
    where = "" if "namespace:" in meta else "namespace: shop"
    return f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}, {', '.join(filter(None, [where, meta]))}}}, spec: {{{spec}}}}}"


def policy(name: str, spec: str, where: str = "shop", annotations: str = "") -> str:
    meta = f"{{name: {name}, namespace: {where}, annotations: {{{annotations}}}}}"
    return f"{{{SECURITY}, kind: AuthorizationPolicy, metadata: {meta}, spec: {{{spec}}}}}"


def peer(name: str, spec: str, where: str = "shop") -> str:
    return f"{{{SECURITY}, kind: PeerAuthentication, metadata: {{name: {name}, namespace: {where}}}, spec: {{{spec}}}}}"


def catalog(*texts: str, before: Catalog | None = None) -> Catalog:
    """Each text is a file, called 0.yaml, 1.yaml, …"""
    return (before or Catalog()).update(load_directory((f"{index}.yaml", text) for index, text in enumerate(texts)))


def resolved(*texts: str, settings: MeshSettings | None = None) -> Resolved:
    return resolve(catalog(*texts), settings or MeshSettings())


def one(found: Resolved) -> Workload:
    (workload,) = found.workloads
    return workload


def only(found: Resolved) -> Service:
    (entry,) = found.services
    return entry
