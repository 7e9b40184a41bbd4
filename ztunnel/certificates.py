"""One certificate per identity of this node's pods: fetched ahead, renewed at half of its life, forgotten with its last pod.

`Schedule` is the whole policy, without a clock or I/O: it says which identities to fetch now and when to look again. `Certificates` drives
it on the event loop. Times are seconds since the epoch, since that is what a certificate's dates are.

- A certificate is fetched once for all that want it, at most `PARALLEL` at a time; identities that have none come before renewals.
- Renewal at not_before + (not_after - not_before) / 2. Tunnels that run keep the certificate they began with; new ones use the new.
- A CA that announces what certificates must be from (`announce`, see `trust`) has those from anything else renewed at once. An answer may
  still be from before, of a replica that does not know yet: it is used, and asked for again as after a failure.
- A failed fetch is tried again after 1 s, doubling to 150 s; meanwhile the old certificate serves as long as it is valid.
- An expired certificate is not used: connections fail with NO_CERTIFICATE.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

from mesh.io.log import Log
from mesh.io.tls import Credentials
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.reasons import Reason

log = Log("ca")

PARALLEL = 8
RETRY_FIRST, RETRY_LIMIT = 1.0, 150.0  # seconds
RENEW_SOONEST = 1.0  # seconds after a fetch: a certificate that is born half-expired must not make us spin


class State(Enum):
    """The names are those of Istio's config dump."""

    INITIALIZING = "Initializing"
    AVAILABLE = "Available"
    UNAVAILABLE = "Unavailable"


@dataclass(slots=True)
class Entry:
    """What is known of one identity. `due` is when to fetch next; None while a fetch is under way."""

    identity: Identity
    due: float | None
    users: set[str] = field(default_factory=set)
    credentials: Credentials | None = None
    retry: float = RETRY_FIRST
    error: str = ""

    def state(self, now: float) -> State:
        if self.credentials is not None and now < self.credentials.not_after:
            return State.AVAILABLE
        return State.UNAVAILABLE if self.error or self.credentials else State.INITIALIZING


class Schedule:
    """Which certificates are wanted, held, and due. Pure: every method that needs the time is given it."""

    def __init__(self, parallel: int = PARALLEL) -> None:
        self.entries: dict[Identity, Entry] = {}
        self.trust = ""
        """What certificates must be from; "" while nobody says."""
        self._parallel = parallel
        self._fetching: set[Identity] = set()  # also those that nobody wants any more

    def __repr__(self) -> str:
        held = ", ".join(f"{identity.principal} due={entry.due}" for identity, entry in self.entries.items())
        return f"<Schedule [{held}] fetching={len(self._fetching)}>"

    def want(self, identity: Identity, user: str, now: float) -> bool:
        """`user` (a pod's uid) needs the identity from now on. True where that is news of an identity, so that a fetch may be due."""
        entry = self.entries.get(identity)
        if entry is not None:
            entry.users.add(user)
            return False
        self.entries[identity] = Entry(identity, None if identity in self._fetching else now, {user})
        return True

    def release(self, user: str, keep: Identity | None = None) -> list[Identity]:
        """`user` needs nothing any more, except `keep`. The identities that were forgotten with it."""
        gone = []
        for identity, entry in list(self.entries.items()):
            if identity != keep and user in entry.users:
                entry.users.discard(user)
                if not entry.users:
                    del self.entries[identity]
                    gone.append(identity)
        return gone

    def current(self, identity: Identity, now: float) -> Credentials | None:
        """The certificate to use now, if there is one that is valid."""
        entry = self.entries.get(identity)
        if entry is None or entry.credentials is None or now >= entry.credentials.not_after:
            return None
        return entry.credentials

    def announce(self, trust: str, now: float) -> None:
        """Certificates must be from `trust` from now on; "": nobody says any more. Those that are not are due."""
        self.trust = trust
        for entry in self.entries.values():
            if self._stale(entry) and entry.due is not None:
                entry.due = min(entry.due, now)
                entry.retry = RETRY_FIRST

    def held(self) -> tuple[int, int]:
        """How many certificates there are, and how many are, or may turn out to be, from something else than what was announced.

        A fetch under way counts as such: it may have been answered before the announcement.
        """
        certificates = sum(entry.credentials is not None for entry in self.entries.values())
        behind = {identity for identity, entry in self.entries.items() if self._stale(entry)}
        return certificates, len(behind | self._fetching)

    def _stale(self, entry: Entry) -> bool:
        return bool(self.trust) and entry.credentials is not None and entry.credentials.trust != self.trust

    def start_due(self, now: float) -> list[Identity]:
        """The identities to fetch now; each counts as under way until `fetched` or `failed`."""
        waiting = [entry for entry in self.entries.values() if entry.due is not None and entry.due <= now]
        waiting.sort(key=lambda entry: (entry.credentials is not None, entry.due))
        started = [entry.identity for entry in waiting[: max(0, self._parallel - len(self._fetching))]]
        for identity in started:
            self.entries[identity].due = None
            self._fetching.add(identity)
        return started

    def fetched(self, identity: Identity, credentials: Credentials, now: float) -> bool:
        """A fetch came through. False where nobody wants it any more."""
        self._fetching.discard(identity)
        entry = self.entries.get(identity)
        if entry is None:
            return False
        half = credentials.not_before + (credentials.not_after - credentials.not_before) / 2
        entry.credentials = credentials
        entry.error = ""
        if self._stale(entry):
            entry.due = max(min(half, now + entry.retry), now + RENEW_SOONEST)
            entry.retry = min(entry.retry * 2, RETRY_LIMIT)
        else:
            entry.due = max(half, now + RENEW_SOONEST)
            entry.retry = RETRY_FIRST
        return True

    def failed(self, identity: Identity, error: str, now: float) -> float | None:
        """A fetch did not come through: the delay until the next, or None where nobody wants it any more."""
        self._fetching.discard(identity)
        entry = self.entries.get(identity)
        if entry is None:
            return None
        delay = entry.retry
        entry.due = now + delay
        entry.retry = min(delay * 2, RETRY_LIMIT)
        entry.error = error
        return delay

    def abandon(self, identity: Identity, now: float) -> None:
        """A fetch ended without an outcome (it was cancelled, or a bug ended it). Nothing, where it had one."""
        if identity in self._fetching:
            self.failed(identity, "the fetch ended without an outcome", now)

    def next_due(self) -> float | None:
        """When `start_due` has something to say, unless all fetches allowed are under way."""
        if len(self._fetching) >= self._parallel:
            return None
        return min((entry.due for entry in self.entries.values() if entry.due is not None), default=None)


