"""What `up` was asked for, kept so that a restarted supervisor and a second `up` know it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from culvert.playground.consul import ConsulOptions
from culvert.playground.files import read_json, write_json
from culvert.playground.layout import Layout


@dataclass(frozen=True, slots=True)
class PlaygroundSpec:
    """`path` is the PATH of everything that is started; `python` runs the mesh's own processes; `source` is where its packages are.

    `certificate_lifetime` is the longest life of pods' certificates in seconds; None for the control plane's own default. `consul` is where
    the control plane reads services beside those that are applied.
    """

    nodes: tuple[str, ...]
    mesh: bool
    path: str
    python: str
    source: str
    certificate_lifetime: int | None = None
    consul: ConsulOptions = field(default_factory=ConsulOptions)

    def save(self, layout: Layout) -> None:
        """With the playground's name: who is given only the directory must not take it for another playground."""
        write_json(layout.spec, {"name": layout.name, **asdict(self)})

    @classmethod
    def load(cls, layout: Layout) -> PlaygroundSpec | None:
        """None where there is no playground, or one of another version that cannot be read."""
        raw = read_json(layout.spec)
        try:
            consul = ConsulOptions(**raw.get("consul", {}))
            given = {name: value for name, value in raw.items() if name != "name"}
            return cls(**{**given, "nodes": tuple(raw["nodes"]), "consul": consul})
        except (TypeError, KeyError, AttributeError):
            return None


def recorded_name(state: Path) -> str:
    """Which playground keeps its state in this directory; "" where none does."""
    raw = read_json(Layout("", state).spec)
    name = raw.get("name") if isinstance(raw, dict) else None
    return name if isinstance(name, str) else ""
