"""What the byte engine alone costs: two bare tunnel ends, no policy, no capture, no telemetry.

    python bench/micro_tunnel.py                     # loopback, own load: CPU and rate of small messages, bulk, new connections
    python bench/micro_tunnel.py end client LISTEN_PORT HOST TUNNEL_PORT DIR    # one end alone, to be put under any load
    python bench/micro_tunnel.py end server TUNNEL_PORT HOST TARGET_PORT DIR

How to read it: CPU is what the two ends used together (user and system), and hardly depends on what else the machine does; rates
do. Data flow: load → client end → mutual TLS → server end → echo, all in processes of their own. DIR holds ca.crt, a.pem, a.key
(client) and b.pem, b.key (server).
"""

from __future__ import annotations

import asyncio
import ipaddress
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mesh.io import loop as engine_loop
from mesh.io import sockets, tls, tunnel
from mesh.io.acceptor import Acceptor, Spare
from mesh.io.counters import Tally
from mesh.model.errors import PeerError
from mesh.model.workload import SocketAddress

ROUNDS = 20_000
BULK = 1 << 30
FRESH = 3_000
MESSAGE = b"x" * 200


def credentials(directory: Path, name: str) -> tls.Credentials:
    chain = [(directory / f"{name}.pem").read_text(), (directory / "ca.crt").read_text()]
    return tls.make_credentials((directory / f"{name}.key").read_bytes(), chain)


class ClientEnd:
    """Each connection on the listener becomes a stream of one tunnel; a second tunnel is dialled when the first is full."""

    def __init__(self, mine: tls.Credentials, peers: frozenset, target: SocketAddress) -> None:
        self.mine, self.peers, self.target = mine, peers, target
        self.tunnels: list[tunnel.Tunnel] = []
        self.lock = asyncio.Lock()
        self.tasks: set[asyncio.Task] = set()

    def on_accept(self, sock: socket.socket, _: SocketAddress | None) -> None:
        sockets.tune(sock)
        task = asyncio.get_running_loop().create_task(self.carry(sock))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def pick(self) -> tunnel.Tunnel:
        async with self.lock:
            self.tunnels = [each for each in self.tunnels if not each.closed.done()]
            for each in self.tunnels:
                if each.can_open:
                    return each
            sock = sockets.stream_socket(self.target.ip.version)
            sockets.begin_connect(sock, self.target)
            made = await tunnel.dial(sock, self.mine, self.peers, None)
            self.tunnels.append(made)
            return made

    async def carry(self, sock: socket.socket) -> None:
        try:
            end = next((each for each in self.tunnels if each.can_open), None) or await self.pick()
            stream = await end.connect([(b":method", b"CONNECT"), (b":authority", b"10.0.0.1:80")])
        except PeerError:
            sockets.reset(sock)
            return
        if stream.status == 200:
            stream.splice(sock, Tally(), lambda reason: None)
        else:
            sockets.reset(sock)


