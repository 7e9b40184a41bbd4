"""A file that was damaged while nobody had it open is set aside, whole, and ends nothing."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from control.keep import Keeper
from control.kept import ASIDE, COMPANIONS, BrokenError, Kept, Row, Snapshot
from tests.control.keeping import fill, first, run


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, but long enough to be taken for one" * 100)


def _foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE kept (somebody TEXT)")
    connection.close()


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def _torn(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + os.urandom(len(data) - 4096))


def _flipped(path: Path) -> None:
    """One bit of what was kept, which SQLite does not notice."""
    data = path.read_bytes()
    assert data.count(b"two") == 1
    path.write_bytes(data.replace(b"two", b"twp"))


def _changed(statement: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()

    return spoil


CHANGED = [
    "UPDATE kept SET accepted = 0 WHERE origin = 'a'",
    "DELETE FROM kept WHERE origin = 'a'",
    "UPDATE kept SET source = 'l' WHERE origin = 'a'",
    "INSERT INTO kept SELECT source, 'c', accepted, value, last, checksum FROM kept WHERE origin = 'a'",
    "UPDATE sources SET confirmed = 2000.0",
    "UPDATE sources SET complete = 0",
    "UPDATE kept SET value = 'two' WHERE origin = 'b'",
    "UPDATE kept SET accepted = 'x'",
    "UPDATE kept SET origin = CAST(x'ff' AS TEXT) WHERE origin = 'b'",
    "UPDATE sources SET rows = 'many'",
    "ALTER TABLE kept RENAME TO kepu",
    "PRAGMA user_version = 1",
]


def _schema_flipped(path: Path) -> None:
    """SQLite's message quotes it."""
    data = path.read_bytes()
    assert data.count(b"tablesourcessources") == 1
    path.write_bytes(data.replace(b"tablesourcessources", b"table\xf3ourcessourcet"))


@pytest.mark.parametrize(
    "spoil",
    [_garbage, _foreign, _newer, _torn, _flipped, _schema_flipped, *(pytest.param(_changed(each), id=each) for each in CHANGED)],
)
def test_a_file_that_is_not_ours_or_damaged_is_set_aside(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "keep.db"
    run(path, first)
    spoil(path)

    async def look(keeper: Keeper) -> None:
        assert await keeper.book("k").load() is None
        fill(keeper.book("k"))

    async def look_again(keeper: Keeper) -> None:
        assert await keeper.book("k").load() is not None

    run(path, look, look_again)
    assert Path(f"{path}{ASIDE}").exists()


FLIPS = 250


def test_whatever_bit_is_flipped_there_is_all_that_was_said_or_nothing(tmp_path: Path) -> None:
    """Half of the flips are in names of the source, which are the keys: one out of its order would end a scan."""
    path, copy = tmp_path / "keep.db", tmp_path / "copy.db"
    said = {f"pods/shop/web-{number:04}": b"%04d" % number * 40 for number in range(100)}

    async def begin(keeper: Keeper) -> None:
        for name in ("kubernetes", "consul"):
            book = keeper.book(name)
            for origin, value in said.items():
                book.put(origin, value)
            book.confirm(1000.0)
            book.complete()

    run(path, begin)
    data = path.read_bytes()
    keys = [found.start() for found in re.finditer(b"kubernetes", data)]
    assert len(keys) > 100
    chance = random.Random(1)
    found: Counter[str] = Counter()

    async def look(keeper: Keeper) -> None:
        kept = await keeper.book("kubernetes").load()
        found["nothing" if kept is None else "all"] += 1
        if kept is not None:
            assert kept == Kept(tuple(Row(origin, value) for origin, value in said.items()), 1000.0)
            assert not Path(f"{copy}{ASIDE}").exists()
        assert keeper._file is not None or "damaged" in keeper.trouble
        Path(f"{copy}{ASIDE}").unlink(missing_ok=True)

    async def flips() -> None:
        for number in range(FLIPS):
            flipped = bytearray(data)
            flipped[chance.choice(keys) + chance.randrange(10) if number % 2 else chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            copy.write_bytes(flipped)
            keeper = Keeper(copy)
            await keeper.open()
            await look(keeper)
            await keeper.close()
            for end in COMPANIONS:
                Path(f"{copy}{end}").unlink(missing_ok=True)

    asyncio.run(flips())
    assert min(found["nothing"], found["all"]) > FLIPS // 10


def test_what_is_damaged_and_cannot_be_set_aside_is_not_taken_for_what_was_said(tmp_path: Path) -> None:
    path, aside = tmp_path / "keep.db", Path(f"{tmp_path / 'keep.db'}{ASIDE}")
    run(path, first)
    _flipped(path)
    (aside / "in the way").mkdir(parents=True)

    async def look(keeper: Keeper) -> None:
        book = keeper.book("k")
        assert await book.load() is None
        fill(book)
        assert not await keeper.flush()
        assert "directory" in keeper.trouble
        (aside / "in the way").rmdir()
        aside.rmdir()
        assert await keeper.flush()
        assert (keeper.trouble, aside.is_file()) == ("", True)

    async def look_again(keeper: Keeper) -> None:
        assert await keeper.book("k").load() == Kept((Row("a", b"one"), Row("b", b"two")), 1000.0)

    run(path, look, look_again)


def test_a_disk_that_damages_what_is_written_on_it_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(self: Snapshot, connection: sqlite3.Connection) -> None:
        raise BrokenError("it is damaged")

    monkeypatch.setattr(Snapshot, "_prepare", damaged)

    async def look(keeper: Keeper) -> None:
        assert "it is damaged" in keeper.trouble
        assert await keeper.book("k").load() is None

    run(tmp_path / "keep.db", look)
