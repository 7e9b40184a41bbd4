"""Who calls: per-node bearer tokens, one file per node (0600) named after it. Read at each use, so that a rotation needs no restart."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from control.auth import Caller, Metadata
from mesh.io.log import Log

log = Log("tokens")

MINIMUM = 16  # characters; a shorter token is a mistake, and would be guessed


class NodeTokens:
    """The tokens in a directory. Who has one is the node, and speaks for every pod on it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def authenticate(self, metadata: Metadata) -> Caller | None:
        node = self.node_of(metadata)
        return Caller(node=node, impersonates=True) if node is not None else None

    def node_of(self, metadata: Sequence[tuple[str, str | bytes]] | None) -> str | None:
        """The node that the call's `authorization: Bearer ...` belongs to, or None. Compares against every token in constant time each."""
        offered = _bearer(metadata)
        if offered is None:
            return None
        found = None
        try:
            files = sorted(self._directory.iterdir())
        except OSError as error:
            log.error("the directory of node tokens cannot be read; every call is refused", path=str(self._directory), error=str(error))
            return None
        for file in files:
            if file.name.startswith("."):
                continue
            try:
                if file.stat().st_mode & 0o077:
                    log.error("a node's token can be read by others than its owner; it is not accepted (chmod 600)", path=str(file))
                    continue
                token = file.read_bytes().strip()
            except OSError:
                continue
            if len(token) >= MINIMUM and hmac.compare_digest(token, offered):
                found = file.name
        return found


def _bearer(metadata: Sequence[tuple[str, str | bytes]] | None) -> bytes | None:
    for key, value in metadata or ():
        if key == "authorization":
            text = value if isinstance(value, bytes) else value.encode()
            scheme, _, token = text.partition(b" ")
            return token.strip() if scheme.lower() == b"bearer" else None
    return None
