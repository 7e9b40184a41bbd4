"""What the source keeps over a restart of the control plane, and what it needs of whoever keeps it. `control.keep.Book` is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from control.sources.consul.translate import Parse, Rules, translate
from control.sources.consul.wire import Instance, read_indexes, read_kept
from mesh.model.manifest import Parsed

INDEXES = "indexes"
"""The origin under which the indexes are kept: how far Consul's history was, so that one that goes backwards shows after a restart too."""


class Row(Protocol):
    """What an origin said last, and, where that was refused, what was accepted before, if anything was."""

    @property
    def origin(self) -> str: ...

    @property
    def value(self) -> bytes: ...

    @property
    def last(self) -> bytes | None: ...


class Kept(Protocol):
    """All that was kept. `confirmed`: when that was last known to be how things are, Unix seconds."""

    @property
    def rows(self) -> Sequence[Row]: ...

    @property
    def confirmed(self) -> float: ...


class Book(Protocol):
    """Everything but `load` returns at once. `on_loss` is called when everything has to be put anew; `asks` until `refilled` is called."""

    on_loss: Callable[[], None] | None

    @property
    def asks(self) -> bool: ...

    def holds(self, origin: str) -> bool: ...

    def refilled(self) -> None: ...

    async def load(self) -> Kept | None: ...

    def put(self, origin: str, value: bytes, accepted: bool = True) -> None: ...

    def remove(self, origin: str) -> None: ...

    def confirm(self, when: float) -> None: ...

    def complete(self) -> None: ...

    def clear(self) -> None: ...


@dataclass(frozen=True, slots=True)
class KeptService:
    """`last`: what was accepted before `parsed`, where that was refused."""

    name: str
    instances: tuple[Instance, ...]
    last: Parsed | None
    parsed: Parsed


def restore(kept: Kept, rules: Rules, parse: Parse) -> tuple[list[KeptService], dict[str, int]]:
    """What was kept, understood anew, and the indexes. Garbled where it is of another version of us. Slow: for a thread."""
    indexes: dict[str, int] = {}
    found = []
    for row in kept.rows:
        if row.origin == INDEXES:
            indexes = read_indexes(row.value)
            continue
        name, instances = read_kept(row.value)
        last = translate(name, read_kept(row.last)[1], rules, parse) if row.last is not None else None
        found.append(KeptService(name, instances, last, translate(name, instances, rules, parse)))
    return found, indexes
