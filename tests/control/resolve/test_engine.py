"""The engine: what is computed again, what is not, and that the result never differs from computing everything anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.resolve.engine import Engine, Group, Input, Query, Read
from mesh.model.errors import BugError


class Sheet:
    """Numbers by name, `big` = those over 10, `total` of a tag's members, `report` over all tags that are in use."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.numbers: Input[str, tuple[str, int] | None] = Input("numbers", None)  # name -> (tag, number)
        self.size: Query[str, str | None] = Query("size", 1, self._size)
        self.tags: Group[str, Any, str] = Group("tags", self.numbers, lambda _, value: [value[0]])
        self.total: Query[str, int] = Query("total", 2, self._total)
        self.used: Group[str, Any, str] = Group("used", self.numbers, lambda _, value: [value[0]], spawns=self.total)
        self.engine = Engine([self.size, self.total])

    def _size(self, read: Read, name: str) -> str | None:
        self.log.append(f"size {name}")
        found = read(self.numbers, name)
        return None if found is None else "big" if found[1] > 10 else "small"

    def _total(self, read: Read, tag: str) -> int:
        self.log.append(f"total {tag}")
        found = [read(self.numbers, name) for name in sorted(read(self.tags, tag))]
        return sum(value[1] for value in found if value is not None)

    def changes(self) -> dict[str, tuple[Any, Any]]:
        self.log.clear()
        return {f"{table.name} {arg}": change for (table, arg), change in self.engine.settle().items()}


@pytest.fixture
def sheet() -> Sheet:
    made = Sheet()
    made.engine.set(made.numbers, "a", ("x", 1))
    made.engine.set(made.numbers, "b", ("x", 2))
    made.engine.set(made.numbers, "c", ("y", 30))
    for name in "abc":
        made.engine.pin(made.size, name)
    assert made.changes() == {
        "size a": (None, "small"),
        "size b": (None, "small"),
        "size c": (None, "big"),
        "total x": (None, 3),
        "total y": (None, 30),
    }
    return made


def test_only_what_follows_is_computed(sheet: Sheet) -> None:
    sheet.engine.set(sheet.numbers, "a", ("x", 5))
    assert sheet.changes() == {"total x": (3, 7)}
    assert sorted(sheet.log) == ["size a", "total x"]


def test_an_equal_value_changes_nothing(sheet: Sheet) -> None:
    sheet.engine.set(sheet.numbers, "a", ("x", 1))
    assert sheet.changes() == {}
    assert sheet.log == []


def test_a_change_and_its_reverse_before_settling_is_no_change(sheet: Sheet) -> None:
    sheet.engine.set(sheet.numbers, "a", ("x", 5))
    sheet.engine.set(sheet.numbers, "a", ("x", 1))
    assert sheet.changes() == {}


def test_a_result_that_stays_the_same_stops_there() -> None:
    sheet = Sheet()
    log: list[str] = []

    def shout(read: Read, name: str) -> str:
        log.append(name)
        return str(read(sheet.size, name)).upper()

    loud = Query("loud", 2, shout)
    engine = Engine([loud])
    engine.set(sheet.numbers, "a", ("x", 1))
    engine.pin(loud, "a")
    assert engine.settle() == {(loud, "a"): (None, "SMALL")}
    engine.set(sheet.numbers, "a", ("x", 2))
    assert engine.settle() == {}
    assert log == ["a"]
    engine.set(sheet.numbers, "a", ("x", 20))
    assert engine.settle() == {(loud, "a"): ("SMALL", "BIG")}


def test_members_move_between_groups(sheet: Sheet) -> None:
    sheet.engine.set(sheet.numbers, "b", ("y", 2))
    assert sheet.changes() == {"total x": (3, 1), "total y": (30, 32)}
    sheet.engine.unset(sheet.numbers, "c")
    sheet.engine.unset(sheet.numbers, "b")
    sheet.engine.unpin(sheet.size, "c")
    sheet.engine.unpin(sheet.size, "b")
    assert sheet.changes() == {"total y": (32, None), "size b": ("small", None), "size c": ("big", None)}


def test_what_nobody_reads_is_forgotten(sheet: Sheet) -> None:
    for name in "abc":
        sheet.engine.unset(sheet.numbers, name)
        sheet.engine.unpin(sheet.size, name)
    sheet.changes()
    assert [sheet.engine.count(table) for table in (sheet.numbers, sheet.size, sheet.tags, sheet.total)] == [0, 0, 0, 0]


def test_a_default_that_was_read_is_a_dependency() -> None:
    sheet = Sheet()
    sheet.engine.pin(sheet.size, "later")
    assert sheet.changes() == {}
    sheet.engine.set(sheet.numbers, "later", ("x", 99))
    assert sheet.changes()["size later"] == (None, "big")


