"""The composition root: makes the parts, starts them, and takes them down in order.

Start: readiness answers first (and says what is missing), then the control plane's stream and the agent's socket, in no order. A pod's
listeners open as soon as the agent names it, so that no connection is refused that could be served a moment later.

Stop, on SIGTERM or /quitquitquit: every listener is closed at once, so that new connections go to our successor, which listens on the same
ports; inbound tunnels say GOAWAY; what runs goes on until it ends or the deadline comes, and then is reset (DRAINING).
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import signal
from collections.abc import Sequence
from pathlib import Path

from mesh.io.acceptor import Spare
from mesh.io.grpc import GrpcTarget
from mesh.io.http import HttpServer
from mesh.io.log import Levels, LineSink, Log
from mesh.io.memory import release_startup_pages
from mesh.io.tunnel import Tunnel
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from ztunnel.accesslog import AccessLog
from ztunnel.admin import Admin
from ztunnel.ca import CertificateAuthority
from ztunnel.certificates import Certificates
from ztunnel.config import Config
from ztunnel.connections import Registry
from ztunnel.deps import Deps
from ztunnel.keysmith import Keysmith
from ztunnel.metrics import Metrics
from ztunnel.outbound import Outbound
from ztunnel.pods import Pods
from ztunnel.pool import Pool, PoolLimits
from ztunnel.trust import Follower
from ztunnel.view import View
from ztunnel.xds import XdsClient
from ztunnel.zds import ZdsClient, read_mark

log = Log("app")

GC_THRESHOLD = 10_000
"""New objects until the cycle collector looks at the young ones. A connection makes dozens of objects and almost no cycles; the default of
700 would have it look every few connections."""
HOUSEKEEPING = 5.0  # seconds between looks at what is idle


class App:
    """One tunnel process, on the running loop."""

    def __init__(self, config: Config, levels: Levels, sink: LineSink) -> None:
        loop = asyncio.get_running_loop()
        self.config = config
        self.stopping = asyncio.Event()
        self.draining = False
        self.version = _version()
        self._random = random.Random(os.urandom(16))  # noqa: S311 - load balancing and trace ids keep no secret
        self.metrics = Metrics(self.version)
        self._access_sink = _access_sink(config, sink)
        access_log = AccessLog(self._access_sink, config.log_format)
        self.registry = Registry(self.metrics, access_log, loop.time, config.max_connections, config.max_connections_per_pod)
        self.metrics.live = lambda: self.registry
        self.view = View()
        ca_target = GrpcTarget(config.ca_address, config.ca_root_ca, config.ca_server_name, config.auth_token, config.cluster_id)
        self.ca = CertificateAuthority(ca_target, Keysmith(), config.secret_ttl)
        self.certificates = Certificates(self.ca.fetch, self._renewed)
        self.follower = Follower(self.ca, self.certificates, None if ca_target.plaintext else config.ca_root_ca)
        self.pool: Pool[Tunnel, Outbound] = Pool(PoolLimits(streams_per_tunnel=config.pool_streams, idle=config.pool_idle), Tunnel.drain)
        self.deps = Deps(
            config, self.view, self.certificates, self.pool, self.registry, Spare(), self._choose, lambda: self._random.randbytes(24), set()
        )
        self.pods = Pods(self.deps, self.metrics)
        xds_target = GrpcTarget(config.xds_address, config.xds_root_ca, config.xds_server_name, config.auth_token, config.cluster_id)
        self.xds = XdsClient(config, xds_target, self.view, self.metrics)
        self.zds = ZdsClient(config.inpod_uds, self.pods, self.metrics, self._mark)
        admin = Admin(self.deps, self.pods, self.metrics, levels, self.version, self.pending, self.stopping.set)
        self.admin_server = HttpServer(admin.admin_routes(), loopback_only=True)
        self.metrics_server = HttpServer(admin.metrics_routes())
        self.readiness_server = HttpServer(admin.readiness_routes())
        self.metrics.before_page.append(self._gauges)

    def pending(self) -> list[str]:
        """What is missing before this tunnel can serve; empty is ready."""
        if self.draining:
            return ["nothing: it is shutting down"]
        return [*self.xds.pending, *self.zds.pending, *self.pods.pending]

    async def run(self) -> None:
        """Serve until `stopping` is set, then drain. Raises OSError where a port of ours is taken."""
        log.info("starting", version=self.version, node=self.config.node_name, instance=self.config.instance, pid=os.getpid())
        try:
            await self.readiness_server.start(self.config.readiness_address)
            await self.metrics_server.start(self.config.metrics_address)
            await self.admin_server.start(self.config.admin_address)
            for work in (self.xds.run(), self.zds.run(), self.follower.run(), self._housekeeping()):
                self.deps.spawn(work)
            await self.stopping.wait()
            await self._drain()
        finally:
            await self._close()
        log.info("stopped")

    async def _drain(self) -> None:
        self.draining = True
        deadline = self.config.drain_deadline
        log.info("draining", connections=self.registry.size, deadline=f"{deadline:g}s")
        self.pods.drain()
        empty = asyncio.Event()
        self.registry.on_empty = empty.set
        if self.registry.size:
            try:
                async with asyncio.timeout(deadline):
                    await empty.wait()
            except TimeoutError:
                log.warning("connections are reset: the drain is over", connections=self.registry.size)
        self.registry.close_all(Reason.DRAINING)

    async def _close(self) -> None:
        self.pods.stop(Reason.DRAINING)
        for tunnel in self.pool.tunnels():
            tunnel.close(Reason.DRAINING)
        tasks = list(self.deps.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.certificates.close()
        await self.ca.close()
        for server in (self.admin_server, self.metrics_server, self.readiness_server):
            await server.close()
        await asyncio.sleep(0)  # the connections that were reset report their end
        self._access_sink.flush()
        self.deps.spare.close()

    async def _housekeeping(self) -> None:
        settled = False
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            self.pool.expire(asyncio.get_running_loop().time())
            if not settled and not self.pending():
                settled = True
                gc.collect()
                gc.freeze()  # what start-up made is here to stay: not to be looked at again with every full collection
                log.info("ready", released=f"{release_startup_pages() >> 20} MB of start-up code")

    def _renewed(self, identity: Identity) -> None:
        """New tunnels are made with the new certificate; those that run are left alone."""
        self.pool.retire(identity)

    def _choose(self, weights: Sequence[int]) -> int:
        return self._random.choices(range(len(weights)), weights)[0]

    def _mark(self) -> int:
        return read_mark(self.config.mark_file) if self.config.mark_file is not None else self.config.packet_mark

    def _gauges(self) -> None:
        states: dict[str, int] = {}
        now = _wall_clock()
        for entry in self.certificates.schedule.entries.values():
            states[entry.state(now).value] = states.get(entry.state(now).value, 0) + 1
        for state in ("Available", "Initializing", "Unavailable"):
            self.metrics.certificates.set(states.get(state, 0), state)
        self.metrics.ca_followed.set(self.follower.connected)
        self.metrics.tunnels.set(self.pool.size, "outbound")
        self.metrics.tunnels.set(sum(len(pod.tunnels) for pod in self.pods.pods.values()), "inbound")
        self.metrics.log_dropped.set(self._access_sink.dropped)


async def main(config: Config, levels: Levels, sink: LineSink) -> None:
    """Run one tunnel; SIGTERM and SIGINT stop it, a second one at once."""
    _raise_descriptors()
    gc.set_threshold(GC_THRESHOLD)
    app = App(config, levels, sink)
    loop = asyncio.get_running_loop()
    running = asyncio.current_task()
    assert running is not None  # we are in it

    def stop() -> None:
        if app.stopping.is_set():
            running.cancel()
        app.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await app.run()


def _access_sink(config: Config, sink: LineSink) -> LineSink:
    """Standard output's, or one for the file that is configured. Raises OSError."""
    if config.access_log is None:
        return sink
    return LineSink(os.open(config.access_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o640))


def _raise_descriptors() -> None:
    """As many as we are allowed: each connection takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _version() -> str:
    """From the name of the installed distribution's directory: importlib.metadata would know, and costs 2 MB."""
    for found in Path(__file__).parents[1].glob("culvert_mesh-*.dist-info"):
        return found.name.removesuffix(".dist-info").partition("-")[2]
    return "0.0.0+checkout"


def _wall_clock() -> float:
    import time

    return time.time()