Fetch = Callable[[Identity], Awaitable[Credentials]]


class Certificates:
    """The schedule, driven. `fetch` raises PeerError (or OSError) where it fails; `renewed` is told of each replaced certificate."""

    def __init__(
        self, fetch: Fetch, renewed: Callable[[Identity], None] = lambda identity: None, clock: Callable[[], float] = time.time
    ) -> None:
        self.schedule = Schedule()
        self._fetch = fetch
        self._renewed = renewed
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: dict[Identity, list[asyncio.Future[None]]] = {}
        self._closed = False
        self.changed: Callable[[], None] = _ignore
        """Called when what `schedule.held` says may be another."""

    def want(self, identity: Identity, user: str) -> None:
        if self.schedule.want(identity, user, self._clock()):
            self._advance()

    def release(self, user: str, keep: Identity | None = None) -> None:
        for identity in self.schedule.release(user, keep):
            log.info("certificate forgotten: no pod of this node uses it", identity=identity)
            self._wake(identity)
        self.changed()

    def announce(self, trust: str) -> None:
        """As `Schedule.announce`, and begin."""
        self.schedule.announce(trust, self._clock())
        self._advance()
        self.changed()

    def current(self, identity: Identity) -> Credentials | None:
        return self.schedule.current(identity, self._clock())

    async def obtain(self, identity: Identity, patience: float) -> Credentials:
        """The current certificate; where the first fetch is under way, wait `patience` s for it. Raises PeerError(NO_CERTIFICATE)."""
        credentials = self.current(identity)
        if credentials is not None:
            return credentials
        entry = self.schedule.entries.get(identity)
        if entry is not None and entry.state(self._clock()) is State.INITIALIZING:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.setdefault(identity, []).append(waiter)
            await asyncio.wait([waiter], timeout=patience)
            waiter.cancel()
            credentials = self.current(identity)
            entry = self.schedule.entries.get(identity)
        if credentials is None:
            raise PeerError(Reason.NO_CERTIFICATE, entry.error if entry is not None else "no pod of this node has this identity")
        return credentials

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for identity in list(self._waiters):
            self._wake(identity)

    def _advance(self) -> None:
        """Start what is due, and set the timer for what comes next."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        for identity in self.schedule.start_due(self._clock()):
            task = loop.create_task(self._fetch_one(identity))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.schedule.next_due()
        if due is not None:
            # Capped, since the wall clock may be set while we sleep.
            self._timer = loop.call_later(min(max(0.0, due - self._clock()), 60.0), self._advance)

    async def _fetch_one(self, identity: Identity) -> None:
        had = self.current(identity) is not None
        try:
            credentials = await self._fetch(identity)
            if credentials.identity != identity:
                raise PeerError(Reason.NO_CERTIFICATE, f"the CA answered with a certificate for {credentials.identity}")
        except (PeerError, OSError, ValueError) as error:
            delay = self.schedule.failed(identity, str(error), self._clock())
            if delay is not None:
                log.warning("no certificate", identity=identity, error=error, retry_in=f"{delay:g}s", old_one_valid=had)
        else:
            if self.schedule.fetched(identity, credentials, self._clock()):
                log.info("certificate renewed" if had else "certificate received", identity=identity, not_after=int(credentials.not_after))
                if had:
                    self._renewed(identity)
        finally:
            self.schedule.abandon(identity, self._clock())
            self._wake(identity)
            self._advance()
            self.changed()

    def _wake(self, identity: Identity) -> None:
        for waiter in self._waiters.pop(identity, ()):
            if not waiter.done():
                waiter.set_result(None)


def _ignore() -> None:
    pass
