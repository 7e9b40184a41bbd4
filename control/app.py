"""The control plane put together: sources and the pipeline behind them, xDS and the CA on one gRPC server, what is said over HTTP, and what
is written to a Kubernetes cluster, where there is one.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from control.admin import routes
from control.auth import Authenticator
from control.auth.several import Several
from control.auth.tokens import NodeTokens, require
from control.ca import CaSettings, CertificateAuthority, DirectoryStore
from control.ca.make import Lives
from control.config import Config
from control.keep import Keeper
from control.meters import ConsulMeter, KeepMeter
from control.metrics import Metrics
from control.pipeline import Pipeline
from control.ports import listening, probe
from control.presence import presence
from control.resolve import Mesh, MeshSettings
from control.sources import Feed
from control.sources.consul.source import ConsulSource
from control.sources.files import FilesSource
from control.xds.clients import ANONYMOUS, Hello, View
from control.xds.messages import Refusal
from control.xds.proxies import PROXY_TYPES
from control.xds.secrets import Secrets
from control.xds.server import XdsServer
from control.xds.tunnels import TUNNEL_RULES, TUNNEL_TYPES
from mesh.io.http import HttpServer
from mesh.io.log import Log

if TYPE_CHECKING:
    from control.cluster import Cluster

MAX_REQUEST = 32 << 20  # a client names every resource that it holds
GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_REQUEST),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    # Tunnels ping every 30 s, also without a call.
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Of a stream nobody reads yet 64 KiB are taken; with the probe it would be 8 MiB, from everybody who can connect.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 600_000),
]
DRAIN = 2.0
ROOTS, COMMANDS = "root-cert.pem", "command.sock"  # in the CA's directory

log = Log("control")


class ControlPlane:
    """One control plane. `start` listens; `run` goes on until `stop`. `sources` replaces those of the configuration."""

    def __init__(self, config: Config, sources: Sequence[Feed] | None = None) -> None:
        self.config = config
        self.metrics = metrics = Metrics()
        self.ports: dict[str, int] = {}
        self.mesh = Mesh(MeshSettings(config.root_namespace, config.trust_domain, config.cluster, config.cluster_domain))
        self.keeper = Keeper(config.keep, KeepMeter(metrics.registry)) if config.keep is not None else None
        self.cluster = self._cluster()
        authenticator = self._authenticator()
        self.ca = CertificateAuthority(
            CaSettings(
                config.trust_domain,
                config.cert_ttl,
                Lives(intermediate=timedelta(seconds=config.intermediate_ttl)),
                config.ca_mount,
                config.ca_dir / ROOTS,
            ),
            self.cluster.store() if self.cluster is not None else DirectoryStore(config.ca_dir),
            authenticator,
            self.mesh.runs_on,
            self.mesh.nodes,
            metrics.registry,
            config.ca_dir / COMMANDS,
            sources=lambda: presence(self.mesh) if self.pipeline.current else None,
        )
        self.secrets = Secrets(self.ca.keeper)
        self.xds = XdsServer(authenticator, self._view, metrics)
        self.pipeline = Pipeline(self.mesh, sources if sources is not None else self._feeds(), self.xds, metrics, self.secrets)
        if self.cluster is not None:
            self.pipeline.published = self.cluster.published
        self.http = HttpServer({**routes(self.xds, self.pipeline, metrics, self.problems), **self.ca.routes()})
        self._stopping = asyncio.Event()
        self._grpc: grpc.aio.Server | None = None

    def _cluster(self) -> Cluster | None:
        if self.config.kubernetes is None:
            return None
        from control.cluster import Cluster  # its client library is 9 MB, of no use without a cluster

        return Cluster(self.config, self.config.kubernetes, self.mesh, self.metrics, self.keeper)

    def _authenticator(self) -> Authenticator:
        tokens = [NodeTokens(self.config.node_tokens)] if self.config.node_tokens is not None else []
        reviews = [self.cluster.authenticator] if self.cluster is not None else []
        return Several([*tokens, *reviews])

    def _feeds(self) -> list[Feed]:
        config = self.config
        feeds: list[Feed] = [FilesSource(config.manifests)] if config.manifests else []
        if self.cluster is not None:
            feeds.append(self.cluster.source)
        if config.consul is not None:
            book = self.keeper.book("consul") if self.keeper is not None else None
            feeds.append(ConsulSource(config.consul, book=book, meter=ConsulMeter(self.metrics.registry)))
        return feeds

    async def start(self) -> None:
        """Listen everywhere. ConfigError where an address is taken, or the CA cannot be used."""
        if self.config.node_tokens is not None:
            require(self.config.node_tokens)
        if self.keeper is not None:
            await self.keeper.open()
        await self.ca.start()
        server = self._grpc = grpc.aio.server(options=GRPC_OPTIONS)
        server.add_generic_rpc_handlers((self.xds.handler(), *self.ca.handlers()))
        if address := self.config.xds_address:
            credentials = self.ca.serving(self.config.server_names).credentials()
            with listening("CULVERT_XDS_ADDRESS", address):
                probe(address)
                self.ports["xds"] = server.add_secure_port(address, credentials)
        if address := self.config.xds_plaintext:
            with listening("CULVERT_XDS_PLAINTEXT", address):
                probe(address)
                self.ports["plaintext"] = server.add_insecure_port(address)
        await server.start()
        with listening("CULVERT_HTTP_ADDRESS", self.config.http_address):
            await self.http.start(self.config.http_address)
        self.ports["http"] = self.http.addresses[0][1]
        if self.cluster is not None and (port := await self.cluster.start(self.ca)) is not None:
            self.ports["webhook"] = port
        log.info("listening", **self.ports)

    async def run(self) -> None:
        """Until `stop` is called or a source fails for good."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.pipeline.run()),
                group.create_task(self.ca.run()),
                group.create_task(self.secrets.run(self.pipeline.proxies.renew_secrets)),
            ]
            if self.keeper is not None:
                tasks.append(group.create_task(self.keeper.run()))
            if self.cluster is not None:
                tasks.append(group.create_task(self.cluster.run(self.ca)))
            await self._stopping.wait()
            for task in tasks:
                task.cancel()

    def problems(self) -> list[str]:
        """What does not work now beside the sources, a sentence each."""
        kept = [f"nothing is kept on disk: {self.keeper.trouble}"] if self.keeper is not None and self.keeper.trouble else []
        return kept + (self.cluster.problems() if self.cluster is not None else [])

    def stop(self) -> None:
        self._stopping.set()

    async def close(self) -> None:
        if self._grpc is not None:
            await self._grpc.stop(DRAIN)
        await self.http.close()
        await self.ca.close()
        if self.cluster is not None:
            await self.cluster.close()
        if self.keeper is not None:
            await self.keeper.close()

    async def _view(self, hello: Hello) -> View:
        if hello.type_url in TUNNEL_TYPES:
            if hello.caller == ANONYMOUS:
                raise Refusal("a node's token is required")
            return View(self.pipeline.tunnels, TUNNEL_RULES, "tunnel")
        if hello.type_url in PROXY_TYPES:
            return await self.pipeline.proxies.open(hello)
        raise Refusal(f"unknown type {hello.type_url!r}: expected one of {', '.join((*TUNNEL_TYPES, *PROXY_TYPES))}")


async def serve(config: Config) -> None:
    """The whole life of the process: until SIGTERM or SIGINT."""
    plane = ControlPlane(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, plane.stop)
    try:
        await plane.start()
        await plane.run()
    finally:
        await plane.close()
