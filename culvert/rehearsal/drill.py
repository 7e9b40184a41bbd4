"""The phases of the drill, one after another under load:

    before        nothing is changed: the measure of the rest
    leaves        every node renews all of its certificates
    intermediate  the CA has another intermediate, and everybody renews for it
    introduce     another root is trusted beside the one that signs
    switch        the other root's intermediate signs
    retire        the first root is trusted no more
    after         nothing is changed any more

A phase ends when every node that holds certificates says that it has renewed, and the CA that it would go on; and some load later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from culvert.rehearsal.client import Refused, ask, awaited
from culvert.rehearsal.load import Load, Tally

COMMANDS = {
    "leaves": "renew-leaves",
    "intermediate": "renew-intermediate",
    "introduce": "introduce",
    "switch": "switch",
    "retire": "retire",
}
BEFORE, AFTER = "before", "after"
LOOK = 0.1  # seconds between two looks at the CA


@dataclass(slots=True)
class Phase:
    """What came of one phase. `renewed`: seconds until each node had renewed; None where it had not. `problem`: why it did not end."""

    name: str
    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)
    renewed: dict[str, float | None] = field(default_factory=dict)
    roots: int = 0
    problem: str = ""

    @property
    def good(self) -> bool:
        return not (self.problem or self.tally.failed or self.tally.cut) and self.tally.tried > 0


@dataclass(frozen=True, slots=True)
class Options:
    """seconds: of load after each phase has ended. patience: seconds until a phase that does not end is given up."""

    seconds: float
    patience: float


async def run(socket: Path, load: Load, options: Options, tell: Callable[[Phase], None]) -> list[Phase]:
    """All phases, or those until one does not end. `tell` is called after each. Raises Unreachable."""
    phases: list[Phase] = []
    for name in (BEFORE, *COMMANDS, AFTER):
        phase = await _one(socket, load, options, name)
        phases.append(phase)
        tell(phase)
        if phase.problem:
            break
    return phases


async def _one(socket: Path, load: Load, options: Options, name: str) -> Phase:
    load.phase = name
    began, asked_at = time.monotonic(), time.time()
    phase = Phase(name)
    try:
        if name in COMMANDS:
            shown = await asyncio.to_thread(ask, socket, COMMANDS[name])
            shown = await _until_renewed(socket, shown, options.patience)
        else:
            shown = await asyncio.to_thread(ask, socket, "show")
        phase.roots = len(shown["roots"])
        phase.renewed = _renewed(shown, asked_at) if name in COMMANDS else {}
        phase.problem = _unfinished(shown) if name in COMMANDS else ""
    except Refused as error:
        phase.problem = str(error)
    await asyncio.sleep(options.seconds)
    phase.seconds = time.monotonic() - began
    phase.tally = load.tally
    return phase


async def _until_renewed(socket: Path, shown: dict[str, Any], patience: float) -> dict[str, Any]:
    """Look until there is nothing to wait for, or patience ends."""
    deadline = time.monotonic() + patience
    while _unfinished(shown) and time.monotonic() < deadline:
        await asyncio.sleep(LOOK)
        shown = await asyncio.to_thread(ask, socket, "show")
    return shown


def _unfinished(shown: dict[str, Any]) -> str:
    """What is still awaited, as a sentence; "" if nothing is."""
    if behind := awaited(shown):
        return "not renewed: " + ", ".join(holder["holder"] + (f" ({holder['problem']})" if holder["problem"] else "") for holder in behind)
    gate = shown["gate"]
    return str(gate["reason"]) if gate is not None and not gate["open"] else ""


def _renewed(shown: dict[str, Any], since: float) -> dict[str, float | None]:
    """By node. A node with several streams counts as late as its last."""
    found: dict[str, float | None] = {}
    for holder in shown["holders"]:
        name, at = holder["holder"], holder["renewedAt"]
        after = None if at is None else max(0.0, at - since)
        earlier = found.get(name, 0.0)
        found[name] = None if after is None or earlier is None else round(max(after, earlier), 3)
    return found
