"""How the source is doing, question by question, and as one sentence for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from control.sources.consul.errors import NEEDED, ConsulError, Denied, Rejected, Unusable

FOR_PEOPLE = (Denied, Rejected, Unusable)
SHOWN = 5


@dataclass(slots=True)
class Health:
    """One blocking query, or all plain reads. `confirmed`: when Consul last answered, at first when it was first asked; Unix seconds.
    `answered`: it did, at least once.
    """

    confirmed: float
    answered: bool = False
    error: ConsulError | None = None
    failures: int = 0

    def succeeded(self, wall: float) -> None:
        self.confirmed = wall
        self.answered = True
        self.error = None
        self.failures = 0

    def failed(self, error: ConsulError, at_once: bool = False) -> None:
        """A connection that broke is no trouble until the next one does too; what a person has to mend is, at once."""
        self.failures += 1
        if self.failures > 1 or at_once or isinstance(error, FOR_PEOPLE):
            self.error = error


def stale_since(parts: Iterable[Health]) -> float | None:
    return min((part.confirmed for part in parts if part.error is not None), default=None)


def sentence(address: str, parts: Iterable[Health], hidden: Collection[str]) -> str:
    """What is wrong, "" where nothing is. What a person has to mend comes first."""
    errors = [part.error for part in parts if part.error is not None]
    if errors:
        first = min(errors, key=lambda found: (not isinstance(found, FOR_PEOPLE), str(found)))
        others = len({str(found) for found in errors}) - 1
        return f"Consul {address}: {first}" + (f" (and {others} more like it)" if others else "")
    if hidden:
        names = ", ".join(sorted(hidden)[:SHOWN]) + (", …" if len(hidden) > SHOWN else "")
        return f"Consul {address}: access rules hide the instances of {len(hidden)} services ({names}): {NEEDED}"
    return ""
