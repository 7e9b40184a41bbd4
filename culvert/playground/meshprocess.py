"""One of the mesh's own processes, kept running and watched for readiness."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from culvert.playground.keeper import MESH_BACK_OFF, Keeper, Restarting
from culvert.playground.launch import Worker
from culvert.playground.meshprograms import MeshProgram
from culvert.playground.probes import EAGER_SECONDS, Target, check

GRACE_SECONDS = 8.0


class MeshProcess:
    def __init__(self, program: MeshProgram, worker: Worker, pids: Path, changed: Callable[[], None]) -> None:
        self.program = program
        self.ready = False
        self.seen = ""
        self.keeper = Keeper(program.name, worker, pids, lambda: program.program, Restarting("Always", MESH_BACK_OFF), changed)
        self._changed = changed
        self._tasks: list[asyncio.Task[object]] = []

    @property
    def started(self) -> bool:
        return bool(self._tasks)

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self.keeper.run(), name=self.program.name),
            asyncio.create_task(self._watch(), name=f"readiness of {self.program.name}"),
        ]

    async def _watch(self) -> None:
        target = Target(self.program.program.netns, "127.0.0.1", _no_commands, {})
        while True:
            if self.keeper.process is None:
                ready, seen = False, self.keeper.detail
            else:
                ready, seen = await check(self.program.readiness, target)
            if (ready, seen) != (self.ready, self.seen):
                self.ready, self.seen = ready, seen
                self._changed()
            await asyncio.sleep(self.program.readiness.period if ready else EAGER_SECONDS / 2)

    async def stop(self) -> None:
        await self.keeper.stop(GRACE_SECONDS)
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _no_commands(command: tuple[str, ...], seconds: float) -> int:
    raise OSError("the mesh's own processes have no exec probes")
