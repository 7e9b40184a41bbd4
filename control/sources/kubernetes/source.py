"""The Kubernetes source as a `Feed`: one reflector per kind that is served, over what was kept of an earlier life.

    start → what was kept on disk is handed over → discovery → a reflector for each kind → each lists, then watches
                                                 ↻ new kinds get one, better versions replace one, gone kinds take their objects along

`state.synced` is true once every kind that is served was listed, also one that discovery does not name yet and only its definition does.
If the API server does not come to that within `kept_patience`, what was kept counts, and `stale_since` says how old it is: the mesh goes
on with it, and new proxies get it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from control.keep import Book
from control.kept import Kept
from control.kube.client import Api
from control.kube.errors import Garbled, KubeError, ServerFailed
from control.pacing import Backoff
from control.sources import Sink, SourceState
from control.sources.kubernetes.discovery import Discovery
from control.sources.kubernetes.health import Health, sentence, stale_since
from control.sources.kubernetes.kinds import CORE, CORE_KINDS, Kind, split
from control.sources.kubernetes.ledger import Change, Held, Ledger
from control.sources.kubernetes.meter import Meter, NoMeter
from control.sources.kubernetes.read import Live, ParseObject, Reader, Reading
from control.sources.kubernetes.reflector import Deps, Reflector
from control.sources.kubernetes.tuning import Tuning
from mesh.io.log import Log
from mesh.model.manifest import Key, Pod, parse_object

log = Log("kubernetes")

LOOK_PAUSE = 1.0
"""Seconds between two looks at discovery, however often somebody asks for one."""

Watcher = Callable[[Key], None]


class KubernetesSource:
    """A `Feed`. `book` is the source's part of the keeper, None where nothing is kept. `parse` is the strict parser of our own kinds."""

    def __init__(
        self,
        api: Api,
        parse: ParseObject = parse_object,
        *,
        book: Book | None = None,
        meter: Meter | None = None,
        tuning: Tuning | None = None,
        name: str = "kubernetes",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._api = api
        self._book = book
        self._meter = meter or NoMeter()
        self._tuning = tuning or Tuning()
        self._wall = wall
        self._reader = Reader(parse, self._tuning.object_bytes)
        self._discovery = Discovery(api)
        self._discovered = Health(wall())
        self._kinds: dict[str, Kind] = {kind.resource: kind for kind in CORE}
        self._ledgers: dict[str, Ledger] = {}
        self._running: dict[str, tuple[Reflector, asyncio.Task[None]]] = {}
        self._watchers: list[Watcher] = []
        self._state = SourceState()
        self._synced = False
        self._kept_from: float | None = None
        self._kept_counts = False
        self._look = asyncio.Event()
        self._sink: Sink | None = None
        self._lost = asyncio.Event()
        if book is not None:
            book.on_loss = self._lost.set
        self._deps = Deps(api, self._reader, self, self._meter, self._tuning, asyncio.Semaphore(self._tuning.lists), wall)

    @property
    def state(self) -> SourceState:
        return self._state

    async def run(self, sink: Sink) -> None:
        """Until cancelled. Whatever goes wrong outside is waited out; what is raised is a bug."""
        self._sink = sink
        await self._restore()
        patience = asyncio.get_running_loop().call_later(self._tuning.kept_patience, self._count_kept)
        try:
            async with asyncio.TaskGroup() as group:
                for kind in CORE:
                    self._start(kind, group)
                if self._book is not None:
                    group.create_task(self._keep_refilling(self._book), name="refill")
                await self._discover(group)
        finally:
            patience.cancel()
            self._running.clear()

    # What others ask of it

    def kind(self, type_: str) -> Kind | None:
        """How objects of a type (`Object.TYPE`) are addressed: group, version, plural. None while it is not served."""
        return next((kind for kind in self._kinds.values() if kind.type == type_), None)

    def live(self, key: Key) -> Live | None:
        """What the API server holds of an object of ours beside what was handed over: version, generation, status."""
        kind = self.kind(key.kind)
        held = self._held(kind, key.namespace, key.name) if kind is not None else None
        return held.live if held is not None else None

    def pod(self, namespace: str, name: str) -> Pod | None:
        held = self._held(CORE_KINDS["pods"], namespace, name)
        found = held.parsed.objects[0] if held is not None and held.parsed.objects else None
        return found if isinstance(found, Pod) else None

    def watch_live(self, watcher: Watcher) -> None:
        """Call `watcher` whenever what `live` says of a key changes."""
        self._watchers.append(watcher)

    # The reflectors' Outlet

    def changed(self, kind: Kind, changes: Iterable[Change]) -> None:
        assert self._sink is not None
        for change in changes:
            self._meter.event(kind.core, kind.type, change.event)
            if change.reading is None or change.again:
                self._sink.remove(change.origin)
                if self._book is not None:
                    self._book.remove(change.origin)
            reading = change.reading
            if reading is not None and reading.parsed is not None:
                self._sink.put(change.origin, reading.parsed)
                if self._book is not None:
                    self._book.put(change.origin, reading.kept, accepted=not reading.parsed.refused)
            if not kind.core:
                _, namespace, name = split(change.origin)
                for watcher in self._watchers:
                    watcher(Key(kind.type, namespace, name))

    def state_changed(self) -> None:
        parts = [self._discovered, *(reflector.health for reflector, _ in self._running.values())]
        if not self._synced and all(part.synced for part in parts):
            self._synced = True
            log.info("synced", kinds=len(self._running), objects=sum(len(ledger.objects) for ledger in self._ledgers.values()))
            if self._book is not None:
                self._book.complete()
        if self._synced:
            found = SourceState(True, stale_since(parts), sentence(self._api.server, parts))
        else:
            found = SourceState(self._kept_counts, self._kept_from, sentence(self._api.server, parts))
        if self._synced and found.stale_since is None and self._book is not None:
            self._book.confirm(self._wall())
        if found != self._state:
            self._state = found
            if self._sink is not None:
                self._sink.changed()

    def look_again(self) -> None:
        self._look.set()

    # Kinds come and go

    async def _discover(self, group: asyncio.TaskGroup) -> None:
        backoff = Backoff(self._tuning.first_wait, self._tuning.most_wait)
        while True:
            self._look.clear()
            wait = self._tuning.discovery
            try:
                await self._discovery.look()
                await self._adjust(group)
                if not self._discovered.synced and (unlisted := await self._discovery.unlisted()):
                    raise ServerFailed(f"the API server does not list yet what it serves: {', '.join(unlisted)}")
            except KubeError as error:
                self._discovered.failed(error)
                wait = min(wait, backoff.wait())
            else:
                backoff.succeeded()
                self._discovered.synced = True
                self._discovered.succeeded(self._wall())
            self.state_changed()
            await asyncio.sleep(min(wait, LOOK_PAUSE))
            try:
                async with asyncio.timeout(max(0.0, wait - LOOK_PAUSE)):
                    await self._look.wait()
            except TimeoutError:
                pass

    async def _adjust(self, group: asyncio.TaskGroup) -> None:
        """Watch what is served, in the version in which it is; drop what the API server says is gone."""
        served = self._discovery.served or {}
        for kind in served.values():
            running = self._running.get(kind.resource)
            if running is None or running[0].kind != kind:
                log.info("watching", kind=str(kind))
                await self._stop(kind.resource)
                self._start(kind, group)
        for resource in [*self._ledgers]:
            kind = self._kinds[resource]
            if resource not in served and not kind.core and await self._discovery.is_gone(kind):
                await self._drop(resource)

    def _start(self, kind: Kind, group: asyncio.TaskGroup) -> None:
        self._kinds[kind.resource] = kind
        reflector = Reflector(kind, self._deps, self._ledgers.setdefault(kind.resource, Ledger()))
        self._running[kind.resource] = (reflector, group.create_task(reflector.run(), name=f"reflector {kind.resource}"))

    async def _stop(self, resource: str) -> None:
        running = self._running.pop(resource, None)
        if running is not None:
            running[1].cancel()
            await asyncio.wait([running[1]])

    async def _drop(self, resource: str) -> None:
        """The kind is gone, and with it every object of it."""
        log.info("not served any more: its objects are gone", resource=resource, objects=len(self._ledgers[resource].objects))
        await self._stop(resource)
        kind, ledger = self._kinds.pop(resource), self._ledgers.pop(resource)
        self.changed(kind, [Change(origin, "delete") for origin in ledger.objects])
        self.state_changed()

    # What was kept

    async def _restore(self) -> None:
        """Hand over what an earlier life kept: for each origin what was accepted last, then what it said last."""
        kept = await self._book.load() if self._book is not None else None
        if kept is None or self._book is None:
            return
        try:
            readings = await asyncio.to_thread(self._read_kept, kept)
        except Garbled as error:
            log.error("what was kept is not used", error=str(error))
            self._book.clear()
            return
        assert self._sink is not None
        for kind, accepted, reading in readings:
            assert reading.parsed is not None  # no digest was known
            if accepted is not None and accepted.parsed is not None:
                self._sink.recall(reading.origin, accepted.parsed)
            self._sink.put(reading.origin, reading.parsed)
            self._kinds.setdefault(kind.resource, kind)
            self._ledgers.setdefault(kind.resource, Ledger()).take([reading])
        self._kept_from = kept.confirmed
        log.info("read what was kept", objects=len(readings), of=datetime.fromtimestamp(kept.confirmed, UTC).isoformat(timespec="seconds"))

    def _read_kept(self, kept: Kept) -> list[tuple[Kind, Reading | None, Reading]]:
        """On a thread."""
        found = []
        for row in kept.rows:
            kind, reading = self._reader.restore(row.origin, row.value)
            accepted = self._reader.restore(row.origin, row.last)[1] if row.last is not None else None
            found.append((kind, accepted, reading))
        return found

    async def _keep_refilling(self, book: Book) -> None:
        """Whenever what was kept is lost, put everything anew."""
        while True:
            await self._lost.wait()
            self._lost.clear()
            backoff = Backoff(self._tuning.first_wait, self._tuning.most_wait)
            while book.asks:
                if await self._refill(book):
                    break
                await asyncio.sleep(backoff.wait())

    async def _refill(self, book: Book) -> bool:
        """The bytes that are kept are nowhere but at the API server. Whether the book has all that is held by now."""
        if not self._synced:
            return False

        for reflector, _ in [*self._running.values()]:
            try:
                await self._recite(reflector, book)
            except KubeError as error:
                self._meter.failed(reflector.kind.resource, type(error).__name__.lower())
                log.info("what is kept cannot be filled anew yet", kind=str(reflector.kind), error=str(error))
                return False
        # What has changed since it was listed is put by its watch.
        if not all(book.holds(origin) for ledger in self._ledgers.values() for origin in ledger.objects):
            return False
        book.refilled()
        return True

    async def _recite(self, reflector: Reflector, book: Book) -> None:
        def heard(readings: list[Reading]) -> None:
            if self._ledgers.get(reflector.kind.resource) is reflector.ledger:  # else the kind is gone meanwhile
                for reading in readings:
                    book.put(reading.origin, reading.kept, accepted=not reflector.ledger.objects[reading.origin].parsed.refused)

        await reflector.recite(heard)

    def _count_kept(self) -> None:
        if self._kept_from is not None and not self._synced:
            self._kept_counts = True
            log.warning("the API server does not answer: what was kept counts", of=self._kept_from)
            self.state_changed()

    def _held(self, kind: Kind, namespace: str, name: str) -> Held | None:
        ledger = self._ledgers.get(kind.resource)
        return ledger.objects.get(kind.origin(namespace, name)) if ledger is not None else None
