"""One pod on its way into the mesh, in it, or out of it: level-triggered, idempotent, on its own.

A member compares what should be with what is, does the next step, and sleeps until it is poked or its retry is due. It may be woken too
often, never too seldom. A failure is that pod's alone: it is shown as `pending: why` and tried again after 5 ms, 10 ms, … 5 s.

Which comes first, the capture or the tunnel? Once a *running* pod is labelled there are two ways to be wrong for a moment:
- Capture first: until the tunnel has opened its listeners, whatever the pod connects to and whoever connects to it is refused. A label
  that was promised to need no restart then breaks live traffic, on every pod of the namespace at once.
- Tunnel first: until the tunnel has answered (milliseconds), new connections stay as plain as they have been for the pod's whole
  life. Nobody can tell that from a label that was set some milliseconds later.
So there the tunnel comes first, but it has no more than HEADSTART: a tunnel that is away, refuses or hangs must not leave a labelled pod
open for as long as it likes. After that the capture is switched on all the same, and the pod is closed until there is a tunnel.
A *new* pod has no traffic to break and no plain life to continue: it is captured at once and is never open. Nor is a pod that an
agent before this one had captured.

Leaving is the mirror image: capture off, then the tunnel lets go, then the routing that its deliveries needed is put back. Between the
first two a pod that lives on waits for LINGER: what the tunnel carries may end by itself, and peers learn from the control plane
that this pod no longer speaks HBONE before nobody answers there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeVar

from agent.enrol import EnrolError, Host
from agent.pods import Pod
from agent.tunnels import Progress, Tunnels
from mesh.io.log import Log
from mesh.io.netns import Namespace
from mesh.model.errors import CulvertError
from mesh.wire.zds import WorkloadInfo

log = Log("reconcile")
T = TypeVar("T")

HEADSTART = 1.0  # seconds that the tunnel has to open its listeners before a running pod is captured without it
FIRST_RETRY, LAST_RETRY = 0.005, 5.0  # seconds
RESYNC = 60.0  # seconds between looks at a pod that is well: repairs what somebody else flushed
LINGER = 1.0  # seconds between the end of capture and the end of the tunnel's work, for a pod that lives on
GOODBYE = 5.0  # seconds that tunnels have to let go of a pod that leaves
REPORT_AFTER = 2  # failures in a row before `pending` is reported, so that a pod which is just starting does not flicker


class Phase(Enum):
    """CAPTURED without ENROLLED is closed: nothing passes until the tunnel is there."""

    STARTING = "starting"
    CAPTURED = "captured"
    ENROLLED = "enrolled"
    LEAVING = "leaving"


class AddressWatch(Protocol):
    def close(self) -> None:
        """No more calls."""


class Redirections(Protocol):
    """Where the outcome is reported for the control plane to see."""

    def report(self, uid: str, state: str) -> None: ...

    def withdraw(self, uid: str) -> None: ...

    def enabled(self) -> frozenset[str]:
        """The uids last reported as enabled, also by an agent before this one."""


@dataclass(frozen=True, slots=True)
class Deps:
    """`in_kernel_thread` runs a blocking function on the one thread for that. `watch_addresses` calls back when a namespace's
    addresses change. `count` counts an event: enrolled, left, failed, stale_removed."""

    host: Host
    tunnels: Tunnels
    redirections: Redirections
    in_kernel_thread: Callable[[Callable[[], object]], Awaitable[object]]
    watch_addresses: Callable[[Namespace, Callable[[], None]], AddressWatch]
    count: Callable[[str], None]

    async def kernel(self, function: Callable[[], T]) -> T:
        return await self.in_kernel_thread(function)  # type: ignore[return-value]


@dataclass
class Ledger:
    """What the members of a node share. `homes`: whose a namespace is, by cookie. `captured`: the cookies that are captured now."""

    homes: dict[int, str] = field(default_factory=dict)
    captured: set[int] = field(default_factory=set)
    enabled_before: frozenset[str] = frozenset()


class Member:
    """`wanted` is the pod as it should be in the mesh, None when it is to leave (`gone`: it was deleted). `run` ends when it has left."""

    def __init__(self, uid: str, wanted: Pod, running: bool, deps: Deps, ledger: Ledger) -> None:
        self.uid = uid
        self.wanted: Pod | None = wanted
        self.gone = False
        self.namespace: Namespace | None = None
        self.path = ""
        self.phase = Phase.STARTING
        self.enabled = False  # was reported so; stays while the pod is captured, whatever becomes of the tunnel
        self.problem = ""
        self.failures = 0
        self._running = running
        self._deps = deps
        self._ledger = ledger
        self._poked = asyncio.Event()
        self._prepare_due = self._capture_due = True  # routing and addresses must be looked at (again)
        self._since: float | None = None  # loop time of the first announcement, or of the withdrawal
        self._retry_at: float | None = None  # loop time when a refusal by the tunnel is to be questioned
        self._watch: AddressWatch | None = None

    def __repr__(self) -> str:
        return f"<Member {self.uid} {self.phase.value} {self.state}>"

    @property
    def state(self) -> str:
        """What is reported: `enabled`, `pending: why`, or `leaving`."""
        if self.wanted is None:
            return "leaving"
        return "enabled" if self.enabled else f"pending: {self.problem or 'starting'}"

    def want(self, pod: Pod | None, gone: bool = False) -> None:
        """What is wanted from now on."""
        if (pod, gone) != (self.wanted, self.gone):
            if pod is not None and self.wanted is not None and pod.ips != self.wanted.ips:
                self._look_again()
            self.wanted, self.gone = pod, gone
            self.poke()

    def poke(self) -> None:
        """Something changed: what is wanted, or what the tunnel said."""
        self._poked.set()

    async def run(self) -> None:
        """Until the pod has left, or until cancelled, which leaves everything in the kernel as it is."""
        while True:
            self._poked.clear()
            wait: float | None
            try:
                wait = await self._enter(self.wanted) if self.wanted is not None else await self._leave()
            except (OSError, CulvertError) as error:
                self._look_again()
                wait = self._failed(str(error))
            except Exception as error:
                log.exception("a bug in the reconciliation of a pod", uid=self.uid)
                self._look_again()
                wait = self._failed(f"internal error: {error!r}")
            if wait is None:
                return
            try:
                async with asyncio.timeout(wait):  # not wait_for: in Python 3.11 it can swallow a cancellation
                    await self._poked.wait()
            except TimeoutError:
                if self.phase is Phase.ENROLLED:
                    self._look_again()

    async def open(self, pod: Pod) -> Namespace:
        """The pod's namespace, held open. Where the pod has another one than before, everything starts anew with it.

        Raises OSError (it is not there), EnrolError (it is the node's own, or another pod still has it).
        """
        namespace = await self._deps.kernel(lambda: self._deps.host.open(pod.netns))
        cookie, old = namespace.cookie, self.namespace
        owner = self._ledger.homes.get(cookie, self.uid)
        if (old is not None and old.cookie == cookie) or owner != self.uid:
            namespace.close()
            if owner != self.uid:
                raise EnrolError(f"the network namespace {pod.netns} is still that of pod {owner}")
            assert old is not None
            self.path = pod.netns
            return old
        if old is not None:  # its sandbox was made anew
            await self._restore(old)
            self.phase, self._since = Phase.STARTING, None
        self._ledger.homes[cookie] = self.uid
        self.namespace, self.path = namespace, pod.netns
        self._look_again()
        self.enabled = cookie in self._ledger.captured and self.uid in self._ledger.enabled_before
        self.announce(pod)
        if old is not None:
            old.close()  # only now: an announcement of it may have been on its way
        return namespace

    def announce(self, pod: Pod) -> None:
        """Tell the tunnels of the pod, with its namespace if that is open."""
        self._deps.tunnels.announce(pod.uid, WorkloadInfo(pod.name, pod.namespace, pod.service_account), self.namespace)

    def let_go(self) -> None:
        """Close what is held. The kernel's state stays."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self.namespace is not None:
            self._ledger.homes.pop(self.namespace.cookie, None)
            self.namespace.close()
            self.namespace = None

    async def _enter(self, pod: Pod) -> float:
        """Do what can be done now; returns after how long to look again. OSError, CulvertError: the next step is not possible yet."""
        deps, now = self._deps, asyncio.get_running_loop().time()
        if self.phase is Phase.LEAVING:  # labelled again while it left
            self.phase, self._since = Phase.STARTING, None
            self._look_again()
        namespace = await self.open(pod)
        if self._prepare_due:
            self._prepare_due = False  # before the wait: what changes meanwhile makes it due again, and so does a failure
            await deps.kernel(lambda: deps.host.prepare(pod.uid, pod.netns, namespace, pod.ips))
        self.announce(pod)
        if self._since is None:
            self._since = now

        refusal = await self._refusal(pod, namespace, now)
        progress, _ = deps.tunnels.progress(pod.uid)
        accepted = progress is Progress.ACCEPTED and not refusal
        captured = namespace.cookie in self._ledger.captured
        headstart = self._since + HEADSTART - now if self._running and not captured else 0.0
        if (accepted or headstart <= 0) and (not captured or self._capture_due):
            await self._capture(namespace, pod.ips)
            captured = True
        if accepted:
            self._enrolled(pod)
            return RESYNC
        if captured:
            self.phase = Phase.CAPTURED
        if refusal:
            if self._retry_at is None:
                self._retry_at = now + self._failed(refusal)
            wait = self._retry_at - now
        else:
            wait = LAST_RETRY
            if progress is Progress.NO_TUNNEL or not self.failures:
                self.failures, self._retry_at = 0, None
                self._pending(progress.value, captured)
        return min(wait, headstart) if headstart > 0 else wait

    async def _refusal(self, pod: Pod, namespace: Namespace, now: float) -> str:
        """Why the tunnel will not have the pod, or nothing. Offers it again when that is due."""
        progress, words = self._deps.tunnels.progress(pod.uid)
        if progress is Progress.REFUSED and self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._deps.tunnels.retry(pod.uid)
            return ""
        if progress is Progress.REFUSED:
            return f"{progress.value}: {words}"
        if progress is Progress.ACCEPTED and not await self._deps.kernel(lambda: self._deps.host.adopt(namespace)):
            if self._retry_at is not None and now >= self._retry_at:
                self._retry_at = None
            return "the tunnel accepted the pod, but listens on no port 15006 with the mark of this node"
        return ""

    async def _capture(self, namespace: Namespace, ips: tuple[str, ...]) -> None:
        self._capture_due = False
        await self._deps.kernel(lambda: self._deps.host.capture(namespace, ips))
        self._ledger.captured.add(namespace.cookie)
        if self._watch is None:
            self._watch = self._deps.watch_addresses(namespace, self._addresses_changed)

    def _enrolled(self, pod: Pod) -> None:
        if not self.enabled:
            self._deps.redirections.report(pod.uid, "enabled")
            self.enabled = True
            self._deps.count("enrolled")
            log.info("a pod is in the mesh", uid=pod.uid, pod=f"{pod.namespace}/{pod.name}")
        self.phase, self.problem, self.failures, self._retry_at = Phase.ENROLLED, "", 0, None

    async def _leave(self) -> float | None:
        """None when nothing is left of the pod."""
        deps, now = self._deps, asyncio.get_running_loop().time()
        namespace = self.namespace
        if self.phase is not Phase.LEAVING or self._since is None:
            self.phase, self._since = Phase.LEAVING, now
        age = now - self._since
        if namespace is not None:
            cookie = namespace.cookie
            await deps.kernel(lambda: deps.host.release(cookie))
            self._ledger.captured.discard(cookie)
        deps.redirections.withdraw(self.uid)
        self.enabled = False
        linger = 0.0 if self.gone or namespace is None else LINGER
        if age < linger:
            return linger - age
        if self._is_wanted():
            return 0.0
        deps.tunnels.withdraw(self.uid)
        if not deps.tunnels.forgotten(self.uid) and age < linger + GOODBYE:
            return linger + GOODBYE - age
        if namespace is not None:
            await self._restore(namespace)
        if self._is_wanted():
            return 0.0
        self.let_go()
        deps.count("left")
        log.info("a pod left the mesh", uid=self.uid)
        return None

    def _is_wanted(self) -> bool:
        # A method, since it may become true in every await.
        return self.wanted is not None

    async def _restore(self, namespace: Namespace) -> None:
        cookie = namespace.cookie
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        await self._deps.kernel(lambda: self._deps.host.restore(cookie, namespace))
        self._ledger.captured.discard(cookie)
        self._ledger.homes.pop(cookie, None)
        self.enabled = False

    def _look_again(self) -> None:
        self._prepare_due = self._capture_due = True

    def _addresses_changed(self) -> None:
        self._look_again()
        self.poke()

    def _pending(self, why: str, report: bool) -> None:
        self.problem = why
        if report and not self.enabled:
            self._deps.redirections.report(self.uid, self.state)

    def _failed(self, why: str) -> float:
        """Note a failure; returns the seconds until the next try."""
        self.failures += 1
        self._deps.count("failed")
        if why != self.problem:
            log.warning("a pod is pending", uid=self.uid, why=why, leaving=self.wanted is None)
        with contextlib.suppress(OSError):
            self._pending(why, self.failures >= REPORT_AFTER and self.wanted is not None)
        return float(min(FIRST_RETRY * 2 ** min(self.failures - 1, 20), LAST_RETRY))
