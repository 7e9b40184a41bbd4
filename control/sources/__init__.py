"""Where objects come from. Each source reads its kind of place and hands over what it finds; more of them run side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mesh.model.manifest import Parsed


class Sink(Protocol):
    """What a source hands its findings to; called on the event loop, never blocks.

    An `origin` is one place of the source that is read as a whole: a file, an object of an API, a service of a catalogue. It is unique
    within its source. What is put replaces what the origin held before.
    """

    def put(self, origin: str, parsed: Parsed) -> None: ...

    def remove(self, origin: str) -> None: ...

    def recall(self, origin: str, parsed: Parsed) -> None:
        """These objects were accepted last, in an earlier life, from an origin that now says what is refused. Comes before it is put."""

    def changed(self) -> None:
        """The source's `state` is another one now."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """`synced`: all that was there at the start has been handed over, at least once. `stale_since`: since when (Unix seconds) what it
    handed over may be out of date, None while it is known to be current. `error`: why, as a sentence for people.
    """

    synced: bool = False
    stale_since: float | None = None
    error: str = ""


class Feed(Protocol):
    """A source that says what changed."""

    name: str

    @property
    def state(self) -> SourceState: ...

    async def run(self, sink: Sink) -> None:
        """Read, watch, and hand over, until cancelled. Whatever goes wrong outside is waited out here; what is raised is a bug."""
