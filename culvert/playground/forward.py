"""A port in a namespace that leads to one outside: for the little that a control plane says to somebody beyond the playground.

    [control namespace] 127.0.0.1:8500  ──▶  supervisor  ──▶  [machine] the address that was asked for

Bytes are passed on as they come, each direction on its own, so that an end in one is an end in the other. Never for pods' traffic.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from culvert.playground.launch import in_netns

CONNECT_SECONDS = 5.0
MAX_CONNECTIONS = 64
CHUNK = 64 << 10


class Forward:
    """`problem`: why the last connection could not be passed on; "" if it was. `changed` is called when that is another one."""

    def __init__(self, target: tuple[str, int], changed: Callable[[], None]) -> None:
        self.target = target
        self.problem = ""
        self._changed = changed
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, netns: str, address: tuple[str, int]) -> None:
        """Listen at `address` of a named namespace. Where that cannot be, it is the problem."""
        try:
            await self.serve(in_netns(netns, lambda: _listen(address)))
        except OSError as error:
            self._say(f"nothing can listen at {address[0]}:{address[1]} of {netns}: {error.strerror or error}")

    async def serve(self, sock: socket.socket) -> None:
        self._server = await asyncio.start_server(self._accept, sock=sock, limit=CHUNK)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._pass_on(reader, writer), name="forward")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other: asyncio.StreamWriter | None = None
        try:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    there, other = await asyncio.open_connection(*self.target, limit=CHUNK)
            except OSError as error:  # TimeoutError is one
                self._say(f"{self.target[0]}:{self.target[1]} cannot be reached: {error.strerror or error or 'no answer'}")
                return
            self._say("")
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, other))
                group.create_task(_pump(there, writer))
            writer.close()  # when what was written has left
            other.close()
        except* OSError:
            pass  # one of the two is gone
        finally:
            for each in (writer, other):
                if each is not None and not each.is_closing():
                    each.transport.abort()

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self._changed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end, which is passed on. OSError where either side breaks."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _listen(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(MAX_CONNECTIONS)
    except OSError:
        sock.close()
        raise
    return sock
