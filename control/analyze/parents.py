"""What routes of the Gateway API are attached to: whether it is there, has that part, and lets the route in."""

from __future__ import annotations

from collections.abc import Mapping

from control.analyze.codes import traffic as codes
from control.analyze.findings import Findings
from control.analyze.given import about
from control.analyze.near import near
from control.analyze.world import GATEWAYS, LABELS, SERVICES, World
from mesh.model.l7.translate.attached import NETWORKING, AnyRoute
from mesh.model.manifest import Gateway, IstioGateway, Key, Service, ServiceEntry
from mesh.model.manifest.gatewayapi import GROUP
from mesh.model.manifest.gatewayapi.common import SERVICE_GROUPS, ParentRef
from mesh.model.manifest.gatewayapi.gateways import Listener
from mesh.model.manifest.shapes import NOTHING

# Which kinds a listener's protocol carries where it does not say.
CARRIES = {"HTTP": ("HTTPRoute", "GRPCRoute"), "HTTPS": ("HTTPRoute", "GRPCRoute"), "TLS": ("TLSRoute", "TCPRoute"), "TCP": ("TCPRoute",)}


def is_gateway(ref: ParentRef) -> bool:
    return ref.kind == "Gateway" and ref.group == GROUP


def parent_key(ref: ParentRef, route: AnyRoute) -> Key | None:
    """The Service or ServiceEntry that is meant; None for anything else."""
    namespace = ref.namespace or route.namespace
    if ref.kind == "Service" and ref.group in SERVICE_GROUPS:
        return Key(Service.TYPE, namespace, ref.name)
    if ref.kind == "ServiceEntry" and ref.group == NETWORKING:
        return Key(ServiceEntry.TYPE, namespace, ref.name)
    return None


