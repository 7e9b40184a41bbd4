"""What every plaintext connection begins with, whichever way it goes: its pod's workload is known, or awaited, or it is refused."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from mesh.io.sockets import reset
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress, Workload

if TYPE_CHECKING:
    from ztunnel.deps import Deps
    from ztunnel.pods import Pod


def refuse(
    deps: Deps,
    inbound: bool,
    sock: socket.socket,
    reason: Reason,
    detail: str,
    peer: SocketAddress | None,
    destination: SocketAddress | None,
) -> None:
    """Reset it, and count and log it as one of which nothing more is known."""
    reset(sock)
    deps.registry.refused(inbound, reason, detail, peer, destination)


def admit(
    deps: Deps,
    pod: Pod,
    inbound: bool,
    sock: socket.socket,
    peer: SocketAddress,
    destination: SocketAddress,
    start: Callable[[Workload], None],
) -> None:
    """Call `start` with the pod's workload: at once where it is known, else when it is announced, and never if that takes too long."""
    workload = deps.view.workload_of(pod.info)
    if workload is None:
        pod.spawn(_when_known(deps, pod, inbound, sock, peer, destination, start))
    else:
        start(workload)


async def _when_known(
    deps: Deps,
    pod: Pod,
    inbound: bool,
    sock: socket.socket,
    peer: SocketAddress,
    destination: SocketAddress,
    start: Callable[[Workload], None],
) -> None:
    try:
        workload = await deps.view.wait_workload(pod.info, deps.config.workload_timeout)
    except asyncio.CancelledError:
        reset(sock)
        raise
    if workload is None:
        reason = Reason.UNKNOWN_WORKLOAD if inbound else Reason.UNKNOWN_SOURCE
        refuse(deps, inbound, sock, reason, f"{pod.info.namespace}/{pod.info.name}", peer, destination)
    else:
        start(workload)
