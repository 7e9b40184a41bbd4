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
from typing import TYPE_CHECKING, NamedTuple

from mesh.io.log import LineSink, Log
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from mesh.model.workload import Service, SocketAddress, Workload
from mesh.wire.baggage import Baggage

if TYPE_CHECKING:
    from ztunnel.connections import Connection

RETRY = 0.05  # seconds until a stalled reader is offered the rest

log = Log("access")

MAX_ENDS = 8192


class AccessLog:
    """Writes to `sink` in `form` (json or text). Made before the loop runs; used on it.

    What a line says of each end is the same for every connection between the same two: it is rendered once and kept.
    """

    def __init__(self, sink: LineSink, form: str, clock: Callable[[], float] = time.time) -> None:
        self.sink = sink
        self._form = JSON if form == "json" else TEXT
        self._clock = clock
        self._second = 0
        self._stamp = ""
        self._scheduled = False
        self._ends: dict[tuple[object, ...], list[str]] = {}

    def complete(self, connection: Connection, reason: Reason, detail: str, duration: float) -> None:
        """`duration` in seconds."""
        level = logging.INFO if reason is Reason.OK else logging.ERROR
        if not log.enabled(level):
            return
        c, plain, number = connection, self._form.plain, self._form.number
        client_bytes, server_bytes = (c.sent, c.received) if c.client_sends else (c.received, c.sent)
        ours, theirs = (server_bytes, client_bytes) if c.inbound else (client_bytes, server_bytes)
        claimed = c.claimed if c.inbound and c.source_workload is None else None
        fields = [plain("src.addr", c.source), *self._end("src", c.source_workload, claimed, c.source_identity, None)]
        fields.append(plain("dst.addr", c.destination))
        if c.hbone and c.target is not None:
            fields.append(plain("dst.hbone_addr", c.target))
        fields += self._end("dst", c.destination_workload, None, c.destination_identity, c.service)
        fields += (
            plain("direction", "inbound" if c.inbound else "outbound"),
            number("bytes_sent", ours),
            number("bytes_recv", theirs),
            plain("duration", f"{duration * 1000:.0f}ms"),
            plain("reason", reason.word),
        )
        if reason is not Reason.OK:
            fields.append(self._form.quoted("error", _error(reason, detail)))
        self._write("info" if reason is Reason.OK else "error", "connection complete", fields)

    def _end(
        self, side: str, workload: Workload | None, claimed: Baggage | None, identity: Identity | None, service: Service | None
    ) -> list[str]:
        """The fields that tell who one end is. Names may hold anything, so they are quoted."""
        name, namespace, cluster = (workload.name, workload.namespace, workload.cluster) if workload is not None else ("", "", "")
        if claimed is not None:
            name, namespace = claimed.workload_name, claimed.namespace
        hostname = service.hostname if service is not None else None
        known = workload is not None or claimed is not None
        key = (side, known, name, namespace, cluster, identity, hostname)
        fields = self._ends.get(key)
        if fields is None:
            quoted = self._form.quoted
            fields = [quoted(f"{side}.service", hostname)] if hostname is not None else []
            if known:
                fields += (quoted(f"{side}.workload", name), quoted(f"{side}.namespace", namespace))
            if identity is not None:
                fields.append(quoted(f"{side}.identity", str(identity)))
            if workload is not None:
                fields.append(quoted(f"{side}.cluster", cluster))
            if len(self._ends) >= MAX_ENDS:
                self._ends.clear()
            self._ends[key] = fields
        return fields

    def refused(self, inbound: bool, reason: Reason, detail: str, source: SocketAddress | None, destination: SocketAddress | None) -> None:
        if not log.enabled(logging.WARNING):
            return
        plain = self._form.plain
        fields: list[str] = []
        if source is not None:
            fields.append(plain("src.addr", source))
        if destination is not None:
            fields.append(plain("dst.addr", destination))
        fields += (plain("direction", "inbound" if inbound else "outbound"), plain("reason", reason.word))
        fields.append(self._form.quoted("error", _error(reason, detail)))
        self._write("warn", "connection failed", fields)

    def close(self) -> None:
        self.sink.flush()

    def _write(self, level: str, message: str, fields: list[str]) -> None:
        self.sink.add(self._form.line(level, self._time(), message, fields))
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


class Form(NamedTuple):
    """How a field and a line are written. `plain` is for values that need no quotes to stay in their place: addresses, our own words."""

    plain: Callable[[str, object], str]
    number: Callable[[str, int], str]
    quoted: Callable[[str, str], str]
    line: Callable[[str, str, str, list[str]], bytes]


def _json_line(level: str, when: str, message: str, fields: list[str]) -> bytes:
    return f'{{"level":"{level}","time":"{when}","scope":"access","message":"{message}",{",".join(fields)}}}\n'.encode()


def _text_line(level: str, when: str, message: str, fields: list[str]) -> bytes:
    return (f"{when}\t{level}\taccess\t{message}\t" + "\t".join(fields) + "\n").encode()


JSON = Form(
    lambda key, value: f'"{key}":"{value}"',
    lambda key, value: f'"{key}":{value}',
    lambda key, value: f'"{key}":{json.dumps(value)}',
    _json_line,
)
TEXT = Form(
    lambda key, value: f"{key}={value}",
    lambda key, value: f"{key}={value}",
    lambda key, value: f"{key}={json.dumps(value)}",
    _text_line,
)
