"""In-memory stand-ins with state: the kernel of a node, its pods, the files for the control plane, and tunnels that answer as told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field

from agent.enrol import EnrolError
from agent.member import Deps
from agent.pods import Pod
from agent.reconcile import Reconciler
from agent.records import Record
from agent.routing import Before
from agent.tunnels import Tunnel, Tunnels
from mesh.io.netns import Namespace
from mesh.wire.zds import Ack, Acked, AgentSession, Connected, Hello, Request, encode_ack, encode_hello

AMBIENT = {"istio.io/dataplane-mode": "ambient"}


class FakeNamespace(Namespace):
    """Has a cookie and nothing else. Counts how many are open."""

    open_now = 0

    def __init__(self, cookie: int) -> None:
        super().__init__(10_000 + cookie)
        self.__dict__["cookie"] = cookie
        self.__dict__["inode"] = cookie
        FakeNamespace.open_now += 1

    def close(self) -> None:
        if self._fd >= 0:
            FakeNamespace.open_now -= 1
        self._fd = -1


@dataclass
class FakeHost:
    """`netns` maps paths to cookies. `log` is every step that changed something, in order. `broken` makes a step raise."""

    netns: dict[str, int] = field(default_factory=dict)
    prepared: dict[int, Record] = field(default_factory=dict)
    captures: set[int] = field(default_factory=set)
    listening: set[int] = field(default_factory=set)
    broken: dict[str, Exception] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def _step(self, name: str, cookie: int) -> None:
        if error := self.broken.get(f"{name} {cookie}") or self.broken.get(name):
            raise error
        self.log.append(f"{name} {cookie}")

    def open(self, path: str) -> Namespace:
        if error := self.broken.get(f"open {path}"):
            raise error
        if path not in self.netns:
            raise FileNotFoundError(2, "No such file or directory", path)
        return FakeNamespace(self.netns[path])

    def find(self, record: Record) -> Namespace | None:
        return FakeNamespace(record.cookie) if record.cookie in self.netns.values() else None

    def prepare(self, uid: str, path: str, namespace: Namespace, ips: Collection[str]) -> None:
        self._step("prepare", namespace.cookie)
        self.prepared.setdefault(namespace.cookie, Record(namespace.cookie, uid, path, namespace.cookie, Before(())))

    def adopt(self, namespace: Namespace) -> bool:
        return namespace.cookie in self.listening

    def capture(self, namespace: Namespace, ips: Collection[str]) -> None:
        self._step("capture", namespace.cookie)
        self.captures.add(namespace.cookie)

    def release(self, cookie: int) -> None:
        self._step("release", cookie)
        self.captures.discard(cookie)

    def restore(self, cookie: int, namespace: Namespace | None) -> None:
        self._step("restore", cookie)
        self.captures.discard(cookie)
        self.prepared.pop(cookie, None)

    def captured(self) -> frozenset[int]:
        return frozenset(self.captures)

    def records(self) -> list[Record]:
        return list(self.prepared.values())


@dataclass
class FakePods:
    pods: dict[str, Pod] | None = field(default_factory=dict)
    broken: frozenset[str] = frozenset()

    def snapshot(self) -> Mapping[str, Pod] | None:
        return self.pods

    def unreadable(self) -> frozenset[str]:
        return self.broken

    async def run(self, changed: Callable[[], None]) -> None:
        await asyncio.Event().wait()


@dataclass
class FakeRedirections:
    states: dict[str, str] = field(default_factory=dict)
    history: list[tuple[str, str]] = field(default_factory=list)

    def report(self, uid: str, state: str) -> None:
        self.states[uid] = state
        self.history.append((uid, state))

    def withdraw(self, uid: str) -> None:
        self.states.pop(uid, None)

    def enabled(self) -> frozenset[str]:
        return frozenset(uid for uid, state in self.states.items() if state == "enabled")


class FakeWatch:
    def __init__(self, namespace: Namespace, changed: Callable[[], None]) -> None:
        self.changed = changed
        self.closed = False

    def close(self) -> None:
        self.closed = True


class FakeTunnel:
    """A connected tunnel. Answers each request with what `answer` returns (None: not at all), and is told of each in `got`."""

    def __init__(self, tunnels: Tunnels, answer: Callable[[Request], str | None] = lambda _: "") -> None:
        self.got: list[Request] = []
        self.answer = answer
        self._tunnels = tunnels
        self.session = AgentSession(0.0)
        assert self.session.receive(encode_hello(Hello())) == Connected()
        self.tunnel: Tunnel = tunnels.hello(self.session, self._wake)

    def ack(self, error: str = "") -> None:
        """Answer the request in flight."""
        event = self.session.receive(encode_ack(Ack(error)))
        assert isinstance(event, Acked)
        self._tunnels.acked(self.tunnel, event)
        self.pump()

    def pump(self) -> None:
        while request := self.session.next_request(0.0):
            self._tunnels.descriptor(request)
            self.got.append(request)
            answer = self.answer(request)
            if answer is None:
                return
            event = self.session.receive(encode_ack(Ack(answer)))
            assert isinstance(event, Acked)
            self._tunnels.acked(self.tunnel, event)

    def disconnect(self) -> None:
        self._tunnels.lost(self.tunnel)

    def _wake(self) -> None:
        try:
            asyncio.get_running_loop().call_soon(self.pump)
        except RuntimeError:
            pass  # outside of a loop the test pumps by itself


class FakeNode:
    """Everything around a reconciler. What the kernel keeps survives `restart`."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.pods = FakePods()
        self.redirections = FakeRedirections()
        self.counts: dict[str, int] = {}
        self.watches: list[FakeWatch] = []
        self.restart()

    def restart(self) -> None:
        self.tunnels = Tunnels(lambda uid: self.reconciler.poke(uid))
        self.reconciler = Reconciler(
            self.pods,
            Deps(self.host, self.tunnels, self.redirections, self._in_kernel_thread, self._watch, self._count),
        )

    async def _in_kernel_thread(self, function: Callable[[], object]) -> object:
        await asyncio.sleep(0)
        return function()

    def _watch(self, namespace: Namespace, changed: Callable[[], None]) -> FakeWatch:
        self.watches.append(FakeWatch(namespace, changed))
        return self.watches[-1]

    def _count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def pod(self, uid: str, cookie: int, labels: Mapping[str, str] = AMBIENT, path: str = "") -> None:
        """Put a pod into the list (the caller says when the list changed)."""
        path = path or f"/run/netns/{uid}"
        self.host.netns[path] = cookie
        assert self.pods.pods is not None
        self.pods.pods[uid] = Pod(uid, uid, "shop", "default", path, labels)

    def tunnel(self, answer: Callable[[Request], str | None] | None = None) -> FakeTunnel:
        return FakeTunnel(self.tunnels, answer or (lambda _: ""))

    async def settle(self, seconds: float = 0.5) -> None:
        await asyncio.sleep(seconds)


Awaited = Awaitable[object]
__all__ = ["AMBIENT", "EnrolError", "FakeHost", "FakeNamespace", "FakeNode", "FakePods", "FakeTunnel"]
