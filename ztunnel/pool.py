"""The pool of tunnels: it decides, at once and without waiting, who gets which connection; whoever asked then acts.

    answer = pool.check_out(key, waiter)
      Use(tunnel)    open a stream on it now
      Wait(dials)    `waiter` is kept; start `dials` new connections for the key (0: enough are being made already)
      Refuse(reason) the bound of connections is reached
    pool.dialled(key, tunnel, now) -> the waiters that it serves, to be told       a dial came through
    pool.failed(key) -> the waiters that fail with it                              a dial did not
    pool.stream_ended(tunnel, now); pool.lost(tunnel)

Rules. Single flight: concurrent misses on a key share the connections being made, one per `streams_per_tunnel` waiters. A failed
dial fails the waiters that had counted on it: nothing is tried twice here. A tunnel that cannot open now (its peer said GOAWAY or allows
no more streams, or it is dead) is passed over. A tunnel without streams is released `idle` seconds after its last use, and earlier
where the bound of connections is met. Released means: no new streams, and it closes itself with its last one (`Tunnel.drain`).

No I/O, no clock: `T` is any object with the two attributes of `Pooled`, so that the tests' tunnels are plain records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress


class Pooled(Protocol):
    """What the pool asks of a tunnel."""

    @property
    def can_open(self) -> bool: ...
    @property
    def open_streams(self) -> int: ...


class Key(NamedTuple):
    """Who may share a tunnel: streams of one pod, with one identity, to one place that must prove to be one of `accepted`."""

    source: Identity
    pod: str
    accepted: frozenset[Identity]
    hop: SocketAddress

    def __str__(self) -> str:
        return f"{self.pod}→{self.hop}"


T = TypeVar("T", bound=Pooled)
W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Use(Generic[T]):
    tunnel: T


@dataclass(frozen=True, slots=True)
class Wait:
    dials: int


@dataclass(frozen=True, slots=True)
class Refuse:
    reason: Reason


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """`tunnels` and `waiters` bound the whole pool; `idle` is in seconds."""

    tunnels: int = 4096
    streams_per_tunnel: int = 100
    waiters: int = 8192
    idle: float = 300.0


class _Bucket(Generic[T, W]):
    """All that the pool has for one key."""

    __slots__ = ("dialling", "tunnels", "waiters")

    def __init__(self) -> None:
        self.tunnels: list[T] = []
        self.dialling = 0
        self.waiters: list[W] = []


class Pool(Generic[T, W]):
    """`W` is what waits for a tunnel. `release` is called with each tunnel that is to take no more streams."""

    def __init__(self, limits: PoolLimits, release: Callable[[T], None]) -> None:
        self._limits = limits
        self._release = release
        self._buckets: dict[Key, _Bucket[T, W]] = {}
        self._keys: dict[int, tuple[Key, T]] = {}  # by id: every tunnel that is pooled
        self._leaving: dict[int, T] = {}  # released and not yet lost
        self._idle_since: dict[int, float] = {}  # by id, oldest first
        self._waiting = 0

    def __repr__(self) -> str:
        parts = []
        for key, bucket in self._buckets.items():
            tunnels = ", ".join(f"{tunnel.open_streams}{'' if tunnel.can_open else '!'}" for tunnel in bucket.tunnels)
            dialling = f" +{bucket.dialling} dialling" if bucket.dialling else ""
            waiters = f" {len(bucket.waiters)} waiting" if bucket.waiters else ""
            parts.append(f"{key} [{tunnels}]{dialling}{waiters}")
        leaving = f"; leaving [{', '.join(str(tunnel.open_streams) for tunnel in self._leaving.values())}]" if self._leaving else ""
        return f"<Pool {'; '.join(parts) or 'empty'}{leaving}>"

    @property
    def size(self) -> int:
        """Connections that exist or are being made."""
        return len(self._keys) + len(self._leaving) + sum(bucket.dialling for bucket in self._buckets.values())

    @property
    def waiting(self) -> int:
        return self._waiting

    def tunnels(self) -> list[T]:
        return [*(tunnel for _, tunnel in self._keys.values()), *self._leaving.values()]

    def check_out(self, key: Key, waiter: W) -> Use[T] | Wait | Refuse:
        bucket = self._buckets.get(key)
        if bucket is not None:
            found = self._pick(bucket)
            if found is not None:
                self._idle_since.pop(id(found), None)
                return Use(found)
        if self._waiting >= self._limits.waiters:
            return Refuse(Reason.TOO_MANY_CONNECTIONS)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket()
        bucket.waiters.append(waiter)
        self._waiting += 1
        dials = self._start_dials(bucket)
        if not dials and not bucket.dialling:
            bucket.waiters.pop()
            self._waiting -= 1
            self._tidy(key, bucket)
            return Refuse(Reason.TOO_MANY_CONNECTIONS)
        return Wait(dials)

    def dialled(self, key: Key, tunnel: T, now: float) -> list[W]:
        """A dial came through. The waiters that `tunnel` serves, in the order in which they came; each opens a stream at once.

        One for which the peer allows no stream after all checks out again. So does one for which no dial is under way any more, since
        the bound of connections allowed none: it must not wait for what will not come.
        """
        bucket = self._buckets.setdefault(key, _Bucket())
        bucket.dialling = max(0, bucket.dialling - 1)
        bucket.tunnels.append(tunnel)
        self._keys[id(tunnel)] = (key, tunnel)
        served = bucket.waiters[: self._limits.streams_per_tunnel] if bucket.dialling else list(bucket.waiters)
        del bucket.waiters[: len(served)]
        self._waiting -= len(served)
        if not served:
            self._idle_since[id(tunnel)] = now
        return served

    def failed(self, key: Key) -> list[W]:
        """A dial did not come through. The waiters that fail with it: all that the remaining dials cannot serve."""
        bucket = self._buckets.get(key)
        if bucket is None:
            return []
        bucket.dialling = max(0, bucket.dialling - 1)
        kept = bucket.dialling * self._limits.streams_per_tunnel
        lost, bucket.waiters = bucket.waiters[kept:], bucket.waiters[:kept]
        self._waiting -= len(lost)
        self._tidy(key, bucket)
        return lost

    def cancelled(self, key: Key, waiter: W) -> bool:
        """A waiter gave up. False where it was served or failed already."""
        bucket = self._buckets.get(key)
        if bucket is None or waiter not in bucket.waiters:
            return False
        bucket.waiters.remove(waiter)
        self._waiting -= 1
        return True

    def stream_ended(self, tunnel: T, now: float) -> None:
        """A stream is over: the tunnel may now be idle."""
        if not tunnel.open_streams and id(tunnel) in self._keys:
            self._idle_since.pop(id(tunnel), None)  # so that the order stays that of the times
            self._idle_since[id(tunnel)] = now

    def lost(self, tunnel: T) -> None:
        """The connection is closed, for whatever reason. Safe to call for one that the pool does not know."""
        self._leaving.pop(id(tunnel), None)
        self._remove(tunnel)

    def expire(self, now: float) -> None:
        """Release the tunnels that have been idle for long enough."""
        for number in [number for number, since in self._idle_since.items() if now - since >= self._limits.idle]:
            self._leave(self._keys[number][1])

    def next_deadline(self) -> float | None:
        """When `expire` has something to do."""
        for since in self._idle_since.values():
            return since + self._limits.idle
        return None

    def forget(self, pods: Iterable[str]) -> list[W]:
        """Pods are gone: their tunnels are released; the waiters that they had."""
        gone = set(pods)
        waiters: list[W] = []
        for key, bucket in list(self._buckets.items()):
            if key.pod in gone:
                waiters += bucket.waiters
                self._waiting -= len(bucket.waiters)
                bucket.waiters = []
                for tunnel in list(bucket.tunnels):
                    self._leave(tunnel)
                self._tidy(key, bucket)
        return waiters

    def retire(self, source: Identity) -> None:
        """No new streams on tunnels made with an old certificate of `source`; those that run go on."""
        for tunnel in [tunnel for key, tunnel in self._keys.values() if key.source == source]:
            self._leave(tunnel)

    def _pick(self, bucket: _Bucket[T, W]) -> T | None:
        """The first tunnel that can take a stream now."""
        limit = self._limits.streams_per_tunnel
        for tunnel in bucket.tunnels:
            if tunnel.open_streams < limit and tunnel.can_open:
                return tunnel
        return None

    def _start_dials(self, bucket: _Bucket[T, W]) -> int:
        """How many dials the waiters need beyond those under way, as far as the bound of connections allows."""
        per = self._limits.streams_per_tunnel
        dials = 0
        while bucket.dialling * per < len(bucket.waiters):
            if self.size >= self._limits.tunnels and not self._make_room():
                break
            bucket.dialling += 1
            dials += 1
        return dials

    def _make_room(self) -> bool:
        """Release the tunnel that has been idle for longest. It closes at once, and so counts no more."""
        for number in self._idle_since:
            self._leave(self._keys[number][1])
            return True
        return False

    def _leave(self, tunnel: T) -> None:
        self._remove(tunnel)
        self._leaving[id(tunnel)] = tunnel
        self._release(tunnel)

    def _remove(self, tunnel: T) -> None:
        entry = self._keys.pop(id(tunnel), None)
        self._idle_since.pop(id(tunnel), None)
        if entry is not None:
            bucket = self._buckets[entry[0]]
            bucket.tunnels.remove(tunnel)
            self._tidy(entry[0], bucket)

    def _tidy(self, key: Key, bucket: _Bucket[T, W]) -> None:
        if not (bucket.tunnels or bucket.dialling or bucket.waiters):
            self._buckets.pop(key, None)
