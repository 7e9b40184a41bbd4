"""The buffer in which the frames of one turn of the loop are put together, so that they leave in one TLS write.

There is one for the process: the app's bytes are received into it, behind the place of their DATA header, and it is encrypted and empty
again at the end of the turn at the latest. When another tunnel needs it within the turn, what the first had put there is encrypted
(not sent) at once: that costs a TLS record and keeps the memory at one buffer, however many tunnels there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mesh.model.errors import PeerError
from mesh.wire.h2.frames import HEADER_SIZE

if TYPE_CHECKING:
    from mesh.io.tunnel import Tunnel

RECORD: Final = 16 * 1024  # bytes of plaintext in a full TLS record
CHUNK: Final = 16 * RECORD - HEADER_SIZE  # bytes of an app read at a time: with its header, full records and no crumb
SIZE: Final = 20 * RECORD  # one chunk, and what small frames may come before it


class Stage:
    """`view[:filled]` are frames of `owner`, in order."""

    __slots__ = ("filled", "owner", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SIZE))
        self.filled = 0
        self.owner: Tunnel | None = None

    def place_for(self, tunnel: Tunnel) -> int:
        """Where a DATA frame of `tunnel` may be put now, with room for CHUNK bytes. What h2 wants to say before it is in front of it."""
        if self.owner is not tunnel:
            self.commit()
            self.owner = tunnel
        control = tunnel.h2.take_output()
        if control:
            self.add(control)
        if self.filled > SIZE - CHUNK - HEADER_SIZE:
            self.commit()
            self.owner = tunnel
        return self.filled

    def add(self, control: bytes) -> None:
        """Frames of the owner that are complete."""
        end = self.filled + len(control)
        if end <= SIZE:
            self.view[self.filled : end] = control
            self.filled = end
        else:
            owner = self.owner
            self.commit()
            self.owner = owner
            if owner is not None:
                _encrypt(owner, control)

    def take(self) -> memoryview:
        """What is here, for its owner to encrypt at once."""
        data = self.view[: self.filled]
        self.owner = None
        self.filled = 0
        return data

    def commit(self) -> None:
        """Encrypt what is here for its owner, if there is one."""
        owner = self.owner
        if owner is not None:
            _encrypt(owner, self.take())


def _encrypt(owner: Tunnel, data: memoryview | bytes) -> None:
    """Failure is the owner's business, later: whoever calls this is in the middle of something, perhaps for another tunnel."""
    try:
        if data:
            owner.channel.write(data)
    except PeerError as error:
        owner.send_failed(error)
