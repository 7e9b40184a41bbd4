"""How the source is doing, kind by kind, and as one state with a sentence for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from control.kube.errors import Forbidden, Invalid, KubeError, Unreachable


@dataclass(slots=True)
class Health:
    """One kind, or discovery. `confirmed`: when the server last said anything of it, at first when it was first asked; Unix seconds.
    `synced`: listed once, whole.
    """

    confirmed: float
    synced: bool = False
    error: KubeError | None = None
    failures: int = 0

    def succeeded(self, wall: float) -> None:
        self.confirmed = wall
        self.error = None
        self.failures = 0

    def failed(self, error: KubeError) -> None:
        """A connection that broke is no trouble until the next one does too; what a person has to mend is, at once."""
        self.failures += 1
        if self.failures > 1 or isinstance(error, (Forbidden, Invalid)):
            self.error = error


def stale_since(parts: Iterable[Health]) -> float | None:
    return min((part.confirmed for part in parts if part.error is not None), default=None)


def sentence(server: str, parts: Iterable[Health]) -> str:
    """What is wrong, "" where nothing is. What a person has to mend comes first."""
    errors = [part.error for part in parts if part.error is not None]
    if not errors:
        return ""
    first = min(errors, key=lambda found: (not isinstance(found, (Forbidden, Invalid)), str(found)))
    others = len({str(found) for found in errors}) - 1
    where = f"the API server {server} cannot be reached" if all(isinstance(one, Unreachable) for one in errors) else f"API server {server}"
    return f"{where}: {first}" + (f" (and {others} more like it)" if others else "")
