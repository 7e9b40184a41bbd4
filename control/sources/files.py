"""Directories of manifests, watched. Files ending in .yaml, .yml or .json, not those whose names begin with a dot.

A file is read when it has settled: nobody has written to it for SETTLE seconds, or it has not been quiet for IMPATIENCE. Until then its
earlier content counts, and so it does while a file is away for no longer than SETTLE, as when an editor replaces it. Of a file that is
never quiet no object is gone, since it may have been read in the middle of a write. A whole directory that is gone, or cannot be
listed, changes nothing: an unmounted volume is not an order to forget every policy. Nor does one that is empty and not the directory
in which the manifests were, as the mount point of a volume: only files taken out of it are gone. The same holds of a file that was read
and cannot be looked at now, as a link into such a volume: it is gone when the link is.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from control.sources import Sink, SourceState
from mesh.io.log import Log
from mesh.io.watch import DirectoryWatch
from mesh.model.errors import Refusal
from mesh.model.manifest import Parsed, Refused, parse_file
from mesh.model.manifest.tree import MAX_BYTES

SUFFIXES = (".yaml", ".yml", ".json")
SETTLE = 0.15
IMPATIENCE = 2.0
LOOK = 0.05
SLOW_LOOK, WATCHLESS_LOOK = 2.0, 0.25

NO_FILE = "no regular file", "a regular file"

log = Log("files")

Stamp = tuple[int, int, int, int]


@dataclass(slots=True)
class Known:
    """A file as it was last read. `gone`: since when it is not there; `restless`: since when it differs and does not settle; `told`: that
    it is not read for that was said.
    """

    stamp: Stamp | None = None
    parsed: Parsed = field(default_factory=Parsed)
    gone: float | None = None
    restless: float | None = None
    told: bool = False


class Directories:
    """What the directories hold, without a loop: `scan` looks once. Times are arguments: `wall` for file times, `now` for waits."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._directories = tuple(directories)
        self._files: dict[str, Known] = {}
        self._unreadable: set[Path] = set()
        self._lost: set[str] = set()  # files that were read, and cannot be looked at now
        self._held: dict[Path, tuple[int, int]] = {}  # (device, inode) of the directory in which manifests were last seen
        self._changes: dict[str, Parsed] = {}
        self.complete = False
        """Every directory was listed at least once, and every file in them was read."""

    def take(self) -> dict[str, Parsed]:
        """What changed since this was last asked, by path; a file that is gone holds nothing."""
        changes, self._changes = self._changes, {}
        return changes

    @property
    def unreadable(self) -> list[str]:
        return sorted([*(str(path) for path in self._unreadable), *(_shown(path) for path in self._lost)])

    def scan(self, wall: float, now: float) -> bool:
        """Look once. Whether something is not settled: then look again soon."""
        unsettled = False
        seen: set[str] = set()
        listed = True
        for directory in self._directories:
            try:
                entries, identity = _manifests(directory)
                if not entries and self._held.get(directory, identity) != identity:
                    raise OSError(
                        errno.ESTALE, "it is empty and another directory than the one that held manifests (unmounted or replaced?)"
                    )
            except OSError as error:
                listed = False
                seen.update(path for path in self._files if Path(path).parent == directory)
                if directory not in self._unreadable:
                    self._unreadable.add(directory)
                    log.error("a directory cannot be listed: what it held stays in force", directory=str(directory), error=error.strerror)
                continue
            self._unreadable.discard(directory)
            if entries:
                self._held[directory] = identity
            for path in entries:
                looked = self._look(path, wall, now)
                if looked is not None:
                    seen.add(path)
                    unsettled |= looked
        for path in self._files.keys() - seen:
            known = self._files[path]
            if known.gone is None or path in self._lost:
                known.gone = now
                self._lost.discard(path)
            if now - known.gone < SETTLE and self.complete:
                unsettled = True
            else:
                del self._files[path]
                self._changes[path] = Parsed()
        self.complete = self.complete or (listed and not unsettled)
        return unsettled

    def _look(self, path: str, wall: float, now: float) -> bool | None:
        """Whether a file is not settled; None where there is none (a link that never led to one, or removed since it was listed)."""
        known = self._files.get(path) or Known()
        try:
            status = os.stat(path)
        except OSError as error:
            absent = isinstance(error, FileNotFoundError)
            was_read = known.stamp is not None or (absent and bool(known.parsed.refused))
            if was_read and (not absent or os.path.islink(path)):
                return self._lose(path, known, error, now)
            if absent:
                return None
            known.gone = None
            return self._take(path, known, None, _unreadable(path, error))
        known.gone = None
        self._lost.discard(path)
        if stat.S_ISDIR(status.st_mode):
            return None
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe would wait for its writer.
            return self._take(path, known, None, _refused(path, *NO_FILE))
        stamp = _stamp(status)
        if stamp == known.stamp:
            known.restless = None
            return False
        if known.restless is None:
            known.restless = now
        fresh = abs(wall - status.st_mtime) < SETTLE
        patient = now - known.restless < IMPATIENCE
        self._files.setdefault(path, known)
        if fresh and patient:
            return True
        try:
            parsed, read_stamp = _read(path)
        except FileNotFoundError:
            return None
        torn = read_stamp is not None and read_stamp != stamp  # it was written to while we read
        if torn and patient:
            return True
        if (fresh or torn) and _loses(known.parsed, parsed):
            if not known.told:
                known.told = True
                log.warning("a file is written to all the time and read halfway: what it held stays in force until it is quiet", file=path)
            return True
        known.restless, known.told = None, False
        return self._take(path, known, read_stamp, parsed)

    def _lose(self, path: str, known: Known, error: OSError, now: float) -> bool:
        """As `_look`, of a file that was read and cannot be looked at: what it held stays in force. Only told of when that lasts, since a
        mounted ConfigMap loses first its file and then the link to it.
        """
        if known.gone is None:
            known.gone = now
        if now - known.gone < SETTLE:
            return True
        if path not in self._lost:
            self._lost.add(path)
            log.error("a file cannot be looked at: what it held stays in force", file=path, error=error.strerror)
        return False

    def _take(self, path: str, known: Known, stamp: Stamp | None, parsed: Parsed) -> bool:
        if known.parsed != parsed or [entry.where for entry in known.parsed.objects] != [entry.where for entry in parsed.objects]:
            self._changes[path] = parsed
        known.stamp, known.parsed = stamp, parsed
        self._files[path] = known
        return False


