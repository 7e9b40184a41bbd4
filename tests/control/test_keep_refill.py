"""A file that is damaged while it is open is begun anew, and filled before it counts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from control.keep import REFILL_PAUSE, Book, Keeper, NoKeepMeter
from control.kept import ASIDE, BrokenError, Kept, Part, Pending, Row, Snapshot
from tests.control.keeping import damage, fill, first, run


def _fill(book: Book, value: bytes = b"v") -> None:
    for number in range(500):
        book.put(f"{number}", value * 500)


async def _lose(keeper: Keeper) -> Book:
    """A book of 500 rows, whose file is found damaged when something else is written."""
    book = keeper.book("k")
    assert await book.load() is None
    _fill(book)
    book.confirm(1000.0)
    book.complete()
    assert await keeper.flush()
    damage(keeper)
    book.put("250", b"news")
    assert not await keeper.flush()
    assert "filled anew" in keeper.trouble
    assert Path(f"{keeper.path}{ASIDE}").stat().st_size > 100_000
    return book


@pytest.mark.parametrize("how_far", ["lost", "asked", "half", "all but said"])
def test_of_a_file_that_was_damaged_and_is_not_filled_yet_nothing_is_left(tmp_path: Path, how_far: str) -> None:
    """However it ends: what is said meanwhile is not taken for all that there is."""

    async def damaged(keeper: Keeper) -> None:
        asked: list[str] = []
        book = await _lose(keeper)
        book.on_loss = lambda: asked.append("everything")
        if how_far != "lost":
            keeper.refill()
            assert asked == ["everything"]
        for number in range({"half": 250, "all but said": 500}.get(how_far, 0)):
            book.put(f"{number}", b"v")
        book.put("251", b"news")
        book.complete()
        assert await keeper.flush()
        assert "filled anew" in keeper.trouble
        assert not await _rows(keeper.path)

    async def after(keeper: Keeper) -> None:
        assert keeper.trouble == ""
        await first(keeper)

    async def at_last(keeper: Keeper) -> None:
        assert await keeper.book("k").load() == Kept((Row("a", b"one"), Row("b", b"two")), 1000.0)

    run(tmp_path / "keep.db", damaged, after, at_last)


def _replace(path: Path) -> None:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


@pytest.mark.parametrize(
    ("end", "harm", "says"),
    [
        ("", Path.unlink, "removed"),
        ("-wal", Path.unlink, "removed"),
        ("", _replace, "replaced"),
        ("", lambda path: os.truncate(path, 4096), "cut"),
        ("-wal", lambda path: os.truncate(path, 0), "cut"),
    ],
)
def test_a_file_that_somebody_removes_or_cuts_while_it_is_open_is_begun_anew(
    tmp_path: Path, end: str, harm: Callable[[Path], None], says: str
) -> None:
    """SQLite would go on without a word, in a file that nobody finds."""
    path = tmp_path / "keep.db"

    async def harmed(keeper: Keeper) -> None:
        book = keeper.book("k")
        book.on_loss = lambda: fill(book)
        _fill(book)
        book.complete()
        assert await keeper.flush()
        assert keeper._file is not None
        keeper._file._connection.execute("PRAGMA wal_checkpoint(RESTART)")
        book.put("1", b"news")
        assert await keeper.flush()
        harm(Path(f"{path}{end}"))
        book.put("a", b"more")
        assert not await keeper.flush()
        assert says in keeper.trouble
        keeper.refill()
        book.refilled()
        assert await keeper.flush()
        assert keeper.trouble == ""
        assert await _rows(path) == ["a", "b"]

    async def after(keeper: Keeper) -> None:
        assert await keeper.book("k").load() == Kept((Row("a", b"one"), Row("b", b"two")), 1000.0)

    run(path, harmed, after)


async def _rows(path: Path) -> list[str]:
    """What another process would find, did this one end here."""
    other = path.parent / "copy.db"
    for end in ("", "-wal"):
        if Path(f"{path}{end}").exists():
            Path(f"{other}{end}").write_bytes(Path(f"{path}{end}").read_bytes())
    file = Snapshot(other)
    kept = file.read("k")
    file.close()
    return [row.origin for row in kept.rows] if kept is not None else []


def test_damage_while_it_runs_is_set_aside_and_everything_is_written_anew(tmp_path: Path) -> None:
    counted: list[str] = []

    class Meter(NoKeepMeter):
        def damaged(self) -> None:
            counted.append("damaged")

        def refilled(self) -> None:
            counted.append("refilled")

    async def test() -> None:
        keeper = Keeper(tmp_path / "keep.db", Meter())
        await keeper.open()
        book = await _lose(keeper)
        book.on_loss = lambda: _fill(book, b"w")
        keeper.refill()
        book.put("250", b"newer")
        book.remove("251")
        assert await keeper.flush()
        assert book.asks
        assert await _rows(keeper.path) == []
        book.refilled()
        assert await keeper.flush()
        assert (keeper.trouble, counted) == ("", ["damaged", "refilled"])
        book.put("252", b"bad", accepted=False)
        await keeper.close()

        keeper = Keeper(tmp_path / "keep.db")
        await keeper.open()
        kept = await keeper.book("k").load()
        assert kept is not None
        found = {row.origin: (row.value, row.last) for row in kept.rows}
        assert len(found) == 499
        assert (found["250"], found["252"], found["0"]) == ((b"newer", None), (b"bad", b"w" * 500), (b"w" * 500, None))
        assert kept.confirmed == 1000.0
        await keeper.close()

    asyncio.run(test())


def test_it_is_filled_by_itself_and_a_disk_that_damages_everything_is_not_filled_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.keep.PAUSE", 0.0)
    monkeypatch.setattr("control.keep.FIRST_RETRY", 0.0)
    now, asked = 0.0, 0

    async def test() -> None:
        nonlocal asked, now
        keeper = Keeper(tmp_path / "keep.db", now=lambda: now)
        await keeper.open()
        book = await _lose(keeper)
        filled = asyncio.Event()

        def fill_anew() -> None:
            nonlocal asked
            asked += 1
            _fill(book)
            book.refilled()
            filled.set()

        book.on_loss = fill_anew
        task = asyncio.create_task(keeper.run())
        async with asyncio.timeout(5):
            await filled.wait()
            while keeper.trouble:
                await asyncio.sleep(0.005)
        assert asked == 1
        task.cancel()
        await asyncio.wait([task])
        damage(keeper)
        book.put("250", b"news")
        assert not await keeper.flush()
        now = REFILL_PAUSE - 1
        keeper.refill()
        assert (asked, keeper.trouble != "") == (1, True)
        assert not book.changes, "and nothing gathers"
        now = REFILL_PAUSE
        keeper.refill()
        assert asked == 2
        assert await keeper.flush()
        assert keeper.trouble == ""
        await keeper.close()

    asyncio.run(test())


def test_what_one_source_finds_damaged_the_others_have_lost_too(tmp_path: Path) -> None:
    """They have read theirs, and would write their changes to a file that has nothing of them."""
    path = tmp_path / "keep.db"

    async def two(keeper: Keeper) -> None:
        fill(keeper.book("fine"))
        book = keeper.book("k")
        book.put("c", b"three")
        book.complete()

    async def damaged(keeper: Keeper) -> None:
        fine, book = keeper.book("fine"), keeper.book("k")
        assert await fine.load() is not None
        assert await book.load() is None
        book.put("c", b"three")
        book.complete()
        fine.put("a", b"news")
        assert await keeper.flush()
        assert "filled anew" in keeper.trouble
        fine.on_loss = lambda: fill(fine)
        keeper.refill()
        assert await keeper.flush()
        fine.refilled()
        assert await keeper.flush()
        assert keeper.trouble == ""

    async def look(keeper: Keeper) -> None:
        assert await keeper.book("fine").load() == Kept((Row("a", b"one"), Row("b", b"two")), 1000.0)
        assert await keeper.book("k").load() == Kept((Row("c", b"three"),), 0.0)

    run(path, two)
    data = path.read_bytes()
    assert data.count(b"three") == 1
    path.write_bytes(data.replace(b"three", b"thrre"))
    run(path, damaged, look)


def test_changes_are_not_written_to_a_file_that_lacks_what_they_change(tmp_path: Path) -> None:
    """As when it was replaced between two writes."""
    file = Snapshot(tmp_path / "keep.db")
    with pytest.raises(BrokenError):
        file.write([Part("k", {"a": Pending(b"one")}, 1.0, whole=True, forget=False)])
    file = Snapshot(tmp_path / "keep.db")
    assert file.read("k") is None
    file.close()
