"""Lives of a control plane that keep what they are told, one after another."""

from __future__ import annotations

import asyncio
from pathlib import Path

from control.keep import Book, Keeper


def run(path: Path, *lives: object) -> None:
    """Each life opens the file anew."""

    async def live() -> None:
        for life in lives:
            keeper = Keeper(path)
            await keeper.open()
            try:
                await life(keeper)  # type: ignore[operator]
            finally:
                await keeper.close()

    asyncio.run(live())


def fill(book: Book) -> None:
    book.put("a", b"one")
    book.put("b", b"two")
    book.confirm(1000.0)
    book.complete()


async def first(keeper: Keeper) -> None:
    book = keeper.book("k")
    assert await book.load() is None
    fill(book)


def link(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to(path.parent / "elsewhere")


def damage(keeper: Keeper) -> None:
    """Of the pages on disk, as SQLite reads them next."""
    assert keeper._file is not None
    for forget in ("wal_checkpoint(TRUNCATE)", "cache_size = 1", "shrink_memory"):
        keeper._file._connection.execute(f"PRAGMA {forget}")
    with keeper.path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (keeper.path.stat().st_size - 8192))
    keeper._file._note()  # it was we who cut the log
