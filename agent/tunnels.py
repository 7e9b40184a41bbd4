"""Which tunnels are connected, and what each has been told: the bookkeeping of ZDS, without sockets and without waiting.

Usually one tunnel is connected; while it is being replaced there are two. A new pod goes to the newest only (the other is about to go), a
deleted pod to all, and a tunnel that has just said hello gets a snapshot of everything. When the newest goes away, the one that is
newest then gets what it missed.

`changed(uid)` is called whenever `progress(uid)` or `forgotten(uid)` may answer otherwise than before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from mesh.io.netns import Namespace
from mesh.model.errors import BugError
from mesh.wire.zds import Acked, Add, AgentSession, Delete, Keep, Request, WorkloadInfo


class Progress(Enum):
    """How far the newest tunnel is with a pod."""

    NO_TUNNEL = "no tunnel is connected"
    WAITING = "the tunnel has not answered yet"
    REFUSED = "the tunnel refused the pod"
    ACCEPTED = "the tunnel accepted the pod"


@dataclass(frozen=True, slots=True)
class Workload:
    """Without namespace (or info): the pod is in the mesh as far as we know, but we cannot hand it over now."""

    info: WorkloadInfo | None
    namespace: Namespace | None


class Tunnel:
    """One connected tunnel: its session, and what it said of each pod. `wake` is called when the session has something to send.

    `asked` is what it was last offered for a uid, `told` the uids that it may have a proxy for, `leaving` those whose delete it has not
    acknowledged.
    """

    def __init__(self, session: AgentSession, wake: Callable[[], None], number: int) -> None:
        self.session = session
        self.wake = wake
        self.number = number
        self.asked: dict[str, Workload] = {}
        self.accepted: dict[str, Workload] = {}
        self.refused: dict[str, str] = {}
        self.told: set[str] = set()
        self.leaving: set[str] = set()

    def __repr__(self) -> str:
        return f"<Tunnel {self.number} {self.session.phase.value} pods={len(self.accepted)}>"


class Tunnels:
    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._count = 0
        self.workloads: dict[str, Workload] = {}
        self.connected: list[Tunnel] = []  # said hello; the newest is last

    @property
    def newest(self) -> Tunnel | None:
        return self.connected[-1] if self.connected else None

    # What the reconciler says

    def announce(self, uid: str, info: WorkloadInfo, namespace: Namespace | None) -> None:
        """The pod is in the mesh. Idempotent: a pod that the newest tunnel refused is not offered to it again, unless it changed."""
        workload = Workload(info, namespace)
        if self.workloads.get(uid) != workload:
            self.workloads[uid] = workload
        self._offer(uid)

    def retry(self, uid: str) -> None:
        """Offer a pod again that the newest tunnel refused."""
        if self.newest is not None and self.newest.refused.pop(uid, None) is not None:
            self.newest.asked.pop(uid, None)
            self._offer(uid)

    def keep(self, uid: str) -> None:
        """The pod may be in the mesh, but is not known well enough to announce: a tunnel that has it shall not drop it."""
        self.workloads.setdefault(uid, Workload(None, None))

    def withdraw(self, uid: str) -> None:
        """The pod left. Idempotent."""
        self.workloads.pop(uid, None)
        for tunnel in self.connected:
            for answers in (tunnel.asked, tunnel.accepted, tunnel.refused):
                answers.pop(uid, None)
            if uid in tunnel.told:
                tunnel.told.discard(uid)
                tunnel.leaving.add(uid)
                tunnel.session.submit(Delete(uid))
                tunnel.wake()

    def progress(self, uid: str) -> tuple[Progress, str]:
        """How far it is with an announced pod, and a tunnel's words where it refused."""
        tunnel = self.newest
        if tunnel is None:
            return Progress.NO_TUNNEL, ""
        if uid in tunnel.refused:
            return Progress.REFUSED, tunnel.refused[uid]
        workload = self.workloads.get(uid)
        accepted = workload is not None and tunnel.accepted.get(uid) is workload
        return (Progress.ACCEPTED if accepted else Progress.WAITING), ""

    def forgotten(self, uid: str) -> bool:
        """Whether no tunnel has this pod any more, as far as they told."""
        return all(uid not in tunnel.told and uid not in tunnel.leaving for tunnel in self.connected)

    # What the sockets say

    def hello(self, session: AgentSession, wake: Callable[[], None]) -> Tunnel:
        """A session's tunnel said hello: it becomes the newest and gets the snapshot."""
        self._count += 1
        tunnel = Tunnel(session, wake, self._count)
        self.connected.append(tunnel)
        requests: list[Add | Keep] = []
        for uid, workload in self.workloads.items():
            requests.append(Add(uid, workload.info) if workload.info and workload.namespace else Keep(uid))
            tunnel.told.add(uid)
            tunnel.asked[uid] = workload
        session.snapshot(requests)
        tunnel.wake()
        for uid in list(self.workloads):
            self._changed(uid)
        return tunnel

    def acked(self, tunnel: Tunnel, event: Acked) -> None:
        """The tunnel answered. Its answer to an add counts only where that add is still what we would say."""
        match event.request:
            case Add(uid, _):
                workload = self.workloads.get(uid)
                if workload is None or tunnel.asked.get(uid) is not workload or tunnel.session.is_queued(uid):
                    return
                if event.error:
                    tunnel.refused[uid] = event.error
                else:
                    tunnel.accepted[uid] = workload
                self._changed(uid)
            case Delete(uid):
                # A tunnel that cannot delete says so in its own log; there is nothing left for us to do.
                tunnel.leaving.discard(uid)
                self._changed(uid)
            case _:
                pass

    def lost(self, tunnel: Tunnel) -> None:
        """A tunnel's connection ended. The newest of the others gets what it was not offered."""
        self.connected.remove(tunnel)
        for uid in self.workloads:
            self._offer(uid)
        for uid in tunnel.told | tunnel.leaving:
            self._changed(uid)

    def descriptor(self, request: Request) -> int | None:
        """The descriptor to send beside a request: the pod's namespace for an add, None for others."""
        if not isinstance(request, Add):
            return None
        workload = self.workloads.get(request.uid)
        if workload is None or workload.namespace is None:
            raise BugError(f"an add for {request.uid}, whose namespace is not held")
        return workload.namespace.fd

    def _offer(self, uid: str) -> None:
        tunnel, workload = self.newest, self.workloads[uid]
        if tunnel is None or workload.info is None or workload.namespace is None:
            return
        if tunnel.asked.get(uid) is workload:
            return  # it is to answer, or it did
        tunnel.refused.pop(uid, None)
        tunnel.leaving.discard(uid)
        tunnel.told.add(uid)
        tunnel.asked[uid] = workload
        tunnel.session.submit(Add(uid, workload.info))
        tunnel.wake()
