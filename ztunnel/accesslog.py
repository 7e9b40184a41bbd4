"""The access log: one line for each connection that ended, with Istio's fields in Istio's order, and our reason.

Scope `access`, level info where the end was orderly and error where not; `connection failed`, level warn, where the connection was
refused before it was known what it is. Lines are collected and leave together at the end of the turn of the loop; where the reader
stalls they wait in the sink's bounded buffer, and then are dropped and counted, never waited for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from mesh.io.log import LineSink, Log
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress

if TYPE_CHECKING:
    from ztunnel.connections import Connection

RETRY = 0.05  # seconds until a stalled reader is offered the rest

log = Log("access")

Field = tuple[str, str | int]


class AccessLog:
    """Writes to `sink` in `form` (json or text). Made before the loop runs; used on it."""

    def __init__(self, sink: LineSink, form: str, clock: Callable[[], float] = time.time) -> None:
        self.sink = sink
        self._render = _json if form == "json" else _text
        self._clock = clock
        self._second = 0
        self._stamp = ""
        self._scheduled = False

    def complete(self, connection: Connection, reason: Reason, detail: str, duration: float) -> None:
        """`duration` in seconds."""
        level = logging.INFO if reason is Reason.OK else logging.ERROR
        if not log.enabled(level):
            return
        c = connection
        client_bytes, server_bytes = (c.sent, c.received) if c.client_sends else (c.received, c.sent)
        ours, theirs = (server_bytes, client_bytes) if c.inbound else (client_bytes, server_bytes)
        fields: list[Field] = [("src.addr", str(c.source))]
        workload = c.source_workload
        if workload is not None:
            fields += (("src.workload", workload.name), ("src.namespace", workload.namespace))
        elif c.claimed is not None and c.inbound:
            fields += (("src.workload", c.claimed.workload_name), ("src.namespace", c.claimed.namespace))
        if c.source_identity is not None:
            fields.append(("src.identity", str(c.source_identity)))
        if workload is not None:
            fields.append(("src.cluster", workload.cluster))
        fields.append(("dst.addr", str(c.destination)))
        if c.hbone and c.target is not None:
            fields.append(("dst.hbone_addr", str(c.target)))
        if c.service is not None:
            fields.append(("dst.service", c.service.hostname))
        workload = c.destination_workload
        if workload is not None:
            fields += (("dst.workload", workload.name), ("dst.namespace", workload.namespace))
        if c.destination_identity is not None:
            fields.append(("dst.identity", str(c.destination_identity)))
        if workload is not None:
            fields.append(("dst.cluster", workload.cluster))
        fields += (
            ("direction", "inbound" if c.inbound else "outbound"),
            ("bytes_sent", ours),
            ("bytes_recv", theirs),
            ("duration", f"{duration * 1000:.0f}ms"),
            ("reason", reason.word),
        )
        if reason is not Reason.OK:
            fields.append(("error", _error(reason, detail)))
        self._write("info" if reason is Reason.OK else "error", "connection complete", fields)

    def refused(self, inbound: bool, reason: Reason, detail: str, source: SocketAddress | None, destination: SocketAddress | None) -> None:
        if not log.enabled(logging.WARNING):
            return
        fields: list[Field] = []
        if source is not None:
            fields.append(("src.addr", str(source)))
        if destination is not None:
            fields.append(("dst.addr", str(destination)))
        fields += (("direction", "inbound" if inbound else "outbound"), ("reason", reason.word), ("error", _error(reason, detail)))
        self._write("warn", "connection failed", fields)

    def close(self) -> None:
        self.sink.flush()

    def _write(self, level: str, message: str, fields: list[Field]) -> None:
        self.sink.add(self._render(level, self._time(), message, fields))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = not self.sink.flush()
        if self._scheduled:
            asyncio.get_running_loop().call_later(RETRY, self._flush)

    def _time(self) -> str:
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._stamp}.{int((now - second) * 1e6):06d}Z"


def _error(reason: Reason, detail: str) -> str:
    text = f"{reason.word}: {detail}" if detail else reason.word
    return f"{text} ({reason.hint})" if reason.hint else text


def _json(level: str, when: str, message: str, fields: list[Field]) -> bytes:
    parts = [f'{{"level":"{level}","time":"{when}","scope":"access","message":"{message}"']
    parts += [f'"{key}":{value if type(value) is int else _quoted(value)}' for key, value in fields]
    return (",".join(parts) + "}\n").encode()


def _text(level: str, when: str, message: str, fields: list[Field]) -> bytes:
    parts = [f"{when}\t{level}\taccess\t{message}"]
    for key, value in fields:
        # Names and errors may hold anything: quotes keep them in their column and on their line.
        plain = type(value) is int or key.endswith("addr") or key in ("direction", "duration", "reason")
        parts.append(f"{key}={value}" if plain else f"{key}={_quoted(str(value))}")
    return ("\t".join(parts) + "\n").encode()


@lru_cache(maxsize=8192)
def _quoted(value: str) -> str:
    return json.dumps(value)
