"""The control plane put together: sources → catalog → resolved → snapshot → clients.

A change of any source marks the whole as stale; one task then reads all sources, resolves and publishes, and looks again if something
changed meanwhile. The work is pure and done on a thread, so that xDS and the CA answer during it.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import grpc
import grpc.aio

from control.admin import routes
from control.auth.tokens import NodeTokens
from control.ca import CaSettings, CertificateAuthority, DirectoryStore
from control.ca.make import Lives
from control.catalog import Catalog
from control.config import Config
from control.metrics import Metrics
from control.resolve import MeshSettings, Resolved, resolve
from control.snapshot import Snapshot, build
from control.sources import Source
from control.sources.files import FilesSource
from control.xds.server import XdsServer
from mesh.io.http import HttpServer
from mesh.io.log import Log
from mesh.model.identity import Identity
from mesh.model.manifest import Refused, combine
from mesh.model.workload import TunnelProtocol

MAX_REQUEST = 32 << 20  # a client names every resource that it holds
DRAIN = 2.0
ROOTS, COMMANDS = "root-cert.pem", "command.sock"  # in the CA's directory

log = Log("control")


class ControlPlane:
    """One control plane. `start` listens; `run` goes on until `stop`."""

    def __init__(self, config: Config, sources: Sequence[Source] | None = None) -> None:
        self.config = config
        self.metrics = Metrics()
        self.resolved: Resolved | None = None
        self.ports: dict[str, int] = {}
        tokens = NodeTokens(config.node_tokens)
        self.xds = XdsServer(tokens, self.metrics)
        self.ca = CertificateAuthority(
            CaSettings(
                config.trust_domain,
                config.cert_ttl,
                Lives(intermediate=timedelta(seconds=config.intermediate_ttl)),
                config.ca_mount,
                config.ca_dir / ROOTS,
            ),
            DirectoryStore(config.ca_dir),
            tokens,
            self._runs_on,
            self._nodes,
            self.metrics.registry,
            config.ca_dir / COMMANDS,
        )
        self.http = HttpServer({**routes(self.xds, lambda: self.resolved, self.metrics), **self.ca.routes()})
        self._settings = MeshSettings(config.root_namespace, config.trust_domain, config.cluster, config.cluster_domain)
        self._sources: Sequence[Source] = sources if sources is not None else (FilesSource(config.manifests),)
        self._catalog = Catalog()
        self._stale = asyncio.Event()
        self._stopping = asyncio.Event()
        self._grpc: grpc.aio.Server | None = None
        self._known_refusals: frozenset[str] = frozenset()

    async def start(self) -> None:
        """Listen everywhere. OSError or RuntimeError where an address is taken; ConfigError where the CA cannot be used."""
        await self.ca.start()
        options = [
            ("grpc.max_receive_message_length", MAX_REQUEST),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            # Tunnels ping every 30 s, also without a call.
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        ]
        server = self._grpc = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((self.xds.handler(), *self.ca.handlers()))
        if self.config.xds_address:
            credentials = self.ca.serving(self.config.server_names).credentials()
            self.ports["xds"] = server.add_secure_port(self.config.xds_address, credentials)
        if self.config.xds_plaintext:
            self.ports["plaintext"] = server.add_insecure_port(self.config.xds_plaintext)
        await server.start()
        await self.http.start(self.config.http_address)
        self.ports["http"] = self.http.addresses[0][1]
        log.info("listening", **self.ports)

    async def run(self) -> None:
        """Until `stop` is called or a source fails for good."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(source.run(self._stale.set)) for source in self._sources]
            tasks += (group.create_task(self._keep_resolving()), group.create_task(self.ca.run()))
            await self._stopping.wait()
            for task in tasks:
                task.cancel()

    def stop(self) -> None:
        self._stopping.set()

    async def close(self) -> None:
        if self._grpc is not None:
            await self._grpc.stop(DRAIN)
        await self.http.close()
        await self.ca.close()

    def _runs_on(self, node: str, identity: Identity) -> bool:
        return self.resolved is not None and identity in self.resolved.identities.get(node, ())

    def _nodes(self) -> set[str]:
        """Those on which pods of the mesh run: their tunnels hold certificates, connected or not."""
        if self.resolved is None:
            return set()
        return {workload.node for workload in self.resolved.workloads if workload.protocol is TunnelProtocol.HBONE and workload.node}

    async def _keep_resolving(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            if not all(source.synced for source in self._sources):
                continue
            begun = time.monotonic()
            catalog, resolved, snapshot = await asyncio.to_thread(self._resolve, self._catalog, self.xds.snapshot)
            self._catalog, self.resolved = catalog, resolved
            self._report(resolved, snapshot)
            if snapshot is not self.xds.snapshot:
                self.xds.publish(snapshot)
                log.info(
                    "snapshot",
                    number=snapshot.number,
                    workloads=len(resolved.workloads),
                    services=len(resolved.services),
                    policies=len(resolved.policies),
                )
            self.metrics.resolve_seconds.observe(time.monotonic() - begun)

    def _resolve(self, catalog: Catalog, previous: Snapshot) -> tuple[Catalog, Resolved, Snapshot]:
        catalog = catalog.update(combine(source.parsed() for source in self._sources))
        resolved = resolve(catalog, self._settings)
        return catalog, resolved, build(resolved, previous)

    def _report(self, resolved: Resolved, snapshot: Snapshot) -> None:
        metrics = self.metrics
        metrics.workloads.set(len(resolved.workloads))
        metrics.services.set(len(resolved.services))
        metrics.policies.set(len(resolved.policies))
        metrics.unenforceable.set(sum(not policy.enforceable for policy in resolved.policies))
        metrics.snapshot.set(snapshot.number)
        metrics.refused_objects.clear()
        for kind, count in Counter(entry.kind or "unreadable" for entry, _ in resolved.refused).items():
            metrics.refused_objects.labels(kind).set(count)
        lines = {line: (entry, consequence) for entry, consequence in resolved.refused for line in _lines(entry, consequence)}
        for line in sorted(lines.keys() - self._known_refusals):
            log.error(line)
        self._known_refusals = frozenset(lines)


def _lines(entry: Refused, consequence: str) -> list[str]:
    return [f"{refusal}" + (f"; {consequence}" if consequence else "") for refusal in entry.refusals]


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