def test_a_bug_costs_one_cell_and_is_told() -> None:
    numbers: Input[str, int] = Input("numbers", 0)

    def inverse(read: Read, name: str) -> float:
        return 1 / read(numbers, name)

    kept, rescued = Query("kept", 1, inverse), Query("rescued", 1, inverse, lambda read, name: -1.0)
    engine = Engine([kept, rescued])
    for name, value in (("a", 2), ("b", 4)):
        engine.set(numbers, name, value)
        engine.pin(kept, name)
        engine.pin(rescued, name)
    engine.settle()
    engine.set(numbers, "a", 0)
    engine.set(numbers, "b", 5)
    assert engine.settle() == {(kept, "b"): (0.25, 0.2), (rescued, "a"): (0.5, -1.0), (rescued, "b"): (0.25, 0.2)}
    assert sorted((table.name, arg, type(bug)) for table, arg, bug in engine.bugs) == [
        ("kept", "a", ZeroDivisionError),
        ("rescued", "a", ZeroDivisionError),
    ]
    engine.set(numbers, "a", 1)
    assert engine.settle() == {(kept, "a"): (0.5, 1.0), (rescued, "a"): (-1.0, 1.0)}


def test_levels_are_kept() -> None:
    numbers: Input[str, int] = Input("numbers", 0)
    upper: Query[str, int] = Query("upper", 2, lambda read, arg: read(numbers, arg))
    level: Query[str, int] = Query("level", 2, lambda read, arg: read(upper, arg))
    engine = Engine()
    engine.pin(level, "a")
    engine.settle()
    assert isinstance(engine.bugs[0][2], BugError)
    with pytest.raises(BugError, match="spawns"):
        Group("group", numbers, lambda arg, value: [arg], spawns=Query("low", 1, lambda read, arg: 0))


Edit = tuple[str, tuple[str, int] | None]
EDITS = st.lists(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.tuples(st.sampled_from("xyz"), st.integers(0, 3))), max_size=4),
    max_size=12,
)


def layered() -> tuple[Input[str, Any], list[Query[Any, Any]], Callable[[Engine, str], None]]:
    """Tables that read each other crosswise: a total per tag, and for each name what the other names of its tag and the next tag hold."""
    numbers: Input[str, Any] = Input("numbers", None)
    tags: Group[str, Any, str] = Group("tags", numbers, lambda _, value: [value[0]])

    def total(read: Read, tag: str) -> int:
        return sum(read(numbers, name)[1] for name in sorted(read(tags, tag)))

    totals: Query[str, int] = Query("totals", 2, total)

    def shared(read: Read, name: str) -> Any:
        found = read(numbers, name)
        if found is None:
            return None
        follower = {"x": "y", "y": "z", "z": "x"}[found[0]]
        return (read(totals, found[0]) % 3, read(totals, follower) if found[1] else None)

    shares: Query[str, Any] = Query("shares", 3, shared)
    parities: Group[str, Any, int] = Group("parities", shares, lambda _, value: [value[0]])
    alike: Query[int, Any] = Query("alike", 5, lambda read, parity: tuple(sorted(read(parities, parity))))
    Group("classes", shares, lambda _, value: [value[0]], spawns=alike)

    def place(engine: Engine, name: str) -> None:
        engine.pin(shares, name)

    return numbers, [shares, alike, totals], place


@given(EDITS)
@settings(max_examples=200, deadline=None)
def test_any_history_ends_where_a_fresh_start_does(history: list[list[Edit]]) -> None:
    numbers, results, place = layered()
    engine = Engine(results)
    now: dict[str, tuple[str, int]] = {}
    seen: dict[tuple[Any, Any], Any] = {}
    for batch in history:
        for name, value in batch:
            if value is None:
                if now.pop(name, None):
                    engine.unpin(results[0], name)
                engine.unset(numbers, name)
            else:
                if name not in now:
                    place(engine, name)
                now[name] = value
                engine.set(numbers, name, value)
        for key, (before, after) in engine.settle().items():
            assert seen.get(key) == before
            seen[key] = after
    fresh = Engine(results)
    for name, value in now.items():
        fresh.set(numbers, name, value)
        place(fresh, name)
    expected = {key: after for key, (_, after) in fresh.settle().items()}
    assert {key: value for key, value in seen.items() if value is not None} == {
        key: value for key, value in expected.items() if value is not None
    }
    assert engine.bugs == fresh.bugs == []
    assert [engine.count(table) for table in (numbers, *results)] == [fresh.count(table) for table in (numbers, *results)]
