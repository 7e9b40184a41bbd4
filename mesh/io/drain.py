"""The end of a process, or of a pod: take nothing new, let what runs finish until a deadline, then cut it.

live = Live()
live.add(tunnel) ... live.remove(tunnel)          # by whoever owns them: tunnels and relays alike
await drain(acceptors, live, deadline)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Protocol

from mesh.model.reasons import Reason


class Acceptor(Protocol):
    def close(self) -> None: ...


class Living(Protocol):
    """Something that carries connections. Both methods may be called when it has ended already."""

    def drain(self) -> None:
        """Take nothing new, and end when what runs has finished."""

    def abort(self, reason: Reason) -> None:
        """End now; peers and apps see a reset."""


class Live:
    """What is running. Whoever starts something adds it, and removes it when it has ended (twice does no harm)."""

    def __init__(self) -> None:
        self._items: dict[int, Living] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Living]:
        """A snapshot, so that members may end while one goes through them."""
        return iter(list(self._items.values()))

    def add(self, item: Living) -> None:
        self._items[id(item)] = item
        self._empty.clear()

    def remove(self, item: Living) -> None:
        self._items.pop(id(item), None)
        if not self._items:
            self._empty.set()

    async def wait_empty(self) -> None:
        await self._empty.wait()


async def drain(acceptors: Iterable[Acceptor], live: Live, deadline: float, reason: Reason = Reason.DRAINING) -> int:
    """Stop accepting, drain what is live, and at `deadline` (`loop.time()`) abort the rest with `reason`. Returns how many were aborted."""
    for acceptor in acceptors:
        acceptor.close()
    for item in live:
        item.drain()
    try:
        async with asyncio.timeout_at(deadline):
            await live.wait_empty()
    except TimeoutError:
        pass
    rest = list(live)
    for item in rest:
        item.abort(reason)
    return len(rest)
