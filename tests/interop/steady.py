"""Requests without a pause, in threads, while something is changed: how many there were, and which of them failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Work = Callable[[], None]
"""One request. Raises where it fails."""
PAUSE = 0.005  # seconds


@dataclass
class Steady:
    done: dict[str, int]
    failed: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def go_on(self, seconds: float = 5) -> None:
        """Until each kind of request has been made some more times."""
        wanted = {name: count + 5 for name, count in self.done.items()}
        deadline = time.monotonic() + seconds
        while any(self.done[name] < count for name, count in wanted.items()):
            assert time.monotonic() < deadline, (self.done, self.failed)
            time.sleep(PAUSE)

    def work(self, name: str, one: Work) -> None:
        while not self.stopping.is_set():
            try:
                one()
            except Exception as error:  # whatever it is, it is the result
                self.failed.append(f"{name}: {error!r}")
            self.done[name] += 1
            self.stopping.wait(PAUSE)


@contextmanager
def steady(**kinds: Work) -> Iterator[Steady]:
    """Each kind in a thread of its own. At the end none may have failed."""
    made = Steady(dict.fromkeys(kinds, 0))
    threads = [threading.Thread(target=made.work, args=item, daemon=True) for item in kinds.items()]
    for thread in threads:
        thread.start()
    try:
        made.go_on()
        yield made
        made.go_on()
    finally:
        made.stopping.set()
        for thread in threads:
            thread.join(20)
    assert made.failed == []
