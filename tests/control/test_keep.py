"""What is kept on disk: that it is what was said, that it is whole or not there, and that no state of the file ends anything."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.keep import Keeper, NoKeepMeter, compose
from control.kept import ASIDE, Kept, Pending, Row, Snapshot
from tests.control.keeping import fill, first, link, run


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


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "keep.db"
    run(path, first)
    link(path)

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
