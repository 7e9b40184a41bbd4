"""Asking the control plane for its names, once a second, and keeping what it said last.

Whoever asks says what it has (If-None-Match), so that nothing new is an answer without a body. While the control plane is away, restarts,
or says what is not taken, the names that are known stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import h11

from culvert.playground.files import read_json, write_json
from culvert.playground.launch import in_netns
from culvert.playground.names import MAX_BYTES, Names, NamesError, parse_names

PATH = "/debug/names"
PERIOD = 1.0
TIMEOUT = 2.0
CHUNK = 64 << 10

Connect = Callable[[], socket.socket]


class NameWatch:
    """`names` are the last that were taken; `problem` says why the newest were not. `memory` keeps them over a restart of the supervisor.

    `changed` is called when either is another one. `connect` gives a socket in the namespace of the control plane, not connected.
    """

    def __init__(
        self,
        connect: Connect,
        address: tuple[str, int],
        memory: Path,
        changed: Callable[[], None],
        period: float = PERIOD,
    ) -> None:
        self.problem = ""
        self._connect = connect
        self._address = address
        self._memory = memory
        self._changed = changed
        self._period = period
        self._tag = ""
        try:
            self._known = parse_names(read_json(memory))
        except NamesError:  # there is none yet
            self._known = Names()

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        return self._known.names

    @property
    def unusable(self) -> tuple[str, ...]:
        """Names that were told and that pods cannot be given."""
        return self._known.unusable

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(OSError):  # it is away, or starts
                async with asyncio.timeout(TIMEOUT):
                    await self.look()
            await asyncio.sleep(self._period)

    async def look(self) -> None:
        """Ask once. OSError where nobody answers."""
        try:
            status, tag, body = await self._get()
            if status != 200:
                # 304: as before. 404: this control plane knows no names beyond those of Services.
                self._say("" if status in (304, 404) else f"the control plane answers {status} when asked for names")
                return
            found = parse_names(json.loads(body))
        except NamesError as error:
            self._say(f"the control plane tells names that are not taken: {error}")
            return
        except (ValueError, RecursionError):
            self._say("the control plane tells names that are no JSON")
            return
        self._tag = tag
        known, self._known = self._known, found
        if found.names != known.names:
            write_json(self._memory, {"number": found.number, "names": {name: list(each) for name, each in found.names.items()}})
        if (found.names, found.unusable) != (known.names, known.unusable):
            self._changed()
        self._say("")

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self._changed()

    async def _get(self) -> tuple[int, str, bytes]:
        """(status, ETag, body)"""
        sock = self._connect()
        try:
            await asyncio.get_running_loop().sock_connect(sock, self._address)
            reader, writer = await asyncio.open_connection(sock=sock, limit=CHUNK)
        except BaseException:
            sock.close()
            raise
        try:
            return await self._ask(reader, writer)
        except h11.RemoteProtocolError as error:
            raise ConnectionResetError(str(error)) from error
        finally:
            writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, str, bytes]:
        connection = h11.Connection(h11.CLIENT)
        headers = [("Host", f"{self._address[0]}:{self._address[1]}"), ("Connection", "close")]
        if self._tag:
            headers.append(("If-None-Match", self._tag))
        writer.write(connection.send(h11.Request(method="GET", target=PATH, headers=headers)) or b"")
        connection.send(h11.EndOfMessage())
        status, tag, body = 0, "", bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(CHUNK))
            elif isinstance(event, h11.Response):
                found = {name: value.decode("latin-1") for name, value in event.headers}
                status, tag = event.status_code, found.get(b"etag", "")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BYTES:
                    raise NamesError(f"more than {MAX_BYTES} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return status, tag, bytes(body)


def in_namespace(netns: str) -> Connect:
    """Sockets belong for ever to the namespace that they were made in."""
    return lambda: in_netns(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
