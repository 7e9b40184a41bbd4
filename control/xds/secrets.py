"""Secrets of proxies (SDS): a key and certificate of the identity that the proxy was proved to have, and the roots to trust.

A pair is made when the first proxy of an identity comes, and again at half of its life or when the CA signs with something else. It is
forgotten with the last. Proxies that have taken it follow the CA as nodes do (`control.ca.holders`), so that a change of root waits for
them: one that holds its answer back, rejects what it was sent, or goes away without an answer, holds that change.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from control.ca.authority import CannotSign, Pair
from control.ca.holders import Report
from control.ca.keeper import Keeper
from control.resolve.l7.plans import SECRET_TYPE
from control.xds.store import Entry
from mesh.io.log import Log
from mesh.model.codec.envoy import parts
from mesh.model.codec.envoy.secrets import secret
from mesh.model.identity import Identity
from mesh.model.l7.names import MESH_ROOTS, WORKLOAD_CERTIFICATE
from mesh.model.l7.secrets import CertificateSecret, RootsSecret

log = Log("sds")

LATEST = 30.0
"""Seconds after which we look whether a pair has come of age, whoever says so."""
AGAIN = 1.0
"""Seconds after which a pair is tried again that should have been another by now: the CA can sign nothing."""
SECRETS = frozenset({WORKLOAD_CERTIFICATE, MESH_ROOTS})
MAX_IDENTITIES = 10_000


@dataclass(slots=True)
class Made:
    """What an identity is served, of which token of the CA."""

    token: str
    pair: Pair
    entries: Mapping[str, Entry]

    @property
    def renewal(self) -> float:
        """When it comes of age, Unix seconds."""
        return self.pair.not_before + (self.pair.not_after - self.pair.not_before) / 2


class Secrets:
    """Of all identities that proxies have. `keeper` is the CA's."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.made: dict[Identity, Made] = {}
        self._changed = asyncio.Event()

    def current(self, identity: Identity) -> Made | None:
        """What an identity is served now. Where nothing can be signed, what was made before, or nothing."""
        keeper = self._keeper
        made, authority, now = self.made.get(identity), keeper.authority, keeper.clock()
        if made is not None and made.token == authority.token and now < made.renewal:
            return made
        try:
            pair = authority.workload(identity, timedelta(seconds=keeper.settings.longest), keeper.now())
        except CannotSign as error:
            log.error("no certificate for a proxy", identity=str(identity), error=error.detail)
            return made
        found = (
            CertificateSecret(WORKLOAD_CERTIFICATE, pair.chain, pair.key),
            RootsSecret(MESH_ROOTS, authority.bundle.encode()),
        )
        entries = {one.name: Entry(one.name, SECRET_TYPE, parts.serialized(secret(one))) for one in found}
        if identity not in self.made and len(self.made) >= MAX_IDENTITIES:
            del self.made[next(iter(self.made))]
        made = self.made[identity] = Made(authority.token, pair, entries)
        self._changed.set()  # it may come of age before all others
        log.info("certificate for a proxy", identity=str(identity), not_after=int(pair.not_after))
        return made

    def forget(self, identity: Identity) -> None:
        """No proxy has this identity any more."""
        self.made.pop(identity, None)

    def follow(self, holder: str, peer: str) -> Follower:
        """A proxy has asked for its secrets. `peer` is what it says of itself."""
        return Follower(self._keeper, holder, peer)

    async def run(self, renew: Callable[[], None]) -> None:
        """Have proxies' secrets looked at when they may be others now, until cancelled."""
        self._keeper.listeners.add(self._changed)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await self._changed.wait()
                renew()
                self._changed.clear()  # only now: what was made just now is known
        finally:
            self._keeper.listeners.discard(self._changed)

    def _pause(self) -> float:
        now = self._keeper.clock()
        times = [made.renewal - now if made.renewal > now else AGAIN for made in self.made.values()]
        return min(max(min(times, default=LATEST), 0.05), LATEST)


class Follower:
    """One proxy that has asked for its secrets, as the CA counts those who hold certificates."""

    def __init__(self, keeper: Keeper, holder: str, peer: str) -> None:
        self._keeper = keeper
        self._holder = holder
        self._number = keeper.holders.join(holder, peer)

    def given(self, made: Made) -> None:
        """This is on its way to the proxy."""
        self._keeper.holders.issued(self._holder, made.pair.not_after, self._keeper.clock())

    def accepted(self, made: Made) -> None:
        """The proxy has taken this, certificate and roots."""
        keeper = self._keeper
        keeper.holders.report(self._number, Report(made.token, 1), keeper.authority.token, keeper.clock())

    def close(self) -> None:
        self._keeper.holders.leave(self._number)
