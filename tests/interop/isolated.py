"""A network namespace with nothing in it but loopback, for programs that listen at fixed ports; and a way from there to a server outside.

[namespace] Envoy ─▶ 127.0.0.1:P  ──▶  Door  ──▶  [machine] 127.0.0.1:Q, the control plane

The namespace has no name: a process holds it, which dies with the thread that started it, so that nothing is left whatever becomes of the
test.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from mesh.io.netns import Namespace

SECONDS = 10.0
CHUNK = 64 << 10


@dataclass
class Isolated:
    """`inside` is the beginning of a command that runs in it."""

    namespace: Namespace
    inside: tuple[str, ...]

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> socket.socket:
        """Shared with whoever listens at the port on all addresses."""
        return self.namespace.run(lambda: socket.create_server((host, port), reuse_port=True, backlog=128))

    @contextmanager
    def silent(self, host: str, port: int = 53) -> Iterator[None]:
        """Nobody answers there, and nobody says that there is nobody."""
        subprocess.run([*self.inside, "ip", "address", "add", f"{host}/32", "dev", "lo"], check=True)
        with self.namespace.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.bind((host, port))
            yield

    def free_ports(self, count: int) -> list[int]:
        with ExitStack() as stack:
            return [int(stack.enter_context(self.listen()).getsockname()[1]) for _ in range(count)]


@contextmanager
def isolated() -> Iterator[Isolated]:
    outside = os.readlink("/proc/thread-self/ns/net")
    command = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", "--", "sleep", "infinity"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as holder:
        try:
            path = f"/proc/{holder.pid}/ns/net"
            deadline = time.monotonic() + SECONDS
            while os.readlink(path) == outside:
                assert holder.poll() is None, "no namespace: this needs root"
                assert time.monotonic() < deadline
                time.sleep(0.005)
            inside = ("nsenter", f"--net={path}", "--")
            subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
            with Namespace.open(path) as namespace:
                yield Isolated(namespace, inside)
        finally:
            holder.kill()


@dataclass
class Door:
    """`cut` ends the connections that there are; while it is `shut`, new ones are ended as well."""

    target: tuple[str, int]
    listener: socket.socket
    shut: bool = False
    pairs: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def serve(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return  # closed
            with self.lock:
                if self.shut:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(self.target, SECONDS)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self.pairs.append((near, far))
            threading.Thread(target=_pass_on, args=(near, far), daemon=True).start()

    def cut(self) -> None:
        with self.lock:
            pairs, self.pairs = self.pairs, []
            for pair in pairs:
                _end(*pair)


def _pass_on(near: socket.socket, far: socket.socket) -> None:
    other = threading.Thread(target=_pump, args=(far, near), daemon=True)
    other.start()
    _pump(near, far)
    other.join()
    near.close()
    far.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    _end(source, target)


def _end(*socks: socket.socket) -> None:
    for sock in socks:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def door(place: Isolated, port: int) -> Iterator[Door]:
    """From the namespace to a port of the machine's loopback."""
    made = Door(("127.0.0.1", port), place.listen())
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        _end(made.listener)
        thread.join(SECONDS)
        made.listener.close()
        made.cut()
