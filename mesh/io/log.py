"""Logs: one JSON object or one tab-separated line per event, on standard output, and never at the price of the event loop.

A *scope* is a dotted stdlib logger name (`xds`, `ca`, `tunnel`, `access`); each has its own level, changeable while running
(`POST /logging` on the admin port). A line is built in the caller and handed to a `LineSink`, which writes to a non-blocking
descriptor: where a reader of our output stalls, lines wait in a bounded buffer, then are dropped and counted, and a line saying
how many were lost follows. No thread, no queue without a limit.

    log = Log("xds")
    log.info("connected", address=address)      # fields are keyword arguments; values are str, int, float, bool, None or str()-ed
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import stat
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime

TRACE = 5
OFF = logging.CRITICAL + 10
LEVELS = {
    "off": OFF,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
_NAMES = {OFF: "off", logging.CRITICAL: "error", **{value: name for name, value in LEVELS.items()}}
_PIPE_BUF = 4096
_BLOCKED = {errno.EAGAIN, errno.EWOULDBLOCK}

Value = object


class LineSink:
    """Whole lines to one descriptor, without ever blocking on it. `limit` bounds in bytes what waits for a slow reader."""

    def __init__(self, fd: int, limit: int = 1 << 20) -> None:
        self.limit = limit
        self.dropped = 0
        self._lost = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._fd, self._owned = _non_blocking(fd)
        self._shared = not self._owned and not stat.S_ISREG(os.fstat(fd).st_mode)

    @property
    def pending(self) -> int:
        """Bytes that wait."""
        return self._size

    def add(self, line: bytes) -> bool:
        """Keep a line (with its newline) for the next flush; False, and counted, where the buffer is full."""
        if self._size + len(line) > self.limit:
            self.dropped += 1
            self._lost += 1
            return False
        self._parts.append(line)
        self._size += len(line)
        return True

    def write(self, line: bytes) -> None:
        if not self.add(line):
            self.flush()
            return
        self.flush()

    def flush(self) -> bool:
        """Write what the descriptor takes now. False where some of it still waits."""
        while self._parts:
            chunk = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            written = self._write(chunk)
            if written == len(chunk):
                self._parts.clear()
                self._size = 0
                break
            self._parts = [chunk[written:]]
            self._size = len(chunk) - written
            if written == 0:
                return False
        if self._lost:
            lost, self._lost = self._lost, 0
            self._parts.append(_lost_line(lost))
            self._size += len(self._parts[-1])
            return self.flush()
        return True

    def close(self) -> None:
        self.flush()
        if self._owned:
            os.close(self._fd)
            self._owned = False

    def _write(self, chunk: bytes) -> int:
        try:
            if not self._shared:
                return os.write(self._fd, chunk)
            # The description is shared with others, so its flags are not ours to change: ask first. Up to PIPE_BUF
            # bytes are taken whole by a pipe that polls writable.
            poller = select.poll()
            poller.register(self._fd, select.POLLOUT)
            if not poller.poll(0):
                return 0
            return os.write(self._fd, chunk[:_PIPE_BUF])
        except OSError as error:
            if error.errno in _BLOCKED:
                return 0
            self.dropped += 1
            return len(chunk)  # nobody reads our output any more: going on without logs beats stopping


class Handler(logging.Handler):
    """Formats records of every library and of ours, in the configured form."""

    def __init__(self, sink: LineSink, form: str) -> None:
        super().__init__()
        self.sink = sink
        self._build = json_line if form == "json" else text_line

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: Mapping[str, Value] = getattr(record, "fields", {})
            if record.exc_info and record.exc_info[0]:
                fields = {**fields, "traceback": "".join(traceback.format_exception(*record.exc_info))}
            self.sink.write(self._build(record.levelno, record.name, record.getMessage(), fields, record.created))
        except Exception:
            self.handleError(record)


class Log:
    """A scope to log to. Cheap where its level is off: one dictionary look-up in stdlib logging."""

    __slots__ = ("logger",)

    def __init__(self, scope: str) -> None:
        self.logger = logging.getLogger(scope)

    def enabled(self, level: int) -> bool:
        return self.logger.isEnabledFor(level)

    def trace(self, message: str, **fields: Value) -> None:
        self._log(TRACE, message, fields)

    def debug(self, message: str, **fields: Value) -> None:
        self._log(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: Value) -> None:
        self._log(logging.INFO, message, fields)

    def warning(self, message: str, **fields: Value) -> None:
        self._log(logging.WARNING, message, fields)

    def error(self, message: str, **fields: Value) -> None:
        self._log(logging.ERROR, message, fields)

    def exception(self, message: str, **fields: Value) -> None:
        """An error with the traceback of the exception being handled."""
        self._log(logging.ERROR, message, fields, True)

    def _log(self, level: int, message: str, fields: dict[str, Value], traced: bool = False) -> None:
        if self.logger.isEnabledFor(level):
            self.logger.log(level, "%s", message, extra={"fields": fields}, exc_info=traced)


class Levels:
    """The levels of all scopes, as configured and as changed since."""

    def __init__(self, default: str) -> None:
        self._default = default
        self._named: dict[str, int] = {}
        self.reset()

    def set(self, spec: str) -> None:
        """Apply `info` or `xds=debug,access=off`, or a mix with commas. ValueError names what is wrong; then nothing changed."""
        changes: list[tuple[str, int]] = []
        for part in spec.split(","):
            scope, equals, name = part.strip().rpartition("=")
            level = LEVELS.get(name.strip().lower())
            if level is None or (equals and not scope.strip()):
                raise ValueError(f"{part.strip()!r}: expected <level> or <scope>=<level>, with a level of {', '.join(LEVELS)}")
            changes.append((scope.strip(), level))
        for scope, level in changes:
            logging.getLogger(scope or None).setLevel(level)
            if scope:
                self._named[scope] = level

    def reset(self) -> None:
        for scope in self._named:
            logging.getLogger(scope).setLevel(logging.NOTSET)
        self._named.clear()
        self.set(self._default)

    def __str__(self) -> str:
        """In the form that `set` takes."""
        root = _NAMES.get(logging.getLogger().level, str(logging.getLogger().level))
        return ",".join([root, *(f"{scope}={_NAMES[level]}" for scope, level in sorted(self._named.items()))])


def setup(levels: str = "info", form: str = "json", sink: LineSink | None = None) -> tuple[Levels, LineSink]:
    """Send all logging of this process to `sink` (standard output unless given). ValueError for a bad level or form."""
    if form not in ("json", "text"):
        raise ValueError(f"log format {form!r}: expected json or text")
    for name, value in LEVELS.items():
        logging.addLevelName(value, name)
    for library in ("asyncio", "grpc", "hpack"):
        # Theirs is not what somebody asks for who asks for debug; `grpc=debug` still gives it.
        logging.getLogger(library).setLevel(logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request
    # What stdlib logging collects and we never print: each costs a system call or a frame walk per record.
    logging.logProcesses = logging.logThreads = logging.logMultiprocessing = False
    logging._srcfile = None  # the switch that the logging cookbook documents
    logging.raiseExceptions = False
    where = sink or LineSink(sys.stdout.fileno() if sys.stdout else 1)
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(Handler(where, form))
    return Levels(levels), where


def json_line(level: int, scope: str, message: str, fields: Mapping[str, Value], when: float) -> bytes:
    record: dict[str, Value] = {"level": level_name(level), "time": timestamp(when), "scope": scope, "message": message}
    for key, value in fields.items():
        record[key if key not in record else f"field.{key}"] = value
    return json.dumps(record, ensure_ascii=False, default=str, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


def text_line(level: int, scope: str, message: str, fields: Mapping[str, Value], when: float) -> bytes:
    parts = [timestamp(when), level_name(level), scope, message]
    parts += [f"{key}={_quoted(value)}" for key, value in fields.items() if value is not None]
    return "\t".join(parts).encode("utf-8", "backslashreplace") + b"\n"


def level_name(level: int) -> str:
    return _NAMES.get(level) or next((name for name, value in LEVELS.items() if level >= value), "trace")


def timestamp(when: float) -> str:
    """RFC 3339 in UTC, with microseconds."""
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _quoted(value: Value) -> str:
    """A value on one line: quoted where it holds what would break the line or its columns."""
    text = value if isinstance(value, str) else str(value)
    return json.dumps(text, ensure_ascii=False) if not text.isprintable() or '"' in text or " " in text or not text else text


def _lost_line(lost: int) -> bytes:
    return json_line(logging.WARNING, "log", "lines lost: the reader of the log is too slow", {"lost": lost}, datetime.now(UTC).timestamp())


def _non_blocking(fd: int) -> tuple[int, bool]:
    """A non-blocking description of our own for the file behind `fd`; or `fd` itself where that cannot be (a socket) or need not be.

    A regular file never blocks, and has one offset that standard error and we must share, or each overwrites the other.
    """
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd, False
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), True
    except OSError:
        return fd, False
