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
not read in part either, but set aside, and said (`kept`). Nor is one that is damaged while we run written on: another is begun, and
each source is asked to say everything anew (`refill`). Until it has, the new file holds nothing of it, and then all of it at once.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
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
REFILL_PAUSE = 600.0
"""Seconds between two times that sources are asked to say everything anew: a disk that damages whatever is written on it must not have an
API server list everything without end. The first time is at once.
"""
TROUBLES = (sqlite3.Error, OSError, MemoryError, BrokenError)
"""What may come of a file, MemoryError too where one says of something that it is huge."""
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

    def damaged(self) -> None: ...

    def refilled(self) -> None:
        """All that a source holds is in the file again."""


class NoKeepMeter:
    def wrote(self, rows: int) -> None: ...

    def failed(self) -> None: ...

    def waiting(self, rows: int) -> None: ...

    def damaged(self) -> None: ...

    def refilled(self) -> None: ...


class Filling(Enum):
    """What becomes of a book whose rows were lost with the file."""

    NOT = "nothing was lost"
    DUE = "nothing is kept until the source is asked to say everything anew"
    ASKED = "the source says everything anew"
    SAID = "it has, and that is to be written"


class Book:
    """One source's part of the keeper. Everything but `load` returns at once.

    `on_loss` is called, on the event loop, when everything that the source holds has to be put anew: it sees to that, and calls `refilled`.
    """

    def __init__(self, source: str, load: Callable[[Book], Awaitable[Kept | None]], wake: Callable[[], None]) -> None:
        self.source = source
        self.changes: dict[str, Pending] = {}
        self.rows: set[str] = set()
        """Origins that have a row, or may have one."""
        self.confirmed = 0.0
        self.whole = False
        self.forget = True
        """The rows that the file has are none of what was put here, and go when something is written."""
        self.filling = Filling.NOT
        self.losses = 0
        self.on_loss: Callable[[], None] | None = None
        self._load = load
        self._wake = wake

    async def load(self) -> Kept | None:
        """What was kept, if it is a whole: everything that the source held. None, and forgotten, otherwise. Before anything is put."""
        return await self._load(self)

    def put(self, origin: str, value: bytes, accepted: bool = True) -> None:
        if self.filling is not Filling.DUE:
            self.changes[origin] = compose(self.changes.get(origin), Pending(value, accepted))
            self._wake()

    def remove(self, origin: str) -> None:
        if origin in self.rows or origin in self.changes:
            self.changes[origin] = Pending(None)
            self._wake()

    def holds(self, origin: str) -> bool:
        """Whether it has a row, or will have one."""
        change = self.changes.get(origin)
        return change.value is not None if change is not None else origin in self.rows

    @property
    def asks(self) -> bool:
        """The source is to put everything anew, and has not said that it did."""
        return self.filling is Filling.ASKED

    def confirm(self, when: float) -> None:
        """What was put is how things are at this time."""
        self.confirmed = max(self.confirmed, when)

    def complete(self) -> None:
        """What was put so far is all that the source holds; changes keep it so. Not where some of that was lost: see `refilled`."""
        if not self.whole and self.filling is Filling.NOT:
            self.whole = True
            self._wake()

    def refilled(self) -> None:
        """What was put since `on_loss` was called is all that the source holds."""
        if self.filling is Filling.ASKED:
            self.filling, self.whole = Filling.SAID, True
            self._wake()

    def clear(self) -> None:
        """Forget everything, as where it cannot be read."""
        self.changes.clear()
        self.rows.clear()
        self.whole, self.forget = False, True

    def lose(self) -> None:
        """The file is gone, with all rows."""
        self.clear()
        self.filling = Filling.DUE
        self.losses += 1

    def refill(self) -> None:
        """Have the source say everything anew, if that is due."""
        if self.filling is Filling.DUE and self.on_loss is not None:
            self.filling = Filling.ASKED
            self.on_loss()


@dataclass(frozen=True, slots=True)
class Batch:
    """What is being written of one book. `fresh`: origins that had no row before. `losses`: of the book by then."""

    book: Book
    part: Part
    fresh: frozenset[str]
    losses: int


