"""How commands speak: results on standard output, everything else on standard error, colours only for people."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mesh.model.errors import CulvertError, Refusal

OK, FAILED, USAGE = 0, 1, 2
GAP = 2  # between columns
WIDE = 400  # into a file or a pipe: nothing is left out


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


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], styles: dict[str, str] | None = None, spare: Sequence[str] = ()
) -> None:
    """A table without borders, as kubectl prints; `styles` colours a whole cell by its exact text. No cell is ever cut: where the
    terminal is too narrow, the columns in `spare` are left out, in this order, until the rest fits.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    chosen = fitting(columns, cells, spare, shutil.get_terminal_size((WIDE, 24)).columns)
    out = console()
    out.print(_line(chosen, list(columns), dict.fromkeys(columns, "bold")))
    for row in cells:
        out.print(_line(chosen, row, styles or {}))


def fitting(columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], width: int) -> dict[int, int]:
    """Index → width of the columns to show."""
    chosen = {index: max(map(cell_len, [column, *(row[index] for row in rows)])) for index, column in enumerate(columns)}
    for name in spare:
        if sum(chosen.values()) + GAP * (len(chosen) - 1) > width:
            del chosen[columns.index(name)]
    return chosen


def _line(chosen: dict[int, int], cells: Sequence[str], styles: dict[str, str]) -> Text:
    line = Text()
    for index, width in chosen.items():
        line.append(cells[index], styles.get(cells[index], ""))
        line.append(" " * (width - cell_len(cells[index]) + GAP))
    line.rstrip()
    return line


def count(number: int, thing: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {thing}" + ("" if number == 1 else "s" if not thing.endswith("s") else "es")


def age(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    if seconds < 120:
        return f"{seconds}s"
    return f"{seconds // 60}m" if seconds < 7200 else f"{seconds // 3600}h"
