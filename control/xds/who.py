"""Who a proxy is. What it is comes from what it says of itself (the node id, as Istio's proxies have it), but whose it is from what its
credential proves: a waypoint must be a pod of that Gateway, and secrets are for the identity of the pod that the caller was proved to be.
"""

from __future__ import annotations

from dataclasses import dataclass

from control.auth import Caller
from control.resolve import Mesh
from control.resolve.l7.views import CLIENT_PORTS, View
from control.resolve.waypoints import GATEWAY_NAME
from control.xds.clients import Hello
from control.xds.messages import Refusal
from mesh.model.identity import Identity
from mesh.model.l7.profile import Kind
from mesh.model.manifest import Key, Node, Pod
from mesh.model.workload import Locality


@dataclass(frozen=True, slots=True)
class Proxy:
    """What a proxy sees, for whom there may be secrets, and what the CA calls it: a pod is a holder of its own, beside the tunnel of its
    node, since each has to take a change of root itself.
    """

    view: View
    identity: Identity | None = None
    holder: str = ""


def who(mesh: Mesh, hello: Hello) -> Proxy:
    """Raises Refusal for who claims to be what it is not proved to be."""
    kind, name, namespace = _said(hello)
    caller = hello.caller
    if caller.namespace:
        if namespace and namespace != caller.namespace:
            raise Refusal(f"the node says namespace {namespace}, but the token is of {caller.namespace}")
        namespace, name = caller.namespace, caller.pod or name
    pod = mesh.catalog.objects.get(Key(Pod.TYPE, namespace, name)) if name else None
    if not isinstance(pod, Pod) or not _proved(caller, pod):
        pod = None
    identity = _identity(mesh, caller, pod)
    holder = f"{pod.namespace}/{pod.name}" if pod is not None else f"{caller.namespace}/{caller.pod or caller.account}"
    locality = _locality(mesh, pod) or hello.locality
    if kind is Kind.WAYPOINT:
        gateway = pod.labels.get(GATEWAY_NAME, "") if pod is not None else ""
        if not gateway:
            raise Refusal(f"{namespace}/{name} is no pod of a waypoint that this caller may speak for: label {GATEWAY_NAME} is wanted")
        return Proxy(View(kind, namespace, gateway, locality, tunnels=True), identity, holder)
    if kind is Kind.GRPC:
        return Proxy(View(kind, namespace or "default", locality=locality, c_core="c-core" in hello.user_agent.lower()))
    bind, tunnels = (hello.metadata.get(key) == "true" for key in ("CULVERT_BIND", "ENABLE_HBONE"))
    ports = _port(hello, "CULVERT_OUTBOUND_PORT", CLIENT_PORTS[0]), _port(hello, "HTTP_PROXY_PORT", CLIENT_PORTS[1])
    view = View(kind, namespace or "default", locality=locality, bind=bind, tunnels=tunnels, ports=ports)
    return Proxy(view, identity, holder)


def _identity(mesh: Mesh, caller: Caller, pod: Pod | None) -> Identity | None:
    """For whom there may be secrets: the account that the caller was proved to be, or that of the pod that its node vouches for."""
    domain = mesh.settings.trust_domain
    if caller.account:
        return Identity(domain, caller.namespace, caller.account)
    return Identity(domain, pod.namespace, pod.spec.account) if pod is not None else None


def _locality(mesh: Mesh, pod: Pod | None) -> Locality | None:
    node = mesh.catalog.objects.get(Key(Node.TYPE, "", pod.spec.node_name)) if pod is not None else None
    return Locality(node.region, node.zone, node.subzone) if isinstance(node, Node) else None


def _proved(caller: Caller, pod: Pod) -> bool:
    """Whether the caller is this pod, or the node that it is on and may speak for it."""
    if caller.account:
        return (caller.namespace, caller.account) == (pod.namespace, pod.spec.account) and caller.pod in ("", pod.name)
    return caller.impersonates and bool(caller.node) and caller.node == pod.spec.node_name


def _said(hello: Hello) -> tuple[Kind, str, str]:
    """(kind, pod's name, namespace) as the client says. `type~ip~pod.namespace~namespace.svc.domain` is how Istio's proxies do."""
    parts = hello.id.split("~")
    namespace = str(hello.metadata.get("NAMESPACE", ""))
    if len(parts) == 4:
        name, _, own = parts[2].rpartition(".")
        namespace = namespace or own
        if parts[0] == "waypoint":
            return Kind.WAYPOINT, name, namespace
    else:
        name = ""
    grpc = hello.user_agent.lower().startswith("grpc") or hello.metadata.get("GENERATOR") == "grpc"
    return (Kind.GRPC if grpc else Kind.CLIENT), name, namespace


def _port(hello: Hello, name: str, default: int) -> int:
    text = str(hello.metadata.get(name, ""))
    if not text:
        return default
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise Refusal(f"metadata {name} is {text!r}: expected a port from 1 to 65535")
    return int(text)
