"""One pod from its record to its end: network, init containers, containers with their probes, deletion."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from culvert.playground import netns, network
from culvert.playground.containers import Surroundings, container_program, keeper_name
from culvert.playground.files import write_in_place
from culvert.playground.hosts import render_hosts
from culvert.playground.keeper import POD_BACK_OFF, BackOff, Keeper, KeeperState, Restarting, wait_gone
from culvert.playground.launch import Program, Worker
from culvert.playground.layout import Layout
from culvert.playground.podspec import ContainerSpec, PodSpec
from culvert.playground.probes import Prober, Target
from culvert.playground.processes import ProcessId, end_all, identify, settled_in_namespaces
from culvert.playground.records import PodRecord

LEAVE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class PodDeps:
    """What every pod of a playground shares. `spare` gives processes that a sweep must not touch; `settled` waits
    until everything that is true now has been told to everybody.
    """

    around: Surroundings
    worker: Worker
    changed: Callable[[], None]
    spare: Callable[[], Collection[ProcessId]]
    settled: Callable[[], Awaitable[None]]
    back_off: BackOff = POD_BACK_OFF

    @property
    def layout(self) -> Layout:
        return self.around.layout

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.around.nodes


class Pod:
    """The running side of a record. `problem` is shown while it is not empty."""

    def __init__(self, record: PodRecord, deps: PodDeps) -> None:
        self.record = record
        self.spec: PodSpec = record.spec()
        self.problem = ""
        self.keepers: dict[str, Keeper] = {}
        self._deps = deps
        self._ready: dict[str, bool] = {}
        self._events: dict[str, asyncio.Event] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._initialised = not self.spec.init_containers
        self._failed = False
        self.redirection = ""
        self.mesh_wanted = False
        self.deletion_begun = False
        self.retired = False
        self._admitted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # Facts

    @property
    def phase(self) -> str:
        states = [self.keepers[container.name].state for container in self.spec.containers if container.name in self.keepers]
        if self._failed:
            return "Failed"
        if len(states) < len(self.spec.containers) or KeeperState.WAITING in states:
            return "Pending"
        if all(state is KeeperState.EXITED for state in states):
            codes = [self.keepers[container.name].exit_code for container in self.spec.containers]
            return "Succeeded" if all(code == 0 for code in codes) else "Failed"
        return "Running"

    @property
    def ready(self) -> bool:
        return not self.record.deleting and self.phase == "Running" and all(self._ready.get(item.name) for item in self.spec.containers)

    @property
    def ready_containers(self) -> int:
        return sum(bool(self._ready.get(container.name)) for container in self.spec.containers)

    @property
    def restarts(self) -> int:
        return sum(keeper.restarts for keeper in self.keepers.values())

    @property
    def reason(self) -> str:
        """One or two words for a table, as kubectl shows them."""
        if self.record.deleting:
            return "Terminating"
        if any(keeper.state is KeeperState.BACK_OFF for keeper in self.keepers.values()):
            return "CrashLoopBackOff"
        if not self.admitted:
            return "ContainerCreating"
        if not self._initialised and not self._failed:
            return "Init"
        return {"Succeeded": "Completed", "Failed": "Error"}.get(self.phase, self.phase)

    # Life

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"pod {self.record.key}")

    def admit(self) -> None:
        """Let the containers start: the pod is in the mesh, or is not meant to be. Before that it has a network but no process."""
        self._admitted.set()

    @property
    def admitted(self) -> bool:
        return self._admitted.is_set()

    def relabel(self, record: PodRecord) -> None:
        """Take over changed labels and annotations of a bare pod; its process stays."""
        self._save(record)
        self.spec = record.spec()

    async def _run(self) -> None:
        try:
            await self._make_network_until_it_works()
            await self._admitted.wait()
            for container in self.spec.init_containers:
                policy = "Never" if self.spec.restart_policy == "Never" else "OnFailure"
                if await self._keeper(container, policy).run() != 0:
                    self._failed = True
                    return
            self._initialised = True
            async with asyncio.TaskGroup() as group:
                for container in self.spec.containers:
                    group.create_task(self._keep(container))
        finally:
            self._deps.changed()

    async def _make_network_until_it_works(self) -> None:
        delay = 0.0
        while True:
            try:
                return await self._make_network()
            except OSError as error:
                self.problem = f"its network cannot be made: {error.strerror or error}"
                self._deps.changed()
            delay = self._deps.back_off.next(delay, 0.0)
            await asyncio.sleep(delay)

    async def _make_network(self) -> None:
        record, deps = self.record, self._deps
        hosts = deps.layout.hosts / record.uid
        if not hosts.exists():
            write_in_place(hosts, render_hosts(record.namespace, record.name, record.addresses, ()))
        inode = netns.inode(record.netns)
        if record.made and inode is not None:
            return
        number = deps.nodes.index(record.node) + 1
        await deps.worker.run(lambda: network.make_pod(deps.layout, record.netns, record.node, number, record.uid, record.addresses))
        self._save(record.but(made=True))
        self._deps.changed()  # the agent may hear of it now

    async def _keep(self, container: ContainerSpec) -> None:
        keeper = self._keeper(container, self.spec.restart_policy)
        probing = asyncio.create_task(self._probe(container, keeper), name=f"probes {self.record.key} {container.name}")
        try:
            await keeper.run()
        finally:
            probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await probing
            self._ready[container.name] = False

    async def _probe(self, container: ContainerSpec, keeper: Keeper) -> None:
        """Probes anew for every process of the container."""
        while True:
            while keeper.process is None:
                await self._change(keeper)
            process = keeper.process
            prober = self._prober(container, keeper)
            running = asyncio.create_task(prober.run())
            try:
                while keeper.process == process:
                    await self._change(keeper)
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
                self._set_ready(container, False, keeper.detail)

    async def _change(self, keeper: Keeper) -> None:
        event = self._events[keeper.name]
        event.clear()
        await event.wait()

    def _prober(self, container: ContainerSpec, keeper: Keeper) -> Prober:
        target = Target(
            node_netns=self._deps.layout.node(self.record.node),
            address=self.record.addresses[0],
            run=lambda command, seconds: self.execute(container, command, seconds),
            ports={port.name: port.port for port in container.ports},
        )
        return Prober(
            (container.startup, container.readiness, container.liveness),
            target,
            lambda ready, seen: self._set_ready(container, ready, seen),
            lambda why: self._restart(keeper, why),
        )

    def _restart(self, keeper: Keeper, why: str) -> None:
        self._ending[keeper.name] = asyncio.create_task(keeper.end(why, self.spec.grace), name=f"end {keeper.name}")

    def _set_ready(self, container: ContainerSpec, ready: bool, seen: str) -> None:
        if self._ready.get(container.name) != ready or self.problem != seen:
            self._ready[container.name] = ready
            self.problem = seen
            self._deps.changed()

    # Programs

    def _keeper(self, container: ContainerSpec, policy: str) -> Keeper:
        name = keeper_name(self.record, container.name)
        self._events[name] = event = asyncio.Event()

        def changed() -> None:
            event.set()
            self._deps.changed()

        restarting = Restarting(policy, self._deps.back_off)
        keeper = Keeper(name, self._deps.worker, self._deps.layout.pids, lambda: self._program(container), restarting, changed)
        self.keepers[container.name] = keeper
        return keeper

    def _program(self, container: ContainerSpec, command: tuple[str, ...] = (), log: Path | None = None) -> Program:
        return container_program(self._deps.around, self.record, self.spec, container, command, log)

    async def execute(self, container: ContainerSpec, command: tuple[str, ...], seconds: float) -> int:
        """Run a command in the container's namespaces. Raises TimeoutError after killing it, OSError if it cannot start."""
        popen = await self._deps.worker.start(self._program(container, command, Path("/dev/null")))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                process = identify(popen.pid)
                if process is not None:
                    await wait_gone(process)
        except (TimeoutError, asyncio.CancelledError):
            with contextlib.suppress(ProcessLookupError):
                popen.kill()
            await loop.run_in_executor(None, popen.wait)
            raise
        return popen.wait()

    # End

    async def delete(self, grace: float | None = None) -> None:
        """Out of all services first, then SIGTERM, then nothing of it is left."""
        self._save(self.record.but(deleting=True))
        self._deps.changed()
        # Nobody is sent to it any more when it begins to end.
        await self._deps.settled()
        seconds = self.spec.grace if grace is None else grace
        await asyncio.gather(*(keeper.stop(seconds) for keeper in self.keepers.values()))
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._leave_mesh()
        await self._deps.worker.run(self._sweep)
        for keeper in self.keepers.values():
            keeper.forget()
        (self._deps.layout.hosts / self.record.uid).unlink(missing_ok=True)
        self.record.forget(self._deps.layout.pods)
        self._deps.changed()

    async def _leave_mesh(self) -> None:
        """Tell the agent while the namespace is still there: the tunnel can then say goodbye to its peers instead of falling silent."""
        self.retired = True
        self._deps.changed()
        enrolled = self._deps.layout.redirection(self.record.node) / self.record.uid
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                while enrolled.exists():  # noqa: ASYNC110 - a file of another process
                    await asyncio.sleep(0.02)

    def _sweep(self) -> None:
        inode = netns.inode(self.record.netns)
        if inode is not None:
            end_all(settled_in_namespaces({inode}, self._deps.spare()), 1.0)
        netns.delete(self.record.netns)

    def _save(self, record: PodRecord) -> None:
        self.record = record
        record.save(self._deps.layout.pods)
