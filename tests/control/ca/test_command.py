"""Commands to a running CA: from its own user only, over a socket that nobody else can open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control.ca import command as module
from control.ca.command import CommandSocket
from control.ca.keeper import Keeper
from mesh.io.unix import short_path
from mesh.model.errors import ConfigError
from tests.control.ca.support import a_keeper


@contextlib.asynccontextmanager
async def listening(path: Path) -> AsyncIterator[Keeper]:
    keeper = a_keeper(path.parent / "ca")
    await keeper.start()
    commands = CommandSocket(keeper, path)
    await commands.start()
    try:
        yield keeper
    finally:
        await commands.close()


async def ask(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    with short_path(path) as address:
        reader, writer = await asyncio.open_unix_connection(address)
    try:
        for line in lines:
            writer.write(line + b"\n")
        writer.write_eof()
        return [json.loads(line) for line in (await reader.read()).splitlines()]
    except ConnectionError:
        return []
    finally:
        writer.close()


def command(name: str, **fields: object) -> bytes:
    return json.dumps({"do": name, **fields}).encode()


def test_a_change_of_root_by_commands(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "command.sock"
        async with listening(path) as keeper:
            (shown,) = await ask(path, command("show"))
            assert shown["ca"]["phase"] == "steady"
            answers = await ask(path, command("introduce"), command("switch"), command("switch", force=True), command("retire", force=True))
            assert [answer.get("ca", answer)["phase" if "ca" in answer else "error"] for answer in answers] == [
                "introduced",
                answers[1]["error"],
                "switched",
                "steady",
            ]
            assert "too young" in answers[1]["error"]
            assert keeper.authority.token != shown["ca"]["token"]
            token = keeper.authority.token
            for name in ("renew-leaves", "renew-intermediate"):
                (answer,) = await ask(path, command(name))
                assert answer["ca"]["token"] != token
                token = answer["ca"]["token"]
            await ask(path, command("introduce"), command("abandon"))
            assert keeper.authority.token == token

    asyncio.run(main())


@pytest.mark.parametrize("line", [b"", b"hello", b"[]", b'"show"', b"{}", b'{"do": "destroy"}', b'{"do": ["show"]}', b'{"do": null}'])
def test_what_is_not_understood_changes_nothing(tmp_path: Path, line: bytes) -> None:
    async def main() -> None:
        path = tmp_path / "command.sock"
        async with listening(path) as keeper:
            version = keeper.version
            (answer, after) = await ask(path, line, command("show"))
            assert "accepted: an object whose `do` is one of show, renew-leaves" in answer["error"]
            assert "ca" in after
            assert keeper.version == version

    asyncio.run(main())


def test_a_line_without_end_is_cut_off(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "command.sock"
        async with listening(path):
            assert await ask(path, b"x" * (2 * module.MAX_LINE)) == []
            assert len(await ask(path, command("show"))) == 1

    asyncio.run(main())


def test_only_its_own_user_may_open_it(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "command.sock"
        async with listening(path):
            status = path.stat()
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600

    asyncio.run(main())


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_not_heard_even_if_it_gets_through(tmp_path: Path) -> None:
    """As if somebody had opened the directory and the socket to all."""
    script = (
        "import os, socket, sys\nos.setgid(65534); os.setuid(65534)\n"
        "sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1])\n"
        'try: sock.sendall(b\'{"do": "renew-leaves"}\\n\'); print(sock.recv(100))\n'
        "except ConnectionError: print(b'')"
    )

    async def main() -> None:
        path = tmp_path / "command.sock"
        async with listening(path) as keeper:
            for each in (path, *path.parents[:-2]):
                each.chmod(0o777)
            version = keeper.version
            done = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
            )
            assert done.stdout == "b''\n", done.stderr
            assert keeper.version == version

    asyncio.run(main())


def test_a_path_of_any_length_and_one_that_was_left(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / ("d" * 120) / "command.sock"
        path.parent.mkdir()
        path.write_text("left by a process that was killed")
        async with listening(path):
            assert len(await ask(path, command("show"))) == 1
        assert not path.exists()

    asyncio.run(main())


def test_a_second_one_takes_nothing_from_the_first(tmp_path: Path) -> None:
    """Started in the same directory by mistake."""

    async def main() -> None:
        path = tmp_path / "command.sock"
        async with listening(path):
            second = CommandSocket(a_keeper(tmp_path / "other"), path)
            with pytest.raises(ConfigError, match=r"CULVERT_CA_DIR: .* accepted: a directory of its own.*command\.sock"):
                await second.start()
            await second.close()
            assert len(await ask(path, command("show"))) == 1
        await second.start()  # nobody is there any more
        await second.close()

    asyncio.run(main())


def test_connections_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)

    async def main() -> None:
        path = tmp_path / "command.sock"
        async with listening(path):
            with short_path(path) as address:
                reader, writer = await asyncio.open_unix_connection(address)
            writer.write(command("show") + b"\n")
            assert await reader.readline()
            assert await ask(path, command("show")) == []
            writer.close()
            await asyncio.sleep(0.05)
            assert len(await ask(path, command("show"))) == 1

    asyncio.run(main())
