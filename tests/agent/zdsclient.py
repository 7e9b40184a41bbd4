"""A tunnel's side of ZDS, blocking, in a thread: says hello, takes requests, acks them, and calls back for each pod."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mesh.wire.zds import MAX_MESSAGE, Add, Delete, Request, SnapshotSent, TunnelSession


def connect(path: str, timeout: float = 10.0) -> socket.socket:
    """Waits for the socket to be there, as a tunnel does."""
    deadline = time.monotonic() + timeout
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            sock.settimeout(timeout)
            return sock


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and its descriptors; (b"", []) at the end."""
    data, ancillary, _, _ = sock.recvmsg(MAX_MESSAGE, socket.CMSG_SPACE(4 * 8), socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, raw in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(raw[: len(raw) - len(raw) % descriptors.itemsize])
    return data, list(descriptors)


class ZdsClient:
    """`on_add(uid, fd)` owns the descriptor and returns an error text, empty for consent; `on_delete(uid)` is called also for pods that the
    snapshot did not name."""

    def __init__(self, path: str, on_add: Callable[[str, int], str], on_delete: Callable[[str], None]) -> None:
        self.requests: list[Request] = []
        self.snapshots = 0
        self._path = path
        self._on_add, self._on_delete = on_add, on_delete
        self._pods: set[str] = set()
        self._stopped = threading.Event()
        self._sock: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not Path(self._path).exists():
                time.sleep(0.02)
                continue
            with contextlib.suppress(OSError), connect(self._path, 1.0) as self._sock:
                self._sock.settimeout(None)
                self._talk(self._sock)
            time.sleep(0.02)

    def _talk(self, sock: socket.socket) -> None:
        session = TunnelSession()
        sock.send(session.hello())
        while True:
            data, descriptors = receive(sock)
            if not data:
                return
            request = session.receive(data, len(descriptors))
            self.requests.append(request)
            error = ""
            match request:
                case Add(uid, _):
                    error = self._on_add(uid, descriptors[0])
                    self._pods.add(uid)
                case Delete(uid):
                    self._pods.discard(uid)
                    self._on_delete(uid)
                case SnapshotSent():
                    for uid in self._pods - session.announced:
                        self._pods.discard(uid)
                        self._on_delete(uid)
                    self.snapshots += 1
            sock.send(session.ack(error))


def refuse_descriptor(fd: int) -> None:
    os.close(fd)
