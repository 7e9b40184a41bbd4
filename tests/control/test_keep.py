"""What is kept on disk: that it is what was said, that it is whole or not there, and that no state of the file ends anything."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.keep import REFILL_PAUSE, Book, Keeper, NoKeepMeter, compose
from control.kept import ASIDE, COMPANIONS, BrokenError, Kept, Part, Pending, Row, Snapshot


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


def test_what_was_said_is_there_in_the_next_life(tmp_path: Path) -> None:
    async def second(keeper: Keeper) -> None:
        book = keeper.book("k")
        assert await book.load() == Kept((Row("a", b"one"), Row("b", b"two")), 1000.0)
        assert await keeper.book("other").load() is None
        book.remove("a")
        book.put("b", b"three")
        book.confirm(2000.0)

    async def third(keeper: Keeper) -> None:
        assert await keeper.book("k").load() == Kept((Row("b", b"three"),), 2000.0)

    run(tmp_path / "new" / "keep.db", first, second, third)
    assert (tmp_path / "new" / "keep.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_the_last_accepted_version_is_kept_beside_what_was_refused(tmp_path: Path) -> None:
    async def refuse(keeper: Keeper) -> None:
        book = keeper.book("k")
        await book.load()
        book.put("a", b"bad", accepted=False)
        await keeper.flush()
        book.put("a", b"worse", accepted=False)
        book.put("c", b"never good", accepted=False)

    async def look(keeper: Keeper) -> None:
        book = keeper.book("k")
        kept = await book.load()
        assert kept is not None
        assert kept.rows == (Row("a", b"worse", b"one"), Row("b", b"two"), Row("c", b"never good"))
        book.put("a", b"good again")
        book.remove("b")
        book.put("b", b"another object of that name", accepted=False)

    async def look_again(keeper: Keeper) -> None:
        kept = await keeper.book("k").load()
        assert kept is not None
        assert kept.rows == (Row("a", b"good again"), Row("b", b"another object of that name"), Row("c", b"never good"))

    run(tmp_path / "keep.db", first, refuse, look, look_again)


def test_half_of_what_there_is_is_never_kept(tmp_path: Path) -> None:
    async def begin(keeper: Keeper) -> None:
        book = keeper.book("k")
        await book.load()
        book.put("a", b"one")
        await keeper.flush()

    async def look(keeper: Keeper) -> None:
        assert await keeper.book("k").load() is None

    run(tmp_path / "keep.db", begin, look)


def test_a_whole_stays_until_there_is_another(tmp_path: Path) -> None:
    """A life that could not load, as when the file was locked, and was never whole itself."""

    async def begin(keeper: Keeper) -> None:
        keeper.book("k").put("z", b"new")

    async def look(keeper: Keeper) -> None:
        kept = await keeper.book("k").load()
        assert kept is not None
        assert [row.origin for row in kept.rows] == ["a", "b"]

    async def replace(keeper: Keeper) -> None:
        book = keeper.book("k")
        book.put("z", b"new")
        book.complete()

    async def look_again(keeper: Keeper) -> None:
        kept = await keeper.book("k").load()
        assert kept is not None
        assert [row.origin for row in kept.rows] == ["z"]

    run(tmp_path / "keep.db", first, begin, look, replace, look_again)


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


def _link(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to(path.parent / "elsewhere")


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


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "keep.db"
    run(path, first)
    _link(path)

    async def look(keeper: Keeper) -> None:
        assert keeper.trouble
        assert await keeper.book("k").load() is None

    run(path, look)


def test_a_file_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "keep.db"
    run(path, first)
    path.chmod(0o644)

    async def look(keeper: Keeper) -> None:
        assert await keeper.book("k").load() is not None

    run(path, look)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_another_process_has_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.kept.LOCKED", 0.01)

    async def test() -> None:
        one, two = Keeper(tmp_path / "keep.db"), Keeper(tmp_path / "keep.db")
        await one.open()
        await first(one)
        await one.flush()
        await two.open()
        assert "locked" in two.trouble
        assert await two.book("k").load() is None
        fill(two.book("k"))
        assert not await two.flush()
        assert len(two.book("k").changes) == 2
        await one.close()
        assert await two.flush()
        assert two.trouble == ""
        await two.close()

    asyncio.run(test())


def test_what_waits_is_written_behind_and_costs_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.keep.PAUSE", 0.01)
    rows: list[int] = []

    class Meter(NoKeepMeter):
        def wrote(self, count: int) -> None:
            rows.append(count)

        def failed(self) -> None:
            raise AssertionError

    async def test() -> None:
        keeper = Keeper(tmp_path / "keep.db", Meter())
        await keeper.open()
        task = asyncio.create_task(keeper.run())
        book = keeper.book("k")
        for number in range(100):
            book.put(f"o{number}", b"x")
        book.complete()
        while not rows:
            await asyncio.sleep(0.005)
        for _ in range(1000):
            book.put("o7", os.urandom(3))
        while len(rows) < 2:
            await asyncio.sleep(0.005)
        assert rows == [100, 1]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await keeper.close()

    asyncio.run(test())


FULL = """
    import asyncio, os, sys
    from pathlib import Path
    from control.keep import Keeper

    async def main() -> None:
        where = Path(sys.argv[1])
        keeper = Keeper(where / "keep.db")
        await keeper.open()
        book = keeper.book("k")
        book.put("a", b"one"); book.confirm(1000.0); book.complete()
        assert await keeper.flush()
        (where / "ballast").write_bytes(b"x" * (os.statvfs(where).f_bavail * 4096 - 8192))
        for number in range(200):
            book.put(f"o{number}", os.urandom(4096))
        for number in range(100):
            book.remove(f"o{number}")
        book.put("a", b"bad", accepted=False)
        book.confirm(2000.0)
        assert not await keeper.flush()
        assert "full" in keeper.trouble, keeper.trouble
        assert len(book.changes) == 101, len(book.changes)
        assert not await keeper.flush()
        await keeper.close()

        keeper = Keeper(where / "keep.db")
        await keeper.open()
        other = keeper.book("k")
        kept = await other.load()
        assert [(row.origin, row.value) for row in kept.rows] == [("a", b"one")], kept
        assert kept.confirmed == 1000.0
        for origin, change in book.changes.items():
            if change.value is not None:
                other.put(origin, change.value, change.accepted)
        other.confirm(2000.0)
        assert not await keeper.flush()
        (where / "ballast").unlink()
        assert await keeper.flush()
        assert keeper.trouble == ""
        await keeper.close()

        keeper = Keeper(where / "keep.db")
        await keeper.open()
        kept = await keeper.book("k").load()
        assert len(kept.rows) == 101 and kept.confirmed == 2000.0
        assert (kept.rows[0].value, kept.rows[0].last) == (b"bad", b"one")
        await keeper.close()

    asyncio.run(main())
