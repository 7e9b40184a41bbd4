"""Gateways of both kinds: classes, listeners that are in each other's way, certificates, and who listens."""

from __future__ import annotations

from collections.abc import Iterator

from control.analyze.codes import traffic as codes
from control.analyze.findings import Findings
from control.analyze.given import Foreign, about
from control.analyze.grants import granted
from control.analyze.near import near
from control.analyze.services import suggestion, written
from control.analyze.world import SECRET_KINDS, SECRETS, World
from mesh.model.manifest import Gateway, GatewayClass, IstioGateway
from mesh.model.manifest.gatewayapi import GROUP
from mesh.model.manifest.gatewayapi.gateways import WAYPOINT_CLASS
from mesh.model.manifest.istio.gateway import ENCRYPTED, Server

NO_INGRESS = "ingress gateways are not served here: what it says is for another control plane"
CERTIFIER = "cert-manager.io/"
"""An annotation of this prefix has the certificates of a Gateway made."""
# Protocols that can be told apart on one port.
PLAIN, OPENED, OTHER = "HTTP", "TLS", "TCP"
TOGETHER = {"HTTP": PLAIN, "GRPC": PLAIN, "GRPC-WEB": PLAIN, "HTTP2": PLAIN, "HTTPS": OPENED, "TLS": OPENED, "TCP": OTHER, "MONGO": OTHER}


def check(world: World, found: Findings) -> None:
    secrets = Secrets(world)
    for gateway in world.of(Gateway):
        _class(world, gateway, found)
        _listeners(gateway, found)
        _certificates(world, secrets, gateway, found)
    _servers(world, found)
    for istio in world.of(IstioGateway):
        found.add(codes.NO_INGRESS, about(istio), "metadata.name", NO_INGRESS, "leave it to the one that runs its pods")
        _credentials(world, secrets, istio, found)
        # Who listens may be in another namespace, of which files need say nothing.
        if world.given.complete and istio.spec.selector and not world.selected(None, istio.spec.selector):
            hint, key = suggestion(istio.spec.selector, world.runs)
            field = "spec.selector" + (f"[{key}]" if key else "")
            found.add(codes.SELECTS_NO_GATEWAY, about(istio), field, f"no pod has {written(istio.spec.selector)}", hint)


def _class(world: World, gateway: Gateway, found: Findings) -> None:
    classes = [entry.name for entry in world.of(GatewayClass)]
    name = gateway.spec.gateway_class_name
    if name == WAYPOINT_CLASS:
        return
    meant = near(name, [*classes, WAYPOINT_CLASS])
    if name in classes or not (classes or world.given.complete or meant):
        message = f"{NO_INGRESS}, the one of class {name}"
        found.add(codes.NO_INGRESS, about(gateway), "spec.gatewayClassName", message, f"a waypoint is of class {WAYPOINT_CLASS}")
        return
    hint = f"did you mean {meant}?" if meant else f"classes: {', '.join(sorted(classes)) or 'none'}"
    found.add(codes.UNKNOWN_CLASS, about(gateway), "spec.gatewayClassName", f"there is no GatewayClass {name}", hint)


def _listeners(gateway: Gateway, found: Findings) -> None:
    for index, listener in enumerate(gateway.spec.listeners):
        for other in gateway.spec.listeners[:index]:
            if other.port != listener.port:
                continue
            one, two = (TOGETHER.get(entry.protocol, entry.protocol) for entry in (other, listener))
            field = f"spec.listeners[{index}]"
            if one != two:
                message = f"{listener.protocol} and the {other.protocol} of {other.name} cannot both be spoken on port {listener.port}"
                found.add(codes.LISTENER_CONFLICT, about(gateway), f"{field}.protocol", message, "use another port")
                break
            if other.hostname == listener.hostname:
                which = listener.hostname or "every host"
                message = f"{other.name} is for {which} on port {listener.port} already"
                found.add(codes.LISTENER_CONFLICT, about(gateway), f"{field}.hostname", message, "set another hostname")
                break


def _servers(world: World, found: Findings) -> None:
    """Gateways of Istio that the same pods listen for share their ports."""
    seen: dict[tuple[tuple[tuple[str, str], ...], int], list[tuple[IstioGateway, Server]]] = {}
    ordered = sorted(world.of(IstioGateway), key=lambda entry: (entry.metadata.creation_timestamp or "~", entry.namespace, entry.name))
    for gateway in ordered:
        for index, server in enumerate(gateway.spec.servers):
            before = seen.setdefault((tuple(sorted(gateway.spec.selector.items())), server.port.number), [])
            _server(gateway, index, server, before, found)
            before.append((gateway, server))


