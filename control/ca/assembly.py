"""The CA put together: what the control plane starts, serves and stops as one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from control.auth import Authenticator
from control.ca.command import CommandSocket
from control.ca.departed import There
from control.ca.follow import FollowService
from control.ca.holders import Holders
from control.ca.keeper import CaSettings, Keeper
from control.ca.metrics import CaMetrics
from control.ca.rates import Rates
from control.ca.service import CertificateService, RunsOn
from control.ca.serving import Serving
from control.ca.store import Store
from control.ca.upkeep import Upkeep
from control.ca.view import view
from mesh.io.http import Response, Routes, json_response


class CertificateAuthority:
    """`runs_on` and `nodes` speak of the mesh: whose pods run where, and which nodes have any. `socket`: where commands are taken; `rates`:
    how much one caller may ask for; `sources`: who is there, see `Departed`.
    """

    def __init__(
        self,
        settings: CaSettings,
        store: Store,
        authenticator: Authenticator,
        runs_on: RunsOn,
        nodes: Callable[[], Iterable[str]],
        registry: CollectorRegistry,
        socket: Path | None = None,
        rates: Rates | None = None,
        sources: Callable[[], There | None] = lambda: None,
    ) -> None:
        metrics = CaMetrics(registry)
        self.keeper = Keeper(settings, store, Holders(nodes, sources), metrics)
        self._upkeep = Upkeep(self.keeper, metrics)
        self._certificates = CertificateService(self.keeper, authenticator, runs_on, metrics, rates)
        self._follow = FollowService(self.keeper, authenticator, metrics)
        self._commands = CommandSocket(self.keeper, socket) if socket is not None else None

    async def start(self) -> None:
        """Put an authority in force and take commands. Raises ConfigError, OSError."""
        await self.keeper.start()
        if self._commands is not None:
            await self._commands.start()

    async def run(self) -> None:
        """Until cancelled."""
        await self._upkeep.run()

    async def close(self) -> None:
        if self._commands is not None:
            await self._commands.close()
        self._certificates.close()
        await self.keeper.store.close()

    def handlers(self) -> tuple[grpc.GenericRpcHandler[Any, Any], ...]:
        return self._certificates.handler(), self._follow.handler()

    def serving(self, names: Sequence[str]) -> Serving:
        """The certificate of a port of ours, for these names. To be asked after `start`."""
        return Serving(lambda: self.keeper.authority, names)

    def changes(self) -> asyncio.Event:
        """Set after every change, for whoever hands on the roots (`keeper.authority.bundle`); clear it before looking."""
        event = asyncio.Event()
        self.keeper.listeners.add(event)
        return event

    def routes(self) -> Routes:
        return {("GET", "/debug/ca"): self._debug}

    def _debug(self, _: object) -> Response:
        return json_response(view(self.keeper))
