"""An Envoy waypoint with everything around it: clients with identities, an endpoint in the mesh and one outside, all on loopback.

client ══ HBONE ══▶ Envoy :P at 127.0.0.10 ─┬═ HBONE ══▶ our server :P at 127.0.0.2 ─▶ app `meshed`
                                            └──────────▶ app `plain` at 127.0.0.3
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from bench.l4 import certificates
from mesh.model.codec.envoy import clusters, endpoints, routes, secrets, terminate, waypoint
from mesh.model.l7.chains import Chain
from mesh.model.l7.clusters import Cluster
from mesh.model.l7.endpoints import Assignment, Endpoint, LocalityGroup, Tunnel
from mesh.model.l7.names import MESH_ROOTS, WORKLOAD_CERTIFICATE, cluster_name
from mesh.model.l7.profile import Kind, Profile
from mesh.model.l7.routes import Destination, Forward, Route, RouteMatch, RouteTable, VirtualHost
from mesh.model.l7.secrets import CertificateSecret, RootsSecret
from tests.interop import envoy, hbone, proxied
from tests.interop.proxied import Answer, address, asked
from tests.interop.upstream import Upstream, upstream

WAYPOINT_HOST, MESHED_HOST, PLAIN_HOST = "127.0.0.10", "127.0.0.2", "127.0.0.3"


def spiffe(name: str, namespace: str = "interop", domain: str = "cluster.local") -> str:
    return f"spiffe://{domain}/ns/{namespace}/sa/{name}"


IDENTITIES = {
    "client": spiffe("client"),
    "other": spiffe("other", "elsewhere"),
    "alias": spiffe("client", domain="old.example"),
    "odd": spiffe("client,admin"),
    "server": spiffe("server"),
    "waypoint": spiffe("waypoint"),
    "foreign": spiffe("client", domain="foreign.example"),
}
VIP, PORT, TCP_PORT = "10.96.0.5", 80, 9000
SERVICE = "app.interop.svc.cluster.local"


@dataclass
class Waypoint:
    envoy: proxied.Proxied
    loop: hbone.Loop
    directory: Path
    port: int
    server: hbone.Server
    upstreams: Mapping[str, Upstream]
    profile: Profile
    clients: dict[str, hbone.Client] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def client(self, name: str = "client") -> hbone.Client:
        if name not in self.clients:
            opened = hbone.client(
                self.loop, envoy.credentials(self.directory, name), WAYPOINT_HOST, self.port, envoy.identity(IDENTITIES["waypoint"])
            )
            self.clients[name] = self.stack.enter_context(opened)
        return self.clients[name]

    def connect(self, name: str = "client", authority: str = f"{VIP}:{PORT}") -> socket.socket | None:
        return self.client(name).connect(authority)

    def reaches(self, authority: str = f"{VIP}:{PORT}", name: str = "client") -> bool:
        """Whether a CONNECT is answered with 200."""
        sock = self.connect(name, authority)
        if sock is None:
            return False
        sock.close()
        return True

    def ask(self, path: str = "/", method: str = "GET", name: str = "client", authority: str = f"{VIP}:{PORT}", **headers: str) -> Answer:
        sock = self.connect(name, authority)
        assert sock is not None
        fields = {key.replace("_", "-"): value for key, value in headers.items()}
        return asked(hbone.OverSocket(sock), path, method, fields)

    def serve(self, *found: Route, table: str = SERVICE) -> None:
        made = RouteTable(table, (VirtualHost(SERVICE, ("*",), found),))
        self.envoy.serve(made, 0, lambda path: self.ask(path))

    def put_chains(self, *chains: Chain) -> None:
        """The chains, in force: the answer names the version that it was made by."""
        self.envoy.put(waypoint.main_internal(chains, self.profile), terminate.route_table(chains))


def to(name: str) -> Forward:
    return Forward((Destination(cluster_name(f"{name}.interop.svc.cluster.local", PORT)),))


EVERYTHING = Route(RouteMatch(), to("meshed"))


def meshed_endpoint(one: Upstream, identity: str = IDENTITIES["server"]) -> Endpoint:
    return Endpoint(address(one.host, one.port), tunnel=Tunnel((identity,)), workload="app;interop;app;v1;Kubernetes")


@contextmanager
def running(directory: Path, chains: Sequence[Chain], *, delta: bool = True, **changes: Any) -> Iterator[Waypoint]:
    directory.mkdir(parents=True, exist_ok=True)
    certificates.make(directory, IDENTITIES)
    with ExitStack() as stack:
        loop = stack.enter_context(hbone.event_loop())
        (port,) = envoy.free_ports(1)
        meshed = stack.enter_context(upstream("meshed", MESHED_HOST))
        plain = stack.enter_context(upstream("plain", PLAIN_HOST))
        credentials = envoy.credentials(directory, "server")
        server = stack.enter_context(hbone.server(loop, lambda: credentials, socket.create_server((MESHED_HOST, port))))
        profile = replace(Profile(Kind.WAYPOINT, ("cluster.local", "old.example"), hbone_port=port, listen=WAYPOINT_HOST), **changes)
        resources: list[Any] = [
            terminate.listener(profile),
            terminate.route_table(chains),
            waypoint.main_internal(chains, profile),
            waypoint.connect_originate(),
            waypoint.connect_direct(),
            clusters.main_internal(),
            clusters.connect_originate(profile),
            clusters.black_hole(),
            secrets.secret(
                CertificateSecret(
                    WORKLOAD_CERTIFICATE, (directory / "waypoint.pem").read_bytes(), (directory / "waypoint.key").read_bytes()
                )
            ),
            secrets.secret(RootsSecret(MESH_ROOTS, (directory / certificates.ROOT).read_bytes())),
            routes.route_table(RouteTable(SERVICE, (VirtualHost(SERVICE, ("*",), (EVERYTHING,)),))),
        ]
        for name, entry in {
            "meshed": meshed_endpoint(meshed),
            "plain": proxied.plain_endpoint(plain),
            "impostor": meshed_endpoint(meshed, spiffe("somebody-else")),
        }.items():
            cluster = Cluster(cluster_name(f"{name}.interop.svc.cluster.local", PORT), f"{name}.interop.svc.cluster.local", PORT)
            resources += [
                clusters.cluster(cluster, profile),
                endpoints.assignment(Assignment(cluster.name, (LocalityGroup((entry,)),))),
            ]
        made = stack.enter_context(
            proxied.proxied(directory / "envoy", *resources, node=f"waypoint~{WAYPOINT_HOST}~w.interop~interop.svc", delta=delta)
        )
        clients = stack.enter_context(ExitStack())
        yield Waypoint(made, loop, directory, port, server, {"meshed": meshed, "plain": plain}, profile, stack=clients)


VIP_ADDRESS = ip_address(VIP)
