"""Commands to a running CA: a Unix socket, one JSON object per line in, one out.

The debug port answers anybody who reaches it, so that nothing there may change a CA. This socket is 0600 in a directory of its owner, and
the kernel tells who has connected: only the user that runs the control plane, and root, are heard. It is the same in a pod, where `kubectl
exec deploy/culvert -- culvert ca ...` is that user.

    {"do": "show"}  {"do": "renew-leaves"}  {"do": "renew-intermediate"}
    {"do": "introduce"}  {"do": "switch", "force": false}  {"do": "retire", "force": false}  {"do": "abandon"}

Each is answered with {"ca": ...}, what the CA then shows of itself, or with {"error": text}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from control.ca.keeper import Keeper
from control.ca.view import view
from mesh.io.log import Log
from mesh.io.unix import peer_user, short_path
from mesh.model.errors import ConfigError, CulvertError, Refusal

log = Log("ca")

MAX_LINE = 65536  # bytes
MAX_CONNECTIONS = 16
IDLE = 300.0  # seconds after which a silent connection is closed


class CommandSocket:
    """Listens at `path` between `start` and `close`."""

    def __init__(self, keeper: Keeper, path: Path) -> None:
        self._keeper = keeper
        self._path = path
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._open = 0

    async def start(self) -> None:
        """Raises OSError, and ConfigError where another process listens. A socket that an earlier process left is replaced."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._taken():
            accepted = f"a directory of its own for each control plane: one is running that listens at {self._path.name}"
            raise ConfigError(Refusal("environment", "", "CULVERT_CA_DIR", repr(str(self._path.parent)), accepted))
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(sock.fileno(), 0o600)  # before it is bound: so its file is never more open than this
            with short_path(self._path) as address:
                sock.bind(address)
            self._inode = self._path.stat().st_ino
            self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=MAX_LINE)
        except BaseException:
            sock.close()
            raise

    def _taken(self) -> bool:
        """Whether somebody listens there. Who has died does not, whatever its file looks like."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            try:
                with short_path(self._path) as address:
                    sock.connect(address)
            except BlockingIOError:
                return True  # so many ask that we would have to wait
            except (FileNotFoundError, ConnectionError):
                return False
            return True

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:  # else a successor's
                    self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            user = peer_user(writer.get_extra_info("socket"))
            if user not in (0, os.geteuid()) or self._open > MAX_CONNECTIONS:
                log.warning("a command to the CA was refused", user=user, connections=self._open)
                return
            while True:
                async with asyncio.timeout(IDLE):
                    line = await reader.readline()
                if not line:
                    return
                writer.write(json.dumps(await self._answer(line, user)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError, TimeoutError):
            pass  # it went away, sent a line without end, or nothing for long
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, line: bytes, user: int) -> dict[str, Any]:
        try:
            request = json.loads(line)
            name = request["do"]
            run = self._commands(request)[name]
        except (ValueError, KeyError, TypeError):
            return {"error": f"not understood; accepted: an object whose `do` is one of {', '.join(self._commands({}))}"}
        try:
            await run()
        except (CulvertError, OSError) as error:
            log.warning("a command to the CA failed", command=name, user=user, error=error)
            return {"error": str(error)}
        if name != "show":
            log.info("a command to the CA was carried out", command=name, user=user, force=request.get("force") is True)
        return {"ca": view(self._keeper)}

    def _commands(self, request: Mapping[str, Any]) -> Mapping[str, Callable[[], Awaitable[None]]]:
        keeper, force = self._keeper, request.get("force") is True
        return {
            "show": _nothing,
            "renew-leaves": keeper.renew_leaves,
            "renew-intermediate": keeper.renew_intermediate,
            "introduce": keeper.introduce,
            "switch": lambda: keeper.switch(force=force),
            "retire": lambda: keeper.retire(force=force),
            "abandon": keeper.abandon,
        }


async def _nothing() -> None:
    pass
