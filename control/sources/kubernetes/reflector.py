"""One kind, listed and watched for ever: what Kubernetes' own clients call a reflector.

    list, page by page → watch from the list's version → the server ends it after a while → watch on from the last version seen → …
    410, as status or as event          → list anew, at once; deletions since are found by comparing
    the connection breaks, half a line  → watch on from the last version, after a wait that grows
    garbage at the same place again     → list anew: perhaps the place is the trouble
    429, 503 with Retry-After           → the same after that long
    "too large resource version"        → the server is behind what we saw: list, and let `History` judge it
    silence                             → the connection counts as dead
    403                                 → said; asked again in case somebody mends it
    404                                 → the kind may be gone: whoever started us is told to look

A batch of events is what arrived while the last one was worked on, at least `pause`: of each object only its newest version is decoded.
Everything large is decoded on a thread. Only this task changes the ledger, and never while the thread reads.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from control.kube.client import Api
from control.kube.errors import Behind, Busy, Expired, Garbled, KubeError, Missing, TooLong, failure, read_status
from control.pacing import Backoff
from control.sources.kubernetes import wire
from control.sources.kubernetes.health import Health
from control.sources.kubernetes.kinds import Kind
from control.sources.kubernetes.ledger import Change, History, Ledger, Verdict
from control.sources.kubernetes.lines import Inbox, Lines
from control.sources.kubernetes.meter import Meter
from control.sources.kubernetes.read import Reader, Reading, number
from control.sources.kubernetes.tuning import Tuning
from mesh.io.log import Log

log = Log("kubernetes")

EVENTS = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")
SAME_PLACE = 3
"""Garbled answers to watches from one version after which the kind is listed anew."""
SHORTEST = 1.0
"""Seconds: a watch without an event that ends sooner is counted as a failure, or we would ask again without a pause."""
RESYNC_AGAIN = 300.0


class Outlet(Protocol):
    """Who a reflector works for. Called on the event loop."""

    def changed(self, kind: Kind, changes: Iterable[Change]) -> None: ...

    def state_changed(self) -> None: ...

    def look_again(self) -> None:
        """The kind does not seem to be served any more."""


@dataclass(frozen=True, slots=True)
class Deps:
    """What all reflectors of a source share. `lists` bounds how many of them list at one time."""

    api: Api
    reader: Reader
    outlet: Outlet
    meter: Meter
    tuning: Tuning
    lists: asyncio.Semaphore
    wall: Callable[[], float] = time.time
    now: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random


@dataclass(slots=True)
class Batch:
    """Events, of each object the newest. `version`: the last one seen, "" for none; `error`: what stands after them."""

    version: str = ""
    readings: list[Reading] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    error: KubeError | None = None


class Reflector:
    """`ledger` may hold what an earlier life left, and is this object's alone from now on."""

    def __init__(self, kind: Kind, deps: Deps, ledger: Ledger) -> None:
        self.kind = kind
        self.ledger = ledger
        self.health = Health(deps.wall())
        self._deps = deps
        self._tuning = deps.tuning
        self._backoff = Backoff(deps.tuning.first_wait, deps.tuning.most_wait, deps.chance)
        self._history = History(deps.tuning.set_back)
        self._resume = ""  # the version to watch from, as the server wrote it; "" where the kind has to be listed
        self._why = "start"
        self._garbled = self._expired = 0
        self._relist_at = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                if not self._resume:
                    await self._list()
                elif self._deps.now() >= self._relist_at:
                    await self._resync()
                await self._watch()
            except KubeError as error:
                await asyncio.sleep(self._setback(error))

    async def _resync(self) -> None:
        """List anew though nothing is wrong. Where that fails, the watch goes on, and it is tried again later."""
        try:
            await self._list()
        except KubeError as error:
            self.ledger.drop_list()
            self._deps.meter.failed(self.kind.resource, type(error).__name__.lower())
            self._relist_at = self._deps.now() + min(self._tuning.resync, RESYNC_AGAIN)

    def _setback(self, error: KubeError) -> float:
        """Take note of a failure; the seconds to wait now."""
        self._deps.meter.failed(self.kind.resource, type(error).__name__.lower())
        self.ledger.drop_list()
        if isinstance(error, Expired):
            self._list_anew("expired")
            self._expired += 1
            if self._expired == 1:
                return 0.0  # what every long gap ends in. A server that says so again and again is another matter
        wait = self._backoff.wait(error.after if isinstance(error, Busy) else 0.0)
        if isinstance(error, Garbled):
            self._garbled += 1
            if self._garbled >= SAME_PLACE:
                self._list_anew("gap")
        elif isinstance(error, Behind):
            self._list_anew("gap")
        elif isinstance(error, Missing):
            self._deps.outlet.look_again()
        before = self.health.error
        self.health.failed(error)
        if self.health.error is not None and str(before or "") != str(error):
            log.warning("the API server does not give what was asked for", kind=str(self.kind), error=str(error), again_in=round(wait, 1))
        self._deps.outlet.state_changed()
        return wait

    def _list_anew(self, why: str) -> None:
        self._resume, self._why, self._garbled = "", why, 0

    def _answered(self) -> None:
        """The server does what it should."""
        self.health.succeeded(self._deps.wall())
        self._deps.outlet.state_changed()

    def _thrives(self) -> None:
        """A watch works: the next failure is a first one again."""
        self._backoff.succeeded()
        self._garbled = self._expired = 0
        self._answered()

    # Listing

    async def _list(self) -> None:
        """All pages of one version. KubeError where it did not come to its end; what came before that was taken."""
        async with self._deps.lists:
            await self._list_pages()

    async def _list_pages(self) -> None:
        version, more, limit = "", "", self._tuning.page
        while True:
            page, limit = await self._next(more, limit)
            if not version:
                version = page.metadata.version
                self._begin(version)
            elif page.metadata.version != version:
                raise Garbled(f"list {self.kind.resource}: a page of version {page.metadata.version} in a list of version {version}")
            readings, same = await asyncio.to_thread(self._read_page, page.items or [])
            more = page.metadata.next
            del page  # or it would stay until the next one has come
            self.ledger.see(same)
            self._deps.outlet.changed(self.kind, self.ledger.take(readings))
            self.health.confirmed = self._deps.wall()
            if not more:
                break
        self._deps.outlet.changed(self.kind, self.ledger.finish_list(number(version)))
        self._deps.meter.listed(self.kind.resource, self._why)
        log.debug("listed", kind=str(self.kind), objects=len(self.ledger.objects), version=version, reason=self._why)
        self._resume, self._why = version, "resync"
        self._relist_at = self._deps.now() + (self._tuning.resync * (1 + self._deps.chance() / 2) if self._tuning.resync else float("inf"))
        self.health.synced = True
        self._answered()

    async def recite(self, heard: Callable[[list[Reading]], None]) -> None:
        """List everything once more, for whoever wants it in the form in which it is kept. The ledger stays as it is, and only what it
        holds is told. KubeError.
        """
        more, limit = "", self._tuning.page
        async with self._deps.lists:
            while True:
                page, limit = await self._next(more, limit)
                readings = await asyncio.to_thread(self._reread_page, page.items or [])
                more = page.metadata.next
                del page
                heard([reading for reading in readings if self.ledger.digest(reading.origin) == reading.digest])
                if not more:
                    break
        self._deps.meter.listed(self.kind.resource, "refill")

    def _reread_page(self, items: list[msgspec.Raw]) -> list[Reading]:
        """On a thread. What is held is not parsed again."""
        readings = []
        for raw in items:
            head = self._head(raw)
            known = self.ledger.digest(self.kind.origin(head.namespace, head.name))
            readings.append(self._deps.reader.read(self.kind, head, memoryview(raw), known))
        return readings

    async def _next(self, more: str, limit: int) -> tuple[wire.Page, int]:
        """The next page, and how many objects a page may have from now on."""
        while True:
            try:
                return await self._page(more, limit), limit
            except TooLong:
                if limit == 1:
                    raise
                limit = max(1, limit // 2)

    async def _page(self, more: str, limit: int) -> wire.Page:
        # No resourceVersion: the newest, which the server proves to be so (a quorum read, or its cache once that has caught up, KEP-2340).
        query = {"limit": str(limit)} | ({"continue": more} if more else {})
        answer = await self._deps.api.call(
            "list", self.kind.resource, self.kind.path(), query=query, patience=self._tuning.page_patience, most=self._tuning.page_bytes
        )
        try:
            page = await asyncio.to_thread(wire.page.decode, answer.body)
        except wire.UNREADABLE as error:
            raise Garbled(f"list {self.kind.resource}: {error}") from error
        if not page.metadata.version:
            raise Garbled(f"list {self.kind.resource}: a list without a version")
        return page

    def _begin(self, version: str) -> None:
        verdict = self._history.judge(number(version), self.ledger.newest, self._deps.now())
        if verdict is Verdict.STALE:
            self._deps.meter.stale(self.kind.resource)
            raise Behind(f"list {self.kind.resource}: version {version} is older than {self.ledger.newest}, which was seen: not taken")
        if verdict is Verdict.SET_BACK:
            log.error(
                "the API server's history was set back: what it holds now is taken",
                kind=str(self.kind),
                seen=self.ledger.newest,
                now=version,
            )
        self.ledger.begin_list(number(version), verdict is Verdict.SET_BACK)

    def _read_page(self, items: list[msgspec.Raw]) -> tuple[list[Reading], list[str]]:
        """On a thread: what is new, and the origins of what is held at the very version that the page has."""
        readings: list[Reading] = []
        same: list[str] = []
        for raw in items:
            head = self._head(raw)
            origin = self.kind.origin(head.namespace, head.name)
            if self.ledger.holds(origin, number(head.version)):
                same.append(origin)
            else:
                readings.append(self._deps.reader.read(self.kind, head, memoryview(raw), self.ledger.digest(origin)))
        return readings, same

    def _head(self, raw: msgspec.Raw | memoryview) -> wire.HeadMeta:
        try:
            head = wire.head.decode(raw).metadata
        except wire.UNREADABLE as error:
            raise Garbled(f"{self.kind.resource}: {error}") from error
        if not head.name:
            raise Garbled(f"{self.kind.resource}: an object without a name")
        return head

    # Watching

    async def _watch(self) -> None:
        """One watch, from the last version to its end."""
        tuning = self._tuning
        begun = self._deps.now()
        seconds = int(max(1.0, min(tuning.watch * (1 + self._deps.chance() / 2), self._relist_at - begun)))
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": self._resume, "timeoutSeconds": str(seconds)}
        silence = seconds + tuning.silence
        stream = self._deps.api.stream("watch", self.kind.resource, self.kind.path(), query=query, silence=silence, patience=tuning.open)
        got = False
        async with stream as chunks:
            inbox = Inbox(Lines(tuning.line_bytes))
            filling = asyncio.create_task(inbox.fill(chunks))
            thriving = asyncio.get_running_loop().call_later(tuning.healthy, self._thrives)
            try:
                # A server or proxy that does not end what it was asked to end is left; that is no failure, unlike silence.
                async with asyncio.timeout(silence):
                    while lines := await inbox.take():
                        await self._take(lines)
                        if not got:
                            got = True
                            thriving.cancel()
                            self._thrives()
                        self.health.confirmed = self._deps.wall()
                        await asyncio.sleep(tuning.pause)
            except TimeoutError:
                got = True
            finally:
                thriving.cancel()
                filling.cancel()
                await asyncio.gather(filling, return_exceptions=True)
        if not got and self._deps.now() - begun < SHORTEST:
            raise Garbled(f"watch {self.kind.resource}: it ended as soon as it had begun")

    async def _take(self, lines: list[bytes]) -> None:
        """A batch. KubeError for the first line that is none of the server's; what came before that was taken."""
        large = sum(map(len, lines)) > self._tuning.offload
        batch = await asyncio.to_thread(self._read_lines, lines) if large else self._read_lines(lines)
        changes = [deleted for origin in batch.deleted if (deleted := self.ledger.delete(origin)) is not None]
        changes += self.ledger.take(batch.readings)
        self.ledger.advance(number(batch.version))
        self._resume = batch.version or self._resume
        if changes:
            self._deps.outlet.changed(self.kind, changes)
        if batch.error is not None:
            raise batch.error

    def _read_lines(self, lines: list[bytes]) -> Batch:
        """Perhaps on a thread."""
        batch = Batch()
        newest: dict[str, tuple[bool, wire.HeadMeta, memoryview]] = {}
        last = self.ledger.version
        try:
            for line in lines:
                event = self._event(line)
                raw = memoryview(event.object)
                if event.type == "BOOKMARK":
                    version = wire.head.decode(raw).metadata.version
                else:
                    head = self._head(raw)
                    version = head.version
                    if last and 0 < number(version) <= last:
                        self._deps.meter.stale(self.kind.resource)
                        continue
                    origin = self.kind.origin(head.namespace, head.name)
                    if self.ledger.outdated(origin, number(version)):
                        self._deps.meter.stale(self.kind.resource)
                    else:
                        newest[origin] = (event.type == "DELETED", head, raw)
                last = max(last, number(version))
                batch.version = version or batch.version
        except KubeError as error:
            batch.error = error
        for origin, (deleted, head, raw) in newest.items():
            if deleted:
                batch.deleted.append(origin)
            else:
                batch.readings.append(self._deps.reader.read(self.kind, head, raw, self.ledger.digest(origin)))
        return batch

    def _event(self, line: bytes) -> wire.Event:
        try:
            event = wire.event.decode(line)
        except wire.UNREADABLE as error:
            raise Garbled(f"watch {self.kind.resource}: {error}") from error
        if event.type == "ERROR":
            raise failure(read_status(bytes(memoryview(event.object)), 500), {}, "watch", self.kind.resource)
        if event.type not in EVENTS:
            raise Garbled(f"watch {self.kind.resource}: an event of type {event.type[:40]!r}")
        return event
