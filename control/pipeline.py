"""From what sources say to what clients are sent: sources → catalog → resolution → stores → clients.

    source.put ──▶ Mesh.put (catalog)          at once, cheap
                     │ quiet for QUIET seconds, or PATIENT after the first change
                     ▼
                   Mesh.take ──▶ settle, encode (a thread) ──▶ publish: stores, streams are woken

One batch at a time. What comes meanwhile waits in the catalog, where a later version of an object takes the place of an earlier one: an
object that changes a thousand times a second costs what ten changes a second cost. What clients ask for to be worked out (views of
proxies, names) makes batches of its own, a part at a time: a change of the mesh, which may be a policy, waits for one part and not for all.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from control.meters import ViewMeter
from control.metrics import Metrics
from control.resolve import Batch, Changes, Mesh
from control.resolve.l7.plans import Ref
from control.sources import Feed
from control.xds.proxies import Proxies, proxy_entries
from control.xds.secrets import Secrets
from control.xds.server import XdsServer
from control.xds.store import Entry, Store
from control.xds.tunnels import TUNNEL_TYPES, tunnel_entries
from mesh.io.log import Log
from mesh.model.manifest import Parsed, Refused

QUIET, PATIENT = 0.01, 0.1
MOST_PINS = 200  # names that are worked out in one batch; a view has one for itself
MOST_SAID = 100  # refusals that are logged at a time; all of them are at /debug/refusals

log = Log("control")


@dataclass(slots=True)
class _Sink:
    """What one source hands over to."""

    pipeline: Pipeline
    source: str

    def put(self, origin: str, parsed: Parsed) -> None:
        self.pipeline.put(self.source, origin, parsed)

    def recall(self, origin: str, parsed: Parsed) -> None:
        self.pipeline.mesh.recall(parsed)

    def remove(self, origin: str) -> None:
        self.pipeline.put(self.source, origin, Parsed())

    def changed(self) -> None:
        self.pipeline.changed(self.source)


class Pipeline:
    """The mesh, kept up to date from its sources, and what tunnels are served of it."""

    def __init__(self, mesh: Mesh, sources: Sequence[Feed], xds: XdsServer, metrics: Metrics, secrets: Secrets | None = None) -> None:
        self.mesh = mesh
        self.sources = sources
        self.tunnels = Store(TUNNEL_TYPES)
        self.proxies = Proxies(mesh, self.poke, xds.publish, secrets, ViewMeter(metrics.registry))
        self.published: Callable[[Changes], None] = lambda changes: None
        """Called on the loop after every publication."""
        self._xds = xds
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._since: float | None = None
        self._rejected = 0
        self._known_refusals: frozenset[str] = frozenset()

    @property
    def ready(self) -> bool:
        """Every source has handed over what there was at the start, and clients are served it."""
        return self.tunnels.number > 0

    @property
    def current(self) -> bool:
        """Ready, and every source says that what it handed over is how things are."""
        return self.ready and all(source.state.synced and source.state.stale_since is None for source in self.sources)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for source in self.sources:
                group.create_task(source.run(_Sink(self, source.name)))
            group.create_task(self._keep_resolving())

    def put(self, source: str, origin: str, parsed: Parsed) -> None:
        if self.mesh.put(source, origin, parsed):
            self._metrics.triggers.labels(source).inc()
            self._stale()

    def changed(self, source: str) -> None:
        """A source's state is another one."""
        state = next(feed.state for feed in self.sources if feed.name == source)
        if state.error:
            log.warning("a source is behind", source=source, error=state.error, stale_since=state.stale_since)
        elif state.synced:
            log.info("a source is up to date", source=source)
        self._stale()

    def poke(self) -> None:
        """Something else than a source asks for work: look soon."""
        self._stale()

    def _stale(self) -> None:
        if self._since is None:
            self._since = time.monotonic()
        self._wake.set()

    async def _keep_resolving(self) -> None:
        while True:
            await self._wake.wait()
            await self._calm()
            if not all(source.state.synced for source in self.sources):
                self._wake.clear()
                continue
            begun = self._since
            self._wake.clear()
            self._since = None
            await self._resolve(self.mesh.take_objects())
            if begun is not None:
                self._metrics.debounce.observe(time.monotonic() - begun)
            if self.mesh.waiting:
                await self._resolve(self.mesh.take_pins(MOST_PINS))
            if self.mesh.waiting:
                self._stale()

    async def _calm(self) -> None:
        """Wait until the burst is over, or has lasted long enough."""
        assert self._since is not None
        end = self._since + PATIENT
        while time.monotonic() < end:
            self._wake.clear()
            try:
                async with asyncio.timeout(min(QUIET, max(end - time.monotonic(), 0.0))):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _resolve(self, batch: Batch) -> None:
        begun = time.monotonic()

        def work() -> tuple[Changes, dict[str, dict[str, Entry | None]], dict[Ref, Entry | None]]:
            changes = self.mesh.settle(batch)
            return changes, tunnel_entries(changes), proxy_entries(changes.l7)

        changes, entries, proxied = await asyncio.to_thread(work)
        self.mesh.publish(changes)
        if not self.ready:
            # What is known from the start stays for long: the collector need not look at it again and again.
            gc.collect()
            gc.freeze()
        changed = self.tunnels.apply(entries)
        self._report(changes)
        if changed:
            log.info("published", number=self.tunnels.number, resources=sum(map(len, changed.values())))
        self._xds.publish(self.tunnels, changed)
        self.proxies.apply(changes, proxied)
        self._metrics.resolve_seconds.observe(time.monotonic() - begun)
        self.published(changes)
        await self._xds.told()

    def _report(self, changes: Changes) -> None:
        metrics, mesh = self._metrics, self.mesh
        for table, arg, bug in mesh.engine.bugs:
            metrics.internal_errors.inc()
            log.error("a resource could not be made: a bug", resource=f"{table.name} {arg}", error=repr(bug))
        mesh.engine.bugs.clear()
        metrics.workloads.set(len(mesh.workloads))
        metrics.services.set(len(mesh.services))
        metrics.policies.set(len(mesh.policies))
        metrics.unenforceable.set(mesh.unenforceable)
        metrics.held_objects.set(mesh.catalog.holding)
        metrics.snapshot.set(self.tunnels.number)
        if (mesh.catalog.rejected, bool(changes.consequences)) == (self._rejected, False):
            return
        self._rejected = mesh.catalog.rejected
        refused = mesh.refused()
        metrics.refused_objects.clear()
        for kind, count in Counter(entry.kind or "unreadable" for entry, _ in refused).items():
            metrics.refused_objects.labels(kind).set(count)
        lines = {line for entry, consequence in refused for line in _lines(entry, consequence)}
        new = sorted(lines - self._known_refusals)
        for line in new[:MOST_SAID]:
            log.error(line)
        if len(new) > MOST_SAID:
            log.error(f"and {len(new) - MOST_SAID} more refusals")
        self._known_refusals = frozenset(lines)


def _lines(entry: Refused, consequence: str) -> list[str]:
    return [f"{refusal}" + (f"; {consequence}" if consequence else "") for refusal in entry.refusals]
