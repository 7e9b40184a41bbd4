"""The live connections of this node: what each is, how it is counted and logged, and who may end it.

A `Connection` is one TCP connection of an app, seen by one tunnel: outbound (captured from a pod of ours), or inbound to one, over
HBONE or in plaintext. The three kinds are subclasses that walk it through its life (`outbound.py`, `inbound.py`, `plaintext.py`);
what they share is here:

    opened()                  it has its place in the registry, and counts as open
    finished(reason, detail)  it has ended, once: counted, logged, out of the registry
    abort(reason)             somebody else wants it ended: a policy change, a removed pod, the end of the drain

One that is refused before it is known what it would have been goes to `Registry.refused` and is only counted and logged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mesh.io.log import Log
from mesh.model import policy
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from mesh.model.workload import Service, SocketAddress, Workload
from mesh.wire.baggage import Baggage

if TYPE_CHECKING:
    from ztunnel.accesslog import AccessLog
    from ztunnel.metrics import Metrics, Series
    from ztunnel.pods import Pod

log = Log("tunnel")


class Connection:
    """One connection. `sent` and `received` are the relay's counters; which way they count is `client_sends`.

    original: where the client wanted to go, as it was addressed.
    destination: where it went at TCP's level: outbound the next hop, inbound the local end of what came in.
    target: where it goes on to: over HBONE the CONNECT authority; None where that is `destination`.
    claimed: what the peer's baggage says of itself; for telemetry only.
    """

    __slots__ = (
        "_started",
        "claimed",
        "destination",
        "destination_identity",
        "destination_workload",
        "ended",
        "established",
        "opened_as",
        "original",
        "pod",
        "received",
        "registry",
        "sent",
        "series",
        "service",
        "source",
        "source_identity",
        "source_workload",
        "taken_received",
        "taken_sent",
        "target",
    )

    inbound = False
    hbone = False
    client_sends = True
    """Whether `sent` counts from client to server; else `received` does."""

    def __init__(self, registry: Registry, pod: Pod, source: SocketAddress, destination: SocketAddress) -> None:
        self.registry = registry
        self.pod = pod
        self.source = source
        self.original = destination
        self.destination = destination
        self.target: SocketAddress | None = None
        self.source_workload: Workload | None = None
        self.destination_workload: Workload | None = None
        self.source_identity: Identity | None = None
        self.destination_identity: Identity | None = None
        self.service: Service | None = None
        self.claimed: Baggage | None = None
        self.sent = 0
        self.received = 0
        self.taken_sent = 0  # of those, already in the metrics
        self.taken_received = 0
        self.established = False
        self.ended = False
        self.series: Series | None = None
        self.opened_as: tuple[Identity | None, Identity | None] = (None, None)
        self._started = 0.0

    def __repr__(self) -> str:
        direction = "inbound" if self.inbound else "outbound"
        return f"<{direction} {self.source} → {self.destination} of {self.pod.info.namespace}/{self.pod.info.name}>"

    @property
    def mutual_tls(self) -> bool:
        return self.hbone

    @property
    def policy_input(self) -> policy.Connection | None:
        """What policies judge it by; None where they do not (outbound)."""
        return None

    def abort(self, reason: Reason) -> None:
        """End it as soon as can be; `finished` follows."""
        raise NotImplementedError

    def opened(self) -> None:
        self._started = self.registry.clock()
        self.registry.add(self)

    def finished(self, reason: Reason, detail: str = "") -> None:
        if not self.ended:
            self.ended = True
            self.registry.remove(self, reason, detail, self.registry.clock() - self._started)


class Registry:
    """All live connections, by pod. `limit` and `limit_per_pod` bound them; 0 is no bound."""

    def __init__(self, metrics: Metrics, access_log: AccessLog, clock: Callable[[], float], limit: int, limit_per_pod: int) -> None:
        self.metrics = metrics
        self.access_log = access_log
        self.clock = clock
        self.size = 0
        self.on_empty: Callable[[], None] = _ignore
        self._limit = limit
        self._limit_per_pod = limit_per_pod
        self._by_pod: dict[str, set[Connection]] = {}

    def __iter__(self) -> Iterator[Connection]:
        for connections in self._by_pod.values():
            yield from connections

    def of_pod(self, uid: str) -> list[Connection]:
        return list(self._by_pod.get(uid, ()))

    def full(self, uid: str) -> bool:
        """Whether one more connection of this pod must be refused (TOO_MANY_CONNECTIONS)."""
        if self._limit and self.size >= self._limit:
            return True
        return bool(self._limit_per_pod) and len(self._by_pod.get(uid, ())) >= self._limit_per_pod

    def add(self, connection: Connection) -> None:
        self._by_pod.setdefault(connection.pod.uid, set()).add(connection)
        self.size += 1
        self.metrics.opened(connection)

    def remove(self, connection: Connection, reason: Reason, detail: str, duration: float) -> None:
        uid = connection.pod.uid
        bucket = self._by_pod.get(uid)
        if bucket is None or connection not in bucket:
            return
        bucket.discard(connection)
        if not bucket:
            del self._by_pod[uid]
        self.size -= 1
        self.metrics.closed(connection, reason)
        self.access_log.complete(connection, reason, detail, duration)
        if not self.size:
            self.on_empty()

    def refused(self, inbound: bool, reason: Reason, detail: str, source: SocketAddress | None, destination: SocketAddress | None) -> None:
        """A connection that ended before it was known what it is."""
        self.metrics.refused(inbound, reason)
        self.access_log.refused(inbound, reason, detail, source, destination)

    def close_pod(self, uid: str, reason: Reason) -> None:
        for connection in self.of_pod(uid):
            connection.abort(reason)

    def close_all(self, reason: Reason) -> None:
        for connection in list(self):
            connection.abort(reason)

    def reevaluate(self, uid: str, judge: Callable[[policy.Connection], policy.Decision]) -> list[tuple[Connection, policy.Decision]]:
        """Judge a pod's live inbound connections anew, and end those that are denied now. Returns these."""
        denied = []
        known: dict[policy.Connection, policy.Decision] = {}
        for connection in self.of_pod(uid):
            question = connection.policy_input
            if question is None:
                continue
            decision = known.get(question)
            if decision is None:
                decision = known[question] = judge(question)
            if not decision.allowed:
                denied.append((connection, decision))
        for connection, _ in denied:
            try:
                connection.abort(Reason.POLICY_REVOKED)
            except Exception:
                # The others are denied too, and must not stay for the sake of one.
                log.exception("a bug keeps a denied connection from ending", connection=connection)
        return denied


def _ignore() -> None:
    pass
