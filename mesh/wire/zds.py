"""ZDS: how the node agent tells the node tunnel which pods there are, and hands it their network namespaces.

The transport is a Unix SEQPACKET socket on which the agent listens: one packet is one protobuf message (`mesh/pb/zds.proto`), and an
`add` carries exactly one descriptor (SCM_RIGHTS), the pod's network namespace. Everything here is bytes and frozen types; the
sockets are `agent/zds_server.py` and the tunnel's client.

    tunnel                             agent
      hello ------------------------->            within HELLO_TIMEOUT
            <-------------------------  add | keep | del     the snapshot, one message in flight
      ack   ------------------------->            within ACK_TIMEOUT; an ack with an error is a refusal, and the session goes on
            <-------------------------  snapshot_sent        the tunnel drops the pods that were not named
      ack   ------------------------->
            <-------------------------  add | del            from now on, one message in flight
      ack   ------------------------->

`keep` says "you have this pod, and I cannot send its descriptor now: do not drop it", so it is legal before the snapshot only.
PeerError (ZDS_PROTOCOL, ZDS_TIMEOUT) is the only exception that the other side can cause; after it the connection is closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from mesh.model.errors import BugError, PeerError
from mesh.model.reasons import Reason
from mesh.pb import zds_pb2

VERSION = 1
MAX_MESSAGE = 1024  # bytes; the receive buffer of Istio's tunnel and agent
MAX_ERROR = 900  # bytes of an ack's error text, so that the ack fits into MAX_MESSAGE
HELLO_TIMEOUT = 5.0  # seconds from accept to hello
ACK_TIMEOUT = 5.0  # seconds from a request to its ack


@dataclass(frozen=True, slots=True)
class Hello:
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class WorkloadInfo:
    """What the tunnel finds the pod's workload in xDS by."""

    name: str
    namespace: str
    service_account: str


@dataclass(frozen=True, slots=True)
class Add:
    """A pod of this node is in the mesh. `uid` is the Kubernetes pod UID. One descriptor travels beside it."""

    uid: str
    info: WorkloadInfo


@dataclass(frozen=True, slots=True)
class Keep:
    """Do not drop this pod at the end of the snapshot."""

    uid: str


@dataclass(frozen=True, slots=True)
class Delete:
    """The pod left the mesh or was deleted: stop its proxy at once. Its namespace may be gone already."""

    uid: str


@dataclass(frozen=True, slots=True)
class SnapshotSent:
    """All pods of this node have been named."""


@dataclass(frozen=True, slots=True)
class Ack:
    """An empty error is consent."""

    error: str = ""


Request = Add | Keep | Delete | SnapshotSent


# Bytes


def encode_hello(hello: Hello) -> bytes:
    return zds_pb2.ZdsHello(version=zds_pb2.Version.Name(hello.version)).SerializeToString()


def decode_hello(data: bytes) -> Hello:
    """Raises PeerError for anything but version 1."""
    message = _parse(zds_pb2.ZdsHello(), data)
    if message.version != VERSION:
        raise _protocol(f"hello of version {message.version}; only {VERSION} is known")
    return Hello(message.version)


def encode_request(request: Request) -> bytes:
    """Raises BugError where the message would not fit into the peer's receive buffer."""
    message = zds_pb2.WorkloadRequest()
    match request:
        case Add(uid, info):
            message.add.uid = uid
            message.add.workload_info.name = info.name
            message.add.workload_info.namespace = info.namespace
            message.add.workload_info.service_account = info.service_account
        case Keep(uid):
            message.keep.uid = uid
        case Delete(uid):
            getattr(message, "del").uid = uid
        case SnapshotSent():
            message.snapshot_sent.SetInParent()
    data = message.SerializeToString()
    if len(data) > MAX_MESSAGE:
        raise BugError(f"a ZDS request of {len(data)} bytes; the peer takes {MAX_MESSAGE}")
    return data


def decode_request(data: bytes) -> Request:
    """Raises PeerError: no known payload, no uid, an `add` without workload_info."""
    message = _parse(zds_pb2.WorkloadRequest(), data)
    match message.WhichOneof("payload"):
        case "add":
            if not message.add.HasField("workload_info"):
                raise _protocol("an add without workload_info")
            info = message.add.workload_info
            return Add(_uid(message.add.uid), WorkloadInfo(info.name, info.namespace, info.service_account))
        case "keep":
            return Keep(_uid(message.keep.uid))
        case "del":
            return Delete(_uid(getattr(message, "del").uid))
        case "snapshot_sent":
            return SnapshotSent()
        case _:
            raise _protocol("a request without a known payload")


def encode_ack(ack: Ack) -> bytes:
    """An error text that is too long is cut."""
    message = zds_pb2.WorkloadResponse()
    message.ack.error = ack.error.encode("utf-8", "replace")[:MAX_ERROR].decode("utf-8", "ignore")
    message.ack.SetInParent()
    return message.SerializeToString()


def decode_ack(data: bytes) -> Ack:
    message = _parse(zds_pb2.WorkloadResponse(), data)
    if message.WhichOneof("payload") != "ack":
        raise _protocol("a response that is not an ack")
    return Ack(message.ack.error)


# The agent's side


class Phase(Enum):
    """HELLO: nothing heard yet. SNAPSHOT: requests before snapshot_sent is acked. LIVE: from then on."""

    HELLO = "hello"
    SNAPSHOT = "snapshot"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class Connected:
    """The tunnel said hello: give the session its snapshot (`AgentSession.snapshot`)."""


