"""A CA's state in a Kubernetes Secret, which all replicas of the control plane share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from control.ca.state import State, from_files, to_files
from control.ca.store import Conflict, Stored
from control.kube.errors import Conflict as Refused
from control.kube.errors import KubeError
from control.kube.secrets import SecretFiles


class SecretStore:
    """`Store` over a `SecretFiles`."""

    def __init__(self, files: SecretFiles) -> None:
        self.where = files.where
        self.settle = files.settle
        self._files = files

    async def load(self) -> Stored | None:
        with _translated():
            found = await self._files.load()
        return Stored(from_files(found.content, self.where), found.version) if found is not None else None

    async def save(self, state: State, expected: str) -> str:
        with _translated():
            return await self._files.save(to_files(state), expected)

    async def changed(self, version: str) -> None:
        await self._files.changed(version)

    async def close(self) -> None:
        pass


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise Conflict(str(error)) from error
    except KubeError as error:
        raise OSError(str(error)) from error
