"""The agent's socket: which pods of this node there are, and their network namespaces. The protocol is `mesh/wire/zds.py`.

We dial, the agent sends one request at a time, each is acted upon and acked at once (an ack with an error is a refusal; the pod stays
pending and is tried again here). Pods stay as they are while the agent is away: its restart is not theirs. After a reconnect the
snapshot says which are left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from mesh.io.log import Log
from mesh.io.sockets import wait_ready
from mesh.model.errors import PeerError
from mesh.model.reasons import Reason
from mesh.wire.xds import Backoff
from mesh.wire.zds import MAX_MESSAGE, Add, Delete, Keep, SnapshotSent, TunnelSession
from ztunnel.metrics import Metrics
from ztunnel.pods import Pods

log = Log("zds")

MAX_FDS = 4  # one is expected; more are closed and end the session


class ZdsClient:
    """Keeps `pods` true until cancelled. `mark` gives the socket mark; it is asked at each connect."""

    def __init__(self, path: Path, pods: Pods, metrics: Metrics, mark: Callable[[], int]) -> None:
        self.synced = False
        self.connected = False
        self.last_error = ""
        self._path = path
        self._pods = pods
        self._metrics = metrics
        self._mark = mark
        self._backoff = Backoff()

    @property
    def pending(self) -> list[str]:
        return [] if self.synced else [f"zds snapshot ({self.last_error or 'the agent is silent'})"]

    async def run(self) -> None:
        while True:
            try:
                await self._session()
            except (OSError, ValueError, PeerError) as error:
                self.last_error = str(error)
            except Exception as error:
                # A bug in one pod's case must not keep all others out of the mesh: the next session begins with a snapshot.
                log.exception("a bug ends one session")
                self.last_error = f"{Reason.INTERNAL.word}: {error!r}"
            self.connected = False
            self._metrics.zds_connected.set(0)
            delay = self._backoff.fail()
            log.warning("agent disconnected", path=self._path, error=self.last_error, retry_in=f"{delay:g}s")
            await asyncio.sleep(delay)

    async def _session(self) -> None:
        """One connection, until it ends. Raises OSError, ValueError (no usable mark), PeerError."""
        mark = self._mark()
        session = TunnelSession()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
            # A full backlog of a Unix socket shows as EAGAIN, not as a connect under way: try again later.
            sock.connect(str(self._path))
            sock.send(session.hello())
            log.info("agent connected", path=self._path)
            self.connected = True
            self._metrics.zds_connected.set(1)
            while True:
                data, fds = await _receive(sock)
                if not data:
                    raise PeerError(Reason.ZDS_PROTOCOL, "the agent closed the connection")
                try:
                    error = self._handle(session, data, fds, mark)
                finally:
                    for fd in fds:  # what was taken over is no longer in the list
                        os.close(fd)
                await _send(sock, session.ack(error))
                self._backoff.succeed()

    def _handle(self, session: TunnelSession, data: bytes, fds: list[int], mark: int) -> str:
        """Act on one request. Returns the error of its ack. Takes the descriptors that it keeps out of `fds`."""
        request = session.receive(data, len(fds))
        log.debug("request", request=request)
        match request:
            case Add(uid, info):
                return self._pods.add(uid, info, fds.pop(), mark)
            case Delete(uid):
                self._pods.delete(uid)
            case Keep(uid):
                if uid not in self._pods.pods:
                    return "not known here: it must be added"
            case SnapshotSent():
                self._pods.keep_only(session.announced)
                self.synced = True
        return ""


def read_mark(path: Path) -> int:
    """The socket mark that the agent has drawn: `0x........` and a newline. Raises OSError or ValueError."""
    text = path.read_text("ascii").strip()
    mark = int(text, 16)
    if not 0 < mark < 1 << 32:
        raise ValueError(f"{path}: {text!r} is no socket mark")
    return mark


async def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and its descriptors; no data at the end of the connection."""
    while True:
        try:
            data, fds, flags, _ = socket.recv_fds(sock, MAX_MESSAGE, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            await wait_ready(sock)
            continue
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            _close(fds)
            raise PeerError(Reason.ZDS_PROTOCOL, "a packet that is too long, or with too many descriptors")
        if not data:
            _close(fds)
            return data, []
        return data, list(fds)


async def _send(sock: socket.socket, data: bytes) -> None:
    while True:
        try:
            sock.send(data)
            return
        except BlockingIOError:
            await wait_ready(sock, write=True)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
