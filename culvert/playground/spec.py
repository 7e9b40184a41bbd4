"""What `up` was asked for, kept so that a restarted supervisor and a second `up` know it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

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
        write_json(layout.spec, asdict(self))

    @classmethod
    def load(cls, layout: Layout) -> PlaygroundSpec | None:
        """None where there is no playground, or one of another version that cannot be read."""
        raw = read_json(layout.spec)
        try:
            consul = ConsulOptions(**raw.get("consul", {}))
            return cls(**{**raw, "nodes": tuple(raw["nodes"]), "consul": consul})
        except (TypeError, KeyError, AttributeError):
            return None