def _server(gateway: IstioGateway, index: int, server: Server, before: list[tuple[IstioGateway, Server]], found: Findings) -> None:
    for owner, other in before:
        whose = "" if owner is gateway else f" of {owner.key}"
        related = [] if owner is gateway else [about(owner)]
        protocol, known = server.port.protocol, other.port.protocol
        if TOGETHER[protocol] != TOGETHER[known]:
            message = f"{protocol} and the {known} of {other.port.name}{whose} cannot both be spoken on port {server.port.number}"
            field = f"spec.servers[{index}].port.protocol"
            found.add(codes.LISTENER_CONFLICT, about(gateway), field, message, "use another port", related=related)
            return
        shared = sorted({*server.hosts} & {*other.hosts})
        if shared and protocol in ENCRYPTED:
            message = f"{other.port.name}{whose} serves {shared[0]} on port {server.port.number} already, with its own certificate"
            field = f"spec.servers[{index}].hosts[{server.hosts.index(shared[0])}]"
            found.add(codes.LISTENER_CONFLICT, about(gateway), field, message, "serve the host once", related=related)
            return


class Secrets:
    """Names of Secrets, and of what becomes one, as far as they are in the input. What is in them is not looked at."""

    def __init__(self, world: World) -> None:
        self._names = {(entry.subject.namespace, name) for entry in world.given.foreign for name in _made(entry)}

    def has(self, namespace: str | None, name: str) -> bool:
        return (namespace, name) in self._names if namespace is not None else any(name == other for _, other in self._names)

    def near(self, namespace: str, name: str) -> str:
        return near(name, [other for owner, other in self._names if owner == namespace])


def _made(entry: Foreign) -> Iterator[str]:
    if entry.kind not in SECRET_KINDS:
        return
    yield entry.name
    target = entry.spec.get("target")
    for name in (entry.spec.get("secretName"), target.get("name") if isinstance(target, dict) else None):
        if isinstance(name, str):
            yield name


def _certificates(world: World, secrets: Secrets, gateway: Gateway, found: Findings) -> None:
    certified = any(name.startswith(CERTIFIER) for name in gateway.annotations)
    for index, listener in enumerate(gateway.spec.listeners):
        for number, ref in enumerate(listener.tls.certificate_refs if listener.tls is not None else ()):
            field = f"spec.listeners[{index}].tls.certificateRefs[{number}]"
            namespace = ref.namespace or gateway.namespace
            source, target = (GROUP, gateway.KIND, gateway.namespace), (ref.group, ref.kind, ref.name)
            if (ref.group, ref.kind) != ("", "Secret"):
                message = f"a {ref.kind}{f' of {ref.group}' if ref.group else ''} holds no certificate"
                found.add(codes.MISSING_CERTIFICATE, about(gateway), f"{field}.kind", message, "name a Secret")
            elif namespace != gateway.namespace and not granted(world, source, target, namespace):
                if world.given.complete or namespace in world.namespaces:
                    message = f"no ReferenceGrant of {namespace} lets Gateways of {gateway.namespace} refer to Secret {ref.name}"
                    found.add(codes.NO_GRANT, about(gateway), f"{field}.namespace", message, f"create a ReferenceGrant in {namespace}")
            elif not certified and not secrets.has(namespace, ref.name):
                _missing(world, secrets, gateway, namespace, ref.name, f"{field}.name", found)


def _credentials(world: World, secrets: Secrets, gateway: IstioGateway, found: Findings) -> None:
    """They are in the namespace of the gateway's pods, wherever that is."""
    for index, server in enumerate(gateway.spec.servers):
        tls = server.tls
        if tls is None:
            continue
        path = f"spec.servers[{index}].tls"
        named = [(tls.credential_name, f"{path}.credentialName")] if tls.credential_name else []
        named += [(name, f"{path}.credentialNames[{number}]") for number, name in enumerate(tls.credential_names)]
        for name, field in named:
            if "://" not in name and not secrets.has(None, name):
                _missing(world, secrets, gateway, gateway.namespace, name, field, found)


def _missing(
    world: World, secrets: Secrets, gateway: Gateway | IstioGateway, namespace: str, name: str, field: str, found: Findings
) -> None:
    meant = secrets.near(namespace, name)
    if world.lacks(SECRETS, namespace, meant):
        message = f"there is no Secret {namespace}/{name} in the input"
        found.add(codes.MISSING_CERTIFICATE, about(gateway), field, message, f"did you mean {meant}?")
