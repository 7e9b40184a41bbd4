"""Node tokens: one file per node (0600) named after it, with the bearer token that its tunnel shows. Who has it is the node, and speaks
for every pod on it.

The files are read again when what was read is older than FRESH, so that a token that is added, changed or taken away counts within a second
and without a restart. Between two readings a call costs one hash and one look into a table: with hundreds of nodes, reading every file at
every call would bound the certificate service. What is compared is SHA-256 of the tokens, so that the time of the look-up says nothing
about them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from control.auth import Caller, Metadata
from mesh.io.log import Log
from mesh.model.errors import ConfigError, Refusal

log = Log("tokens")

MINIMUM = 16  # characters; a shorter token is a mistake, and would be guessed
MAXIMUM = 4096  # bytes of a file
FRESH = 1.0  # seconds for which what was read counts
AGAIN = 0.05  # seconds after which an unknown token is worth another reading


def require(directory: Path) -> None:
    """ConfigError where there is no such directory: every tunnel would be refused, one by one, and nobody would look here."""
    if not directory.is_dir():
        raise ConfigError(Refusal("environment", "", "CULVERT_NODE_TOKENS", repr(str(directory)), "a directory that is there"))


class NodeTokens:
    """The tokens in a directory. `clock` is monotonic, in seconds."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._nodes: dict[bytes, str] = {}
        self._read_at = float("-inf")
        self._told: frozenset[str] = frozenset()
        self._reading = asyncio.Lock()

    async def authenticate(self, metadata: Metadata) -> Caller | None:
        digest = _digest(metadata)
        if digest is None:
            return None
        if self._stale(digest):
            async with self._reading:  # one reads for all who came meanwhile
                if self._stale(digest):
                    await asyncio.to_thread(self._read)
        node = self._nodes.get(digest)
        return Caller(node=node, impersonates=True) if node is not None else None

    def node_of(self, metadata: Metadata) -> str | None:
        """As `authenticate`, for who cannot wait: reads files where that is due."""
        digest = _digest(metadata)
        if digest is None:
            return None
        if self._stale(digest):
            self._read()
        return self._nodes.get(digest)

    def _stale(self, digest: bytes) -> bool:
        return self._clock() - self._read_at > (FRESH if digest in self._nodes else AGAIN)

    def _read(self) -> None:
        """Replace the table by what the directory says now. A file that cannot be used is left out, and that is said once."""
        complaints: list[str] = []
        found: dict[bytes, str] = {}
        shared: set[bytes] = set()
        try:
            files = sorted(self._directory.iterdir())
        except OSError as error:
            complaints.append(f"{self._directory}: {error.strerror}; every call is refused")
            files = []
        for file in files:
            if file.name.startswith("."):
                continue
            try:
                token = _token(file)
            except (OSError, ValueError) as error:
                complaints.append(f"{file}: {error}; it is not accepted")
                continue
            digest = hashlib.sha256(token).digest()
            if digest in found:
                # Who shows it could be either, and would get the certificates of both.
                complaints.append(f"{file}: the token is also that of {found[digest]}; neither is accepted")
                shared.add(digest)
            found[digest] = file.name
        self._nodes = {digest: node for digest, node in found.items() if digest not in shared}
        self._read_at = self._clock()
        for complaint in sorted(set(complaints) - self._told):
            log.error("a node token cannot be used", why=complaint)
        self._told = frozenset(complaints)


def _token(path: Path) -> bytes:
    """Raises OSError, or ValueError with what is wrong."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        if status.st_mode & 0o077:
            raise ValueError("it can be read by others than its owner (chmod 600)")
        token = file.read(MAXIMUM + 1).strip()
    if not MINIMUM <= len(token) <= MAXIMUM:
        raise ValueError(f"a token has {MINIMUM} to {MAXIMUM} characters")
    return token


def _digest(metadata: Metadata) -> bytes | None:
    token = bearer(metadata)
    return hashlib.sha256(token).digest() if token else None


def bearer(metadata: Metadata) -> bytes | None:
    """The token of the first `authorization: Bearer ...`; None where there is none."""
    for key, value in metadata or ():
        if key == "authorization":
            text = value if isinstance(value, bytes) else value.encode()
            scheme, _, token = text.partition(b" ")
            return token.strip() if scheme.lower() == b"bearer" else None
    return None
