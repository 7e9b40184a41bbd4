"""The agent's composition root: everything is made here, started in order, and stopped in reverse.

The order of the start is part of the promise never to be silently open. The kernel programs are taken over first, and go on enforcing;
then the list of pods is read; only when every pod of it is announced may a tunnel connect, since a tunnel drops what a snapshot lacks.
A stop (SIGTERM) leaves pins, enrolments and routing in place: policy holds while no agent runs. Only `agent.uninstall` takes them away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from agent.addresses import NetlinkAddressWatch
from agent.admin import Admin
from agent.bpf import Programs
from agent.config import Config
from agent.enrol import NodeHost
from agent.member import Deps
from agent.metrics import Metrics
from agent.pods import DirectoryPods
from agent.reconcile import Reconciler
from agent.records import Records, write_atomically
from agent.redirection import RedirectionFiles
from agent.tunnels import Tunnels
from agent.zds_server import ZdsServer
from mesh.io.http import HttpServer
from mesh.io.log import Levels, Log
from mesh.io.netns import Namespace

log = Log("agent")


class App:
    """One node agent. `run` returns after `stopping` was set."""

    def __init__(self, config: Config, levels: Levels) -> None:
        self.config = config
        self._levels = levels
        self._missing = "the kernel programs are not loaded yet"

    async def run(self, stopping: asyncio.Event) -> None:
        """Raises OSError, BpfError, AdoptionError, BusyError where the node does not allow a start."""
        config = self.config
        loop = asyncio.get_running_loop()
        os.makedirs(config.run_dir, mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(config.zds_socket), mode=0o700, exist_ok=True)
        # One thread for all that blocks in the kernel: steps of different pods never interleave, and setns stays off the loop's thread.
        executor = ThreadPoolExecutor(1, thread_name_prefix="kernel")

        def in_kernel_thread(function: Callable[[], object]) -> asyncio.Future[object]:
            return loop.run_in_executor(executor, function)

        async with contextlib.AsyncExitStack() as stack:
            stack.callback(executor.shutdown)
            with Namespace.current() as node:
                node_cookie = node.cookie
            programs = Programs.load_or_adopt(config.instance, config.bpffs, None, node_cookie)
            stack.callback(programs.close)
            write_atomically(config.mark_file, f"0x{programs.mark:08x}\n")

            tunnels = Tunnels(lambda uid: reconciler.poke(uid))
            pods = DirectoryPods(config.pods_dir)
            redirections = RedirectionFiles(config.redirection_dir)
            host = NodeHost(programs, Records(os.path.join(config.run_dir, "pods")), node_cookie)
            deps = Deps(
                host=host,
                tunnels=tunnels,
                redirections=redirections,
                in_kernel_thread=in_kernel_thread,
                watch_addresses=NetlinkAddressWatch,
                count=lambda kind: metrics.count(kind),
            )
            reconciler = Reconciler(pods, deps)
            metrics = Metrics(programs.counters, reconciler.members, tunnels)
            admin = Admin(metrics, reconciler.members, pods.problems, tunnels, self._levels, lambda: self._missing)
            if config.http_address:
                http = HttpServer(admin.routes(), loopback_only=True)
                await http.start(config.http_address)
                stack.push_async_callback(http.close)
            loop.add_reader(programs.event_fd, _log_events, programs, reconciler)
            stack.callback(loop.remove_reader, programs.event_fd)
            log.info("kernel programs at work", instance=config.instance, captured=len(programs.enrolled()), node_netns=node_cookie)

            self._missing = f"the list of pods in {config.pods_dir} was not read yet"
            read = asyncio.Event()

            def changed() -> None:
                if read.is_set() and not self._missing:
                    reconciler.pods_changed()
                read.set()

            source = asyncio.create_task(pods.run(changed), name="pods")
            stack.push_async_callback(_cancelled, source)
            if not await _came(read, source, stopping):
                return
            await reconciler.start()
            zds = ZdsServer(config.zds_socket, tunnels)
            stack.callback(zds.close)
            stack.push_async_callback(reconciler.stop)  # first, so that nobody acts on tunnels that go because of us
            zds.start()
            self._missing = ""
            reconciler.pods_changed()  # what changed while we started
            log.info("ready", pods=len(pods.snapshot() or ()), members=len(reconciler.members), socket=config.zds_socket)
            await _came(stopping, source, stopping)
            log.info("stopping; what is enrolled stays enrolled")


async def _came(event: asyncio.Event, source: asyncio.Task[None], stopping: asyncio.Event) -> bool:
    """Wait for `event`; False where `stopping` came before it. Raises what ended `source`."""
    waits = [asyncio.create_task(event.wait()), asyncio.create_task(stopping.wait())]
    try:
        await asyncio.wait([*waits, source], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if source.done():
        source.result()
    return event.is_set()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _log_events(programs: Programs, reconciler: Reconciler) -> None:
    """One line per refusal of the kernel programs (they bound how many), with the pod's name where it is known."""
    pods = {member.namespace.cookie: member.wanted for member in reconciler.members.values() if member.namespace}
    for event in programs.drain_events():
        pod = pods.get(event.netns)
        log.warning(
            "the kernel refused a connection",
            reason=event.reason,
            pod=f"{pod.namespace}/{pod.name}" if pod else None,
            netns=event.netns or None,
            source=event.source,
            destination=event.destination,
        )
