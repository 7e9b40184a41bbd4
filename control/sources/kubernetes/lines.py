"""A watch's bytes to lines, and lines to batches. Both are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from control.kube.errors import Garbled

WAITING = 8 << 20
"""Bytes of whole lines that wait to be taken; beyond, the connection is not read."""


class Lines:
    """Bytes in, whole lines out. Garbled where one is longer than `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that are whole now, without their ends; empty ones are left out."""
        head, *more = chunk.split(b"\n")
        self._rest.append(head)
        self._size += len(head)
        if self._size > self._most:
            raise Garbled(f"a line of more than {self._most} bytes")
        if not more:
            return []
        found = [b"".join(self._rest), *more[:-1]]
        self._rest, self._size = [more[-1]], len(more[-1])
        return [line for line in found if line]

    @property
    def rest(self) -> int:
        """Bytes of a line that has not ended."""
        return self._size


class Inbox:
    """Lines of one watch between the connection and who takes them, all that wait at once."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._waiting: list[bytes] = []
        self._size = 0
        self._ended: Exception | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def fill(self, chunks: AsyncIterator[bytes]) -> None:
        """Until the connection ends, well or badly; `take` then says how."""
        try:
            async for chunk in chunks:
                found = self._lines.feed(chunk)
                if found:
                    self._waiting += found
                    self._size += sum(map(len, found))
                    self._news.set()
                    if self._size > WAITING:
                        self._room.clear()
                        await self._room.wait()
            self._ended = Garbled("half a line") if self._lines.rest else StopAsyncIteration()
        except Exception as error:
            self._ended = error
        self._news.set()

    async def take(self) -> list[bytes]:
        """All lines that wait, at least one. [] when the connection has ended well; raises what it ended with otherwise."""
        while not self._waiting:
            if self._ended is not None:
                if isinstance(self._ended, StopAsyncIteration):
                    return []
                raise self._ended
            self._news.clear()
            await self._news.wait()
        found, self._waiting, self._size = self._waiting, [], 0
        self._room.set()
        return found
