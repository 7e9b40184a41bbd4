"""The tunnel's end of ZDS, against the agent's double and against an agent that breaks the protocol. Pods are recorded, not served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from mesh.wire.zds import Add, Delete, Keep, SnapshotSent, WorkloadInfo, decode_ack, decode_hello, encode_request
from tests.ztunnel.double import Agent
from ztunnel.metrics import Metrics
from ztunnel.pods import Pods
from ztunnel.zds import ZdsClient, read_mark

INFO = WorkloadInfo("pod", "shop", "default")


class Recorder:
    """In place of the pods."""

    def __init__(self) -> None:
        self.pods: dict[str, tuple[WorkloadInfo, int]] = {}
        self.deleted: list[str] = []
        self.refuse = ""
        self.inodes: list[int] = []

    def add(self, uid: str, info: WorkloadInfo, fd: int, mark: int) -> str:
        self.inodes.append(os.fstat(fd).st_ino)
        os.close(fd)
        if not self.refuse:
            self.pods[uid] = (info, mark)
        return self.refuse

    def delete(self, uid: str) -> None:
        self.deleted.append(uid)
        self.pods.pop(uid, None)

    def keep_only(self, uids: Any) -> None:
        for uid in set(self.pods) - set(uids):
            self.delete(uid)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def run(
    path: Path, check: Callable[[ZdsClient, Recorder], Awaitable[None]], mark: Callable[[], int] = lambda: 0x1539, slack: int = 4
) -> None:
    async def main() -> None:
        pods = Recorder()
        client = ZdsClient(path, cast("Pods", pods), Metrics("test"), mark)
        task = asyncio.ensure_future(client.run())
        try:
            await check(client, pods)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    # The agent's double has sockets of its own, on threads, that may still close.
    assert len(os.listdir("/proc/self/fd")) <= before + slack


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "zds.sock"


def test_snapshot_then_changes(path: Path) -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    agent = Agent(path)
    agent.add("one", "pod", "shop", "default", fd)

    async def check(client: ZdsClient, pods: Recorder) -> None:
        assert client.pending == ["zds snapshot (the agent is silent)"]
        await until(lambda: client.synced)
        assert pods.pods == {"one": (INFO, 0x1539)}
        assert pods.inodes == [os.fstat(fd).st_ino]
        agent.add("two", "pod", "shop", "default", fd)
        await until(lambda: len(pods.pods) == 2)
        pods.refuse = "cannot listen"
        agent.add("three", "pod", "shop", "default", fd)
        await until(lambda: "cannot listen" in agent.acks)
        agent.delete("one")
        await until(lambda: pods.deleted == ["one"])
        assert client.pending == []

    run(path, check)
    agent.close()
    os.close(fd)


def test_the_agent_restarts_and_pods_that_it_does_not_name_are_gone(path: Path) -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    first = Agent(path)
    for uid in ("stays", "goes"):
        first.add(uid, "pod", "shop", "default", fd)

    async def check(client: ZdsClient, pods: Recorder) -> None:
        await until(lambda: client.synced)
        first.close()
        path.unlink()
        await until(lambda: not client.connected)
        assert set(pods.pods) == {"stays", "goes"}  # its restart is not theirs
        second = Agent(path)
        second.add("stays", "pod", "shop", "default", fd)
        await until(lambda: pods.deleted == ["goes"])
        second.close()

    run(path, check)
    os.close(fd)


@pytest.mark.parametrize(
    "packet",
    [
        (b"\xff\xff", 0),
        (b"", 1),
        (encode_request(Add("x", INFO)), 0),
        (encode_request(Add("x", INFO)), 2),
        (encode_request(Delete("x")), 1),
        (b"x" * 3000, 0),
    ],
    ids=["no message", "empty with descriptor", "add without", "add with two", "delete with one", "too long"],
)
def test_a_broken_agent_is_left_and_tried_again(path: Path, packet: tuple[bytes, int]) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(4)
    listener.setblocking(False)

    async def check(client: ZdsClient, pods: Recorder) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            agent, _ = await loop.sock_accept(listener)
            with agent:
                assert decode_hello(await loop.sock_recv(agent, 100)).version == 1
                data, count = packet
                agent.setblocking(False)
                socket.send_fds(agent, [data], [0] * count)
                # An empty packet and the end of the connection look alike: both end the session.
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.wait_for(loop.sock_recv(agent, 100), 5) == b""
        assert pods.pods == {}

    run(path, check, slack=0)
    listener.close()


def test_keep_and_what_it_is_legal_for(path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(4)
    listener.setblocking(False)

    async def check(client: ZdsClient, pods: Recorder) -> None:
        loop = asyncio.get_running_loop()
        pods.pods["known"] = (INFO, 1)
        agent, _ = await loop.sock_accept(listener)
        with agent:
            await loop.sock_recv(agent, 100)
            for request, error in ((Keep("known"), ""), (Keep("unknown"), "not known here: it must be added"), (SnapshotSent(), "")):
                agent.send(encode_request(request))
                assert decode_ack(await loop.sock_recv(agent, 2000)).error == error
        assert pods.deleted == []
        assert client.synced

    run(path, check)
    listener.close()


def test_the_mark_is_read_at_each_connect_and_without_one_there_is_no_session(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "mark"
    agent = Agent(path)

    async def check(client: ZdsClient, pods: Recorder) -> None:
        await until(lambda: "mark" in client.last_error)
        assert not client.connected
        file.write_text("0x12345539\n")
        await until(lambda: client.synced)

    run(path, check, lambda: read_mark(file))
    agent.close()


@pytest.mark.parametrize("text", ["", "red", "0x0", "0x1ffffffff", "-0x5"])
def test_a_bad_mark_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mark"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"mark|invalid literal"):
        read_mark(file)
    file.write_text("0x12345539\n")
    assert read_mark(file) == 0x12345539