class Keeper:
    """`path` is made if it is missing, with its directory. `now` is monotonic."""

    def __init__(self, path: Path, meter: KeepMeter | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.trouble = ""
        """Why nothing is kept now, as a sentence; "" while all is well."""
        self._meter = meter or NoKeepMeter()
        self._books: dict[str, Book] = {}
        self._file: Snapshot | None = None
        self._stays = ""
        """Why the file that is there is broken, where it could not be set aside."""
        self._thread = ThreadPoolExecutor(1, "keep")
        self._wake = asyncio.Event()
        self._confirmed_at: dict[str, float] = {}
        self._now = now
        self._refill_at = float("-inf")

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
            self.refill()
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

    def refill(self) -> None:
        """Have sources whose part of the file was lost say everything anew, if it is time."""
        due = [book for book in self._books.values() if book.filling is Filling.DUE]
        if due and self._now() >= self._refill_at:
            self._refill_at = self._now() + REFILL_PAUSE
            for book in due:
                book.refill()

    def _lose(self, error: BrokenError, books: Iterable[Book]) -> None:
        """The file is gone, and with it the rows of these books."""
        self._file = None
        self._stays = str(error) if error.stays else ""
        for book in books:
            book.lose()
        self._meter.damaged()
        self._meter.waiting(self._waiting())
        self.trouble = f"the file was damaged and is set aside, and is being filled anew: {error}"
        log.error("what the sources say is not kept for now; everything else goes on", path=str(self.path), error=self.trouble)
        self._wake.set()

    def _waiting(self) -> int:
        return sum(len(book.changes) for book in self._books.values())

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
        return Batch(book, Part(book.source, changes, book.confirmed, book.whole, book.forget), fresh, book.losses)

    def _settle(self, batches: Iterable[Batch], error: str | BrokenError | None) -> None:
        if isinstance(error, BrokenError):
            self._meter.failed()
            self._lose(error, self._books.values())
            return
        for batch in batches:
            book, part = batch.book, batch.part
            if book.losses != batch.losses:
                continue  # whatever became of it, it is gone
            if error is None:
                book.rows -= {origin for origin, change in part.changes.items() if change.value is None and origin not in book.changes}
                if book.whole:
                    book.forget = False
                if part.forget and book.filling is Filling.SAID:
                    book.filling = Filling.NOT
                    self._meter.refilled()
                    log.info("what a source holds is in the file again", source=book.source, rows=len(book.rows))
                self._confirmed_at[book.source] = part.confirmed
                self._meter.wrote(len(part.changes))
                continue
            self._meter.failed()
            book.rows -= batch.fresh
            newer = {origin: compose(part.changes.get(origin), change) for origin, change in book.changes.items()}
            merged = {**part.changes, **newer}
            # A row that was never written needs no removal: pods come and go while a disk is full.
            book.changes = {origin: change for origin, change in merged.items() if change.value is not None or origin in book.rows}
        self._meter.waiting(self._waiting())
        if error is None and self.trouble and any(book.filling is not Filling.NOT for book in self._books.values()):
            return  # what is written is not all of it
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
        except TROUBLES as error:
            self.trouble = f"the file cannot be opened: {error}"
            log.error("what the sources say cannot be kept; everything else goes on", path=str(self.path), error=self.trouble)

    async def _load(self, book: Book) -> Kept | None:
        kept = await self._on_thread(lambda: self._read(book.source))
        if isinstance(kept, BrokenError):
            # Who loads has put nothing yet, and will say everything. Others have read what is gone now, and go on from there.
            self._lose(kept, [other for other in self._books.values() if other is not book])
            return None
        if kept is None:
            return None
        book.rows = {row.origin for row in kept.rows}
        book.forget, book.whole, book.confirmed = False, True, kept.confirmed
        self._confirmed_at[book.source] = kept.confirmed
        return kept

    def _read(self, source: str) -> Kept | BrokenError | None:
        try:
            return self._file.read(source) if self._file is not None else None
        except BrokenError as error:
            return error
        except TROUBLES as error:
            log.error("what was kept cannot be read", path=str(self.path), source=source, error=str(error))
            return None

    def _write(self, batches: list[Batch]) -> str | BrokenError | None:
        """Why it failed, or None."""
        try:
            if self._file is None:
                self._file, self._stays = Snapshot(self.path, self._stays), ""
            self._file.write([batch.part for batch in batches])
        except BrokenError as error:
            return error
        except TROUBLES as error:
            return str(error)
        return None

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
