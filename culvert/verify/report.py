"""A proof for people (tables) and for machines (JSON)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from rich.console import Console
from rich.table import Table

from culvert.verify.findings import Finding, Kind
from culvert.verify.proof import Proof


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
        console.print(_mesh_table(mesh))
    plain = [finding for finding in proof.findings if finding.kind in (Kind.PLAINTEXT, Kind.LEAK, Kind.UNKNOWN)]
    if plain:
        console.print(_plain_table(plain))
    control = [finding for finding in proof.findings if finding.kind is Kind.CONTROL]
    sent = [delivery for delivery in proof.deliveries if delivery.meshed]
    arrived = sum(delivery.arrived for delivery in sent)
    carried = sum(finding.sent + finding.received for finding in mesh)
    console.print(
        f"{proof.frames} frames on the wire; {len(mesh)} tunnel connections carried {carried:,} bytes"
        + (f", {proof.joined} of them opened before the capture (their ports take nothing but TLS 1.3)" if proof.joined else "")
        + f"; {arrived} of {len(sent)} marked payloads arrived through the mesh"
        + (f", policy refused {len(sent) - arrived}" if arrived < len(sent) else "")
        + (f"; {len(control)} control-plane connections over TLS" if control else "")
        + "."
    )
    if proof.proved:
        console.print("[bold green]proved[/]: no marked byte in the clear, every mesh byte inside TLS 1.3 to port 15008")
    else:
        console.print(f"[bold red]not proved[/]: {len(proof.problems)} problem{'s' if len(proof.problems) > 1 else ''}")
        for problem in proof.problems[:20]:
            console.print(f"  [red]✗[/] {problem}", highlight=False)
        if len(proof.problems) > 20:
            console.print(f"  … and {len(proof.problems) - 20} more (--json has all)")


def _mesh_table(findings: list[Finding]) -> Table:
    """One row per destination: who came, how, how much."""
    table = Table(title="mutual TLS on the wire", title_justify="left")
    for column in ("to", "from", "how"):
        table.add_column(column)
    table.add_column("bytes", justify="right")
    table.add_column("")
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.destination, finding.detail].append(finding)
    for (destination, detail), members in sorted(groups.items()):
        sources = sorted({finding.source for finding in members})
        who = sources[0] if len(sources) == 1 else f"{len(sources)} pods"
        ok = all(finding.ok for finding in members)
        size = sum(finding.sent + finding.received for finding in members)
        table.add_row(f"{destination}:15008", who, detail or "?", f"{size:,}", "[green]ok[/]" if ok else "[red]✗[/]")
    return table


def _plain_table(findings: list[Finding]) -> Table:
    table = Table(title="plaintext on the wire", title_justify="left")
    for column in ("from", "to", "why"):
        table.add_column(column)
    table.add_column("bytes", justify="right")
    table.add_column("")
    groups: dict[tuple[str, str, str, bool], int] = defaultdict(int)
    for finding in findings:
        groups[finding.source, finding.destination, finding.wrong or finding.detail, finding.ok] += finding.sent + finding.received
    for (source, destination, why, ok), size in sorted(groups.items()):
        table.add_row(source, destination, why, f"{size:,}", "[green]ok[/]" if ok else "[red]✗[/]")
    return table
