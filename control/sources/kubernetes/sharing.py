"""One copy of what many objects hold: strings, label maps, port lists. Many pods are of one Deployment.

A pool forgets what was not asked for during its last `size` additions or so, and so is bounded though pods come and go for years. Strings
need none: Python's interned strings go when nobody holds them. Used from several threads: a race makes a second copy, no harm.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

NOTHING: Mapping[str, str] = MappingProxyType({})


class Pool(Generic[K, V]):
    """What was made for a key, made once. Two generations of `size` entries each."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K, make: Callable[[K], V]) -> V:
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is None:
                found = make(key)
            if len(self._young) >= self._size:
                self._young, self._old = {}, self._young
            self._young[key] = found
        return found

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


Pairs = tuple[tuple[str, str], ...]


class Labels:
    """Label maps, checked when they are new: `check` raises for what is not acceptable."""

    def __init__(self, check: Callable[[Pairs], None] = lambda _: None, size: int = 8192) -> None:
        self._pool: Pool[Pairs, Mapping[str, str]] = Pool(size)
        self._check = check

    def get(self, labels: Mapping[str, str] | None) -> Mapping[str, str]:
        return self._pool.get(tuple(labels.items()), self._make) if labels else NOTHING

    def _make(self, pairs: Pairs) -> Mapping[str, str]:
        self._check(pairs)
        return MappingProxyType({sys.intern(key): sys.intern(value) for key, value in pairs})
