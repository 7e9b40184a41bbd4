"""The pods of this node: three listeners in each one's network namespace, and everything that ends with the pod.

    15001  outbound, captured by the kernel           → outbound.capture
    15006  inbound plaintext, steered by the kernel   → plaintext.steered
    15008  inbound HBONE                              → inbound.serve

A pod whose listeners cannot be opened (its namespace is not ready, a port is taken) is refused to the agent, kept, and tried again every
`RETRY` seconds; until then this tunnel is not ready.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from mesh.io.acceptor import Acceptor
from mesh.io.log import Log
from mesh.io.netns import Namespace
from mesh.io.sockets import listener, reset
from mesh.io.tunnel import Tunnel
from mesh.model.reasons import Reason
from mesh.model.workload import HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT, SocketAddress, Workload
from mesh.wire.baggage import baggage_of
from mesh.wire.zds import WorkloadInfo
from ztunnel.deps import Deps
from ztunnel.inbound import serve
from ztunnel.judge import judge
from ztunnel.metrics import Metrics
from ztunnel.outbound import capture
from ztunnel.plaintext import steered

log = Log("pods")

RETRY = 5.0  # seconds

OnAccept = Callable[[socket.socket, SocketAddress | None], None]


class Pod:
    """One enrolled pod. `stopped` is for good; `up` says that it listens."""

    def __init__(self, deps: Deps, uid: str, info: WorkloadInfo, namespace: Namespace, mark: int) -> None:
        self.uid = uid
        self.info = info
        self.namespace = namespace
        self.inode = namespace.inode
        self.mark = mark
        self.up = False
        self.draining = False
        self.stopped = False
        self.judged_as: Workload | None = None  # in this form, when running connections were last judged
        self.tunnels: set[Tunnel] = set()  # inbound
        self.beginning = 0  # inbound, not yet proved
        self._deps = deps
        self._acceptors: list[Acceptor] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._baggage: tuple[Workload | None, str] = (None, "")

    def __repr__(self) -> str:
        return f"<Pod {self.info.namespace}/{self.info.name} {'up' if self.up else 'pending'}>"

    def listen(self) -> None:
        """Open the listeners. Raises OSError, with none left open."""
        ipv6 = self._deps.config.ipv6
        opened: list[socket.socket] = []
        ports = (OUTBOUND_PORT, PLAINTEXT_PORT, HBONE_PORT)

        def open_all() -> None:
            # One by one into `opened`: those that came before a failure are to be closed.
            opened.extend(listener(port, mark=self.mark, transparent=True, dual_stack=ipv6) for port in ports)

        try:
            self.namespace.run(open_all)
        except OSError:
            for sock in opened:
                sock.close()
            raise
        callbacks: tuple[tuple[bool, OnAccept], ...] = (
            (False, partial(capture, self._deps, self)),
            (True, partial(steered, self._deps, self)),
            (True, self._on_hbone),
        )
        for sock, (inbound, callback) in zip(opened, callbacks, strict=True):
            guarded = partial(self._guard, inbound, callback)
            refused = partial(self._on_refused, inbound)
            self._acceptors.append(Acceptor(sock, guarded, refused, self._deps.spare))
        self.up = True

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends with the pod."""
        task = self._deps.spawn(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def baggage_of(self, workload: Workload) -> str:
        """What we say of the pod to other tunnels, made anew when its workload changes."""
        known, text = self._baggage
        if known is not workload:
            text = baggage_of(workload).encode()
            self._baggage = (workload, text)
        return text

    def drain(self) -> None:
        """Take nothing new; what runs goes on."""
        self.draining = True
        self._stop_listening()
        for tunnel in list(self.tunnels):
            tunnel.drain()

    def stop(self, reason: Reason) -> None:
        """End everything of the pod at once."""
        self.stopped = True
        self._stop_listening()
        self._deps.registry.close_pod(self.uid, reason)
        for tunnel in list(self.tunnels):
            tunnel.close(reason)
        for task in list(self._tasks):
            task.cancel()
        for waiter in self._deps.pool.forget([self.uid]):
            waiter.failed(reason, "")
        self.namespace.close()

    def _stop_listening(self) -> None:
        self.up = False
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()

    def _on_hbone(self, sock: socket.socket, peer: SocketAddress | None) -> None:
        self.spawn(serve(self._deps, self, sock, peer))

    def _guard(self, inbound: bool, callback: OnAccept, sock: socket.socket, peer: SocketAddress | None) -> None:
        """A listener must survive a bug of ours in one connection, and a connection that broke before we looked at it."""
        try:
            callback(sock, peer)
        except OSError as error:
            reset(sock)
            reason = Reason.RESET_BY_SOURCE
            self._deps.registry.refused(inbound, reason, str(error), peer, None)
        except Exception:
            log.exception("a bug ends one connection", pod=self)
            reset(sock)
            self._deps.registry.refused(inbound, Reason.INTERNAL, "", peer, None)

    def _on_refused(self, inbound: bool, reason: Reason) -> None:
        self._deps.registry.refused(inbound, reason, f"a connection of {self.info.namespace}/{self.info.name}", None, None)


class Pods:
    """All pods, as the agent has announced them. The answers of `add` go back to it."""

    def __init__(self, deps: Deps, metrics: Metrics) -> None:
        self.deps = deps
        self.pods: dict[str, Pod] = {}
        self.errors: dict[str, str] = {}
        self.draining = False
        self._metrics = metrics
        self._retry: asyncio.TimerHandle | None = None
        deps.view.changed.append(self._on_mesh_changed)

    @property
    def pending(self) -> list[str]:
        """Those that cannot be served yet, with why."""
        return [f"pod {self.pods[uid].info.namespace}/{self.pods[uid].info.name}: {error}" for uid, error in self.errors.items()]

    def add(self, uid: str, info: WorkloadInfo, fd: int, mark: int) -> str:
        """Serve a pod in the namespace behind `fd`, which is ours from now on. Empty, or why that cannot be (yet)."""
        namespace = Namespace(fd)
        if self.draining:
            namespace.close()
            return "this tunnel is shutting down"
        try:
            inode = namespace.inode
        except OSError as error:
            namespace.close()
            return f"not a network namespace: {error}"
        old = self.pods.get(uid)
        if old is not None:
            if (old.inode, old.info, old.mark) == (inode, info, mark) and old.up:
                namespace.close()
                return ""
            log.info("pod restarts: its namespace, name or mark changed", pod=old)
            self._stop(old, Reason.POD_REMOVED)
        pod = self.pods[uid] = Pod(self.deps, uid, info, namespace, mark)
        self._want_certificate(pod)
        self._try(pod)
        self._count()
        return self.errors.get(uid, "")

    def delete(self, uid: str) -> None:
        pod = self.pods.get(uid)
        if pod is not None:
            self._stop(pod, Reason.POD_REMOVED)
            self._count()

    def keep_only(self, uids: Iterable[str]) -> None:
        """The end of a snapshot: what was not named is gone."""
        for uid in set(self.pods) - set(uids):
            self.delete(uid)

    def drain(self) -> None:
        self.draining = True
        if self._retry is not None:
            self._retry.cancel()
        for pod in self.pods.values():
            pod.drain()

    def stop(self, reason: Reason) -> None:
        for pod in list(self.pods.values()):
            self._stop(pod, reason)

    def _try(self, pod: Pod) -> None:
        try:
            pod.listen()
        except OSError as error:
            self.errors[pod.uid] = f"cannot listen in its network namespace: {error}"
            log.warning("pod pending", pod=pod, error=error, retry_in=f"{RETRY:g}s")
            if self._retry is None:
                self._retry = asyncio.get_running_loop().call_later(RETRY, self._try_all)
        else:
            self.errors.pop(pod.uid, None)
            self._metrics.pods_started.add()
            log.info("pod up", pod=f"{pod.info.namespace}/{pod.info.name}", uid=pod.uid, netns=pod.inode)

    def _try_all(self) -> None:
        self._retry = None
        for uid in list(self.errors):
            self._try(self.pods[uid])
        self._count()

    def _stop(self, pod: Pod, reason: Reason) -> None:
        del self.pods[pod.uid]
        if self.errors.pop(pod.uid, None) is None:
            self._metrics.pods_stopped.add()
        pod.stop(reason)
        self.deps.certificates.release(pod.uid)
        log.info("pod stopped", pod=f"{pod.info.namespace}/{pod.info.name}", uid=pod.uid, reason=reason.word)

    def _count(self) -> None:
        self._metrics.pods_pending.set(len(self.errors))
        self._metrics.pods_active.set(len(self.pods) - len(self.errors))

    def _want_certificate(self, pod: Pod) -> None:
        """Fetch ahead: the first connection should not wait for the CA."""
        workload = self.deps.view.workload_of(pod.info)
        if workload is not None:
            self.deps.certificates.want(workload.identity, pod.uid)
            self.deps.certificates.release(pod.uid, keep=workload.identity)

    def _on_mesh_changed(self, policies: bool) -> None:
        """The mesh is new: certificates may be wanted, and running inbound connections are judged again where that may change."""
        for pod in self.pods.values():
            workload = self.deps.view.workload_of(pod.info)
            if workload is pod.judged_as and not policies:
                continue
            pod.judged_as = workload
            if workload is None:
                continue
            self._want_certificate(pod)
            for connection, decision in self.deps.registry.reevaluate(pod.uid, partial(judge, self.deps.view.state, workload)):
                log.info("connection closed: a policy change denies it", connection=connection, decision=decision)
