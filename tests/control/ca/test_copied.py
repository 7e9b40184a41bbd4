"""Beginning without the store: from a copy, and back to the store when it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from control.ca import upkeep
from control.ca.copied import COPY, CopiedStore
from control.ca.directory import DirectoryStore
from control.ca.keeper import Keeper
from control.ca.rotation import demand
from control.ca.state import State
from control.ca.store import MemoryStore, Stored
from control.ca.upkeep import Upkeep
from tests.control.ca.support import DAY, ME, a_keeper, request


class Away(MemoryStore):
    """A store that somebody else keeps, and that may be out of reach."""

    def __init__(self) -> None:
        super().__init__("the cluster")
        self.away = False

    async def load(self) -> Stored | None:
        self._check()
        return await super().load()

    async def save(self, state: State, expected: str) -> str:
        self._check()
        return await super().save(state, expected)

    async def changed(self, version: str) -> None:
        while self._stored is None or self._stored.version == version:
            await asyncio.sleep(0.01)

    def _check(self) -> None:
        if self.away:
            raise ConnectionRefusedError(111, "the API server does not answer")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "TICK", 0.02)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def keeper_of(store: Away, directory: Path) -> Keeper:
    return a_keeper(CopiedStore(store, DirectoryStore(directory)))


def test_it_begins_with_the_copy_and_goes_on_with_the_store(tmp_path: Path) -> None:
    async def main() -> None:
        store = Away()
        first = keeper_of(store, tmp_path)
        await first.start()
        store.away = True
        again = keeper_of(store, tmp_path)
        await again.start()
        assert again.version == COPY
        assert again.authority.certificate == first.authority.certificate
        again.authority.sign(request(), ME, 0, DAY)
        assert "does not answer" in again.problems.now["store"]
        with pytest.raises(OSError, match="does not answer"):
            await again.renew_leaves()
        task = asyncio.create_task(Upkeep(again, again._metrics).run())
        await asyncio.sleep(0.1)
        store.away = False
        await until(lambda: not again.problems.now)
        assert again.version != COPY
        await again.renew_leaves()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_what_was_changed_meanwhile_counts(tmp_path: Path) -> None:
    async def main() -> None:
        store = Away()
        first = keeper_of(store, tmp_path)
        await first.start()
        store.away = True
        again = keeper_of(store, tmp_path)
        await again.start()
        store.away = False
        await store.save(demand(first.state, 1), first.version)  # by a replica that could reach it
        await again.reload()
        assert again.state.epoch == 1
        copy = DirectoryStore(tmp_path).read()
        assert copy is not None
        assert copy.state.epoch == 1

    asyncio.run(main())


def test_without_a_copy_it_does_not_begin_and_makes_nothing_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        store = Away()
        store.away = True
        with pytest.raises(OSError, match="does not answer"):
            await keeper_of(store, tmp_path).start()
        assert store._stored is None
        assert DirectoryStore(tmp_path).read() is None

    asyncio.run(main())


def test_a_copy_that_cannot_be_written_costs_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        (tmp_path / "file").write_text("in its place")
        keeper = keeper_of(Away(), tmp_path / "file" / "copy")
        await keeper.start()
        keeper.authority.sign(request(), ME, 0, DAY)

    asyncio.run(main())
    assert "the copy of the CA cannot be written" in caplog.text


def test_a_copy_that_is_broken_is_written_anew(tmp_path: Path) -> None:
    async def main() -> None:
        store = Away()
        await keeper_of(store, tmp_path).start()
        (tmp_path / "current" / "state.json").write_text("{")
        await keeper_of(store, tmp_path).start()
        copy = DirectoryStore(tmp_path).read()
        assert copy is not None

    asyncio.run(main())