class FilesSource:
    """`Directories` kept up to date: by inotify, and by looking from time to time. An origin is a file's path."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self.name = "files"
        self.state = SourceState()
        self._directories = Directories(directories)
        self._paths = tuple(directories)

    async def run(self, sink: Sink) -> None:
        wake = asyncio.Event()
        try:
            watch: DirectoryWatch | None = DirectoryWatch(self._paths, wake.set)
        except OSError as error:
            watch = None
            log.warning("no inotify: files are polled", error=error.strerror)
        try:
            while True:
                wake.clear()
                if watch is not None:
                    watch.renew()
                unsettled = await asyncio.to_thread(self._directories.scan, time.time(), time.monotonic())
                self._hand_over(sink)
                # Many events of one burst become one look.
                await asyncio.sleep(LOOK)
                if not unsettled:
                    timeout = SLOW_LOOK if watch is not None else WATCHLESS_LOOK
                    try:
                        # Not wait_for: in Python 3.11 it may swallow a cancellation, and the process would not end.
                        async with asyncio.timeout(timeout):
                            await wake.wait()
                    except TimeoutError:
                        pass
        finally:
            if watch is not None:
                watch.close()

    def _hand_over(self, sink: Sink) -> None:
        for path, parsed in self._directories.take().items():
            sink.put(path, parsed)
        lost = self._directories.unreadable
        since = None if not lost else self.state.stale_since or time.time()
        error = f"cannot be read, what they held stays in force: {', '.join(lost)}" if lost else ""
        state = SourceState(self._directories.complete, since, error)
        if state != self.state:
            self.state = state
            sink.changed()


def _manifests(directory: Path) -> tuple[list[str], tuple[int, int]]:
    """The manifests' paths, sorted, and the device and inode of the directory that was listed."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        names = sorted(name for name in os.listdir(descriptor) if name.endswith(SUFFIXES) and not name.startswith("."))
    finally:
        os.close(descriptor)
    return [os.path.join(directory, name) for name in names], (status.st_dev, status.st_ino)


def _stamp(status: os.stat_result) -> Stamp:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _read(path: str) -> tuple[Parsed, Stamp | None]:
    """The file's objects, with its stamp if that was the same before and after reading, else another one. FileNotFoundError."""
    try:
        # Not to wait for a pipe's writer, should one have taken the file's place since it was looked at.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                return _refused(path, *NO_FILE), None
            data: bytes | None = file.read(MAX_BYTES + 1)
            after = os.fstat(file.fileno())
    except FileNotFoundError:
        raise
    except OSError as error:
        return _unreadable(path, error), None
    if data is None:  # some of the kernel's own files
        return _refused(path, "a file that would be waited for", "a file that can be read"), None
    if len(data) > MAX_BYTES:
        return _refused(path, f"more than {MAX_BYTES} bytes", f"at most {MAX_BYTES} bytes"), _stamp(after)
    stamp = _stamp(after) if _stamp(before) == _stamp(after) else (0, 0, 0, 0)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _refused(path, f"byte {error.start} is no UTF-8", "UTF-8 text"), stamp
    return _parse(text, path), stamp


def _parse(text: str, path: str) -> Parsed:
    try:
        return parse_file(text, _shown(path))
    except Exception as error:
        # Whoever may write one file could otherwise end the control plane for all.
        log.exception("a bug: the parser failed on a file, which is refused", file=path)
        return _refused(path, f"what our parser fails on ({type(error).__name__}, a bug of ours)", "nothing like it for now")


def _loses(before: Parsed, now: Parsed) -> bool:
    """Whether less is known now of what was known before."""
    keys = {entry.key for entry in now.objects} | {entry.key for entry in now.refused}
    return (None in keys and bool(before.objects)) or not keys.issuperset(entry.key for entry in before.objects)


def _unreadable(path: str, error: OSError) -> Parsed:
    return _refused(path, error.strerror or str(error), "a file that can be read")


def _refused(path: str, value: str, accepted: str) -> Parsed:
    """A file of which nothing can be read may hold any policy."""
    shown = _shown(path)
    return Parsed((), (Refused((Refusal(shown, "", "", value, accepted),), shown, policy=True),))


def _shown(path: str) -> str:
    """A path as text: a name of other bytes than UTF-8's cannot be written into logs and answers as it is."""
    return os.fsencode(path).decode(errors="backslashreplace")
