"""What came of a drill: a line per phase as it ends, and one document for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from culvert.rehearsal.drill import Phase
from culvert.rehearsal.load import Load


def line(phase: Phase) -> str:
    """One line for people."""
    tally = phase.tally
    parts = [f"{tally.tried} connections, {tally.failed} failed", f"{tally.exchanges} exchanges on those that stay, {tally.cut} cut"]
    late = [after for after in phase.renewed.values() if after is not None]
    if phase.renewed:
        parts.append(f"{len(late)} of {len(phase.renewed)} nodes renewed" + (f" within {max(late):.1f} s" if late else ""))
    return f"{phase.name:<12} {phase.seconds:5.1f} s  " + "; ".join(parts)


def troubles(phases: Sequence[Phase]) -> list[str]:
    """Everything that went wrong, a sentence each."""
    found = []
    for phase in phases:
        found += [f"{phase.name}: {text}" for text in (*phase.tally.failures, *(f"cut: {cut}" for cut in phase.tally.cuts))]
        if phase.problem:
            found.append(f"{phase.name}: {phase.problem}")
        elif not phase.tally.tried:
            found.append(f"{phase.name}: no connection was tried")
    return found


def document(phases: Sequence[Phase], load: Load) -> dict[str, Any]:
    return {
        "ok": all(phase.good for phase in phases),
        "failed": sum(phase.tally.failed for phase in phases),
        "cut": sum(phase.tally.cut for phase in phases),
        "pairs": [str(pair) for pair in load.pairs],
        "leftOut": load.left_out,
        "phases": [
            {
                "phase": phase.name,
                "seconds": round(phase.seconds, 3),
                **asdict(phase.tally),
                "renewedAfter": phase.renewed,
                "roots": phase.roots,
                "problem": phase.problem,
            }
            for phase in phases
        ],
    }
