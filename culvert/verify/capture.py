"""Packet sockets on the nodes' uplinks: every frame that crosses the wire, or a plain statement that some were missed."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from culvert.playground.layout import netns_path
from culvert.verify.world import Node
from mesh.io.netns import Namespace

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 64 << 20  # bytes in the kernel, for each uplink
FRAME = 1 << 18  # a frame of a virtual link may be as large as a segment that was never cut: 64 KiB and headers
MAX_BYTES = 512 << 20  # kept in all; past it the capture says that it is not whole
TICK = 0.1


@dataclass(slots=True)
class Captured:
    """What one uplink showed. `lost` counts frames that the kernel dropped or that we had no room for."""

    node: str
    frames: list[bytes] = field(default_factory=list)
    lost: int = 0


class Capture:
    """Captures from `with` to its end; `results` are complete after it."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.results: list[Captured] = []
        self._sockets: list[socket.socket] = []
        self._size = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        for node in nodes:
            with Namespace.open(str(netns_path(node.netns))) as namespace:
                self._sockets.append(namespace.run(lambda node=node: _open(node.uplink)))  # type: ignore[misc]
            self.results.append(Captured(node.name))

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for sock, result in zip(self._sockets, self.results, strict=True):
            _, dropped = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            result.lost += dropped
            sock.close()

    def _run(self) -> None:
        by_socket = dict(zip(self._sockets, self.results, strict=True))
        while True:
            stopping = self._stop.is_set()
            ready, _, _ = select.select(self._sockets, [], [], 0 if stopping else TICK)
            if stopping and not ready:
                return
            for sock in ready:
                self._take(sock, by_socket[sock])

    def _take(self, sock: socket.socket, result: Captured) -> None:
        for _ in range(1000):
            try:
                frame = sock.recv(FRAME, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if self._size + len(frame) > MAX_BYTES:
                result.lost += 1
            else:
                self._size += len(frame)
                result.frames.append(frame)


def _open(link: str) -> socket.socket:
    # Protocol 0 until it is bound: a packet socket else takes every link's frames from its first moment.
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    sock.bind((link, ETH_P_ALL))
    return sock
