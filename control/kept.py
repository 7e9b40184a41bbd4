"""The file in which what sources said is kept: one SQLite file with a row per origin. Synchronous; the keeper calls it on its thread.

Everything that is written at one time is one transaction. The write-ahead log with an exclusive lock needs no shared memory, which on
a full disk would be a SIGBUS instead of an error. Each value has a checksum, since SQLite notices broken pages and no flipped bits.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mesh.io.log import Log

log = Log("keep")

APPLICATION = 0x43756C76
"""SQLite's application_id: "Culv"."""
SCHEMA = 1
LOCKED = 5.0
"""Seconds to wait for another process to let go of the file, as when one control plane follows another."""
ASIDE = ".aside"
COMPANIONS = ("", "-wal", "-shm", "-journal")

TABLES = """
CREATE TABLE sources (name TEXT PRIMARY KEY, confirmed REAL NOT NULL, complete INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE kept (
    source TEXT NOT NULL, origin TEXT NOT NULL, accepted INTEGER NOT NULL, value BLOB NOT NULL, checksum INTEGER NOT NULL,
    last BLOB, last_checksum INTEGER, PRIMARY KEY (source, origin)
) WITHOUT ROWID;
"""
# What is refused keeps what was accepted before it: the row's own value if that was, else what the row keeps already.
REFUSE = """
INSERT INTO kept VALUES (:source, :origin, 0, :value, :checksum, NULL, NULL) ON CONFLICT DO UPDATE SET
    last = CASE accepted WHEN 1 THEN value ELSE last END, last_checksum = CASE accepted WHEN 1 THEN checksum ELSE last_checksum END,
    accepted = 0, value = :value, checksum = :checksum
"""
PUT = "INSERT OR REPLACE INTO kept VALUES (:source, :origin, :accepted, :value, :checksum, :last, :last_checksum)"


@dataclass(frozen=True, slots=True)
class Row:
    """What an origin said last, and, where that was refused, what was accepted before, if anything was."""

    origin: str
    value: bytes
    last: bytes | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """All of one source. `confirmed`: when that was last known to be how things are, Unix seconds."""

    rows: tuple[Row, ...]
    confirmed: float


@dataclass(frozen=True, slots=True)
class Pending:
    """What is to be written of one origin. `value` None: the row goes. `anew`: whatever the row held before does not count any more.
    `last`: what was accepted before `value`, if that is known here; else the file knows.
    """

    value: bytes | None
    accepted: bool = True
    last: bytes | None = None
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """What one transaction writes of one source. `forget`: every row that it had goes first."""

    source: str
    changes: Mapping[str, Pending]
    confirmed: float
    whole: bool
    forget: bool


class BrokenError(Exception):
    """The file is not what we wrote."""


class Snapshot:
    """An open file. OSError or sqlite3.Error where it cannot be used now; what is broken or foreign is set aside, and a new one begun."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._connection = self._connect()
        except BrokenError as error:
            self._set_aside(str(error))
            self._connection = self._connect()

    def read(self, source: str) -> Kept | None:
        """What is kept of a source, if it is whole. A value that does not fit its checksum spoils all of the file: BrokenError."""
        with self._whole():
            found = self._connection.execute("SELECT confirmed, complete FROM sources WHERE name = ?", (source,)).fetchone()
            if found is None or not found[1]:
                return None
            rows = self._connection.execute(
                "SELECT origin, accepted, value, checksum, last, last_checksum FROM kept WHERE source = ?", (source,)
            )
            return Kept(tuple(_row(*row) for row in rows), found[0])

    def write(self, parts: list[Part]) -> None:
        """All of it, or nothing: sqlite3.Error, and the file is as it was. BrokenError where it was damaged since it was opened."""
        with self._whole():
            self._write(parts)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """BrokenError where the file is not. It is set aside and closed then, for good: another is begun by opening it anew."""
        try:
            with _broken():
                yield
        except BrokenError as error:
            self._connection.close()
            with suppress(OSError):  # then it is found, and set aside, when it is opened
                self._set_aside(str(error))
            raise

    def _write(self, parts: list[Part]) -> None:
        with self._connection as transaction:  # commits, or rolls back
            transaction.execute("BEGIN IMMEDIATE")
            for part in parts:
                if part.forget:
                    transaction.execute("DELETE FROM kept WHERE source = ?", (part.source,))
                elif transaction.execute("SELECT complete FROM sources WHERE name = ?", (part.source,)).fetchone() != (1,):
                    # Changes to another file than this, which would be taken for all that there is.
                    raise BrokenError(f"it does not hold what was written of {part.source}")
                for origin, change in part.changes.items():
                    _write(transaction, part.source, origin, change)
                transaction.execute("INSERT OR REPLACE INTO sources VALUES (?, ?, ?)", (part.source, part.confirmed, part.whole))

    def close(self) -> None:
        self._connection.close()

    def _connect(self) -> sqlite3.Connection:
        path = self._path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BrokenError("it is no regular file")
            if status.st_uid != os.geteuid():
                raise BrokenError("it is somebody else's")
            if status.st_mode & 0o077:
                os.fchmod(file.fileno(), 0o600)
        connection = sqlite3.connect(path, timeout=LOCKED, isolation_level=None, check_same_thread=False)
        try:
            with _broken():
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and (application, schema) != (APPLICATION, SCHEMA):
            raise BrokenError(f"it is not ours, or of another version of us (application {application:#x}, schema {schema})")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power failure may cost the last batch, never the file
        if not tables:
            connection.executescript(f"BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; COMMIT;")
        (sound,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise BrokenError(f"it is damaged ({sound})")

    def _set_aside(self, why: str) -> None:
        """Out of the way, for whoever wants to look. An earlier one in that place goes."""
        for end in COMPANIONS:
            path = Path(f"{self._path}{end}")
            if path.exists() or path.is_symlink():
                path.rename(f"{path}{ASIDE}")
        log.error("what was kept on disk is not used, and set aside", path=str(self._path), aside=f"{self._path}{ASIDE}", reason=why)


@contextmanager
def _broken() -> Iterator[None]:
    """What SQLite says of a file that is none of its own, or damaged. What else it says passes."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise BrokenError(str(error)) from error
        raise


def _write(transaction: sqlite3.Connection, source: str, origin: str, change: Pending) -> None:
    if change.value is None:
        transaction.execute("DELETE FROM kept WHERE source = ? AND origin = ?", (source, origin))
        return
    row = {
        "source": source,
        "origin": origin,
        "accepted": change.accepted,
        "value": change.value,
        "checksum": _checksum(origin, change.accepted, change.value),
        "last": change.last,
        "last_checksum": _checksum(origin, True, change.last) if change.last is not None else None,
    }
    if not change.accepted and change.last is None and not change.anew:
        transaction.execute(REFUSE, row)
    else:
        transaction.execute(PUT, row)


def _row(origin: str, accepted: int, value: bytes, checksum: int, last: bytes | None, last_checksum: int | None) -> Row:
    if checksum != _checksum(origin, bool(accepted), value) or (last is not None and last_checksum != _checksum(origin, True, last)):
        raise BrokenError(f"what it says of {origin} is damaged")
    return Row(origin, value, last)


def _checksum(origin: str, accepted: bool, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(b"%d %s" % (accepted, origin.encode())))
