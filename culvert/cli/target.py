"""Which playground a command means, and how to say so in another command."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from culvert.cli.output import UsageError
from culvert.config import from_environment
from culvert.playground.layout import DEFAULT_NAME, NAME_ACCEPTED, NAME_PATTERN, STATE_ROOT, Layout


def layout_of(name: str | None, state: Path | None, *, new: bool = False) -> Layout:
    """Where only the state directory is given, the name is the one that `up` wrote into it; `new`: it may be that there is none yet.

    Raises UsageError for a name that could own what belongs to another playground, and for a directory that is of another one: what
    carries a name (processes, namespaces, kernel programs) is then never taken for what the directory tells of.
    """
    recorded = _recorded(state) if state is not None else ""
    if state is not None and not (name or recorded or new):
        raise UsageError(f"no playground keeps its state in {state}; with --name, what is left of one can still be named")
    chosen = name or recorded or from_environment().name
    if not NAME_PATTERN.fullmatch(chosen):
        raise UsageError(f"--name {chosen} is not accepted; accepted: {NAME_ACCEPTED}")
    if recorded and recorded != chosen:
        raise UsageError(f"{state} is the state of playground {recorded}, not of {chosen}; leave out --name, or leave out --state")
    return Layout(chosen, (state or STATE_ROOT / chosen).resolve())


def _recorded(state: Path) -> str:
    from culvert.playground.spec import recorded_name

    return recorded_name(state)


def must_be_here(layout: Layout) -> None:
    """Raises UsageError where a playground of this name runs with another state directory: processes and namespaces go by the name."""
    from culvert.playground.control import elsewhere

    other = elsewhere(layout)
    if other is not None:
        again = f"--state {shlex.quote(str(other))}"
        raise UsageError(f"playground {layout.name} is up and keeps its state in {other}; to mean it, add {again}")


def name_option(layout: Layout) -> str:
    """What a command needs to mean this playground, with a space before it; empty where it is the default, in any environment."""
    default = layout == Layout(DEFAULT_NAME, STATE_ROOT / DEFAULT_NAME) and from_environment().name == DEFAULT_NAME
    return "" if default else f" {layout.options}"


def program() -> str:
    """How a person at this terminal calls `culvert`: as it was called, where it is not to be found by its name alone."""
    if from_environment().tool("culvert"):
        return "culvert"
    called = Path(sys.argv[0])
    beside = called if called.name == "culvert" else Path(sys.executable).with_name("culvert")
    if not beside.exists():
        return shlex.join([sys.executable, "-m", "culvert"])
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
