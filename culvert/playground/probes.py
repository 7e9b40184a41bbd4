"""Probes, run from the node's network namespace as a kubelet does: readiness, liveness and startup of one container's process.

A kubelet waits a whole period between two looks; somebody who types `culvert up` should not. So until a container has been ready for
the first time, its startup and readiness probes are repeated every quarter of a second; what counts as a failure still counts by periods.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from culvert.playground.launch import in_netns
from culvert.playground.probespec import ProbeKind, ProbeSpec

EAGER_SECONDS = 0.25
MAX_REPLY = 4096  # bytes of an HTTP reply that are looked at: the status line


@dataclass(frozen=True, slots=True)
class Target:
    """Where to look: the node's namespace to connect from, the pod's first address, and how to run a command in the container.

    `run` gives the exit code of a command, or raises TimeoutError after the given seconds.
    """

    node_netns: str
    address: str
    run: Callable[[tuple[str, ...], float], Awaitable[int]]
    ports: dict[str, int]


async def check(probe: ProbeSpec, target: Target) -> tuple[bool, str]:
    """One look. The text says what was seen, for people."""
    try:
        async with asyncio.timeout(probe.timeout):
            if probe.kind is ProbeKind.EXEC:
                code = await target.run(probe.command, probe.timeout)
                return code == 0, f"{probe.command[0] if probe.command else ''} exited with {code}"
            port = target.ports.get(probe.port, 0) if isinstance(probe.port, str) else probe.port
            return await _connect(probe, target, port)
    except TimeoutError:
        return False, f"no answer within {probe.timeout} s"
    except OSError as error:
        return False, error.strerror or str(error)


async def _connect(probe: ProbeSpec, target: Target, port: int) -> tuple[bool, str]:
    address = probe.host or target.address
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # The socket belongs to the node from the moment it is made, whichever thread uses it later.
    sock = in_netns(target.node_netns, lambda: socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
    try:
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        if probe.kind is ProbeKind.TCP:
            return True, "connected"
        return await _get(probe, sock, address, port)
    finally:
        sock.close()


async def _get(probe: ProbeSpec, sock: socket.socket, address: str, port: int) -> tuple[bool, str]:
    context = None
    if probe.scheme == "HTTPS":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # as a kubelet: a probe asks whether the app answers, not who it is
    reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=address if context else None, limit=MAX_REPLY)
    try:
        host = f"[{address}]" if ":" in address else address
        headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/culvert", "Accept": "*/*", "Connection": "close"} | dict(
            probe.headers
        )
        lines = [f"GET {probe.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        line = (await reader.readline()).decode("latin-1", "replace").split()
    except ValueError:
        return False, "the reply is not HTTP"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if len(line) < 2 or not line[0].startswith("HTTP/") or not line[1].isdecimal():
        return False, "the reply is not HTTP"
    return 200 <= int(line[1]) < 400, f"HTTP {line[1]}"


class Prober:
    """The probes of one running container. `ready` starts False where there is a readiness probe, else with the startup probe's success."""

    def __init__(
        self,
        probes: tuple[ProbeSpec | None, ProbeSpec | None, ProbeSpec | None],
        target: Target,
        on_ready: Callable[[bool, str], None],
        on_dead: Callable[[str], None],
    ) -> None:
        """`probes` are startup, readiness, liveness. `on_dead` is called once, when the container must be restarted."""
        self._startup, self._readiness, self._liveness = probes
        self._target = target
        self._on_ready = on_ready
        self._on_dead = on_dead

    async def run(self) -> None:
        if self._startup is not None and not await self._start(self._startup):
            return
        async with asyncio.TaskGroup() as group:
            if self._readiness is not None:
                group.create_task(self._watch_readiness(self._readiness))
            else:
                self._on_ready(True, "")
            if self._liveness is not None:
                group.create_task(self._watch_liveness(self._liveness))

    async def _start(self, probe: ProbeSpec) -> bool:
        await asyncio.sleep(probe.initial_delay)
        deadline = asyncio.get_running_loop().time() + probe.period * probe.failures
        while True:
            ok, seen = await check(probe, self._target)
            if ok:
                return True
            self._on_ready(False, f"startup probe: {seen}")
            if asyncio.get_running_loop().time() >= deadline:
                self._on_dead(f"startup probe failed for {probe.period * probe.failures} s: {seen}")
                return False
            await asyncio.sleep(EAGER_SECONDS)

    async def _watch_readiness(self, probe: ProbeSpec) -> None:
        await asyncio.sleep(probe.initial_delay)
        ever, ready, streak = False, False, 0
        while True:
            ok, seen = await check(probe, self._target)
            streak = streak + 1 if ok is not ready else 0
            if ok is not ready and streak >= (probe.successes if ok else probe.failures):
                ready, streak = ok, 0
                ever = ever or ok
                self._on_ready(ready, "" if ok else f"readiness probe: {seen}")
            elif not ever:
                self._on_ready(False, f"readiness probe: {seen}")
            await asyncio.sleep(probe.period if ever else min(EAGER_SECONDS, probe.period))

    async def _watch_liveness(self, probe: ProbeSpec) -> None:
        await asyncio.sleep(probe.initial_delay)
        failures = 0
        while True:
            ok, seen = await check(probe, self._target)
            failures = 0 if ok else failures + 1
            if failures >= probe.failures:
                self._on_dead(f"liveness probe failed {failures} times: {seen}")
                return
            await asyncio.sleep(probe.period)
