"""Where a CA's state is kept, for all replicas of the control plane: one value with a version, replaced whole or not at all.

Whoever wants to change it loads it, makes the next, and saves that in place of the version that it loaded. Of two who do so at once one
gets `Conflict`, and begins anew with what the other saved; so all replicas go the same way, also two that start at the same moment on
nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from control.ca.state import State
from mesh.model.errors import CulvertError


class Conflict(CulvertError):  # noqa: N818 - reads as what happened
    """Somebody else has saved since the version that was to be replaced."""


@dataclass(frozen=True, slots=True)
class Stored:
    """`version` is the store's own; equal versions are equal states."""

    state: State
    version: str


class Store(Protocol):
    """Implementations keep `state.to_files`: keys 0600 or in a Secret, never in a log. `where` names it for people.

    `settle`: seconds after a save until every replica has loaded it, if it can at all.
    """

    where: str
    settle: float

    async def load(self) -> Stored | None:
        """What was saved last; None where nothing ever was. ConfigError where it cannot be used; OSError where it cannot be reached."""

    async def save(self, state: State, expected: str) -> str:
        """Replace `expected` ("" for nothing); the new version. Raises Conflict with nothing changed; OSError where it is not known to be
        kept: the next `load` tells.
        """

    async def changed(self, version: str) -> None:
        """Return when another version may be there. May also return without one."""

    async def close(self) -> None:
        """End what `changed` began. Safe to call twice."""


class MemoryStore:
    """Of one process, for a CA that others keep: a mounted one."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.settle = 0.0
        self._stored: Stored | None = None

    async def load(self) -> Stored | None:
        return self._stored

    async def save(self, state: State, expected: str) -> str:
        version = self._stored.version if self._stored is not None else ""
        if expected != version:
            raise Conflict(f"version {version or 'none'} is there, not {expected or 'none'}")
        self._stored = Stored(state, str(int(version or "0") + 1))
        return self._stored.version

    async def changed(self, version: str) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass
