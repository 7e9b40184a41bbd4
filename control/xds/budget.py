"""A budget of bytes: who wants to send much waits until others have been sent theirs, first come first served.

Who is slow keeps nobody waiting for long: after LENT seconds what it took does not count any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

LENT = 5.0


class Budget:
    """At most `total` bytes are taken in `lent` seconds; who wants more than that waits until it has all of it for itself."""

    def __init__(self, total: int, lent: float = LENT) -> None:
        self.total = total
        self.lent = lent
        self.taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        size = min(size, self.total)
        if self._waiting or self.taken + size > self.total:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_back(size)
                else:
                    self._waiting.remove((size, turn))
                    self._serve()
                raise
        else:
            self.taken += size
        given = False

        def give_back() -> None:
            nonlocal given
            if not given:
                given = True
                self._give_back(size)

        overdue = asyncio.get_running_loop().call_later(self.lent, give_back)
        try:
            yield
        finally:
            overdue.cancel()
            give_back()

    def _give_back(self, size: int) -> None:
        self.taken -= size
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()
            elif self.taken + size > self.total:
                return
            else:
                self._waiting.popleft()
                self.taken += size
                turn.set_result(None)
