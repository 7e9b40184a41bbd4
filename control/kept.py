"""The file in which what sources said is kept: one SQLite file with a row per origin. Synchronous; the keeper calls it on its thread.

Everything that is written at one time is one transaction. The write-ahead log with an exclusive lock needs no shared memory, which on
a full disk would be a SIGBUS instead of an error.

SQLite notices broken pages and no flipped bits: one may change a value, or end a scan of a table where a key is out of its order. So each
row has a checksum, and each source the number and the sum of the checksums of its rows, under a checksum of its own. They are kept up
with what changes, and compared when all is read.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from mesh.io.log import Log

log = Log("keep")

APPLICATION = 0x43756C76
"""SQLite's application_id: "Culv"."""
SCHEMA = 2
LOCKED = 5.0
"""Seconds to wait for another process to let go of the file, as when one control plane follows another."""
ASIDE = ".aside"
COMPANIONS = ("", "-wal", "-shm", "-journal")

TABLES = """
CREATE TABLE sources (
    name TEXT PRIMARY KEY, confirmed REAL NOT NULL, complete INTEGER NOT NULL, rows INTEGER NOT NULL, sum INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE kept (
    source TEXT NOT NULL, origin TEXT NOT NULL, accepted INTEGER NOT NULL, value BLOB NOT NULL, last BLOB, checksum INTEGER NOT NULL,
    PRIMARY KEY (source, origin)
) WITHOUT ROWID;
"""
T = TypeVar("T")
BITS = (1 << 63) - 1
"""Of a checksum, and of a sum of them: what SQLite's integers hold."""
PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
    }
)
"""Errors that say nothing of the file's content. SQLite's others do: our statements are right, so a table that is missing was damaged."""


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


@dataclass(frozen=True, slots=True)
class Standing:
    """What the file says of all rows of a source: how many they are, and the sum of their checksums."""

    confirmed: float = 0.0
    complete: bool = False
    rows: int = 0
    sum: int = 0

    def checksum(self, source: str) -> int:
        return _digest(source, self.confirmed, self.complete, self.rows, self.sum)


class BrokenError(Exception):
    """The file is not what we wrote. `stays`: nor could it be set aside, and opening it would not always find that it is damaged."""

    stays = False


class Snapshot:
    """An open file. OSError or sqlite3.Error where it cannot be used now; what is broken or foreign is set aside, and a new one begun.
    `broken`: why what is there is, if that is known.
    """

    def __init__(self, path: Path, broken: str = "") -> None:
        self._path = path
        self._files: dict[Path, os.stat_result] = {}
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if broken:
            self._set_aside(broken)
        try:
            self._connection = self._connect()
        except BrokenError as error:
            self._set_aside(str(error))
            self._connection = self._connect()
        self._note()

    def read(self, source: str) -> Kept | None:
        """What is kept of a source, if it is whole. A value that does not fit its checksum spoils all of the file: BrokenError."""
        with self._whole():
            standing = _standing(self._connection, source)
            if not standing.complete:
                return None
            rows, total = [], 0
            for found in self._connection.execute("SELECT origin, accepted, value, last, checksum FROM kept WHERE source = ?", (source,)):
                row, checksum = _row(source, *found)
                rows.append(row)
                total = (total + checksum) & BITS
            if (len(rows), total) != (standing.rows, standing.sum):
                raise BrokenError(
                    f"it does not hold what it held of {source}: {len(rows)} rows are not the {standing.rows} that were written"
                )
            return Kept(tuple(rows), standing.confirmed)

    def write(self, parts: list[Part]) -> None:
        """All of it, or nothing: sqlite3.Error, and the file is as it was. BrokenError where it was damaged since it was opened, or
        removed, replaced or cut by somebody.
        """
        with self._whole():
            self._check_there()
            self._write(parts)
            self._note()

    def _check_there(self) -> None:
        """SQLite goes on with an open file that has no name any more, and with what it remembers of one that was cut."""
        for path, before in self._files.items():
            try:
                now = os.lstat(path)
            except FileNotFoundError as error:
                raise BrokenError(f"{path} was removed") from error
            if (now.st_dev, now.st_ino) != (before.st_dev, before.st_ino):
                raise BrokenError(f"{path} was replaced")
            if now.st_size < before.st_size:
                raise BrokenError(f"{path} was cut")

    def _note(self) -> None:
        """What the files are now. While we have them open, they never become smaller by us."""
        for end in ("", "-wal"):
            path = Path(f"{self._path}{end}")
            with suppress(FileNotFoundError):  # the log, before it is first written; else `_check_there` finds that, next time
                now = os.lstat(path)
                before = self._files.get(path, now)
                if (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino):
                    self._files[path] = now

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """BrokenError where the file is not. It is set aside and closed then, for good: another is begun by opening it anew."""
        try:
            with _broken():
                yield
        except BrokenError as error:
            self._connection.close()
            try:
                self._set_aside(str(error))
            except OSError as failure:
                error.stays = True
                log.error("what is damaged cannot be set aside", path=str(self._path), error=str(failure))
            raise

    def _write(self, parts: list[Part]) -> None:
        with self._connection as transaction:  # commits, or rolls back
            transaction.execute("BEGIN IMMEDIATE")
            for part in parts:
                _write(transaction, part)

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
    except UnicodeDecodeError as error:  # a message of SQLite's that quotes what is damaged
        raise BrokenError(f"it is damaged ({error})") from error
    except sqlite3.ProgrammingError:  # our mistake, such as a file that is closed
        raise
    except sqlite3.DatabaseError as error:
        # Text that is none has no code: it is Python's module that finds it.
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in PASSING:
            raise
        raise BrokenError(str(error)) from error