@dataclass(frozen=True, slots=True)
class Acked:
    """The tunnel answered `request`; a non-empty `error` is its refusal (it goes on trying by itself)."""

    request: Request
    error: str


AgentEvent = Connected | Acked


class AgentSession:
    """One connected tunnel, seen by the agent. Holds no descriptors: whoever sends an `add` looks up its pod's by the uid.

    The queue never holds two requests for one pod (a later one takes the place of an earlier that was not sent), so it is bounded by the
    number of pods.
    """

    def __init__(self, now: float, hello_timeout: float = HELLO_TIMEOUT, ack_timeout: float = ACK_TIMEOUT) -> None:
        self.phase = Phase.HELLO
        self.in_flight: Request | None = None
        self._queue: dict[str, Request] = {}  # by uid; "" is snapshot_sent
        self._ack_timeout = ack_timeout
        self._deadline: float | None = now + hello_timeout

    def __repr__(self) -> str:
        return f"<AgentSession {self.phase.value} queued={len(self._queue)} in_flight={self.in_flight}>"

    @property
    def queued(self) -> int:
        """How many requests wait, the one in flight not counted."""
        return len(self._queue)

    def is_queued(self, uid: str) -> bool:
        """Whether a request for this pod waits, the one in flight not counted."""
        return uid in self._queue

    def receive(self, data: bytes) -> AgentEvent:
        """One packet from the tunnel. Raises PeerError."""
        if self.phase is Phase.HELLO:
            decode_hello(data)
            self.phase = Phase.SNAPSHOT
            self._deadline = None
            return Connected()
        ack = decode_ack(data)
        request = self.in_flight
        if request is None:
            raise _protocol("an ack that answers nothing")
        self.in_flight = self._deadline = None
        if isinstance(request, SnapshotSent):
            self.phase = Phase.LIVE
        return Acked(request, ack.error)

    def snapshot(self, requests: Iterable[Add | Keep]) -> None:
        """Queue everything that the tunnel must know, and the end of the snapshot."""
        if self.phase is not Phase.SNAPSHOT or self._queue or self.in_flight is not None:
            raise BugError("a ZDS snapshot goes out once, right after hello")
        for request in requests:
            self._queue[request.uid] = request
        self._queue[""] = SnapshotSent()

    def submit(self, request: Add | Delete) -> None:
        """Queue a change. Goes out after what is queued, unless an unsent request for the same pod is there to be replaced."""
        if self.phase is Phase.HELLO:
            raise BugError("a ZDS change before hello")
        self._queue[request.uid] = request  # an entry that is replaced keeps its place

    def next_request(self, now: float) -> Request | None:
        """What to send now, or None while an answer is awaited or there is nothing. Starts the clock for its ack."""
        if self.phase is Phase.HELLO or self.in_flight is not None or not self._queue:
            return None
        key = next(iter(self._queue))
        self.in_flight = self._queue.pop(key)
        self._deadline = now + self._ack_timeout
        return self.in_flight

    def next_deadline(self) -> float | None:
        return self._deadline

    def on_timer(self, now: float) -> None:
        """Raises PeerError (ZDS_TIMEOUT) when hello or an ack is late."""
        if self._deadline is not None and now >= self._deadline:
            awaited = "hello" if self.phase is Phase.HELLO else f"ack for {self.in_flight}"
            raise PeerError(Reason.ZDS_TIMEOUT, f"no {awaited} in time")


# The tunnel's side


class TunnelSession:
    """The connection to the agent, seen by the tunnel: send `hello()`, then for every packet `receive`, act, and send what `ack` gives."""

    def __init__(self) -> None:
        self.snapshot_received = False
        self.pending: Request | None = None
        self._announced: set[str] = set()

    def __repr__(self) -> str:
        return f"<TunnelSession snapshot={self.snapshot_received} pods={len(self._announced)} pending={self.pending}>"

    @property
    def announced(self) -> frozenset[str]:
        """The uids named on this connection and not deleted since: at snapshot_sent, all others are to be dropped."""
        return frozenset(self._announced)

    def hello(self) -> bytes:
        return encode_hello(Hello())

    def receive(self, data: bytes, descriptors: int) -> Request:
        """One packet from the agent, and how many descriptors came with it (on PeerError the caller closes them all)."""
        if self.pending is not None:
            raise _protocol("a request before the ack of the last one")
        request = decode_request(data)
        expected = 1 if isinstance(request, Add) else 0
        if descriptors != expected:
            raise _protocol(f"{type(request).__name__} with {descriptors} descriptors instead of {expected}")
        match request:
            case Add(uid, _):
                self._announced.add(uid)
            case Keep(uid):
                if self.snapshot_received:
                    raise _protocol("keep after the snapshot")
                self._announced.add(uid)
            case Delete(uid):
                self._announced.discard(uid)
            case SnapshotSent():
                if self.snapshot_received:
                    raise _protocol("a second snapshot")
                self.snapshot_received = True
        self.pending = request
        return request

    def ack(self, error: str = "") -> bytes:
        """The answer to the pending request; with an error text, a refusal."""
        if self.pending is None:
            raise BugError("a ZDS ack that answers nothing")
        self.pending = None
        return encode_ack(Ack(error))


M = TypeVar("M", bound=Message)


def _parse(message: M, data: bytes) -> M:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise _protocol(f"{type(message).__name__} cannot be read: {error}") from error
    return message


def _uid(uid: str) -> str:
    if not uid:
        raise _protocol("a request without uid")
    return uid


def _protocol(detail: str) -> PeerError:
    return PeerError(Reason.ZDS_PROTOCOL, detail)
