"""One candidate for the leader's Lease, over the network: reads and writes what `lease` decides.

    elector = Elector(api, "istio-system", identity, changed=…)
    await elector.run()          # until cancelled; lets go of the Lease then
    if elector.leading: …

`leading` is judged by the clock at each look, so it is false in time even while a request hangs. The clock is the one that goes on
while the machine sleeps: a leader that wakes up after a minute must not think that no time has passed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease

from control.kube.client import Api
from control.kube.errors import Conflict, Forbidden, Invalid, KubeError, Missing
from control.kube.lease import Election, Read, Record, Timing, Write
from mesh.io.log import Log

log = Log("leader")

RESOURCE = "leases.coordination.k8s.io"
LEASE = "culvert-control"
LONGEST = 300
"""Seconds for which somebody else's record is believed at most, whatever it says."""


class Elector:
    """`identity` is unique, of this life of this process. `changed` is called when we begin or cease to lead."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        identity: str,
        *,
        name: str = LEASE,
        timing: Timing | None = None,
        changed: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self.error = ""
        """Why nobody can be elected now, as a sentence; "" while all is well."""
        self._api = api
        self._namespace = namespace
        self._name = name
        self._election = Election(identity, timing)
        self._changed = changed
        self._clock = clock
        self._said = False
        self._metadata = ObjectMeta(name=name, namespace=namespace)

    @property
    def leading(self) -> bool:
        return self._election.leading(self._clock())

    @property
    def holder(self) -> str:
        """Who was last seen to lead, "" if nobody."""
        return self._election.holder

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self._step()
                self._say()
                await asyncio.sleep(self._election.pause(self._clock(), random.random()))  # noqa: S311 - no secret
                self._say()
        finally:
            await self._release()

    async def _step(self) -> None:
        step = self._election.step(self._clock(), _wall())
        try:
            await self._do(step)
            if isinstance(step, Read) and not isinstance(second := self._election.step(self._clock(), _wall()), Read):
                await self._do(second)
            self.error = ""
        except Conflict:
            self._election.refused()
        except KubeError as error:
            if str(error) != self.error:
                log.warning("the leader's lease cannot be read or written", error=str(error))
            self.error = str(error)
            if isinstance(error, (Invalid, Forbidden, Missing)):
                self._election.refused()

    async def _do(self, step: Read | Write) -> None:
        """One request. It has as long as a leader may be silent, and a leader until its term ends, whatever the server does."""
        began = self._clock()
        patience = self._election.timing.renew / 2
        if self._election.leading(began):
            patience = min(patience, self._election.until - began)
        if isinstance(step, Read):
            self._election.read(await self._read(patience), self._clock())
        else:
            self._election.written(await self._write(step.record, patience), began)

    async def _read(self, patience: float) -> Record | None:
        try:
            get = self._api.typed("get", RESOURCE, lambda client: client.get(Lease, self._name, namespace=self._namespace), patience)
            return self._record(await get)
        except Missing:
            return None

    async def _write(self, record: Record, patience: float) -> Record:
        spec = LeaseSpec(
            holderIdentity=record.holder,
            leaseDurationSeconds=record.duration,
            acquireTime=record.acquired,
            renewTime=record.renewed,
            leaseTransitions=record.transitions,
        )
        if record.version:
            # What others wrote on the object, such as labels, stays.
            known = Lease(metadata=self._metadata, spec=spec)
            return self._record(await self._api.typed("update", RESOURCE, lambda client: client.replace(known), patience))
        fresh = Lease(metadata=ObjectMeta(name=self._name, namespace=self._namespace), spec=spec)
        return self._record(await self._api.typed("create", RESOURCE, lambda client: client.create(fresh), patience))

    def _record(self, lease: Lease) -> Record:
        spec = lease.spec or LeaseSpec()
        self._metadata = lease.metadata or self._metadata
        return Record(
            spec.holderIdentity or "",
            min(max(spec.leaseDurationSeconds or 0, 0), LONGEST),
            spec.acquireTime,
            spec.renewTime,
            spec.leaseTransitions or 0,
            self._metadata.resourceVersion or "",
        )

    async def _release(self) -> None:
        for _ in range(2):
            step = self._election.release(self._clock(), _wall())
            if step is None:
                break
            try:
                await self._do(step)
                log.info("let go of the lease", lease=self._name)
            except Conflict:
                # A renewal that was cancelled has arrived nevertheless.
                with suppress(KubeError):
                    await self._do(Read())
            except KubeError as error:
                log.warning("could not let go of the lease: it ends by itself", error=str(error))
                break
        self._election.resign()
        self._say()

    def _say(self) -> None:
        leading = self.leading
        if leading != self._said:
            self._said = leading
            log.info("leading" if leading else "not leading any more", identity=self._election.identity, lease=self._name)
            self._changed(leading)


def _wall() -> datetime:
    """Kubernetes reads times of leases only with a fraction, and msgspec leaves one out that is 0."""
    now = datetime.now(UTC)
    return now if now.microsecond else now.replace(microsecond=1)
