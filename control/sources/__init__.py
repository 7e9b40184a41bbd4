"""Where objects come from. Each source reads its kind of place and says when something changed; more of them stand side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mesh.model.manifest import Parsed


class Source(Protocol):
    """One place that objects come from. `synced`: all that was there at the start has been read."""

    name: str
    synced: bool

    def parsed(self) -> Parsed:
        """What the source holds now, duplicates of names included."""

    async def run(self, changed: Callable[[], None]) -> None:
        """Read, and read again, calling `changed` after every change and when the source becomes synced. Ends when cancelled."""