class Parents:
    def __init__(self, world: World, found: Findings) -> None:
        self._world = world
        self._found = found

    def check(self, route: AnyRoute) -> None:
        if not route.spec.parent_refs and not route.spec.use_default_gateways:
            message = "without parentRefs this route is attached to nothing"
            self._found.add(codes.UNATTACHED, about(route), "spec.parentRefs", message, "name a Gateway, or a Service of the mesh")
        for index, ref in enumerate(route.spec.parent_refs):
            path = f"spec.parentRefs[{index}]"
            key = parent_key(ref, route)
            if is_gateway(ref):
                self._gateway(route, ref, path)
            elif key is not None:
                self._service(route, ref, key, path)
            else:
                message = f"a {ref.kind} of {ref.group or 'the core API'} is nothing that routes are attached to"
                hint = "write group: '' for a Service" if ref.kind == "Service" else "name a Gateway, a Service or a ServiceEntry"
                self._found.add(codes.UNKNOWN_PARENT, about(route), f"{path}.kind", message, hint)

    # Services of the mesh

    def _service(self, route: AnyRoute, ref: ParentRef, key: Key, path: str) -> None:
        entry = self._world.objects.get(key)
        if not isinstance(entry, (Service, ServiceEntry)):
            names = [other.name for other in self._world.objects if other.kind == key.kind and other.namespace == key.namespace]
            self._missing(route, SERVICES, key, near(key.name, names), path)
            return
        if isinstance(entry, Service):
            ports: Mapping[str, int] = {port.name: port.port for port in entry.spec.ports}
        else:
            ports = {port.name: port.number for port in entry.spec.ports}
        self._section(route, ref, path, str(key), ports)
        if key.namespace != route.namespace:
            message = f"{key} is of another namespace: this route is for clients of {route.namespace} alone"
            hint = f"for every client, put it into {key.namespace}"
            self._found.add(codes.CONSUMER, about(route), f"{path}.namespace", message, hint, related=[about(entry)])

    # Gateways

    def _gateway(self, route: AnyRoute, ref: ParentRef, path: str) -> None:
        world = self._world
        namespace = ref.namespace or route.namespace
        gateway = world.find(Gateway, namespace, ref.name)
        if gateway is None:
            key = Key(Gateway.TYPE, namespace, ref.name)
            if world.find(IstioGateway, namespace, ref.name) is not None:
                hint = "the Gateway of this name is one of networking.istio.io: bind a VirtualService to it instead"
                self._found.add(codes.UNKNOWN_PARENT, about(route), f"{path}.name", f"there is no {key} of {GROUP}", hint)
            else:
                names = [other.name for other in world.of(Gateway) if other.namespace == namespace]
                self._missing(route, GATEWAYS, key, near(ref.name, names), path)
            return
        if gateway.spec.waypoint:
            message = f"{gateway.key} is a waypoint: it goes by routes that are attached to Services"
            hint = "name the Service, with group: '' and kind: Service"
            self._found.add(codes.NOT_ADMITTED, about(route), f"{path}.name", message, hint, related=[about(gateway)])
            return
        ports = {listener.name: listener.port for listener in gateway.spec.listeners}
        if not self._section(route, ref, path, str(gateway.key), ports):
            return
        meant = [
            listener for listener in gateway.spec.listeners if ref.section_name in ("", listener.name) and ref.port in (None, listener.port)
        ]
        reasons = [self._refusal(route, gateway, listener) for listener in meant]
        if reasons and all(reasons):
            related = [about(gateway)]
            self._found.add(codes.NOT_ADMITTED, about(route), f"{path}.name", f"{gateway.key}: {reasons[0]}", *HINT, related=related)

    def _refusal(self, route: AnyRoute, gateway: Gateway, listener: Listener) -> str:
        """Why a listener does not take a route; "" if it does, or that is not known."""
        allowed = listener.allowed_routes
        where = allowed.namespaces
        if where.from_ == "None":
            return f"the listener {listener.name} lets no route in"
        if where.from_ == "Same" and route.namespace != gateway.namespace:
            return f"the listener {listener.name} lets in routes of {gateway.namespace} alone"
        if where.selector is not None and self._world.knows(LABELS, route.namespace):
            namespace = self._world.namespaces.get(route.namespace)
            if not where.selector.selects(namespace.labels if namespace is not None else NOTHING):
                return f"the listener {listener.name} does not select the namespace {route.namespace}"
        kinds = [kind.kind for kind in allowed.kinds if kind.group == GROUP] if allowed.kinds else CARRIES.get(listener.protocol)
        if kinds is not None and route.KIND not in kinds:
            return f"the listener {listener.name} takes {' and '.join(f'{kind}s' for kind in kinds) or 'no routes'}, not {route.KIND}s"
        hostnames: tuple[str, ...] = getattr(route.spec, "hostnames", ())
        if listener.hostname and hostnames and not any(_within(name, listener.hostname) for name in hostnames):
            return f"the listener {listener.name} is for {listener.hostname}, not for {', '.join(hostnames)}"
        return ""

    # Both

    def _section(self, route: AnyRoute, ref: ParentRef, path: str, parent: str, ports: Mapping[str, int]) -> bool:
        """Whether the parent has the part that is named."""
        if ref.section_name and ref.section_name not in ports:
            meant = near(ref.section_name, ports)
            hint = f"did you mean {meant}?" if meant else f"it has {', '.join(filter(None, ports)) or 'none with a name'}"
            message = f"{parent} has no part called {ref.section_name}"
            self._found.add(codes.UNKNOWN_SECTION, about(route), f"{path}.sectionName", message, hint)
            return False
        if ref.port is not None and ref.port not in ports.values():
            message = f"{parent} has no port {ref.port}"
            hint = f"it has {', '.join(str(port) for port in ports.values()) or 'none'}"
            self._found.add(codes.UNKNOWN_SECTION, about(route), f"{path}.port", message, hint)
            return False
        return True

    def _missing(self, route: AnyRoute, what: str, key: Key, meant: str, path: str) -> None:
        if self._world.lacks(what, key.namespace, meant):
            hint = f"did you mean {meant}?" if meant else "create it, or mend the name and namespace"
            self._found.add(codes.UNKNOWN_PARENT, about(route), f"{path}.name", f"there is no {key}", hint)


HINT = ("set allowedRoutes or hostname of a listener, or mend the route",)


def _within(name: str, listener: str) -> bool:
    """Whether a route's hostname and a listener's have a host in common."""
    if name == listener:
        return True
    if listener.startswith("*."):
        return name.removeprefix("*").endswith(listener[1:]) or (name.startswith("*.") and listener.endswith(name[1:]))
    return name.startswith("*.") and listener.endswith(name[1:])
