"""A cluster as it is now, through its API server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from control.kube.access import Access
from control.kube.client import Api
from control.kube.errors import KubeError
from control.sources.kubernetes.once import list_all
from culvert.cli.output import UsageError
from culvert.config import kubeconfig
from mesh.model.errors import ConfigError
from mesh.model.manifest import Parsed


def kubeconfig_of(given: Path | None) -> Path:
    return given or kubeconfig()


class LiveCluster:
    """`context`: one of the kubeconfig's, "" for its current one."""

    def __init__(self, path: Path, context: str) -> None:
        self._access = Access(path, context)

    def objects(self) -> Iterable[tuple[str, Parsed]]:
        """UsageError where the cluster cannot be reached, or something of it may not be listed."""
        try:
            return asyncio.run(self._list())
        except (KubeError, ConfigError) as error:
            raise UsageError(str(error)) from error

    async def _list(self) -> list[tuple[str, Parsed]]:
        api = Api(self._access)
        try:
            return await list_all(api)
        finally:
            await api.close()
