"""How many bytes a spliced connection moved."""

from __future__ import annotations

from typing import Protocol


class Counters(Protocol):
    """Whom a splice tells how many bytes went each way, with every chunk: any object with two numbers."""

    sent: int
    received: int


class Tally:
    """Counters and nothing else."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
