"""A cluster as it is now, for tools that look once and end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from control.kube.client import Api
from control.kube.errors import Unreachable
from control.sources.kubernetes.source import KubernetesSource
from control.sources.kubernetes.tuning import Tuning
from mesh.model.manifest import Parsed

PATIENCE = 30.0


@dataclass(slots=True)
class _Sink:
    held: dict[str, Parsed] = field(default_factory=dict)
    changes: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, origin: str, parsed: Parsed) -> None:
        self.held[origin] = parsed

    def remove(self, origin: str) -> None:
        self.held.pop(origin, None)

    def changed(self) -> None:
        self.changes.set()


async def read_once(api: Api, patience: float = PATIENCE, tuning: Tuning | None = None) -> dict[str, Parsed]:
    """By origin, everything that a control plane would be handed of the cluster. KubeError, with the source's own sentence, where that
    cannot be had in `patience` seconds: half of it would be judged wrongly.
    """
    sink = _Sink()
    source = KubernetesSource(api, tuning=tuning)
    task = asyncio.create_task(source.run(sink))
    try:
        async with asyncio.timeout(patience):
            while not source.state.synced:
                sink.changes.clear()
                await sink.changes.wait()
    except TimeoutError:
        raise Unreachable(source.state.error or f"{api.server} did not give all that it has in {patience:g} s") from None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return sink.held
