"""What a CA does by itself: it follows what other replicas save and what is mounted, renews its intermediate, and takes a mounted change of
root through its steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from control.ca import mounted, rotation
from control.ca.keeper import Keeper
from control.ca.material import Material
from control.ca.metrics import CaMetrics
from control.ca.rotation import NotYet
from control.ca.state import Phase
from mesh.io.log import Log
from mesh.io.watch import DirectoryWatch
from mesh.model.errors import CulvertError

log = Log("ca")

TICK = 0.5  # seconds between looks at what is due
PRESENCE = 5.0  # seconds between looks at who is there
MOUNT_LOOK = 5.0  # seconds after which mounted files are read again, told or not
WARN_SHARE = 0.1  # of the root's life: when less is left, it is said


class Upkeep:
    """`run` until cancelled."""

    def __init__(self, keeper: Keeper, metrics: CaMetrics) -> None:
        self._keeper = keeper
        self._metrics = metrics

    async def run(self) -> None:
        keeper = self._keeper
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_store())
                group.create_task(self._look_after())
                if keeper.settings.mount is not None:
                    group.create_task(self._follow_mount(keeper.settings.mount))
        finally:
            await keeper.store.close()

    async def _follow_store(self) -> None:
        keeper = self._keeper
        while True:
            # While something is wrong, also the version that we have is news.
            await keeper.store.changed("" if "store" in keeper.problems.now else keeper.version)
            with keeper.problems.of("store"):
                await keeper.reload()
            if "store" in keeper.problems.now:
                await asyncio.sleep(TICK)

    async def _follow_mount(self, directory: Path) -> None:
        wake = asyncio.Event()
        watch: DirectoryWatch | None = None
        with contextlib.suppress(OSError):  # without inotify we look from time to time
            watch = DirectoryWatch([directory], wake.set)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(MOUNT_LOOK):
                        await wake.wait()
                wake.clear()
                if watch is not None:
                    watch.renew()
                with self._keeper.problems.of("mount"):
                    found = await asyncio.to_thread(mounted.read, directory)
                    if found != self._keeper.found:
                        await self._take(found)
        finally:
            if watch is not None:
                watch.close()

    async def _take(self, found: Material) -> None:
        keeper = self._keeper
        await keeper.update(lambda state: rotation.mounted(state, found, keeper.clock()))
        keeper.found = found

    async def _look_after(self) -> None:
        keeper = self._keeper
        looked = float("-inf")
        while True:
            if (now := time.monotonic()) - looked >= PRESENCE:
                looked = now
                keeper.look()
            self._metrics.expiry(keeper.authority, keeper.clock())
            followers = keeper.holders.followers.values()
            self._metrics.followers.set(len(followers))
            self._metrics.behind.set(sum(follower.confirmed_at is None for follower in followers))
            with keeper.problems.of("expiry"):
                self._check_expiry()
            with keeper.problems.of("renewal"):
                if keeper.due(keeper.state):
                    left = (keeper.authority.not_after - keeper.now()).total_seconds()
                    await keeper.update(lambda state: keeper.with_intermediate(state) if keeper.due(state) else state)
                    log.info("the intermediate was renewed", left=f"{left:.0f}s")
                await self._advance()
            await asyncio.sleep(TICK)

    async def _advance(self) -> None:
        """Share who has renewed and who has not, where a change waits for that; and take the steps of one that others began, by what
        they mounted.
        """
        keeper = self._keeper
        if keeper.state.phase is Phase.STEADY:
            return
        token, confirmed, held = keeper.state.token, keeper.holders.confirmed(), keeper.holders.claimed(keeper.clock())
        doubtful = keeper.holders.doubtful(keeper.state)
        if rotation.hear(keeper.state, token, confirmed, held, doubtful) is not keeper.state:
            await keeper.update(lambda state: rotation.hear(state, token, confirmed, held, doubtful))
            keeper.holders.asked(doubtful)
        if keeper.settings.mount is not None and keeper.gate().is_open(keeper.clock()):
            with contextlib.suppress(NotYet):
                await (keeper.switch() if keeper.state.phase is Phase.INTRODUCED else keeper.retire())

    def _check_expiry(self) -> None:
        """Raises CulvertError where the end has come, or the root's end is near."""
        keeper, now = self._keeper, self._keeper.now()
        authority = keeper.authority
        if now >= authority.not_after:
            raise CulvertError(f"what the CA signs with expired on {authority.not_after:%Y-%m-%d %H:%M} UTC: no certificate can be issued")
        begin, end = authority.root.not_valid_before_utc, authority.root.not_valid_after_utc
        if end - now < (end - begin) * WARN_SHARE:
            raise CulvertError(f"the root expires on {end:%Y-%m-%d %H:%M} UTC: change it before")