class ServerEnd:
    """Each stream becomes a connection to the target."""

    def __init__(self, mine: tls.Credentials, target: SocketAddress) -> None:
        self.mine, self.target = mine, target
        self.tasks: set[asyncio.Task] = set()

    def _spawn(self, work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_accept(self, sock: socket.socket, _: SocketAddress | None) -> None:
        self._spawn(self.serve(sock))

    async def serve(self, sock: socket.socket) -> None:
        try:
            await tunnel.accept(sock, self.mine, lambda incoming: self._spawn(self.deliver(incoming)))
        except PeerError as error:
            print("refused", error, file=sys.stderr)

    async def deliver(self, incoming: tunnel.Incoming) -> None:
        try:
            sock = await sockets.connect(sockets.stream_socket(self.target.ip.version), self.target, None)
        except PeerError:
            incoming.reject(503)
            return
        sockets.tune(sock)
        incoming.accept().splice(sock, Tally(), lambda reason: None)


async def serve_end(role: str, port: int, target: SocketAddress, directory: Path) -> None:
    a, b = credentials(directory, "a"), credentials(directory, "b")
    end = ClientEnd(a, frozenset({b.identity}), target) if role == "client" else ServerEnd(b, target)
    acceptor = Acceptor(sockets.listener(port), end.on_accept, lambda reason: print("refused", reason), Spare())
    await engine_loop.stop_requested().wait()
    acceptor.close()


def _end(role: str, port: int, target: tuple[str, int], directory: str) -> None:
    engine_loop.run(serve_end(role, port, SocketAddress(ipaddress.ip_address(target[0]), target[1]), Path(directory)))


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """First byte: `e` echoes, `s` swallows until the end and answers how much it was, `g` gives BULK bytes."""
    kind = await reader.read(1)  # nothing: somebody looked whether we listen
    if kind == b"s":
        total = 0
        while piece := await reader.read(1 << 18):
            total += len(piece)
        writer.write(b"%d" % total)
    elif kind == b"g":
        block = bytes(1 << 18)
        for _ in range(BULK // len(block)):
            writer.write(block)
            await writer.drain()
    else:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    writer.close()


def _origin(port: int) -> None:
    async def main() -> None:
        server = await asyncio.start_server(_echo, "127.0.0.1", port)
        async with server:
            await engine_loop.stop_requested().wait()

    engine_loop.run(main())


async def _small(port: int, connections: int) -> float:
    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"e")
        for _ in range(ROUNDS // connections):
            writer.write(MESSAGE)
            await reader.readexactly(len(MESSAGE))
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return ROUNDS


async def _up(port: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"s")
    block = bytes(1 << 18)
    for _ in range(BULK // len(block)):
        writer.write(block)
        await writer.drain()
    writer.write_eof()
    assert int(await reader.read()) == BULK
    writer.close()
    return BULK / (1 << 30)


async def _down(port: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(b"g")
    total = 0
    while piece := await reader.read(1 << 18):
        total += len(piece)
    assert total == BULK
    writer.close()
    return BULK / (1 << 30)


async def _fresh(port: int) -> float:
    async def one() -> None:
        for _ in range(FRESH // 16):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"e" + MESSAGE)
            await reader.readexactly(len(MESSAGE))
            writer.close()
            await writer.wait_closed()

    await asyncio.gather(*(one() for _ in range(16)))
    return FRESH


def _cpu(processes: list[multiprocessing.Process]) -> float:
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def main() -> None:
    from tests.io.certs import mesh_ca, spiffe

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "ca.crt").write_text(mesh_ca().root_pem)
        for who in "ab":
            key, leaf = mesh_ca().issue(spiffe(who))
            (directory / f"{who}.key").write_bytes(key)
            (directory / f"{who}.pem").write_text(leaf)
        origin, far, near = _free_port(), _free_port(), _free_port()
        context = multiprocessing.get_context("spawn")
        ends = [
            context.Process(target=_end, args=("server", far, ("127.0.0.1", origin), name)),
            context.Process(target=_end, args=("client", near, ("127.0.0.1", far), name)),
        ]
        every = [context.Process(target=_origin, args=(origin,)), *ends]
        for process in every:
            process.start()
        try:
            for port in (origin, far, near):
                _wait_for(port)
            runs: list[tuple[str, str, float, Callable[[int], object]]] = [
                ("small messages, 1 connection", "µs of CPU per round trip", 1e6, lambda port: _small(port, 1)),
                ("small messages, 32 connections", "µs of CPU per round trip", 1e6, lambda port: _small(port, 32)),
                ("bulk up", "s of CPU per GiB", 1, _up),
                ("bulk down", "s of CPU per GiB", 1, _down),
                ("new connections, 16 clients", "µs of CPU per connection", 1e6, _fresh),
            ]
            for title, unit, scale, load in runs:
                before, started = _cpu(ends), time.perf_counter()
                amount = engine_loop.run(load(near))
                cpu, wall = _cpu(ends) - before, time.perf_counter() - started
                print(f"{title:32} {cpu / amount * scale:8.2f} {unit:26} {amount / wall:10.1f} /s")
        finally:
            for process in every:
                process.terminate()
            for process in every:
                process.join()
        print(f"{'resident, largest of the children':32} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024} MB")


def _wait_for(port: int) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on {port}")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "end":
        _end(sys.argv[2], int(sys.argv[3]), (sys.argv[4], int(sys.argv[5])), sys.argv[6])
    else:
        main()
