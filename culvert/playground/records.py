"""What the supervisor remembers of a pod across its own death: one JSON file per pod, written before anything is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from culvert.playground.documents import ObjectKey
from culvert.playground.fields import Report
from culvert.playground.files import read_json, write_json
from culvert.playground.podspec import PodSpec, parse_template
from mesh.model.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PodRecord:
    """`template` is {"metadata", "spec"} as applied; `revision` its hash; `owner` is `Deployment/<name>`, or empty for a bare pod.

    `made` says that the pod's network is whole: a record without it is a creation that was cut short. `created` is seconds since the epoch.
    """

    uid: str
    namespace: str
    name: str
    node: str
    addresses: tuple[str, ...]
    netns: str
    owner: str
    revision: str
    source: str
    template: Mapping[str, Any]
    created: float
    made: bool = False
    deleting: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def pod_key(self) -> ObjectKey:
        return ObjectKey("Pod", "", self.namespace, self.name)

    @property
    def owner_key(self) -> ObjectKey:
        """The object that asks for this pod: its Deployment, or the bare Pod itself."""
        if not self.owner:
            return self.pod_key
        kind, _, name = self.owner.partition("/")
        return ObjectKey(kind, "apps", self.namespace, name)

    @property
    def file_name(self) -> str:
        return f"{self.namespace}.{self.name}.json"

    def spec(self) -> PodSpec:
        """Raises ConfigError if the template is not accepted any more (an upgrade in between)."""
        report = Report(self.source, f"Pod {self.key}")
        spec = parse_template(self.template.get("metadata"), self.template.get("spec"), "spec", report)
        report.raise_if_any()
        return spec

    def save(self, directory: Path) -> None:
        write_json(directory / self.file_name, asdict(self))

    def forget(self, directory: Path) -> None:
        (directory / self.file_name).unlink(missing_ok=True)

    def but(self, *, made: bool | None = None, deleting: bool | None = None) -> PodRecord:
        return replace(self, made=self.made if made is None else made, deleting=self.deleting if deleting is None else deleting)


def load_records(directory: Path) -> Iterator[PodRecord]:
    """Every record that can be read. One that cannot, or whose template is refused now, is removed: its pod is swept and made anew."""
    for path in sorted(directory.glob("*.json")):
        raw = read_json(path)
        try:
            record = PodRecord(**{**raw, "addresses": tuple(raw["addresses"])})
            record.spec()
        except (TypeError, KeyError, ConfigError):
            path.unlink(missing_ok=True)
            continue
        yield record