def _write(transaction: sqlite3.Connection, part: Part) -> None:
    source = part.source
    if part.forget:
        transaction.execute("DELETE FROM kept WHERE source = ?", (source,))
        rows, total = 0, 0
    else:
        before = _standing(transaction, source)
        if not before.complete:
            # Changes to another file than this, which would be taken for all that there is.
            raise BrokenError(f"it does not hold what was written of {source}")
        rows, total = before.rows, before.sum
    for origin, change in part.changes.items():
        old, new = _change(transaction, source, origin, change)
        rows += (new is not None) - (old is not None)
        total = (total - (old or 0) + (new or 0)) & BITS
    after = Standing(float(part.confirmed), part.whole, rows, total)
    transaction.execute(
        "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, ?)",
        (source, after.confirmed, after.complete, after.rows, after.sum, after.checksum(source)),
    )


def _change(transaction: sqlite3.Connection, source: str, origin: str, change: Pending) -> tuple[int | None, int | None]:
    """The checksum of the row that there was, and of that which there is now; None for no row."""
    had = transaction.execute("SELECT checksum FROM kept WHERE source = ? AND origin = ?", (source, origin)).fetchone()
    old = _typed(had[0], int) if had is not None else None
    if change.value is None:
        transaction.execute("DELETE FROM kept WHERE source = ? AND origin = ?", (source, origin))
        return old, None
    last = change.last
    if old is not None and not change.accepted and last is None and not change.anew:
        # What is refused keeps what was accepted before it: the row's own value if that was, else what the row keeps already.
        row = transaction.execute("SELECT accepted, value, last FROM kept WHERE source = ? AND origin = ?", (source, origin)).fetchone()
        accepted, value, kept = row
        _row(source, origin, accepted, value, kept, old)
        last = value if accepted else kept
    new = _checksum(source, origin, change.accepted, change.value, last)
    transaction.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?, ?)", (source, origin, change.accepted, change.value, last, new))
    return old, new


def _standing(connection: sqlite3.Connection, source: str) -> Standing:
    """As for nothing, where it says nothing."""
    found = connection.execute("SELECT confirmed, complete, rows, sum, checksum FROM sources WHERE name = ?", (source,)).fetchone()
    if found is None:
        return Standing()
    confirmed, complete, rows, total, checksum = found
    standing = Standing(_typed(confirmed, float), bool(_typed(complete, int)), _typed(rows, int), _typed(total, int))
    if checksum != standing.checksum(source):
        raise BrokenError(f"how much it holds of {source} is damaged")
    return standing


def _row(source: str, origin: Any, accepted: Any, value: Any, last: Any, checksum: Any) -> tuple[Row, int]:
    """Columns hold any type where a bit is flipped."""
    row = Row(_typed(origin, str), _typed(value, bytes), None if last is None else _typed(last, bytes))
    if _typed(checksum, int) != _checksum(source, row.origin, bool(_typed(accepted, int)), row.value, row.last):
        raise BrokenError(f"what it says of {origin} is damaged")
    return row, checksum


def _typed(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise BrokenError(f"it is damaged: {type(value).__name__} where {kind.__name__} was written")
    return value


def _checksum(source: str, origin: str, accepted: bool, value: bytes, last: bytes | None) -> int:
    return _digest(source, origin, accepted, len(value), last is not None, content=(value, last or b""))


def _digest(*fields: str | float, content: Iterable[bytes] = ()) -> int:
    found = blake2b(repr(fields).encode(), digest_size=8)
    for part in content:
        found.update(part)
    return int.from_bytes(found.digest()) & BITS