"""


@pytest.mark.netns
def test_a_full_disk_loses_nothing_and_ends_nothing(tmp_path: Path) -> None:
    """On a file system of 1 MiB, in a mount namespace that goes with the process."""
    script = tmp_path / "full.py"
    script.write_text(textwrap.dedent(FULL))
    (tmp_path / "disk").mkdir()
    command = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}/disk && exec {sys.executable} {script} {tmp_path}/disk"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr


WRITES = """
    import asyncio, sys
    from pathlib import Path
    from control.keep import Keeper

    async def main() -> None:
        keeper = Keeper(Path(sys.argv[1]))
        await keeper.open()
        book = keeper.book("k")
        kept = await book.load()
        number = int(kept.rows[0].value.split()[0]) if kept else 0
        while True:
            number += 1
            for row in range(50):
                book.put(f"o{row}", b"%d %s" % (number, b"x" * 5000))
            book.confirm(float(number))
            book.complete()
            assert await keeper.flush(), keeper.trouble
            print(number, flush=True)

    asyncio.run(main())
"""


def test_killed_at_any_moment_there_is_what_was_written_last_or_what_was_being_written(tmp_path: Path) -> None:
    """Whole: every row is of one time, which the file's own confirms. Each life goes on where the one before was killed."""
    path, script = tmp_path / "keep.db", tmp_path / "writes.py"
    script.write_text(textwrap.dedent(WRITES))
    written = 0
    for life in range(6):
        with subprocess.Popen(
            [sys.executable, str(script), str(path)], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": os.getcwd()}
        ) as process:
            assert process.stdout is not None
            for _ in range(1 + 2 * life):
                written = int(process.stdout.readline())
            time.sleep(0.002 * life)  # somewhere within the next
            process.kill()
            written = int((process.stdout.read().split() or [written])[-1])
        file = Snapshot(path)
        kept = file.read("k")
        file.close()
        assert kept is not None
        assert len(kept.rows) == 50
        (number,) = {int(row.value.split()[0]) for row in kept.rows}
        assert number == kept.confirmed
        assert number in (written, written + 1)
        assert not Path(f"{path}{ASIDE}").exists()


# Changes that wait

VALUES = st.one_of(st.none(), st.tuples(st.sampled_from([b"1", b"2", b"3"]), st.booleans()))


def apply(row: tuple[bytes, bool, bytes | None] | None, change: Pending) -> tuple[bytes, bool, bytes | None] | None:
    """What SQL makes of a row: (value, accepted, last)."""
    if change.value is None:
        return None
    if change.accepted:
        return change.value, True, None
    if change.last is not None or change.anew or row is None:
        return change.value, False, change.last
    return change.value, False, row[0] if row[1] else row[2]


@given(VALUES, st.lists(VALUES, max_size=6), st.integers(0, 6))
def test_changes_that_wait_come_to_the_same_as_one_after_the_other(
    start: tuple[bytes, bool] | None, story: list[tuple[bytes, bool] | None], cut: int
) -> None:
    row = (*start, None) if start is not None else None
    changes = [Pending(None) if said is None else Pending(*said) for said in story]
    expected = row
    for change in changes:
        expected = apply(expected, change)

    def together(some: list[Pending]) -> Pending | None:
        found = None
        for change in some:
            found = compose(found, change)
        return found

    whole = together(changes)
    assert (apply(row, whole) if whole is not None else row) == expected
    # As after a failed write: what was being written, and what came meanwhile.
    one, two = together(changes[:cut]), together(changes[cut:])
    both = compose(one, two) if two is not None else one
    assert (apply(row, both) if both is not None else row) == expected


def damage(keeper: Keeper) -> None:
    """Of the pages on disk, as SQLite reads them next."""
    assert keeper._file is not None
    for forget in ("wal_checkpoint(TRUNCATE)", "cache_size = 1", "shrink_memory"):
        keeper._file._connection.execute(f"PRAGMA {forget}")
    with keeper.path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (keeper.path.stat().st_size - 8192))
    keeper._file._note()  # it was we who cut the log


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
