"""What the sources last said, on disk: a control plane that starts while its sources cannot be reached serves this, and says how old it is.

    keeper = Keeper(path); await keeper.open()
    book = keeper.book("kubernetes")
    kept = await book.load()                  # None where nothing whole was kept
    book.put(origin, value, accepted=True)    # never blocks: written behind, in batches
    book.confirm(time.time()); book.complete()

One SQLite file, 0600. A row is one origin of one source: what it said last, and, where that was refused, what was accepted before it,
so that the last accepted version stays in force over a restart too. Writing costs what changed, not what there is.

How it works. Changes wait in a dictionary, the newest per origin, so that what waits is never more than what the mesh holds; `run` writes
all of them in one transaction, on a thread of its own. A transaction that fails (a full disk) leaves the file as it was, whole; the
changes wait on, and are tried again. The time of the last contact is part of the transaction: the file never claims to be newer than it is.

Nothing is written of a source before it has said everything once, since of policies half is not safer than none. So a broken file is
not read in part either, but set aside, and said (`kept`). Nor is one that is damaged while we run written on: what it held is nowhere
else in the form in which it is kept, so nothing is kept until the next start, when sources say everything anew.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from control.kept import BrokenError, Kept, Part, Pending, Snapshot
from mesh.io.log import Log

log = Log("keep")

PAUSE = 1.0
"""Seconds in which changes gather before they are written."""
CONFIRM = 30.0
"""Seconds between two writes that say nothing but that there was contact."""
FIRST_RETRY, MOST_RETRY = 2.0, 60.0
T = TypeVar("T")


def compose(old: Pending | None, new: Pending) -> Pending:
    """The one change that comes to the same as `old`, which was not written, and then `new`. Pure."""
    if old is None or new.value is None or new.anew:
        return new
    anew = old.anew or old.value is None
    if new.accepted:
        return Pending(new.value, True, None, anew)
    last = new.last if new.last is not None else old.value if old.accepted else old.last
    return Pending(new.value, False, last, anew)


class KeepMeter(Protocol):
    def wrote(self, rows: int) -> None: ...

    def failed(self) -> None: ...

    def waiting(self, rows: int) -> None: ...


class NoKeepMeter:
    def wrote(self, rows: int) -> None: ...

    def failed(self) -> None: ...

    def waiting(self, rows: int) -> None: ...


class Book:
    """One source's part of the keeper. Everything but `load` returns at once."""

    def __init__(self, source: str, load: Callable[[Book], Awaitable[Kept | None]], wake: Callable[[], None]) -> None:
        self.source = source
        self.changes: dict[str, Pending] = {}
        self.rows: set[str] = set()
        """Origins that have a row, or may have one."""
        self.confirmed = 0.0
        self.whole = False
        self.forget = True
        """The rows that the file has are none of what was put here, and go when something is written."""
        self.lost = False
        """What the file held of it is gone, and nothing is kept any more."""
        self._load = load
        self._wake = wake

    async def load(self) -> Kept | None:
        """What was kept, if it is a whole: everything that the source held. None, and forgotten, otherwise. Before anything is put."""
        return await self._load(self)

    def put(self, origin: str, value: bytes, accepted: bool = True) -> None:
        if not self.lost:
            self.changes[origin] = compose(self.changes.get(origin), Pending(value, accepted))
            self._wake()

    def remove(self, origin: str) -> None:
        if origin in self.rows or origin in self.changes:
            self.changes[origin] = Pending(None)
            self._wake()

    def confirm(self, when: float) -> None:
        """What was put is how things are at this time."""
        self.confirmed = max(self.confirmed, when)

    def complete(self) -> None:
        """What was put so far is all that the source holds; changes keep it so."""
        if not self.whole:
            self.whole = True
            self._wake()

    def clear(self) -> None:
        """Forget everything, as where it cannot be read."""
        self.changes.clear()
        self.rows.clear()
        self.whole, self.forget = False, True

    def lose(self) -> None:
        self.clear()
        self.lost = True


@dataclass(frozen=True, slots=True)
class Batch:
    """What is being written of one book. `fresh`: origins that had no row before."""

    book: Book
    part: Part
    fresh: frozenset[str]


