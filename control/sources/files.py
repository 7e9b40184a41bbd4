"""Directories of YAML manifests, watched.

How it works: inotify says that something happened, then all directories are listed and files whose size, inode or times changed are read
again. inotify can lose events and does not see a directory that does not exist yet, so the listing is also made every
RESCAN seconds. A burst of changes is waited out for SETTLE seconds, at most MAX_SETTLE, so that a copy of many files counts as one. A file
that is being written shows as soon as its writer closes it: only closing and renaming wake us up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

from mesh.io.log import Log

log = Log("sources")

SETTLE, MAX_SETTLE, RESCAN = 0.05, 0.5, 2.0  # seconds
MAX_FILES = 100_000
MAX_BYTES = 16 << 20  # of one file
SUFFIXES = (".yaml", ".yml", ".json")

_IN_CLOSE_WRITE, _IN_MOVED_FROM, _IN_MOVED_TO, _IN_DELETE, _IN_DELETE_SELF = 0x8, 0x40, 0x80, 0x200, 0x400
_EVENTS = _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_DELETE | _IN_DELETE_SELF

Stamp = tuple[int, int, int, int]


class FileSource:
    """The manifests of some directories, which need not exist yet. Files in sub-directories and hidden files are not read."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._directories = tuple(directories)
        self._stamps: dict[str, Stamp] = {}
        self._texts: dict[str, str] = {}

    async def changes(self) -> AsyncIterator[Mapping[str, str]]:
        first = True
        with _Watch() as watch:
            while True:
                for directory in self._directories:
                    watch.add(directory)
                if self.scan() or first:
                    first = False
                    yield dict(self._texts)
                if await watch.wait(RESCAN):
                    await self._settle(watch)

    async def _settle(self, watch: _Watch) -> None:
        end = asyncio.get_running_loop().time() + MAX_SETTLE
        while await watch.wait(SETTLE) and asyncio.get_running_loop().time() < end:
            pass

    def scan(self) -> bool:
        """Read what is new or changed; whether anything is different from before."""
        seen: dict[str, Stamp] = {}
        changed = False
        for directory in self._directories:
            for path, stamp in _listing(directory):
                if len(seen) >= MAX_FILES:
                    log.error("too many manifests; the rest is not read", directory=str(directory), limit=MAX_FILES)
                    break
                if self._stamps.get(path) != stamp:
                    text = _read(path)
                    if text is None:
                        # What was read before stays in force: a policy must not vanish because its file cannot be read now.
                        if path in self._texts:
                            seen[path] = self._stamps.get(path, stamp)
                        continue
                    changed |= self._texts.get(path) != text
                    self._texts[path] = text
                seen[path] = stamp
        for path in self._texts.keys() - seen.keys():
            del self._texts[path]
            changed = True
        self._stamps = seen
        return changed


def _listing(directory: Path) -> list[tuple[str, Stamp]]:
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.endswith(SUFFIXES):
                    continue
                with contextlib.suppress(OSError):
                    if entry.is_file():
                        stat = os.stat(entry.path)
                        found.append((entry.path, (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)))
    except FileNotFoundError:
        pass
    except OSError as error:
        log.error("a directory of manifests cannot be read", directory=str(directory), error=str(error))
    return sorted(found)


def _read(path: str) -> str | None:
    """A file's text; a file that is no UTF-8 is given with replacement characters, so that the parser refuses it by name."""
    try:
        if os.path.getsize(path) > MAX_BYTES:
            log.error("a manifest is too large and is not read", path=path, limit=MAX_BYTES)
            return None
        return Path(path).read_text("utf-8", errors="replace")
    except OSError as error:
        log.warning("a manifest cannot be read", path=path, error=str(error))
        return None


class _Watch:
    """inotify on some directories; `wait` tells whether anything happened within a time."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        self._watched: dict[str, int] = {}
        self._event = asyncio.Event()

    def __enter__(self) -> _Watch:
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            asyncio.get_running_loop().add_reader(self._fd, self._on_readable)
        else:
            log.warning("inotify is not to be had; changes are seen by looking", every=f"{RESCAN}s", error=os.strerror(ctypes.get_errno()))
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def add(self, directory: Path) -> None:
        if self._fd < 0:
            return
        try:
            inode = directory.stat().st_ino
        except OSError:
            self._watched.pop(str(directory), None)
            return
        if self._watched.get(str(directory)) != inode and self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _EVENTS) >= 0:
            self._watched[str(directory)] = inode

    async def wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def _on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._fd, 65536):
                pass
        self._event.set()
