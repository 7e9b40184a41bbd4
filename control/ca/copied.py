"""A store with a copy on this machine, so that a control plane can begin while the store is away: with the API server down, the mesh's
certificates and the control plane's own port would otherwise wait for it.

The copy is read at the beginning only, where the store cannot be reached, and then nothing can be changed until it can. It holds the keys,
so it belongs where the store's own would be allowed: a directory of the control plane's user, best in memory.
"""

from __future__ import annotations

from control.ca.directory import DirectoryStore
from control.ca.state import State
from control.ca.store import Store, Stored
from mesh.io.log import Log
from mesh.model.errors import ConfigError

log = Log("ca")

COPY = "copy"  # the version of what was read from it: no store's own


class CopiedStore:
    """`Store`: `store`, and `copy` for a beginning without it."""

    def __init__(self, store: Store, copy: DirectoryStore) -> None:
        self.where = store.where
        self.settle = store.settle
        self._store = store
        self._copy = copy
        self._begun = False

    async def load(self) -> Stored | None:
        try:
            stored = await self._store.load()
        except OSError as error:
            found = None if self._begun else await self._copy.load()
            if found is None:
                raise
            self._begun = True
            log.warning("the CA begins with its copy: what it is kept in cannot be reached", kept=self.where, error=error)
            return Stored(found.state, COPY)
        self._begun = True
        if stored is not None:
            await self._keep(stored.state)
        return stored

    async def save(self, state: State, expected: str) -> str:
        version = await self._store.save(state, expected)
        await self._keep(state)
        return version

    async def changed(self, version: str) -> None:
        await self._store.changed(version)

    async def close(self) -> None:
        await self._store.close()
        await self._copy.close()

    async def _keep(self, state: State) -> None:
        """A copy that cannot be written costs nothing now: it is told, and tried again with the next load."""
        try:
            found = await self._copy.load()
        except (OSError, ConfigError):
            found = None
        if found is None or found.state != state:
            try:
                await self._copy.replace(state)
            except OSError as error:
                log.error("the copy of the CA cannot be written", path=self._copy.where, error=error)
