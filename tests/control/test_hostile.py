"""Whoever can connect, or write a file: it costs one connection or one file, and the control plane goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from control.pipeline import MOST_SAID
from mesh.io.http import HttpLimits, HttpServer
from mesh.model.codec.proto import ADDRESS_TYPE
from tests.control.plane import Plane, Stream, pod, running

MANY = 10_000
SILENT = 200


def run(tmp_path: Path, main: Callable[[Plane], Awaitable[None]], **files: str) -> None:
    """Afterwards a tunnel is still served, and told of a change."""

    async def bounded() -> None:
        async with asyncio.timeout(60), running(tmp_path, {"a.yaml": pod("a", "10.0.0.1"), **files}) as plane:
            await main(plane)
            async with plane.channel() as channel:
                stream = Stream(channel)
                first = await stream.start()
                assert "Kubernetes//Pod/shop/a" in {entry.name for entry in first[ADDRESS_TYPE].resources}
                plane.write("last.yaml", pod("last", "10.0.0.2"))
                names: set[str] = set()
                while "Kubernetes//Pod/shop/last" not in names:
                    response = await stream.read(20)
                    names |= {entry.name for entry in response.resources}
                    await stream.ack(response)

    asyncio.run(bounded())


# Who connects


NONSENSE = (b"", b"GET /ready HTTP/1.1\r\nHost:", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\xff" * 100_000)


@pytest.mark.parametrize("port", ["http", "plaintext", "xds"])
def test_who_connects_and_says_nothing_or_nonsense_keeps_nobody_out(tmp_path: Path, port: str) -> None:
    async def main(plane: Plane) -> None:
        async def connect(number: int) -> asyncio.StreamWriter:
            _, writer = await asyncio.open_connection("127.0.0.1", plane.plane.ports[port])
            writer.write(NONSENSE[number % len(NONSENSE)])
            return writer

        while (await plane.http("/ready"))[0] != 200:
            await asyncio.sleep(0.01)
        held = await asyncio.gather(*(connect(number) for number in range(SILENT)))
        assert (await plane.http("/ready"))[0] == 200
        async with plane.channel() as channel:
            await Stream(channel).start()
        for writer in held:
            writer.transport.abort()

    run(tmp_path, main)


def test_who_never_ends_its_handshake_with_admission_is_cut_off(tmp_path: Path) -> None:
    async def main(plane: Plane) -> None:
        tls = plane.plane.ca.serving(("localhost",)).context()
        server = HttpServer({}, limits=HttpLimits(read_timeout=0.2), tls=tls)
        await server.start("127.0.0.1:0")
        for said in NONSENSE:
            reader, writer = await asyncio.open_connection(*server.addresses[0])
            writer.write(said)
            with contextlib.suppress(ConnectionResetError):
                while await reader.read(1000):
                    pass
            writer.transport.abort()
        await server.close(0)

    run(tmp_path, main)


# Who writes files


def test_ten_thousand_files(tmp_path: Path) -> None:
    async def main(plane: Plane) -> None:
        for number in range(MANY):
            plane.write(f"n{number}.yaml", f"{{apiVersion: v1, kind: Namespace, metadata: {{name: n{number}}}}}\n")
        while len(plane.plane.mesh.catalog.objects) < MANY + 1:
            await asyncio.sleep(0.05)
        plane.write("n7.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: n7, labels: {a: b}}}\n")
        while not any(key.name == "n7" and entry.metadata.labels for key, entry in plane.plane.mesh.catalog.objects.items()):
            await asyncio.sleep(0.05)

    run(tmp_path, main)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _two(path: Path) -> None:
    path.symlink_to("other.yaml")
    (path.parent / "other.yaml").symlink_to(path.name)


def _directory(path: Path) -> None:
    path.symlink_to(path.parent)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _memory(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(64 << 30)


def _bomb(path: Path) -> None:
    path.write_text("a0: &a0 {x: 1}\n" + "".join(f"a{n + 1}: &a{n + 1} {{<<: [{','.join([f'*a{n}'] * 10)}]}}\n" for n in range(20)))


def _utf16(path: Path) -> None:
    path.write_bytes("apiVersion: v1\n".encode("utf-16"))


def _name(path: Path) -> None:
    """That is no UTF-8."""
    (path.parent / os.fsdecode(b"\xff\xfe.yaml")).write_text("kind: Nonsense\n")


def _socket(path: Path) -> None:
    os.mknod(path, 0o140600)


MADE = {"a link to itself": _loop, "two links in a ring": _two, "a link to a directory": _directory, "a device without end": _device}
MADE |= {"a process's memory": _memory, "a hole of gigabytes": _sparse, "a bomb of aliases": _bomb, "UTF-16": _utf16}
MADE |= {"a name that is no text": _name, "a socket": _socket}


@pytest.mark.parametrize("name", MADE)
def test_a_strange_file_is_refused_or_passed_over_and_said(tmp_path: Path, name: str) -> None:
    async def main(plane: Plane) -> None:
        plane.write("z.yaml", pod("z", "10.0.0.3"))
        MADE[name](plane.manifests / "m.yaml")
        while len(plane.plane.mesh.workloads) < 2:
            await asyncio.sleep(0.01)
        if name == "a link to a directory":
            assert await refusals(plane) == []
            return
        async with asyncio.timeout(10):
            while not (found := await refusals(plane)):
                await asyncio.sleep(0.02)
        assert all(entry["file"].startswith(str(plane.manifests)) for entry in found)
        assert name != "a name that is no text" or "/\\xff\\xfe.yaml" in found[0]["file"]

    run(tmp_path, main)


async def refusals(plane: Plane) -> list[dict[str, str]]:
    return list(json.loads((await plane.http("/debug/refusals"))[1]))


def test_a_file_of_mistakes_is_told_whole_and_logged_in_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main(plane: Plane) -> None:
        while len(await refusals(plane)) < 1000:
            await asyncio.sleep(0.02)
        lines = [record.getMessage() for record in caplog.records if record.name == "control"]
        assert sum("Mistake" in line for line in lines) == MOST_SAID
        assert "and 900 more refusals" in lines

    run(tmp_path, main, **{"m.yaml": "---\n{apiVersion: v1, kind: Mistake, metadata: {name: a}}\n" * 1000})
