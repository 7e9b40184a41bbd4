"""The tour for a newcomer. `stage` drives a playground by its own commands, `tour` has the steps; what a step says, it checks."""

from __future__ import annotations

from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str = "demo", *, keep: bool = False) -> int:
    """The whole tour in a playground of that name; taken down afterwards unless `keep`. 0: every step was as told; 1: one was not."""
    from culvert.demo.tour import tour

    return tour(name, EXAMPLES, keep=keep)


def up(name: str) -> int:
    """The bookstore in the mesh, left running, and what to try with it."""
    from culvert.demo.tour import leave_running

    return leave_running(name, EXAMPLES)
