"""The one event loop of a process: uvloop, with the garbage collector out of its way."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import uvloop

T = TypeVar("T")

# The data path makes many short-lived objects and no cycles; with Python's default of 700 the collector would look at them again and again.
GC_THRESHOLD: Final = (50_000, 20, 50)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a new loop and close that. Objects made before, such as modules, are never looked at by the collector."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def stop_requested() -> asyncio.Event:
    """An event that is set by SIGTERM and SIGINT, from now on."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    return event
