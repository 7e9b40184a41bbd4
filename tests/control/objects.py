"""Short ways to say manifests, and what becomes of them, in tests."""

from __future__ import annotations

from ipaddress import ip_address

from control.resolve import Changes, Mesh, MeshSettings
from control.resolve.status import Status
from mesh.model.manifest import parse_file
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


def feed(mesh: Mesh, *texts: str) -> Changes:
    """Each text is a file, called 0.yaml, 1.yaml, …; those that are not given any more are removed."""
    known = len(list(mesh.catalog.origins("files")))
    for index, text in enumerate(texts):
        mesh.put("files", f"{index}.yaml", parse_file(text, f"{index}.yaml"))
    for index in range(len(texts), max(known, 100)):
        mesh.put("files", f"{index}.yaml", parse_file("", f"{index}.yaml"))
    changes = mesh.settle(mesh.take())
    mesh.publish(changes)
    assert mesh.engine.bugs == []
    return changes


def resolved(*texts: str, settings: MeshSettings | None = None) -> Mesh:
    mesh = Mesh(settings or MeshSettings())
    feed(mesh, *texts)
    return mesh


def one(found: Mesh) -> Workload:
    (workload,) = found.workloads.values()
    return workload


def only(found: Mesh) -> Service:
    (entry,) = found.services.values()
    return entry


def told(found: Mesh) -> list[Status]:
    """The statuses that say that something is not in force as written."""
    return [status for _, status in sorted(found.statuses.items()) if status.notes]


def conditions(found: Mesh, subject: str) -> dict[str, tuple[str, str]]:
    """{type: (status, reason)} of an object, written `Kind namespace/name`."""
    (status,) = [status for key, status in found.statuses.items() if str(key) == subject]
    assert status.wanted is not None
    return {one.type: (one.status, one.reason) for one in status.wanted.conditions}
