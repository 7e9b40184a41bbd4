"""One of the mesh's own processes, kept running and watched for readiness."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from culvert.playground.keeper import MESH_BACK_OFF, Keeper, Restarting
from culvert.playground.launch import Worker
from culvert.playground.meshprograms import LOCAL, MeshProgram
from culvert.playground.probes import EAGER_SECONDS, Target, check
from culvert.playground.processes import ProcessId

GRACE_SECONDS = 8.0


class MeshProcess:
    """`seen` is what the last probe saw. Readiness is of one process: its successor has to be asked anew."""

    def __init__(self, program: MeshProgram, worker: Worker, pids: Path, changed: Callable[[], None]) -> None:
        self.program = program
        self.seen = ""
        self.keeper = Keeper(program.name, worker, pids, lambda: program.program, Restarting("Always", MESH_BACK_OFF), self._on_change)
        self._changed = changed
        self._ready: ProcessId | None = None
        self._poked = asyncio.Event()
        self._tasks: list[asyncio.Task[object]] = []

    @property
    def started(self) -> bool:
        return bool(self._tasks)

    @property
    def ready(self) -> bool:
        return self._ready is not None and self._ready == self.keeper.process

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self.keeper.run(), name=self.program.name),
            asyncio.create_task(self._watch(), name=f"readiness of {self.program.name}"),
        ]

    def _on_change(self) -> None:
        self._poked.set()
        self._changed()

    async def _watch(self) -> None:
        target = Target(self.program.program.netns, LOCAL, _no_commands, {})
        while True:
            self._poked.clear()
            process = self.keeper.process
            ready, seen = (False, self.keeper.detail) if process is None else await check(self.program.readiness, target)
            now = process if ready else None
            if (now, seen) != (self._ready, self.seen):
                self._ready, self.seen = now, seen
                self._changed()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), self.program.readiness.period if ready else EAGER_SECONDS / 2)

    async def stop(self) -> None:
        await self.keeper.stop(GRACE_SECONDS)
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _no_commands(command: tuple[str, ...], seconds: float) -> int:
    raise OSError("the mesh's own processes have no exec probes")
