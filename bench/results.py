"""The form that every benchmark keeps: named metrics, each with a unit and the values that each peer reached, round by round.

{"metrics": {"rps_32": {"unit": "1/s", "values": {"none": [...], "envoy": [...], "culvert": [...]}}}}
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Metric:
    """`better` is "higher" or "lower"; `goals` are what we expect of ourselves, as ratios to peers."""

    name: str
    unit: str
    title: str
    better: str
    goals: Mapping[str, float] = field(default_factory=dict)

    def meets(self, ratio: float, goal: float) -> bool:
        return ratio >= goal if self.better == "higher" else ratio <= goal


class Results:
    """Values as they come in. Peers keep the order in which they were named."""

    def __init__(self, metrics: Iterable[Metric], peers: Iterable[str]) -> None:
        self.metrics = {metric.name: metric for metric in metrics}
        self.peers = list(peers)
        self.values: dict[str, dict[str, list[float]]] = {name: {peer: [] for peer in self.peers} for name in self.metrics}

    def add(self, peer: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.values[name][peer].append(round(value, 4))

    def median(self, name: str, peer: str) -> float | None:
        values = self.values[name].get(peer)
        return statistics.median(values) if values else None

    def ratio(self, name: str, ours: str, theirs: str) -> float | None:
        mine, other = self.median(name, ours), self.median(name, theirs)
        return mine / other if mine is not None and other else None

    def write(self, path: Path) -> None:
        body = {"metrics": {name: {"unit": metric.unit, "values": self.values[name]} for name, metric in self.metrics.items()}}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body, indent=1) + "\n")

    def show(self, console: Console, ours: str) -> None:
        """Medians with their spread (lowest to highest), and our ratios against what we expect of ourselves."""
        table = Table(
            title="medians (lowest-highest of all rounds)",
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="bold",
            padding=(0, 2, 0, 0),
        )
        table.add_column("", no_wrap=True)
        for peer in self.peers:
            table.add_column(peer, justify="right", no_wrap=True)
        table.add_column(f"{ours} (expected)", no_wrap=True)
        for metric in self.metrics.values():
            cells = [_cell(self.values[metric.name][peer]) for peer in self.peers]
            table.add_row(f"{metric.title}, {metric.unit}", *cells, self._goals(metric, ours))
        console.print(table)

    def _goals(self, metric: Metric, ours: str) -> str:
        lines = []
        for peer, goal in metric.goals.items():
            ratio = self.ratio(metric.name, ours, peer)
            if ratio is not None:
                sign, colour = ("≥" if metric.better == "higher" else "≤"), ("green" if metric.meets(ratio, goal) else "red")
                lines.append(f"[{colour}]{ratio:.2f} × {peer}[/{colour}] [dim]({sign} {goal:g})[/dim]")
        return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    return f"{_short(statistics.median(values))} [dim]({_short(min(values))}-{_short(max(values))})[/dim]"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
