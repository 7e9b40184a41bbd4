"""How commands speak: results on standard output, everything else on standard error, colours only for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mesh.model.errors import CulvertError, Refusal

OK, FAILED, USAGE = 0, 1, 2


class UsageError(CulvertError):
    """The command cannot run so, or not on this machine: exit code 2. The text says what to do."""


class FailedError(CulvertError):
    """The command ran and did not reach its end: exit code 1. The text says what to look at."""


def console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A line about what is going on, for people."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(text))


def warn(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble(("warning: ", "bold yellow"), text))


def fail(error: str, code: int = FAILED) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), error))
    sys.exit(code)


def show_refusals(refusals: Iterable[Refusal]) -> None:
    out = Console(stderr=True, highlight=False, soft_wrap=True)
    for refusal in refusals:
        out.print(Text.assemble(("refused ", "bold red"), str(refusal)))


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], styles: dict[str, str] | None = None) -> None:
    """A table without borders, as kubectl prints; `styles` colours a whole cell by its exact text."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(cell), style=(styles or {}).get(str(cell), "")) for cell in row))
    out = console()
    if not out.is_terminal:
        # Into a file or a pipe: as wide as it needs, nothing cut off.
        out = Console(highlight=False, width=400)
        with out.capture() as capture:
            out.print(table)
        print("\n".join(line.rstrip() for line in capture.get().splitlines()))
        return
    out.print(table)


def age(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    if seconds < 120:
        return f"{seconds}s"
    return f"{seconds // 60}m" if seconds < 7200 else f"{seconds // 3600}h"
