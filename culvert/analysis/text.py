"""Findings for people: by file, each with its line, a caret under what is meant, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from control.analyze import Analysis, Severity
from culvert.analysis.document import summary
from culvert.analysis.located import Located
from culvert.cli.output import count

COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
IN_CLUSTER = "in the cluster"
WIDEST = 200
"""Of a line that is shown; what is longer is cut around the caret."""


def show(out: Console, analysis: Analysis, located: Iterable[Located]) -> None:
    for place, entries in groupby(located, key=lambda entry: entry.file or IN_CLUSTER):
        out.print(Text(place, "bold underline"))
        for entry in entries:
            _finding(out, entry)
    for finding in analysis.mended:
        out.print(Text.assemble(("mended ", "bold green"), f"{finding.code.name} {finding.subject}: {finding.message}"))
    out.print(_summary(analysis))
    if analysis.unread:
        kinds = ", ".join(f"{number} {kind}" for kind, number in analysis.unread)
        out.print(Text(f"not looked at, since the mesh has nothing to do with them: {kinds}", "dim"))
    if analysis.unchecked:
        parts = ", ".join(f"{what} of {namespace}" for what, namespace in analysis.unchecked)
        out.print(Text(f"not checked, since the input does not have them: {parts}", "dim"))


def _finding(out: Console, entry: Located) -> None:
    finding, colour = entry.finding, COLOURS[entry.finding.code.severity]
    place = f"{entry.line}:{entry.column} " if entry.column else f"{entry.line} " if entry.line else ""
    out.print(Text.assemble("  ", (place, "bold"), (f"{finding.code.severity.word} {finding.code.name}", colour), f" {finding.message}"))
    if entry.text.strip():
        _line(out, entry, colour)
    of = ", ".join(filter(None, (finding.subject, finding.field)))
    if of:
        out.print(Text(f"      {of}", "dim"))
    if finding.hint:
        out.print(Text.assemble(("      hint: ", "bold"), finding.hint))


def _line(out: Console, entry: Located, colour: str) -> None:
    text, column, length = entry.text.replace("\t", " "), entry.column, max(1, entry.length)
    if len(text) > WIDEST:
        start = max(0, column - 1 - WIDEST // 4)
        text, column = text[start : start + WIDEST], column - start if column else 0
    margin = f"      {entry.line} | "
    out.print(Text.assemble((margin, "dim"), text))
    if column:
        before = " " * (len(margin) - 2) + "| " + " " * cell_len(text[: column - 1])
        out.print(Text.assemble((before, "dim"), ("^" * min(length, WIDEST), colour)))


def _summary(analysis: Analysis) -> Text:
    numbers = summary(analysis)
    found = [count(numbers[f"{severity.word}s"], severity.word) for severity in reversed(Severity) if numbers[f"{severity.word}s"]]
    line = Text(", ".join(found) or "nothing found", "bold" if found else "bold green")
    line.append(f" in {count(analysis.objects, 'object')}")
    if analysis.suppressed:
        line.append(f", {analysis.suppressed} suppressed")
    if analysis.mended:
        line.append(f", {len(analysis.mended)} mended")
    return line
