"""The playground's supervisor: API server storage, controller manager and kubelets in one small daemon.

Run as `python -m culvert.playground.supervisor NAME STATE`. It holds no state that is not in the state directory: killed at any moment
and started again, it takes over the processes that still run and finishes what was begun. SIGTERM ends it and nothing else;
`culvert down` ends the rest.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from culvert.playground.bootstrap import prepare
from culvert.playground.cluster import Cluster
from culvert.playground.files import trim_log, write_atomic, write_json
from culvert.playground.kernel import Watch
from culvert.playground.launch import Worker
from culvert.playground.layout import Layout
from culvert.playground.processes import identify
from culvert.playground.spec import PlaygroundSpec
from culvert.playground.statusfile import status

RESYNC_SECONDS = 5.0
FAILED_PASS_SECONDS = 1.0
TRIM_SECONDS = 5.0
SETTLE_SECONDS = 0.01  # a burst of changes is one pass
LOG_LIMIT = 8 << 20  # bytes per log


def say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}", file=sys.stderr, flush=True)


async def supervise(layout: Layout, spec: PlaygroundSpec) -> None:
    worker = Worker()
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    watch = Watch()
    try:
        await worker.run(lambda: prepare(layout, spec))
        cluster = Cluster(layout, spec, worker)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop, stopping, cluster)
        for directory in [layout.applied, layout.ca, layout.state, *(layout.redirection(node) for node in spec.nodes)]:
            watch.add(directory)
        loop.add_reader(watch.fd, lambda: _changed(watch, cluster))
        await cluster.start()
        trimming = asyncio.create_task(_trim_logs(layout), name="trim logs")
        cluster.wake.set()
        while not stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(cluster.wake.wait(), RESYNC_SECONDS)
                await asyncio.sleep(SETTLE_SECONDS)
            cluster.wake.clear()
            try:
                await cluster.sync()
                write_json(layout.status, status(cluster))
            except Exception as error:
                # A full disk, or a bug of ours: said, and tried again. Pods run on; nothing is torn down because we cannot think.
                say(f"a pass failed: {''.join(traceback.format_exception(error))}")
                cluster.problems["Supervisor"] = f"{error}; see {layout.supervisor_log}"
                with suppress(Exception):
                    write_json(layout.status, status(cluster))
                loop.call_later(FAILED_PASS_SECONDS, cluster.wake.set)
        trimming.cancel()
        loop.remove_reader(watch.fd)
    finally:
        watch.close()
        worker.close()


def _stop(stopping: asyncio.Event, cluster: Cluster) -> None:
    stopping.set()
    cluster.wake.set()


# Ours, written by the pass itself: not a reason for another pass.
OWN_FILES = ("status.json", "addresses.json", "names.json", "network.json", "supervisor.pid")


def _changed(watch: Watch, cluster: Cluster) -> None:
    if any(not name.startswith(".") and name not in OWN_FILES for name in watch.drain()):
        cluster.wake.set()


async def _trim_logs(layout: Layout) -> None:
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        with suppress(OSError):
            for path in layout.logs.iterdir():
                trim_log(path, LOG_LIMIT)


def main() -> int:
    if len(sys.argv) != 3:
        say("usage: python -m culvert.playground.supervisor NAME STATE")
        return 2
    layout = Layout(sys.argv[1], Path(sys.argv[2]))
    spec = PlaygroundSpec.load(layout)
    if spec is None:
        say(f"no playground at {layout.state}; run `culvert up`")
        return 2
    lock = os.open(layout.state / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another supervisor has this playground")
        return 1
    me = identify(os.getpid())
    write_atomic(layout.supervisor_pid, f"{me}\n")
    say("started")
    try:
        asyncio.run(supervise(layout, spec))
    finally:
        say("stopped")
    # The tasks of pods are cancelled with the loop; the processes themselves go on.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
