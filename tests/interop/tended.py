"""A mesh whose waypoint is an Envoy that has everything from our control plane, keys included; in a network namespace of its own.

client ══ HBONE ══▶ Envoy :15008 at 127.0.0.10 ─┬═ HBONE ══▶ server :15008 at 127.0.0.2 ─▶ app `v1`
                                                └──────────▶ app `v2` at 127.0.0.3, outside of the mesh

Clients and server have their certificates as a node's tunnel has them: by what it does that with, and they follow the CA as it does. A
client may also be an Envoy that has everything from our control plane, and ends tunnels itself.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.io.grpc import GrpcTarget
from mesh.io.tls import Credentials
from mesh.model.identity import Identity
from tests.interop import fed, hbone, isolated, plane
from tests.interop.proxied import Answer, asked
from tests.interop.proxied import ask as request
from tests.interop.upstream import Upstream, upstream
from ztunnel.ca import CertificateAuthority
from ztunnel.certificates import Certificates
from ztunnel.keysmith import Keysmith
from ztunnel.trust import Follower

DOMAIN, NAMESPACE = "cluster.local", "shop"
WAYPOINT_HOST, MESHED_HOST, PLAIN_HOST = "127.0.0.10", "127.0.0.2", "127.0.0.3"
HBONE, VIP = 15008, "10.96.0.5"
LIFE = 3600.0  # seconds
ACCOUNTS = ("client", "other", "web")
MESHED = "ambient.istio.io/redirection: enabled"
MESH = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop, labels: {istio.io/waypoint-for: service}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: waypoint, namespace: shop}
spec: {clusterIP: 10.96.0.9, selector: {gateway.networking.k8s.io/gateway-name: waypoint}, ports: [{port: 15008, name: hbone}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.5, selector: {app: web}, ports: [{port: 80, name: http, targetPort: PORT}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
"""
PODS = (
    plane.pod("waypoint-1", WAYPOINT_HOST, labels="gateway.networking.k8s.io/gateway-name: waypoint", account="waypoint")
    + plane.pod("client", "127.0.0.21", labels="app: client", account="client", annotations=MESHED)
    + plane.pod("other", "127.0.0.22", labels="app: other", account="other", annotations=MESHED)
    + plane.pod("web-1", MESHED_HOST, labels="app: web, version: v1", account="web", annotations=MESHED)
    + plane.pod("web-2", PLAIN_HOST, labels="app: web, version: v2", account="web")
)


def identity(account: str) -> Identity:
    return Identity(DOMAIN, NAMESPACE, account)


class Node:
    """The certificates of a node's pods, held as its tunnel holds them; on the loop of the control plane."""

    def __init__(self, mesh: plane.Running) -> None:
        target = GrpcTarget(f"127.0.0.1:{mesh.port}", mesh.roots, plane.SERVER_NAME, mesh.token)
        self._ca = CertificateAuthority(target, Keysmith(), LIFE)
        self.certificates = Certificates(self._ca.fetch)
        self._follower = Follower(self._ca, self.certificates, mesh.roots)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for account in ACCOUNTS:
            self.certificates.want(identity(account), account)
        for account in ACCOUNTS:
            await self.certificates.obtain(identity(account), 10)
        self._task = asyncio.create_task(self._follower.run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.certificates.close()
        await self._ca.close()

    def credentials(self, account: str) -> Credentials:
        found = self.certificates.current(identity(account))
        assert found is not None
        return found


@dataclass
class Tended:
    """`manifest` is what there is but for pods, `mesh` by its name as a file."""

    directory: Path
    manifest: str
    mesh: plane.Running
    place: isolated.Isolated
    door: isolated.Door
    loop: hbone.Loop
    node: Node
    server: hbone.Server
    envoy: fed.Envoy
    upstreams: Mapping[str, Upstream]

    def make(self) -> socket.socket:
        return self.place.namespace.run(socket.socket)

    @contextmanager
    def client(self, account: str = "client", credentials: Credentials | None = None) -> Iterator[hbone.Client]:
        """A new tunnel to the waypoint."""
        own = credentials or self.node.credentials(account)
        with hbone.client(self.loop, own, WAYPOINT_HOST, HBONE, identity("waypoint"), self.make) as made:
            yield made

    @contextmanager
    def beside(self, account: str = "client", *, delta: bool, **metadata: str) -> Iterator[fed.Envoy]:
        """An Envoy beside that pod; what is asked of it, it asks of the mesh."""
        name = f"sidecar~{account}~{account}.{NAMESPACE}~{NAMESPACE}.svc.cluster.local"
        where = self.directory / f"{account}-{delta}"
        control = fed.over_tls(self.mesh, self.door.port)
        with fed.running(where, self.mesh, node=name, delta=delta, metadata=metadata, place=self.place, control=control) as made:
            yield made

    def reach(self, port: int) -> int:
        """The status of a request to the service's address, from whoever has that; 0 where the connection ends."""
        try:
            return self.place.namespace.run(lambda: request(port, host=VIP)).status
        except OSError:
            return 0

    def held(self) -> tuple[set[str], set[str]]:
        """The serial numbers of Envoy's certificates and of its roots, of those that it has by SDS, as it says."""
        found = json.loads(self.envoy.get("/certs"))["certificates"]
        own, roots = (
            {_serial(each) for one in found for each in one.get(key, ()) if each["path"] == "<inline>"} for key in ("cert_chain", "ca_cert")
        )
        return own, roots

    def ask(self, path: str = "/", method: str = "GET", account: str = "client", **headers: str) -> Answer:
        """One request, over a tunnel that is made for it."""
        with self.client(account) as client:
            return ask(client, path, method, **headers)


def _serial(entry: Mapping[str, str]) -> str:
    return f"{int(entry['serial_number'], 16):x}"


def ask(client: hbone.Client, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    sock = client.connect(f"{VIP}:80")
    assert sock is not None
    return asked(hbone.OverSocket(sock), path, method, {"host": "web", **{key.replace("_", "-"): value for key, value in headers.items()}})


@contextmanager
def running(directory: Path, files: Mapping[str, str], *, delta: bool, **settings: Any) -> Iterator[Tended]:
    """`settings` are fields of the control plane's configuration."""
    with ExitStack() as stack:
        place = stack.enter_context(isolated.isolated())
        loop = stack.enter_context(hbone.event_loop())
        first = stack.enter_context(upstream("v1", MESHED_HOST, listener=place.listen(MESHED_HOST)))
        second = stack.enter_context(upstream("v2", PLAIN_HOST, listener=place.listen(PLAIN_HOST, first.port)))
        manifest = MESH.replace("PORT", str(first.port))
        mesh = stack.enter_context(plane.running(directory / "plane", {"mesh": manifest, "pods": PODS, **files}, **settings))
        node = Node(mesh)
        stack.callback(lambda: mesh.call(node.close()))
        mesh.call(node.start())
        listener = place.listen(MESHED_HOST, HBONE)
        server = hbone.server(loop, lambda: node.credentials("web"), listener, lambda: place.namespace.run(socket.socket))
        ended = stack.enter_context(server)
        door = stack.enter_context(isolated.door(place, mesh.port))
        name = f"waypoint~{WAYPOINT_HOST}~waypoint-1.{NAMESPACE}~{NAMESPACE}.svc.cluster.local"
        control = fed.over_tls(mesh, door.port)
        proxy = stack.enter_context(fed.running(directory / "envoy", mesh, node=name, delta=delta, place=place, control=control))
        yield Tended(directory, manifest, mesh, place, door, loop, node, ended, proxy, {"v1": first, "v2": second})
