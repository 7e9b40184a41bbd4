"""What the parts of the data path share; made once, in `app.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from mesh.io.acceptor import Spare
from mesh.io.log import Log
from mesh.io.tunnel import Tunnel
from mesh.model.route import Choose
from ztunnel.certificates import Certificates
from ztunnel.config import Config
from ztunnel.connections import Registry
from ztunnel.outbound import Outbound
from ztunnel.pool import Pool
from ztunnel.view import View

log = Log("tunnel")


@dataclass(frozen=True, slots=True)
class Deps:
    """choose: weighted random choice. trace: 24 random bytes for a trace id. tasks: everything that runs beside the callbacks."""

    config: Config
    view: View
    certificates: Certificates
    pool: Pool[Tunnel, Outbound]
    registry: Registry
    spare: Spare
    choose: Choose
    trace: Callable[[], bytes]
    tasks: set[asyncio.Task[None]]

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside the callbacks; a bug in it is logged, not lost."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.logger.error("a bug ended a task", exc_info=error)
