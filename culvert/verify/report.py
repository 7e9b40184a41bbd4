"""A proof for people (tables) and for machines (JSON)."""

from __future__ import annotations

from collections import Counter, defaultdict
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
        console.print(_mesh_table(mesh), "")
    plain = [finding for finding in proof.findings if finding.kind in (Kind.PLAINTEXT, Kind.LEAK, Kind.UNKNOWN)]
    if plain:
        console.print(_plain_table(plain), "")
    control = [finding for finding in proof.findings if finding.kind is Kind.CONTROL]
    sent = [delivery for delivery in proof.deliveries if delivery.meshed]
    arrived = sum(delivery.arrived for delivery in sent)
    carried = sum(finding.sent + finding.received for finding in mesh)
    console.print(
        f"{proof.frames} frames on the wire; {len(mesh)} tunnel connections carried {carried:,} bytes"
        + (f" ({proof.joined} joined: opened before the capture; their ports take nothing but TLS 1.3)" if proof.joined else "")
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
    table = _table("mutual TLS on the wire, to port 15008 of", "from", "how", "connections", "bytes", "")
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.destination].append(finding)
    for destination, members in sorted(groups.items()):
        details = Counter(finding.detail or finding.wrong for finding in members)
        how = "; ".join(detail if len(details) == 1 else f"{count} {detail}" for detail, count in details.most_common())
        sources = sorted({finding.source for finding in members})
        table.add_row(destination, _names(sources), how, str(len(members)), *_sum(members))
    return table


def _plain_table(findings: list[Finding]) -> Table:
    """One row per end outside the mesh and reason; every pair is in the JSON."""
    table = _table("plaintext on the wire, from", "to", "why", "connections", "bytes", "")
    groups: dict[tuple[str, str, bool], list[Finding]] = defaultdict(list)
    for finding in findings:
        inward = finding.detail.startswith("the client")
        groups[finding.source if inward or finding.wrong else "", finding.wrong or finding.detail, inward].append(finding)
    for (_, why, _), members in sorted(groups.items(), key=lambda item: item[0]):
        ends = [sorted({getattr(finding, end) for finding in members}) for end in ("source", "destination")]
        # Here everybody is named: who may read what is what the reader wants to know.
        table.add_row(*("\n".join(names) for names in ends), why, str(len(members)), *_sum(members))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, justify="right" if name in ("connections", "bytes") else "left", overflow="fold")
    return table


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} pods"


def _sum(findings: list[Finding]) -> tuple[str, str]:
    size = sum(finding.sent + finding.received for finding in findings)
    return f"{size:,}", "[green]ok[/]" if all(finding.ok for finding in findings) else "[red]✗[/]"
