"""The tour for a newcomer. `stage` drives a playground by its own commands, `tour` has the steps; what a step says, it checks."""

from __future__ import annotations

import os
from pathlib import Path

from culvert.cli.output import UsageError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str = "demo", *, keep: bool = False) -> int:
    """The whole tour in a playground of that name; taken down afterwards unless `keep`.

    0: every step was as told; 1: one was not; 130: interrupted. Raises UsageError without root.
    """
    _root()
    from culvert.demo.tour import tour

    return tour(name, EXAMPLES, keep=keep)


def up(name: str) -> int:
    """The bookstore in the mesh, left running, and what to try with it. Raises UsageError without root."""
    _root()
    from culvert.demo.tour import leave_running

    return leave_running(name, EXAMPLES)


def _root() -> None:
    if os.geteuid() != 0:
        raise UsageError("This makes network namespaces and loads kernel programs, which needs root: try again with sudo.")
