"""What commands say of refused objects and of policies that do not do all that they say."""

from __future__ import annotations

import time
from collections.abc import Iterable

from culvert.cli.output import warn
from culvert.cli.target import name_option
from culvert.playground.control import load_spec
from culvert.playground.documents import ObjectKey
from culvert.playground.layout import Layout
from culvert.playground.observe import refused_consequences
from culvert.playground.outcome import Outcome, is_policy, notes_of, outcomes
from culvert.playground.store import Store
from mesh.model.errors import Refusal

ASK_SECONDS = 3.0


def explain(layout: Layout, refusals: list[Refusal], seconds: float = 0.0) -> list[Outcome]:
    """What follows from refusals, as the control plane tells it; it may take `seconds` until it has read what was just refused."""
    if not refusals:
        return []
    mesh = load_spec(layout).mesh
    in_force = {str(key) for key in Store(layout.applied).load()}
    awaited = {item.subject for item in refusals if is_policy(item.subject)} - in_force
    deadline = time.monotonic() + seconds
    while True:
        said = refused_consequences(layout) if mesh else {}
        if not mesh or awaited <= said.keys() or time.monotonic() >= deadline:
            return outcomes(refusals, in_force, said, name_option(layout), mesh=mesh)
        time.sleep(0.1)


def warn_of(layout: Layout, keys: Iterable[ObjectKey]) -> None:
    """What these objects say that has no effect; which of the policies need a waypoint, and what they do without one."""
    accepted = Store(layout.applied).load()
    show_notes(note for key in keys if key in accepted for note in notes_of(accepted[key]))


def show_notes(notes: Iterable[tuple[str, str]]) -> None:
    for subject, text in notes:
        warn(f"{subject}: {text}")