class Keeper:
    """`path` is made if it is missing, with its directory."""

    def __init__(self, path: Path, meter: KeepMeter | None = None) -> None:
        self.path = path
        self.trouble = ""
        """Why nothing is kept now, as a sentence; "" while all is well."""
        self._meter = meter or NoKeepMeter()
        self._books: dict[str, Book] = {}
        self._file: Snapshot | None = None
        self._thread = ThreadPoolExecutor(1, "keep")
        self._wake = asyncio.Event()
        self._confirmed_at: dict[str, float] = {}

    async def open(self) -> None:
        """Before anything is loaded. Whatever is wrong with the file is said, and ends nothing."""
        await self._on_thread(self._open)

    def book(self, source: str) -> Book:
        return self._books.setdefault(source, Book(source, self._load, self._wake.set))

    async def run(self) -> None:
        """Write behind, until cancelled."""
        retry = FIRST_RETRY
        while True:
            try:
                async with asyncio.timeout(CONFIRM):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(PAUSE)
            self._wake.clear()
            if await self.flush():
                retry = FIRST_RETRY
            else:
                await asyncio.sleep(retry)
                retry = min(MOST_RETRY, 2 * retry)
                self._wake.set()

    async def flush(self) -> bool:
        """Write what waits, all of it or nothing; whether nothing waits any more. A cancelled one is finished."""
        batches = [batch for book in self._books.values() if (batch := self._batch(book)) is not None]
        if not batches:
            return True
        writing = asyncio.ensure_future(self._on_thread(lambda: self._write(batches)))
        try:
            error = await asyncio.shield(writing)
        except asyncio.CancelledError:
            self._settle(batches, await writing)
            raise
        self._settle(batches, error)
        return error is None

    def _lose(self, why: str) -> None:
        """Of no book anything is kept any more."""
        for book in self._books.values():
            book.lose()
        self._meter.failed()
        self._meter.waiting(0)
        self.trouble = f"the file was damaged and is set aside, and nothing is kept until the next start: {why}"
        log.error("what the sources say cannot be kept; everything else goes on", path=str(self.path), error=self.trouble)

    async def close(self) -> None:
        """Write what waits, if that can be done."""
        await self.flush()
        await self._on_thread(self._close)
        self._thread.shutdown()

    # What waits

    def _batch(self, book: Book) -> Batch | None:
        """Take what waits out of the book. Where the file's rows are not the book's, they stay until a whole can replace them."""
        if book.forget and not book.whole:
            return None
        quiet = book.confirmed - self._confirmed_at.get(book.source, 0.0) < CONFIRM
        if not book.changes and not book.forget and quiet:
            return None
        changes, book.changes = book.changes, {}
        fresh = frozenset(origin for origin, change in changes.items() if change.value is not None and origin not in book.rows)
        book.rows |= fresh
        return Batch(book, Part(book.source, changes, book.confirmed, book.whole, book.forget), fresh)

    def _settle(self, batches: Iterable[Batch], error: str | BrokenError | None) -> None:
        if isinstance(error, BrokenError):
            self._lose(str(error))
            return
        for batch in batches:
            book, part = batch.book, batch.part
            if error is None:
                book.rows -= {origin for origin, change in part.changes.items() if change.value is None and origin not in book.changes}
                if book.whole:
                    book.forget = False
                self._confirmed_at[book.source] = part.confirmed
                self._meter.wrote(len(part.changes))
                continue
            self._meter.failed()
            book.rows -= batch.fresh
            newer = {origin: compose(part.changes.get(origin), change) for origin, change in book.changes.items()}
            merged = {**part.changes, **newer}
            # A row that was never written needs no removal: pods come and go while a disk is full.
            book.changes = {origin: change for origin, change in merged.items() if change.value is not None or origin in book.rows}
        self._meter.waiting(sum(len(book.changes) for book in self._books.values()))
        if error is not None and error != self.trouble:
            log.error("what the sources say cannot be kept; everything else goes on", path=str(self.path), error=error)
        elif error is None and self.trouble:
            log.info("what the sources say is kept again", path=str(self.path))
        self.trouble = error or ""

    # On the thread

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> None:
        try:
            self._file = Snapshot(self.path)
        except (sqlite3.Error, OSError) as error:
            self.trouble = f"the file cannot be opened: {error}"
            log.error("what the sources say cannot be kept; everything else goes on", path=str(self.path), error=self.trouble)

    async def _load(self, book: Book) -> Kept | None:
        kept = await self._on_thread(lambda: self._read(book.source))
        if kept is None:
            return None
        book.rows = {row.origin for row in kept.rows}
        book.forget, book.whole, book.confirmed = False, True, kept.confirmed
        self._confirmed_at[book.source] = kept.confirmed
        return kept

    def _read(self, source: str) -> Kept | None:
        try:
            return self._file.read(source) if self._file is not None else None
        except (sqlite3.Error, OSError) as error:
            log.error("what was kept cannot be read", path=str(self.path), source=source, error=str(error))
            return None

    def _write(self, batches: list[Batch]) -> str | BrokenError | None:
        """Why it failed, or None."""
        try:
            if self._file is None:
                self._file = Snapshot(self.path)
            self._file.write([batch.part for batch in batches])
        except BrokenError as error:
            return error
        except (sqlite3.Error, OSError) as error:
            return str(error)
        return None

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
