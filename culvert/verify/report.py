"""A proof for people (tables) and for machines (JSON)."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from culvert.verify.findings import Finding, Kind
from culvert.verify.proof import Proof

GAP = 2  # between columns
NARROWEST = 20  # of a column whose text is wrapped


def as_json(proof: Proof) -> dict[str, Any]:
    return {
        "proved": proof.proved,
        "problems": proof.problems,
        "frames": proof.frames,
        "joined": proof.joined,
        "flows": [
            {
                "kind": finding.kind.name.lower(),
                "source": finding.source,
                "destination": finding.destination,
                "port": finding.port,
                "sent": finding.sent,
                "received": finding.received,
                "detail": finding.detail,
                "wrong": finding.wrong,
            }
            for finding in proof.findings
            if finding.kind is not Kind.PROBE
        ],
        "deliveries": [
            {
                "source": str(delivery.source),
                "destination": str(delivery.destination),
                "family": delivery.family,
                "bytes": delivery.size,
                "arrived": delivery.arrived,
                "note": delivery.note,
            }
            for delivery in proof.deliveries
        ],
    }


def show(proof: Proof, console: Console) -> None:
    mesh = [finding for finding in proof.findings if finding.kind is Kind.MESH]
    if mesh:
        _print_table(console, _mesh_table(mesh))
    plain = [finding for finding in proof.findings if finding.kind in (Kind.PLAINTEXT, Kind.LEAK, Kind.UNKNOWN)]
    if plain:
        _print_table(console, _plain_table(plain))
    control = [finding for finding in proof.findings if finding.kind is Kind.CONTROL]
    sent = [delivery for delivery in proof.deliveries if delivery.meshed]
    arrived = sum(delivery.arrived for delivery in sent)
    carried = sum(finding.sent + finding.received for finding in mesh)
    _say(
        console,
        f"{proof.frames} frames on the wire; {len(mesh)} tunnel connections carried {carried:,} bytes"
        + (f" ({proof.joined} of them joined: opened before the capture)" if proof.joined else "")
        + f"; {arrived} of {len(sent)} marked payloads arrived through the mesh"
        + (f", policy refused {len(sent) - arrived}" if arrived < len(sent) else "")
        + (f"; {len(control)} control-plane connections over TLS" if control else "")
        + ".",
    )
    if proof.proved:
        _say(
            console, "[bold green]proved[/]: no marked byte in the clear; between pods of the mesh every byte inside TLS 1.3 to port 15008"
        )
        if proof.joined:
            _say(
                console,
                f"  of the {proof.joined} joined: every byte seen was in records of TLS and their ports take only TLS 1.3; "
                "their own handshakes were before the capture and not seen",
            )
    else:
        _say(console, f"[bold red]not proved[/]: {len(proof.problems)} problem{'s' if len(proof.problems) > 1 else ''}")
        for problem in proof.problems[:20]:
            _say(console, f"  [red]✗[/] {escape(problem)}")
        if len(proof.problems) > 20:
            _say(console, f"  … and {len(proof.problems) - 20} more (--json has all)")


def _say(console: Console, markup: str) -> None:
    """A sentence, wrapped between words without leaving spaces behind."""
    for line in Text.from_markup(markup).wrap(console, console.width):
        line.rstrip()
        console.print(line, soft_wrap=True)


@dataclass(slots=True)
class Row:
    """`left` and `right` are names, one a line; they are never broken. `text` may be, between words."""

    left: list[str]
    right: list[str]
    text: str
    findings: list[Finding]

    @property
    def numbers(self) -> list[str]:
        return [str(len(self.findings)), f"{sum(finding.sent + finding.received for finding in self.findings):,}"]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)


def _print_table(console: Console, table: tuple[tuple[str, str, str], list[Row]]) -> None:
    for line in lines(*table, console.width):
        line.rstrip()
        console.print(line, soft_wrap=True)
    console.print()


def lines(titles: tuple[str, str, str], rows: list[Row], width: int) -> list[Text]:
    """The table: what can be wrapped is wrapped between words; where even that is too wide, one record below the other."""
    columns = [*titles, "connections", "bytes"]
    names = [[titles[0], *(name for row in rows for name in row.left)], [titles[1], *(name for row in rows for name in row.right)]]
    numbers = [[column, *(row.numbers[index] for row in rows)] for index, column in enumerate(columns[3:])]
    fixed = [max(map(len, cells)) for cells in (*names, *numbers)]
    room = width - sum(fixed) - len("ok") - GAP * 5
    text = min(room, max(len(row.text) for row in rows))
    if text < min(NARROWEST, max(len(row.text) for row in rows)):
        return [line for row in rows for line in _stacked(titles, row, width)]
    widths = [*fixed[:2], text, *fixed[2:]]
    found = [_line(columns, widths, "bold")]
    for row in rows:
        wrapped = _wrap(row.text, text)
        for index in range(max(len(row.left), len(row.right), len(wrapped))):
            cells = [part[index] if index < len(part) else "" for part in (row.left, row.right, wrapped)]
            line = _line(cells + (row.numbers if index == 0 else ["", ""]), widths)
            found.append(line.append_text(_verdict(row)) if index == 0 else line)
    return found


def _line(cells: list[str], widths: list[int], style: str = "") -> Text:
    line = Text(style=style)
    for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        line.append((cell.rjust(width) if index > 2 else cell.ljust(width)) + " " * GAP)
    return line


def _stacked(titles: tuple[str, str, str], row: Row, width: int) -> list[Text]:
    found = []
    for title, names in zip(titles[:2], (row.left, row.right), strict=True):
        found += [Text(title, style="bold"), *(Text(f"  {name}") for name in names)]
    found += [Text(f"  {part}") for part in _wrap(row.text, width - GAP)]
    return [
        *found,
        Text(f"  {row.numbers[0]} {'connection' if len(row.findings) == 1 else 'connections'}, {row.numbers[1]} bytes: ").append_text(
            _verdict(row)
        ),
    ]


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]


def _verdict(row: Row) -> Text:
    return Text("ok", style="green") if row.ok else Text("✗", style="red")


def _mesh_table(findings: list[Finding]) -> tuple[tuple[str, str, str], list[Row]]:
    """One row per destination: who came, how, how much."""
    rows = []
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.destination].append(finding)
    for destination, members in sorted(groups.items()):
        details = Counter(finding.detail or finding.wrong for finding in members)
        how = "; ".join(detail if len(details) == 1 else f"{count} {detail}" for detail, count in details.most_common())
        sources = sorted({finding.source for finding in members})
        rows.append(Row([destination], [sources[0] if len(sources) == 1 else f"{len(sources)} pods"], how, members))
    return ("mutual TLS on the wire, to port 15008 of", "from", "how"), rows


def _plain_table(findings: list[Finding]) -> tuple[tuple[str, str, str], list[Row]]:
    """One row per end outside the mesh and reason; every pair is in the JSON."""
    rows = []
    groups: dict[tuple[str, str, bool], list[Finding]] = defaultdict(list)
    for finding in findings:
        inward = finding.detail.startswith("the client")
        groups[finding.source if inward or finding.wrong else "", finding.wrong or finding.detail, inward].append(finding)
    for (_, why, _), members in sorted(groups.items(), key=lambda item: item[0]):
        # Here everybody is named: who may read what is what the reader wants to know.
        ends = [sorted({getattr(finding, end) for finding in members}) for end in ("source", "destination")]
        rows.append(Row(ends[0], ends[1], why, members))
    return ("plaintext on the wire, from", "to", "why"), rows
