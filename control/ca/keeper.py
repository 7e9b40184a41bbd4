"""Keeps one CA in force: makes or loads it, and puts every change of it in force here.

Everything that changes goes one way, `update`: load, make the next state, check it, save it in place of what was loaded, put it in force.
Who lost a race begins anew. So a replica that is killed anywhere leaves either the old state or the new one, and the next start goes on
from there. What is due by itself is in `upkeep`.

What cannot be used is refused at start (ConfigError). While running, the last good authority stays in force and the problem is told until
it is over. Nothing but a first start ever makes a CA: a state that has vanished is a problem, not a reason to have another root.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from control.ca import mounted, rotation
from control.ca.authority import Authority
from control.ca.directory import DirectoryStore, publish
from control.ca.holders import Holders
from control.ca.make import Lives, RootKeyAway, self_made, with_intermediate
from control.ca.material import Material, check
from control.ca.metrics import CaMetrics
from control.ca.pem import certificate
from control.ca.problems import Problems
from control.ca.proof import prove
from control.ca.rotation import Gate, NotYet
from control.ca.state import State
from control.ca.store import Conflict, MemoryStore, Store, Stored
from mesh.io.log import Log
from mesh.model.errors import ConfigError, Refusal

log = Log("ca")

TRIES = 20  # saves that other replicas may beat us to


@dataclass(frozen=True, slots=True)
class CaSettings:
    """trust_domain: of every identity. longest: the longest life of a leaf, seconds. lives: of what we make ourselves.

    mount: the directory of a CA that others keep, None for our own. bundle: the file in which the roots are published, None for none.
    """

    trust_domain: str
    longest: int
    lives: Lives = field(default_factory=Lives)
    mount: Path | None = None
    bundle: Path | None = None


class Keeper:
    """`store` keeps our own CA; one that is mounted is kept by others. `clock` is Unix time. `listeners` are set after every change."""

    def __init__(
        self, settings: CaSettings, store: Store, holders: Holders, metrics: CaMetrics, clock: Callable[[], float] = time.time
    ) -> None:
        self.settings = settings
        self.store: Store = MemoryStore(str(settings.mount)) if settings.mount is not None else store
        self.holders = holders
        self.clock = clock
        self.problems = Problems(metrics, clock)
        self.listeners: set[asyncio.Event] = set()
        self.found: Material | None = None
        """What was mounted when it was last taken in."""
        self._metrics = metrics
        self._stored: Stored | None = None
        self._authority: Authority | None = None
        self._lock = asyncio.Lock()

    @property
    def authority(self) -> Authority:
        """What signs now."""
        assert self._authority is not None  # `start` puts one in force or raises
        return self._authority

    @property
    def state(self) -> State:
        assert self._stored is not None  # as above
        return self._stored.state

    @property
    def version(self) -> str:
        return self._stored.version if self._stored is not None else ""

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)

    async def start(self) -> None:
        """Put an authority in force: the one that is kept, or a new one. Raises ConfigError, OSError."""
        for _ in range(TRIES):
            stored = await self.store.load()
            with contextlib.suppress(Conflict):  # another replica was first: its CA is ours
                if stored is None:
                    await self.store.save(await self._first(), "")
                    continue
                self._check_domain(stored.state)
                if self.due(stored.state):
                    with contextlib.suppress(RootKeyAway):  # what there is may still do, and `upkeep` tells
                        await self.store.save(self.with_intermediate(stored.state), stored.version)
                        continue
                await self._put_in_force(stored, starting=True)
                with self.problems.of("store"):  # a store that is away can wait for that
                    await self.update(lambda state: rotation.with_longest(state, self.settings.longest, self.clock()))
                return
        raise OSError(f"{self.store.where}: nothing can be kept there")

    async def update(self, change: Callable[[State], State]) -> None:
        """Change the state, everywhere. Raises what `change` raises, ConfigError, Conflict, OSError; then nothing has changed here."""
        async with self._lock:
            for _ in range(TRIES):
                stored = await self._load()
                state = change(stored.state)
                if state != stored.state:
                    await asyncio.to_thread(self._build, state)
                    try:
                        stored = Stored(state, await self.store.save(state, stored.version))
                    except Conflict:
                        continue
                await self._put_in_force(stored)
                return
            raise Conflict(f"{self.store.where}: others change it all the time")

    async def reload(self) -> None:
        """Take in what another replica has saved. Raises ConfigError, OSError."""
        async with self._lock:
            await self._put_in_force(await self._load())

    # What people ask for

    async def renew_leaves(self) -> None:
        """Everybody who follows renews all of its certificates now."""
        await self.update(lambda state: rotation.demand(state, self.clock()))

    async def renew_intermediate(self) -> None:
        """A new intermediate, and everybody renews for it. Raises NotYet where the CA is not our own; RootKeyAway."""
        self._own("have another intermediate")
        await self.update(lambda state: rotation.demand(self.with_intermediate(state), self.clock()))

    async def introduce(self) -> None:
        self._own("introduce another root")

        def change(state: State) -> State:
            made = state.next or self_made(self.settings.trust_domain, self.now(), self.settings.lives)
            return rotation.introduce(state, made, self.clock())

        await self.update(change)

    async def switch(self, *, force: bool = False) -> None:
        await self.update(lambda state: rotation.switch(state, self.gate(state), self.clock(), force=force))

    async def retire(self, *, force: bool = False) -> None:
        await self.update(lambda state: rotation.retire(state, self.gate(state), self.clock(), force=force))

    async def abandon(self) -> None:
        self._own("take back the one that was introduced")
        await self.update(lambda state: rotation.abandon(state, self.clock()))

    def gate(self, state: State | None = None) -> Gate:
        """What the next step of a change of root waits for."""
        found = state or self.state
        end = certificate(found.current.certificate, self.store.where, "certificate").not_valid_after_utc.timestamp()
        self.look(found)
        return rotation.gate(found, self.holders.names(self.clock()), self.store.settle, end, self.holders.gone())

    def look(self, state: State | None = None) -> None:
        """See who is gone. Of a mounted CA nobody is: replicas that have one do not tell each other who follows them."""
        if self.settings.mount is None:
            found = state or self.state
            self.holders.look(found.held, self.clock())
            self.holders.heard(found)

    # The intermediate

    def due(self, state: State) -> bool:
        """Half of our own intermediate's life is over, and a new one would live noticeably longer: its root may end first."""
        if self.settings.mount is not None:
            return False
        life = self.settings.lives.intermediate
        end = certificate(state.current.certificate, self.store.where, "intermediate").not_valid_after_utc
        could = min(self.now() + life, certificate(state.current.roots[0], self.store.where, "root").not_valid_after_utc)
        return bool(end - self.now() < life / 2 and could - end > life / 10)

    def with_intermediate(self, state: State) -> State:
        """Raises RootKeyAway."""
        made = with_intermediate(state.current, self.settings.trust_domain, self.now(), self.settings.lives)
        return replace(state, current=made)

    # Putting in force

    async def _put_in_force(self, stored: Stored, *, starting: bool = False) -> None:
        if stored.version == self.version:
            return
        authority = await asyncio.to_thread(self._build, stored.state)
        await self._publish(authority.bundle, starting=starting)
        moved = self._authority is None or self._authority.token != authority.token
        self._stored, self._authority = stored, authority
        self._metrics.expiry(authority, self.clock())
        if moved:
            self.holders.moved(authority.token, self.clock())
        self.holders.heard(stored.state)
        for listener in self.listeners:
            listener.set()
        log.info(
            "authority in force",
            phase=stored.state.phase.value,
            token=authority.token,
            signs=authority.certificate.subject.rfc4514_string(),
            until=f"{authority.not_after:%Y-%m-%dT%H:%M:%SZ}",
            roots=len(authority.roots),
            version=stored.version,
        )

    async def _publish(self, bundle: str, *, starting: bool) -> None:
        """Who reads the file must know a new root before anybody shows it a certificate from it. Where that fails, readers say that they
        do not know it, and the change does not go on.
        """
        if self.settings.bundle is None:
            return
        try:
            await asyncio.to_thread(publish, self.settings.bundle, bundle)
        except OSError as error:
            if starting:
                raise
            self.problems.tell("publish", f"the roots cannot be written to {self.settings.bundle}: {error.strerror or error}")
        else:
            self.problems.untell("publish")

    def _build(self, state: State) -> Authority:
        """Check all of a state, and make of it what signs. Raises ConfigError."""
        signer = check(state.current, self.now(), self.store.where)
        authority = Authority(signer, state.current.chain, state.bundle, state.token)
        if self.settings.mount is not None:
            prove(authority, state.trust_domain, self.store.where)
        if state.next is not None:
            coming = check(state.next, self.now(), self.store.where)
            if self.settings.mount is not None:
                prove(Authority(coming, state.next.chain, state.bundle, state.token), state.trust_domain, self.store.where)
        return authority

    async def _load(self) -> Stored:
        stored = await self.store.load()
        if stored is None:
            raise OSError(f"{self.store.where}: what the CA had kept there is gone")
        return stored

    async def _first(self) -> State:
        return State(self.settings.trust_domain, await asyncio.to_thread(self._make), since=self.clock(), longest=self.settings.longest)

    def _make(self) -> Material:
        if self.settings.mount is not None:
            self.found = mounted.read(self.settings.mount)
            return self.found
        own = self.store.own_root() if isinstance(self.store, DirectoryStore) else None
        if own is None:
            return self_made(self.settings.trust_domain, self.now(), self.settings.lives)
        made = with_intermediate(own, self.settings.trust_domain, self.now(), self.settings.lives)
        check(made, self.now(), self.store.where)
        log.info("the CA begins with the root that was put there; the key's file is not needed any more", kept=self.store.where)
        return made

    def _own(self, what: str) -> None:
        if self.settings.mount is not None:
            raise NotYet(f"the CA is mounted from {self.settings.mount}: to {what}, replace the files there")

    def _check_domain(self, state: State) -> None:
        if state.trust_domain != self.settings.trust_domain:
            accepted = f"{state.trust_domain}, for which the CA kept in {self.store.where} was made"
            raise ConfigError(Refusal(self.store.where, "", "trust domain", self.settings.trust_domain, accepted))
