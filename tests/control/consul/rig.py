"""A source at work: what it hands over, what it keeps, and waiting for either without sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import uvloop

from control.sources.consul.settings import ConsulSettings
from control.sources.consul.source import ConsulSource
from control.sources.consul.tuning import Tuning
from mesh.model.manifest import Key, Parsed, ServiceEntry
from tests.control.consul.fake import FakeConsul

QUICK = Tuning(
    first_wait=0.01,
    most_wait=0.03,
    watch_burst=1000,
    service_burst=1000,
    sweep_share=0.9,
    lag=0.05,
    patience=2.0,
    renew=0.0,
    kept_patience=0.05,
)
PATIENCE = 20.0


class Sink:
    """What was handed over, as a catalog of the control plane would hold it."""

    def __init__(self) -> None:
        self.held: dict[str, Parsed] = {}
        self.recalled: dict[str, Parsed] = {}
        self.puts: list[str] = []
        self.removed: list[str] = []
        self.source: ConsulSource | None = None
        self._news = asyncio.Event()

    def put(self, origin: str, parsed: Parsed) -> None:
        self.held[origin] = parsed
        self.puts.append(origin)
        self._news.set()

    def recall(self, origin: str, parsed: Parsed) -> None:
        assert origin not in self.held, f"{origin} was handed over before what was accepted of it earlier"
        self.recalled[origin] = parsed

    def remove(self, origin: str) -> None:
        del self.held[origin]
        self.removed.append(origin)
        self._news.set()

    def changed(self) -> None:
        self._news.set()

    async def until(self, true: Callable[[], object]) -> None:
        """Wait for something that is handed over, or for a state."""
        async with asyncio.timeout(PATIENCE):
            while not true():
                self._news.clear()
                await self._news.wait()

    def entry(self, name: str) -> ServiceEntry | None:
        parsed = self.held.get(f"consul/{name}")
        found = [one for one in parsed.objects if isinstance(one, ServiceEntry)] if parsed is not None else []
        return found[0] if found else None

    def addresses(self, name: str) -> list[str] | None:
        found = self.entry(name)
        return [str(one.address) for one in found.spec.endpoints] if found is not None else None

    @property
    def names(self) -> set[str]:
        return {origin.removeprefix("consul/") for origin in self.held}

    @property
    def keys(self) -> set[Key]:
        return {one.key for parsed in self.held.values() for one in parsed.objects}

    def refusals(self, name: str) -> list[str]:
        return [str(refusal) for one in self.held[f"consul/{name}"].refused for refusal in one.refusals]


@dataclass(frozen=True)
class Row:
    origin: str
    value: bytes
    last: bytes | None = None


@dataclass(frozen=True)
class Kept:
    rows: tuple[Row, ...]
    confirmed: float


class Book:
    """A keeper's book in memory, which may be read by another source after this one."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.confirmed = 0.0
        self.whole = False
        self.on_loss: Callable[[], None] | None = None
        self.asks = False

    async def load(self) -> Kept | None:
        return Kept(tuple(self.rows.values()), self.confirmed) if self.whole else None

    def put(self, origin: str, value: bytes, accepted: bool = True) -> None:
        before = self.rows.get(origin)
        last = None if accepted or before is None else before.last or before.value
        self.rows[origin] = Row(origin, value, last)

    def remove(self, origin: str) -> None:
        self.rows.pop(origin, None)

    def confirm(self, when: float) -> None:
        self.confirmed = when

    def complete(self) -> None:
        self.whole = True

    def holds(self, origin: str) -> bool:
        return origin in self.rows

    def lose(self) -> None:
        self.clear()
        self.asks = True
        assert self.on_loss is not None
        self.on_loss()

    def refilled(self) -> None:
        self.asks, self.whole = False, True

    def clear(self) -> None:
        self.rows.clear()
        self.whole = False


@asynccontextmanager
async def working(source: ConsulSource) -> AsyncIterator[Sink]:
    """A source that runs. At the end it is cancelled, and nothing of it is left."""
    sink = Sink()
    sink.source = source
    others = asyncio.all_tasks()
    task = asyncio.create_task(source.run(sink))
    try:
        yield sink
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()
        ours = [left for left in asyncio.all_tasks() - others if "consul" in left.get_name()]
        assert not ours, ours


def running(consul: FakeConsul, tuning: Tuning = QUICK, book: Book | None = None, **more: Any) -> AbstractAsyncContextManager[Sink]:
    """`more` are settings."""
    return working(ConsulSource(replace(ConsulSettings(address=consul.url), **more), tuning=tuning, book=book))


@asynccontextmanager
async def synced(consul: FakeConsul, tuning: Tuning = QUICK, book: Book | None = None, **more: Any) -> AsyncIterator[Sink]:
    async with running(consul, tuning, book, **more) as sink:
        await sink.until(lambda: state(sink).synced and not state(sink).error)
        yield sink


def state(sink: Sink) -> Any:
    assert sink.source is not None
    return sink.source.state


def in_a_loop(test: Callable[[FakeConsul], Awaitable[None]]) -> None:
    async def main() -> None:
        async with FakeConsul() as consul:
            await test(consul)

    run(main())


def run(main: Coroutine[Any, Any, None]) -> None:
    """On the loop that the control plane runs on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
