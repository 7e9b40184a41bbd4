"""A CA's state in a directory, swapped whole as a kubelet swaps a mounted Secret: each version in a directory of its own, and one link.

    current -> version-7     what counts; replaced by renaming another link over it
    version-7/               root.pem root.key intermediate.pem ... (0600; see `state`)
    lock                     held while somebody saves

A save writes all files of the next version and syncs them, then swaps the link. A crash or a full disk before that leaves a directory that
nothing refers to, which the next save removes; after it, the new version counts. Reading needs no lock: the link is followed once.

A `root-key.pem` and `root-cert.pem` of one's own in the directory, where there is nothing else yet, are taken as the root to begin with.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from control.ca.material import Material
from control.ca.pem import certificates
from control.ca.state import State, from_files, to_files
from control.ca.store import Conflict, Stored
from mesh.io.watch import DirectoryWatch
from mesh.model.errors import ConfigError, Refusal

LINK, LOCK = "current", "lock"
OWN_KEY, OWN_ROOT = "root-key.pem", "root-cert.pem"
LOOK = 1.0  # seconds after which we look ourselves, told or not
MAX_FILE = 1 << 20  # bytes
_VERSION = re.compile(r"version-([1-9][0-9]*)")


class DirectoryStore:
    """`Store` in a directory that all replicas see. Its locks are flock's."""

    def __init__(self, directory: Path) -> None:
        self.where = str(directory)
        self.settle = 2 * LOOK
        self._directory = directory
        self._watch: DirectoryWatch | None = None
        self._woken = asyncio.Event()

    async def load(self) -> Stored | None:
        return await asyncio.to_thread(self.read)

    async def save(self, state: State, expected: str) -> str:
        return await asyncio.to_thread(self.write, state, expected)

    async def replace(self, state: State) -> None:
        """Whatever is there, this is there now. Raises OSError."""
        await asyncio.to_thread(self.write, state, None)

    async def changed(self, version: str) -> None:
        if self._watch is None:
            with contextlib.suppress(OSError):  # no inotify: we look often enough
                self._watch = DirectoryWatch([self._directory], self._woken.set)
        while await asyncio.to_thread(self._current) == version:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._woken.wait()
            self._woken.clear()
            if self._watch is not None:
                self._watch.renew()

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def read(self) -> Stored | None:
        """As `load`, blocking."""
        for _ in range(3):
            version = self._current()
            if not version:
                return None
            directory = self._directory / version
            try:
                files = {name: _read(directory / name) for name in os.listdir(directory)}
            except FileNotFoundError:
                if self._current() != version:
                    continue  # swapped, and cleared away, while we read
                raise
            return Stored(from_files(files, self.where), version)
        raise OSError(f"{self.where}: it changes faster than it can be read")

    def write(self, state: State, expected: str | None) -> str:
        """As `save`, blocking. `expected` None: whatever it is."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            present = self._current()
            if expected is not None and present != expected:
                raise Conflict(f"{self.where}: {present or 'nothing'} is there, not {expected or 'nothing'}")
            self._clear(present)
            match = _VERSION.fullmatch(present)
            version = f"version-{int(match[1]) + 1 if match else 1}"
            fresh = self._directory / version
            try:
                fresh.mkdir(mode=0o700)
                for name, content in to_files(state).items():
                    _write(fresh / name, content)
                _sync(fresh)
                link = self._directory / f".{LINK}"
                with contextlib.suppress(FileNotFoundError):
                    link.unlink()
                link.symlink_to(version)
                link.rename(self._directory / LINK)
            except OSError:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
            _sync(self._directory)
            self._clear(version)
        return version

    def own_root(self) -> Material | None:
        """A root that somebody put here to begin with. Raises ConfigError where it is only half there, or its key is open to others."""
        key, root = self._directory / OWN_KEY, self._directory / OWN_ROOT
        if not key.exists():
            return None
        if not root.exists():
            raise ConfigError(Refusal(self.where, "", OWN_ROOT, "nothing", f"the certificate of {OWN_KEY}"))
        roots = certificates(_read(root).decode("ascii", "replace"), self.where, OWN_ROOT)
        return Material("", (), roots, _read(key).decode("ascii", "replace"))

    def _current(self) -> str:
        try:
            return os.readlink(self._directory / LINK)
        except FileNotFoundError:
            return ""
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            accepted = "a link to one of the directories beside it: was it copied without its links?"
            raise ConfigError(Refusal(self.where, "", LINK, "no link", accepted)) from error

    def _clear(self, present: str) -> None:
        """Remove versions that do not count: what a crash left, and what has been replaced."""
        for name in os.listdir(self._directory):
            if _VERSION.fullmatch(name) and name != present:
                shutil.rmtree(self._directory / name, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _read(path: Path) -> bytes:
    """Raises OSError, and ConfigError for a key that others may read."""
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if (path.name == OWN_KEY or path.suffix == ".key") and mode & 0o077:
            raise ConfigError(Refusal(str(path), "", "mode", f"{mode:04o}", "0600, owned by the control plane"))
        return file.read(MAX_FILE)


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(path: Path, text: str) -> None:
    """A file that others read, whole or as before; 0644. Raises OSError."""
    try:
        if path.read_text() == text:
            return
    except (OSError, UnicodeDecodeError):
        pass
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
