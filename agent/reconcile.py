"""From the pods that there are to the pods that are in the mesh: who is a member, and what earlier agents left behind.

Nothing leaves the mesh because we do not know. A pod leaves when a list that was read does not have it, or has it without the label. A
captured namespace of unknown owner is released only when every pod that should be in the mesh has been found in another one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from agent.member import LAST_RETRY, Deps, Ledger, Member
from agent.pods import PodSource
from agent.records import Record
from mesh.io.log import Log
from mesh.model.errors import BugError, CulvertError

log = Log("reconcile")


class Reconciler:
    """`start` once the pods were read; `pods_changed` after every change; `stop` leaves everything in the kernel as it is."""

    def __init__(self, pods: PodSource, deps: Deps) -> None:
        self.members: dict[str, Member] = {}
        self._pods = pods
        self._deps = deps
        self._ledger = Ledger()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._seen: frozenset[str] | None = None  # the uids of the list before; None before the first
        self._left_behind: dict[int, Record | None] = {}  # by cookie
        self._sweeper: asyncio.Task[None] | None = None
        self._sweep = asyncio.Event()

    async def start(self) -> None:
        """Take over from an agent before us, and announce every pod that should be in the mesh: a tunnel may connect after this.

        Raises OSError where the records or the kernel's maps cannot be read.
        """
        deps = self._deps
        self._ledger.captured = set(await deps.kernel(deps.host.captured))
        self._ledger.enabled_before = deps.redirections.enabled()
        self._left_behind = dict.fromkeys(self._ledger.captured)
        self._left_behind |= {record.cookie: record for record in await deps.kernel(deps.host.records)}
        for member in self._choose():
            assert member.wanted is not None
            try:
                await member.open(member.wanted)
            except (OSError, CulvertError) as error:
                log.warning("the namespace of a pod cannot be opened", uid=member.uid, error=error)
                member.announce(member.wanted)  # without it: the tunnel keeps the pod if it has it
        unreadable = self._pods.unreadable()
        for uid in unreadable & {record.uid for record in self._left_behind.values() if record is not None}:
            deps.tunnels.keep(uid)
        for uid in self._ledger.enabled_before - self.members.keys() - unreadable:
            deps.redirections.withdraw(uid)
        for member in self.members.values():
            self._begin(member)
        self._sweeper = asyncio.create_task(self._sweep_up(), name="sweeper")
        self._sweep.set()

    def pods_changed(self) -> None:
        for member in self._choose():
            self._begin(member)
        self._sweep.set()

    def poke(self, uid: str) -> None:
        """The tunnel said something about this pod."""
        if uid in self.members:
            self.members[uid].poke()

    async def stop(self) -> None:
        tasks = [*self._tasks.values(), *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in self.members.values():
            member.let_go()

    def _choose(self) -> list[Member]:
        """Bring what is wanted of every member up to date with the list of pods; returns the members that are new."""
        pods = self._pods.snapshot()
        if pods is None:
            raise BugError("the list of pods was not read yet")
        new = []
        for uid, pod in pods.items():
            wanted = pod if pod.enrolment.enrolled else None
            member = self.members.get(uid)
            if member is not None:
                member.want(wanted)
            elif wanted is not None:
                # A pod of the first list, or one that was there without the label, has been running.
                running = self._seen is None or uid in self._seen
                self.members[uid] = Member(uid, wanted, running, self._deps, self._ledger)
                new.append(self.members[uid])
        for uid in self.members.keys() - pods.keys() - self._pods.unreadable():
            self.members[uid].want(None, gone=True)
        self._seen = frozenset(pods)
        return new

    def _begin(self, member: Member) -> None:
        self._tasks[member.uid] = asyncio.create_task(self._live(member), name=f"pod {member.uid}")

    async def _live(self, member: Member) -> None:
        await member.run()
        del self.members[member.uid], self._tasks[member.uid]

    # What earlier agents left behind

    async def _sweep_up(self) -> None:
        """Undo what belongs to no member, as soon as that is certain."""
        while self._left_behind:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_RETRY):
                    await self._sweep.wait()
            self._sweep.clear()
            for cookie, record in list(self._left_behind.items()):
                if cookie in self._ledger.homes:
                    del self._left_behind[cookie]
                elif self._is_stale(record):
                    try:
                        await self._undo(cookie, record)
                    except (OSError, CulvertError) as error:
                        log.warning("what an earlier agent left cannot be undone yet", cookie=cookie, error=error)

    def _is_stale(self, record: Record | None) -> bool:
        unknown = {member.uid for member in self.members.values() if member.namespace is None and member.wanted is not None}
        unknown |= self._pods.unreadable()
        return record.uid not in unknown if record is not None else not unknown

    async def _undo(self, cookie: int, record: Record | None) -> None:
        host = self._deps.host
        namespace = await self._deps.kernel(lambda: host.find(record)) if record is not None else None
        try:
            await self._deps.kernel(lambda: host.restore(cookie, namespace))
        finally:
            if namespace is not None:
                namespace.close()
        del self._left_behind[cookie]
        if record is not None and record.uid not in self.members:
            self._deps.tunnels.withdraw(record.uid)
            self._deps.redirections.withdraw(record.uid)
        self._ledger.captured.discard(cookie)
        self._deps.count("stale_removed")
        log.info("a namespace that an earlier agent had captured was released", cookie=cookie, uid=record.uid if record else None)


def summary(members: Mapping[str, Member]) -> list[dict[str, object]]:
    """What the admin port shows of every member, sorted by namespace and name."""
    shown: list[dict[str, object]] = []
    for member in sorted(members.values(), key=_place):
        pod = member.wanted
        shown.append(
            {
                "uid": member.uid,
                "namespace": pod.namespace if pod else None,
                "name": pod.name if pod else None,
                "serviceAccount": pod.service_account if pod else None,
                "state": member.state,
                "phase": member.phase.value,
                "problem": member.problem,
                "failures": member.failures,
                "cookie": member.namespace.cookie if member.namespace else None,
                "netns": member.path,
            }
        )
    return shown


def _place(member: Member) -> tuple[str, str, str]:
    return (member.wanted.namespace if member.wanted else "", member.wanted.name if member.wanted else "", member.uid)
