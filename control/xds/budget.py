"""A budget of bytes: who wants to send much waits until others have been sent theirs, first come first served."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Budget:
    """At most `total` bytes are taken at a time; who wants more than that waits until it has all of it for itself."""

    def __init__(self, total: int) -> None:
        self.total = total
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
        try:
            yield
        finally:
            self._give_back(size)

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
