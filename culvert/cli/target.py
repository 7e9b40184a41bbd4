"""Which playground a command means."""

from __future__ import annotations

from pathlib import Path

from culvert.cli.output import UsageError
from culvert.config import from_environment
from culvert.playground.layout import NAME_ACCEPTED, NAME_PATTERN, STATE_ROOT, Layout


def layout_of(name: str | None, state: Path | None) -> Layout:
    """Raises UsageError for a name that could own what belongs to another playground."""
    chosen = name or from_environment().name
    if not NAME_PATTERN.fullmatch(chosen):
        raise UsageError(f"--name {chosen} is not accepted; accepted: {NAME_ACCEPTED}")
    return Layout(chosen, (state or STATE_ROOT / chosen).resolve())


def name_option(layout: Layout) -> str:
    """What a command needs to mean this playground, with a space before it; empty where that is the default."""
    return "" if layout.name == from_environment().name else f" --name {layout.name}"
