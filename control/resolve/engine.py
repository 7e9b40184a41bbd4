"""Incremental computation: pure functions of inputs, remembered with what they read, and computed again only when that changed.

Three kinds of table, each a mapping from an argument to a value:

    Input   is set from outside.                            OBJECTS[key]
    Query   is computed by a pure function `f(read, arg)`.  workload[key] = f(read, key)
    Group   is a reverse index over another table.          selectors[namespace, label] = {keys of the services that …}

A function reaches other tables only through `read(table, arg)`, which records the dependency. `settle` then works through what became
stale: a cell is computed again, and only if its value really differs are the cells that read it stale in turn. So a change costs what
follows from it, whatever the size of the whole, and nobody writes or forgets an invalidation.

Tables have levels, and a query reads only tables of lower levels. That makes one pass in the order of levels enough and rules out cycles. A
cell that nobody reads and nobody pinned is forgotten at the end of the pass.

A function that raises is our bug, and costs the object that it was about, not the mesh: the cell keeps the value that it had, or takes the
one that `rescue` gives (for a policy, one that denies), and `bugs` says so.

The idea is that of spreadsheets, of Adapton (Hammer et al., PLDI 2014) and of Salsa, which rust-analyzer is built on.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, Protocol, TypeVar, cast

from mesh.model.errors import BugError

A = TypeVar("A", bound=Hashable)
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)
K = TypeVar("K", bound=Hashable)


class Cell:
    """One argument of one table: its value, what it read, and who reads it."""

    __slots__ = ("arg", "pinned", "reads", "stale", "table", "users", "value")

    def __init__(self, table: Table[Any, Any], arg: Any, value: Any) -> None:
        self.table = table
        self.arg = arg
        self.value = value
        self.reads: tuple[Cell, ...] = ()
        self.users: list[Cell] | set[Cell] = NOBODY  # few cells are read by many
        self.stale = False
        self.pinned = 0


NOBODY: list[Cell] = []
MANY = 8
"""Up to so many users are kept in a list, which is smaller than a set."""


class Table(Generic[A, V_co]):
    """What the three kinds have in common. `groups` are the reverse indexes over this table, `spawning` the queries of its arguments."""

    level = 0

    def __init__(self, name: str) -> None:
        self.name = name
        self.groups: list[Group[Any, Any, Any]] = []
        self.spawning: list[tuple[Callable[[Any], bool], Query[Any, Any]]] = []

    def spawn(self, query: Query[Any, Any], when: Callable[[Any], bool]) -> None:
        """Pin `query[arg]` for as long as the value at `arg` is one of which `when` is true."""
        if query.level <= self.level:
            raise BugError(f"{self} of level {self.level} spawns {query} of level {query.level}")
        self.spawning.append((when, query))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Input(Table[A, V_co]):
    """Values from outside; `default` stands for what was not set. `same`: whether a value says nothing new, where it is not just `==`."""

    def __init__(self, name: str, default: V_co, same: Callable[[Any, Any], bool] = operator.eq) -> None:
        super().__init__(name)
        self.default = default
        self.same = same


class Read(Protocol):
    """How a query looks at other tables."""

    def __call__(self, table: Table[A, V], arg: A, /) -> V: ...


class Query(Table[A, V_co]):
    """`compute(read, arg)` must be a pure function of what it reads. Values are compared with `==`."""

    def __init__(self, name: str, level: int, compute: Callable[[Read, A], V_co], rescue: Callable[[Read, A], V_co] | None = None) -> None:
        super().__init__(name)
        self.level = level
        self.compute = compute
        self.rescue = rescue


class Group(Table[K, frozenset[A]], Generic[A, V, K]):
    """For each key, the arguments of `source` whose value has it: `keys(arg, value)` says which keys a value has.

    Of a query only the cells that are there are found, so that its cells are to be pinned (`spawns`, `Engine.pin`), not left to readers.
    `spawns`: a query whose cell is pinned for every key that is not empty.
    """

    def __init__(
        self,
        name: str,
        source: Table[A, V],
        keys: Callable[[A, Any], Iterable[K]],
        spawns: Query[K, Any] | None = None,
    ) -> None:
        super().__init__(name)
        self.level = source.level + 1
        self.source = source
        self.keys = keys
        self.spawns = spawns
        if spawns is not None and spawns.level <= self.level:
            raise BugError(f"{self} of level {self.level} spawns {spawns} of level {spawns.level}")
        source.groups.append(self)


class MakesQuery(Protocol):
    def __call__(self, compute: Callable[[Read, A], V], /) -> Query[A, V]: ...


def query(level: int, *, rescue: Callable[[Read, Any], Any] | None = None) -> MakesQuery:
    """Decorator: the function becomes a Query that is called as it."""

    def make(compute: Callable[[Read, A], V]) -> Query[A, V]:
        return Query(compute.__name__, level, compute, rescue)

    return make


EMPTY: frozenset[Any] = frozenset()
MAX_BUGS = 100


class Engine:
    """The cells of all tables. Used from one thread at a time.

    `watched`: tables whose changes `settle` reports.
    """

    def __init__(self, watched: Iterable[Table[Any, Any]] = ()) -> None:
        self._cells: dict[Table[Any, Any], dict[Any, Cell]] = {}
        self._members: dict[Group[Any, Any, Any], dict[Any, set[Any]]] = {}
        self._queue: list[tuple[int, int, Cell]] = []
        self._count = 0
        self._watched = frozenset(watched)
        self._changes: dict[tuple[Table[Any, Any], Any], Any] = {}
        self._unread: dict[Cell, None] = {}
        self.computed = 0
        """How many times a query was computed, ever. A figure for tests and metrics."""
        self.bugs: list[tuple[Query[Any, Any], Any, Exception]] = []
        """What was raised since this list was last emptied; at most MAX_BUGS."""

    # Changes from outside

    def set(self, table: Input[A, V], arg: A, value: V) -> None:
        cell = self._cell(table, arg)
        if not table.same(cell.value, value):
            self._assign(cell, value)

    def unset(self, table: Input[A, V], arg: A) -> None:
        cell = self._cells.get(table, {}).get(arg)
        if cell is not None:
            self._assign(cell, table.default)
            self._unread[cell] = None

    def pin(self, table: Query[A, V], arg: A) -> None:
        """Compute this cell from the next `settle` on, whether read or not, until it is unpinned as often as it was pinned."""
        cell = self._cells.get(table, {}).get(arg)
        if cell is None:
            cell = self._place(table, arg, None)
            self._stale(cell)
        cell.pinned += 1

    def unpin(self, table: Query[A, V], arg: A) -> None:
        cell = self._cells.get(table, {}).get(arg)
        if cell is not None and cell.pinned:
            cell.pinned -= 1
            self._unread[cell] = None

    def settle(self) -> dict[tuple[Table[Any, Any], Any], tuple[Any, Any]]:
        """Bring every cell up to date. {(watched table, arg): (value before, value now)} of those that differ; None stands for no cell."""
        while True:
            while self._queue:
                cell = heapq.heappop(self._queue)[2]
                if cell.stale:
                    self._refresh(cell)
            if not self._unread:
                break
            self._sweep()
        found: dict[tuple[Table[Any, Any], Any], tuple[Any, Any]] = {}
        for (table, arg), before in self._changes.items():
            now = self.value(table, arg)
            if now != before:
                found[table, arg] = (before, now)
        self._changes = {}
        return found

    # Looking

    def value(self, table: Table[A, V], arg: A) -> V | None:
        """What a cell holds as of the last `settle`; None where there is no such cell."""
        cell = self._cells.get(table, {}).get(arg)
        return cast("V | None", cell.value) if cell is not None else None

    def tables(self) -> list[Table[Any, Any]]:
        """The tables that have cells."""
        return [table for table, cells in self._cells.items() if cells]

    def args(self, table: Table[A, V]) -> list[A]:
        return list(self._cells.get(table, {}))

    def count(self, table: Table[Any, Any]) -> int:
        return len(self._cells.get(table, {}))

    # How it works

    def _cell(self, table: Table[Any, Any], arg: Any) -> Cell:
        """The cell, placed with its value where it is new (a query's is computed at once: all that it may read is settled)."""
        cell = self._cells.get(table, {}).get(arg)
        if cell is not None:
            if cell.stale and isinstance(table, Query):
                self._refresh(cell)
            return cell
        if isinstance(table, Input):
            return self._place(table, arg, table.default)
        if isinstance(table, Group):
            members = self._members.get(table, {}).get(arg)
            return self._place(table, arg, frozenset(members) if members else EMPTY)
        cell = self._place(table, arg, None)
        cell.stale = True
        self._refresh(cell)
        return cell

    def _place(self, table: Table[Any, Any], arg: Any, value: Any) -> Cell:
        cell = Cell(table, arg, value)
        self._cells.setdefault(table, {})[arg] = cell
        return cell

    def _stale(self, cell: Cell) -> None:
        if not cell.stale:
            cell.stale = True
            self._count += 1
            heapq.heappush(self._queue, (cell.table.level, self._count, cell))

    def _refresh(self, cell: Cell) -> None:
        cell.stale = False
        table = cell.table
        if isinstance(table, Group):
            members = self._members.get(table, {}).get(cell.arg)
            self._assign(cell, frozenset(members) if members else EMPTY)
            if not members and not cell.users:
                self._unread[cell] = None
            return
        reads: dict[Cell, None] = {}
        level = table.level

        def read(other: Table[Any, Any], arg: Any) -> Any:
            if other.level >= level:
                raise BugError(f"{table} of level {level} reads {other} of level {other.level}")
            found = self._cell(other, arg)
            reads[found] = None
            return found.value

        assert isinstance(table, Query)
        self.computed += 1
        try:
            value = table.compute(read, cell.arg)
        except Exception as bug:
            if len(self.bugs) < MAX_BUGS:
                self.bugs.append((table, cell.arg, bug))
            value = cell.value if table.rescue is None else table.rescue(read, cell.arg)
        self._connect(cell, tuple(reads))
        if value != cell.value:
            self._assign(cell, value)

    def _connect(self, cell: Cell, reads: tuple[Cell, ...]) -> None:
        before = cell.reads
        if reads == before:
            return
        cell.reads = reads
        for other in set(reads).difference(before) if before else reads:
            users = other.users
            if isinstance(users, set):
                users.add(cell)
            elif not users:
                other.users = [cell]
            elif len(users) < MANY:
                users.append(cell)
            else:
                other.users = {*users, cell}
        if before:
            for other in set(before).difference(reads):
                self._leave(other, cell)

    def _leave(self, other: Cell, user: Cell) -> None:
        other.users.remove(user)
        if not other.users:
            other.users = NOBODY
            self._unread[other] = None

    def _assign(self, cell: Cell, value: Any) -> None:
        table = cell.table
        if table in self._watched:
            self._changes.setdefault((table, cell.arg), cell.value)
        for group in table.groups:
            self._regroup(group, cell.arg, cell.value, value)
        for when, spawned in table.spawning:
            had, has = cell.value is not None and when(cell.value), value is not None and when(value)
            if has and not had:
                self.pin(spawned, cell.arg)
            elif had and not has:
                self.unpin(spawned, cell.arg)
        cell.value = value
        for user in cell.users:
            self._stale(user)

    def _regroup(self, group: Group[Any, Any, Any], arg: Any, before: Any, now: Any) -> None:
        had = frozenset(group.keys(arg, before)) if before is not None else EMPTY
        has = frozenset(group.keys(arg, now)) if now is not None else EMPTY
        members = self._members.setdefault(group, {})
        for key in had - has:
            members[key].discard(arg)
            if not members[key]:
                del members[key]
                if group.spawns is not None:
                    self.unpin(group.spawns, key)
            self._touch(group, key)
        for key in has - had:
            found = members.get(key)
            if found is None:
                found = members[key] = set()
                if group.spawns is not None:
                    self.pin(group.spawns, key)
            found.add(arg)
            self._touch(group, key)

    def _touch(self, group: Group[Any, Any, Any], key: Any) -> None:
        cell = self._cells.get(group, {}).get(key)
        if cell is not None:
            self._stale(cell)

    def _sweep(self) -> None:
        """Forget cells that nobody reads. Forgetting one may leave others unread, or shrink a group, which is looked at next."""
        unread, self._unread = self._unread, {}
        for cell in unread:
            table = cell.table
            if cell.users or cell.pinned or self._cells.get(table, {}).get(cell.arg) is not cell:
                continue
            if isinstance(table, Input) and cell.value != table.default:
                continue
            if isinstance(table, Query):
                cell.stale = False
                if cell.value is not None:
                    self._assign(cell, None)
                for other in cell.reads:
                    self._leave(other, cell)
                cell.reads = ()
            del self._cells[table][cell.arg]
