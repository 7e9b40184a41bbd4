"""What is wrong with the CA now: told once, in the log, the metric and the view, and untold when it is over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from control.ca.metrics import CaMetrics
from mesh.io.log import Log
from mesh.model.errors import CulvertError

log = Log("ca")

REMIND = 86400.0  # seconds after which a problem that stays is logged again


class Problems:
    """`now`: what is wrong, by kind (`metrics.PROBLEMS`)."""

    def __init__(self, metrics: CaMetrics, clock: Callable[[], float]) -> None:
        self.now: dict[str, str] = {}
        self._metrics = metrics
        self._clock = clock
        self._told: dict[str, tuple[str, float]] = {}

    @contextlib.contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """What goes wrong inside, and is not a bug, is a problem of this kind; when nothing does, there is none."""
        try:
            yield
        except (CulvertError, OSError) as error:
            self.tell(kind, str(error))
        else:
            self.untell(kind)

    def tell(self, kind: str, text: str) -> None:
        self.now[kind] = text
        self._metrics.problems.labels(kind).set(1)
        said, when = self._told.get(kind, ("", 0.0))
        if said != text or self._clock() - when > REMIND:
            log.error("the CA has a problem; what was in force stays in force", kind=kind, error=text)
            self._told[kind] = (text, self._clock())

    def untell(self, kind: str) -> None:
        if self.now.pop(kind, None) is not None:
            self._metrics.problems.labels(kind).set(0)
            del self._told[kind]
            log.info("a problem of the CA is over", kind=kind)
