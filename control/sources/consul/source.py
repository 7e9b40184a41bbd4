"""The Consul source as a `Feed`: what was kept of an earlier life, three blocking queries, and readers for what they say is new.

    start → what was kept on disk is handed over → services, checks and nodes are watched → services are read → handed over
                                                        ↻ `catalog` says what to ask next

`state.synced` is true once every service that Consul lists was read. If Consul does not come to that within `kept_patience`, what was kept
counts, and `stale_since` says how old it is. While Consul is away, what is known stays in force.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

from control.pacing import Backoff
from control.sources import Sink, SourceState
from control.sources.consul.catalog import Catalog, Task, Told
from control.sources.consul.client import Answer, Client
from control.sources.consul.cursor import News
from control.sources.consul.errors import NEEDED, ConsulError, Denied, Garbled
from control.sources.consul.health import Health, sentence, stale_since
from control.sources.consul.keeping import INDEXES, Book, restore
from control.sources.consul.meter import Meter, NoMeter
from control.sources.consul.settings import ConsulSettings
from control.sources.consul.translate import Parse, Rules, origin_of, translate, unreadable
from control.sources.consul.tuning import Tuning
from control.sources.consul.watch import Apply, Deps, Question, Watch, decoded
from control.sources.consul.wire import Instance, read_checks, read_instances, read_services, write_indexes, write_kept
from mesh.io.log import Log
from mesh.model.manifest import Parsed, parse_object

log = Log("consul")

NOTHING = 'Service.ID == ""'
"""A filter that no instance passes: the answer is an index and an empty list."""
FAILING = "Status != passing"
NO_NODE = 'Node == ""'
REFILL, REFILL_LOOK = 100, 1.0
"""Services that are encoded at one time, and seconds between two tries, when what was kept was lost."""
GARBLED = 3
"""Answers about a service that cannot be read, one after the other, after which that is what Consul says of it."""


class ConsulSource:
    """A `Feed`. `book` is the source's part of the keeper, None where nothing is kept."""

    def __init__(
        self,
        settings: ConsulSettings,
        *,
        parse: Parse = parse_object,
        book: Book | None = None,
        meter: Meter | None = None,
        tuning: Tuning | None = None,
        name: str = "consul",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._settings = settings
        self._parse = parse
        self._book = book
        self._meter = meter or NoMeter()
        self._tuning = tuning = tuning or Tuning()
        self._wall = wall
        self._client = Client(settings, tuning)
        self._rules = Rules(
            namespace=settings.namespace,
            domain=settings.domain,
            datacenter_names=settings.datacenter_names,
            proxies=settings.proxies,
        )
        self._catalog = Catalog(tuning, settings.exclude, settings.grace, lags=settings.consistency == "stale")
        self._handed: dict[str, Parsed] = {}
        deps = Deps(self._client, tuning, self._meter, wall, self._watched)
        self._watches = [
            Watch(Question(name, path, query, read), deps, Health(wall()))
            for name, path, query, read in (
                ("services", "catalog/services", {}, self._read_services),
                ("checks", "health/state/any", {"filter": FAILING}, self._read_checks),
                ("nodes", "catalog/nodes", {"filter": NO_NODE}, self._read_nodes),
            )
        ]
        self._reads = Health(wall())
        self._backoff = Backoff(tuning.first_wait, tuning.most_wait)
        self._read_from = 0.0
        self._reading = 0
        self._garbled: Counter[str] = Counter()
        self._wake = asyncio.Event()
        self._state = SourceState()
        self._synced = False
        self._kept_from: float | None = None
        self._kept_counts = False
        self._sink: Sink | None = None
        self._lost = asyncio.Event()
        if book is not None:
            book.on_loss = self._lost.set

    @property
    def state(self) -> SourceState:
        return self._state

    async def run(self, sink: Sink) -> None:
        """Until cancelled. Whatever goes wrong outside is waited out; what is raised is a bug."""
        self._sink = sink
        if self._settings.token_file is not None and not self._settings.secure:
            log.warning("the token goes to Consul without TLS", address=self._settings.shown)
        await self._restore()
        patience = asyncio.get_running_loop().call_later(self._tuning.kept_patience, self._count_kept)
        try:
            async with asyncio.TaskGroup() as group:
                for watch in self._watches:
                    group.create_task(watch.run(), name=f"consul {watch.question.name}")
                group.create_task(self._resync(), name="consul resync")
                if self._book is not None:
                    group.create_task(self._keep_refilling(self._book), name="consul refill")
                await self._keep_reading(group)
        finally:
            patience.cancel()
            self._client.close()

    # What the blocking queries say

    def _read_services(self, answer: Answer) -> Apply:
        listed = read_services(answer.body, self._tuning.services)
        # Consul lists itself, in the default namespace. Who asks without a token is not told that something was hidden.
        if not listed and (answer.filtered or not (self._settings.consul_namespace or self._settings.partition)):
            raise Denied(f"access rules hide every service, even Consul's own: {NEEDED}")

        def apply(news: News) -> None:
            if news is News.BACKWARDS:
                log.warning("Consul's index went backwards: was it restored, or begun anew?", address=self._settings.shown)
                self._meter.set_back()
            for name in self._catalog.take_list(listed, _told(answer, news), time.monotonic()):
                self._remove(name)

        return apply

    def _read_checks(self, answer: Answer) -> Apply:
        failing = read_checks(answer.body)
        return lambda news: self._catalog.take_failing(failing, _told(answer, news), time.monotonic())

    def _read_nodes(self, answer: Answer) -> Apply:
        return lambda news: self._catalog.take_nodes(_told(answer, news), time.monotonic())

    def _watched(self, changed: bool) -> None:
        if changed and self._book is not None:
            self._put_indexes(self._book)
        self._look()

    def _put_indexes(self, book: Book) -> None:
        book.put(INDEXES, write_indexes({watch.question.name: watch.cursor.seen for watch in self._watches}))

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._tuning.resync)
            self._catalog.doubt()
            self._wake.set()

    # Reading services

    async def _keep_reading(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._wake.clear()
            now = time.monotonic()
            while self._may_read(now) and (task := self._catalog.next(now)) is not None:
                self._reading += 1
                group.create_task(self._read(task), name=f"consul service {task.name}")
            # Where something else keeps us from reading, whatever ends that wakes us.
            due = self._catalog.due() if self._may_read(now) else self._read_from if now < self._read_from else None
            try:
                async with asyncio.timeout(max(0.0, due - now) if due is not None else None):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _may_read(self, now: float) -> bool:
        """Not before every blocking query was answered once: what changed before that is read, and what changes after is told."""
        heard = all(watch.health.answered for watch in self._watches)
        return heard and now >= self._read_from and self._reading < self._tuning.reads

    async def _read(self, task: Task) -> None:
        try:
            await self._ask(task)
        except ConsulError as error:
            self._failed(task, error)
        finally:
            self._reading -= 1
            self._look()

    async def _ask(self, task: Task) -> None:
        query = {"filter": NOTHING} if task.index_only else {}
        answer = await self._client.get(f"health/service/{quote(task.name, safe='')}", query, most=self._tuning.service_bytes)
        changed = False
        if task.index_only:
            self._catalog.take_index(task, _told(answer), time.monotonic())
        else:
            instances = await decoded(lambda: read_instances(task.name, answer.body), len(answer.body))
            changed = self._catalog.take(task, instances, _told(answer))
            changed |= self._garbled.pop(task.name, 0) >= GARBLED
        self._meter.answered(_what(task))
        self._reads.succeeded(self._wall())
        self._backoff.succeeded()
        if changed:
            await self._hand_over(task.name)

    def _failed(self, task: Task, error: ConsulError) -> None:
        now = time.monotonic()
        wait = self._backoff.wait(error.after)
        hopeless = False
        if isinstance(error, Garbled):  # perhaps this service alone: the others are read on
            self._garbled[task.name] += 1
            hopeless = self._garbled[task.name] >= GARBLED
        else:
            self._read_from = now + wait
        self._catalog.give_back(task, now + wait, now, refused=hopeless)
        self._reads.failed(error)
        self._meter.failed(_what(task), error.word)
        log.debug("a service was not read", service=task.name, error=str(error))
        if hopeless and task.name in self._catalog.services:
            self._put(task.name, unreadable(task.name, self._rules, str(error)))

    async def _hand_over(self, name: str) -> None:
        known = self._catalog.services.get(name)
        if known is None:
            self._remove(name)
            return
        instances = known.instances or ()
        parsed = await self._translate(name, instances)
        now = self._catalog.services.get(name)
        if now is not None and now.instances is instances:  # else who changed that hands over, or has removed
            self._put(name, parsed, instances)

    async def _translate(self, name: str, instances: tuple[Instance, ...]) -> Parsed:
        if len(instances) <= self._tuning.offload:
            return translate(name, instances, self._rules, self._parse)
        return await asyncio.to_thread(translate, name, instances, self._rules, self._parse)

    # What is handed over

    def _put(self, name: str, parsed: Parsed, instances: tuple[Instance, ...] | None = None) -> None:
        """`instances`: what it was made of; what is made of nothing is not kept."""
        assert self._sink is not None
        if parsed == Parsed():
            self._remove(name)
            return
        if self._handed.get(name) == parsed:
            return
        self._handed[name] = parsed
        self._sink.put(origin_of(name), parsed)
        self._meter.handed_over(bool(parsed.refused))
        if self._book is not None and instances is not None:
            self._book.put(origin_of(name), write_kept(name, instances), accepted=bool(parsed.objects))

    def _remove(self, name: str) -> None:
        assert self._sink is not None
        self._garbled.pop(name, None)
        if self._handed.pop(name, None) is not None:
            self._sink.remove(origin_of(name))
            self._meter.removed()
            if self._book is not None:
                self._book.remove(origin_of(name))

    def _look(self) -> None:
        """How the source is doing now; and let the readers look for work."""
        self._wake.set()
        parts = [*(watch.health for watch in self._watches), self._reads]
        complete = self._catalog.complete and all(watch.health.answered for watch in self._watches)
        if complete and not self._synced:
            self._synced = True
            log.info("synced", address=self._settings.shown, services=len(self._catalog.services))
            if self._book is not None:
                self._book.complete()
        since = stale_since(parts)
        if since is None and not complete:
            since = self._state.stale_since  # what was missed while Consul was away is yet to be read
        elif since is None:
            self._reads.confirmed = self._wall()  # nothing needs to be read, which is as good as having read it
        said = sentence(self._settings.shown, parts, self._catalog.hidden)
        found = SourceState(True, since, said) if self._synced else SourceState(self._kept_counts, self._kept_from, said)
        if self._synced and since is None and self._book is not None:
            self._book.confirm(self._wall())
        self._meter.services(len(self._catalog.services), len(self._catalog.hidden))
        if found == self._state:
            return
        if found.error and found.error != self._state.error:
            log.warning("what is known of Consul's services may be out of date", error=found.error)
        elif self._state.error and not found.error:
            log.info("Consul answers again", address=self._settings.shown)
        self._state = found
        if self._sink is not None:
            self._sink.changed()

    # What was kept

    async def _restore(self) -> None:
        """Hand over what an earlier life kept: for each service what was accepted last, then what it said last."""
        kept = await self._book.load() if self._book is not None else None
        if kept is None or self._book is None:
            return
        try:
            services, indexes = await asyncio.to_thread(restore, kept, self._rules, self._parse)
        except Garbled as error:
            log.error("what was kept is not used", error=str(error))
            self._book.clear()
            return
        assert self._sink is not None
        for service in services:
            if service.last is not None:
                self._sink.recall(origin_of(service.name), service.last)
            self._sink.put(origin_of(service.name), service.parsed)
            self._handed[service.name] = service.parsed
            self._catalog.restore(service.name, service.instances)
        for watch in self._watches:
            watch.cursor.seen = indexes.get(watch.question.name, 0)
        self._kept_from = kept.confirmed
        log.info("read what was kept", services=len(services), of=datetime.fromtimestamp(kept.confirmed, UTC).isoformat(timespec="seconds"))

    async def _keep_refilling(self, book: Book) -> None:
        """Whenever what was kept is lost, put everything anew."""
        while True:
            await self._lost.wait()
            self._lost.clear()
            while book.asks:
                if self._synced and await self._refill(book):
                    break
                await asyncio.sleep(REFILL_LOOK)

    async def _refill(self, book: Book) -> bool:
        """Whether the book has all that was handed over by now. What changes meanwhile is put as ever, or is found the next time."""
        lacking = [name for name in self._handed if self._instances(name) is not None and not book.holds(origin_of(name))]
        for index in range(0, len(lacking), REFILL):
            known = [(name, found) for name in lacking[index : index + REFILL] if (found := self._instances(name)) is not None]
            values = await asyncio.to_thread(_encoded, known)
            for (name, instances), value in zip(known, values, strict=True):
                if self._instances(name) is instances and name in self._handed and not book.holds(origin_of(name)):
                    book.put(origin_of(name), value, accepted=bool(self._handed[name].objects))
        if any(self._instances(name) is not None and not book.holds(origin_of(name)) for name in self._handed):
            return False
        self._put_indexes(book)
        book.refilled()
        return True

    def _instances(self, name: str) -> tuple[Instance, ...] | None:
        known = self._catalog.services.get(name)
        return known.instances if known is not None else None

    def _count_kept(self) -> None:
        if self._kept_from is not None and not self._synced:
            self._kept_counts = True
            log.warning("Consul does not answer: what was kept counts", of=self._kept_from)
            self._look()


def _encoded(services: list[tuple[str, tuple[Instance, ...]]]) -> list[bytes]:
    return [write_kept(name, instances) for name, instances in services]


def _what(task: Task) -> str:
    return "index" if task.index_only else "service"


def _told(answer: Answer, news: News = News.CHANGE) -> Told:
    return Told(answer.index, news, answer.leader, answer.filtered)
