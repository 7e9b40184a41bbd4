"""Connections between pods of different nodes, made inside the pods' namespaces as programs of theirs would: new ones all the time, and
some that stay.

Each is counted for the phase in which it began. A new one is good when an answer that only it could get has come back in time; one that
stays is cut when an exchange on it fails, whenever that is.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from culvert.playground.layout import netns_path
from culvert.verify.findings import Pod
from mesh.io.netns import Namespace
from mesh.model.workload import IPAddress

PATIENCE = 5.0  # seconds for one connection and its answer, or one exchange
PAUSE = 0.02  # seconds between two new connections of one worker
EXCHANGE = 0.05  # seconds between two exchanges on one that stays
SIZE = 64  # bytes of an exchange
TOLD = 20  # failures that are told in full


@dataclass(slots=True)
class Tally:
    """What happened in one phase. `failures` and `cuts` are sentences, of the first of each."""

    tried: int = 0
    failed: int = 0
    exchanges: int = 0
    cut: int = 0
    failures: list[str] = field(default_factory=list)
    cuts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pair:
    """From a pod to another one on another node, by one address family."""

    source: Pod
    destination: Pod
    address: IPAddress

    def __str__(self) -> str:
        return f"{self.source} ({self.source.node}) → {self.destination} ({self.destination.node}), IPv{self.address.version}"


def pairs(pods: Iterable[Pod], limit: int) -> list[Pair]:
    """Up to `limit` pairs of pods of the mesh on different nodes, every pod in turn, families taking turns."""
    meshed = sorted((pod for pod in pods if pod.enrolled), key=str)
    found: list[Pair] = []
    for step in range(1, len(meshed)):
        for number, source in enumerate(meshed):
            destination = meshed[(number + step) % len(meshed)]
            if source.node == destination.node:
                continue
            version = 6 if len(found) % 2 else 4
            address = _address(source, destination, version) or _address(source, destination, 10 - version)
            if address is not None:
                found.append(Pair(source, destination, address))
            if len(found) == limit:
                return found
    return found


def _address(source: Pod, destination: Pod, version: int) -> IPAddress | None:
    """The destination's address of a family that both have."""
    if not any(address.version == version for address in source.addresses):
        return None
    return next((address for address in destination.addresses if address.version == version), None)


class Load:
    """`start`, set `phase` as it goes, `stop`. `tallies` by phase."""

    def __init__(self, chosen: Iterable[Pair], workers: int, held: int, phase: str) -> None:
        self.pairs = list(chosen)
        self.left_out: list[str] = []
        self.tallies: dict[str, Tally] = {}
        self.phase = phase
        self._workers = workers
        self._held = held
        self._stack = contextlib.ExitStack()
        self._spaces: dict[str, Namespace] = {}
        self._targets: dict[Pair, tuple[str, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, try each pair once, and begin. Pairs that cannot talk (a policy?) are left out. OSError where a namespace is gone."""
        for pair in list(self.pairs):
            self._listen(pair)
            why = await self._connect_once(pair)
            if why:
                self.left_out.append(f"{pair}: {why}")
                self.pairs.remove(pair)
        for pair in self.pairs:
            for _ in range(self._held):
                self._spawn(self._hold(pair))
            for _ in range(self._workers):
                self._spawn(self._work(pair))

    async def stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._stack.close()

    @property
    def tally(self) -> Tally:
        """Of the phase that it is now."""
        return self.tallies.setdefault(self.phase, Tally())

    async def _work(self, pair: Pair) -> None:
        while True:
            tally, began = self.tally, time.monotonic()
            tally.tried += 1
            why = await self._connect_once(pair)
            if why:
                tally.failed += 1
                if len(tally.failures) < TOLD:
                    tally.failures.append(f"{pair}: {why} after {time.monotonic() - began:.2f} s")
            await asyncio.sleep(PAUSE)

    async def _hold(self, pair: Pair) -> None:
        sock = self._socket(pair)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, self._targets[pair])
            while True:
                async with asyncio.timeout(PATIENCE):
                    await _exchange(sock)
                self.tally.exchanges += 1
                await asyncio.sleep(EXCHANGE)
        except (OSError, TimeoutError) as error:
            self.tally.cut += 1
            if len(self.tally.cuts) < TOLD:
                self.tally.cuts.append(f"{pair}: {_words(error)}")
        finally:
            sock.close()

    async def _connect_once(self, pair: Pair) -> str:
        """What went wrong, "" if nothing did."""
        sock = self._socket(pair)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, self._targets[pair])
                await _exchange(sock)
            return ""
        except (OSError, TimeoutError) as error:
            return _words(error)
        finally:
            sock.close()

    def _listen(self, pair: Pair) -> None:
        family = socket.AF_INET6 if pair.address.version == 6 else socket.AF_INET
        listener = self._space(pair.destination).run(lambda: socket.create_server((str(pair.address), 0), family=family, backlog=256))
        self._targets[pair] = (str(pair.address), int(listener.getsockname()[1]))
        listener.setblocking(False)
        self._stack.enter_context(listener)
        loop = asyncio.get_running_loop()
        # Not sock_accept: cancelled while a connection comes in, it complains aloud of the result that nobody waits for any more.
        loop.add_reader(listener, self._accept, listener)
        self._stack.callback(loop.remove_reader, listener)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            sock, _ = listener.accept()
            # A task that is cancelled before it begins closes nothing.
            self._spawn(self._echo(sock)).add_done_callback(lambda done: sock.close())

    async def _echo(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            sock.setblocking(False)
            while data := await loop.sock_recv(sock, SIZE):
                await loop.sock_sendall(sock, data)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _socket(self, pair: Pair) -> socket.socket:
        family = socket.AF_INET6 if pair.address.version == 6 else socket.AF_INET
        sock = self._space(pair.source).run(lambda: socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        return sock

    def _space(self, pod: Pod) -> Namespace:
        if pod.netns not in self._spaces:
            self._spaces[pod.netns] = self._stack.enter_context(Namespace.open(str(netns_path(pod.netns))))
        return self._spaces[pod.netns]


async def _exchange(sock: socket.socket) -> None:
    """Raises OSError where what comes back is not what was sent."""
    loop = asyncio.get_running_loop()
    sent = secrets.token_bytes(SIZE)
    await loop.sock_sendall(sock, sent)
    back = b""
    while len(back) < SIZE:
        piece = await loop.sock_recv(sock, SIZE - len(back))
        if not piece:
            raise ConnectionError("the connection was ended")
        back += piece
    if back != sent:
        raise ConnectionError("something else came back")


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE:g} s"
    return getattr(error, "strerror", None) or str(error)
