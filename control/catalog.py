"""What is in force: the objects that were accepted, and for what was refused, which earlier version stays.

Kubernetes refuses a bad update at the door and the object stays as it was; files have no door, so this keeps the last accepted
version of whatever a file now says wrongly. It lives in memory only: after a restart nothing is known of earlier versions, and a
refused policy then denies what it would cover.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.model.manifest import Key, Object, Parsed, Refused

KEPT = "the last accepted version stays in force"
KEPT_FILE = "what this file held before stays in force"


@dataclass(frozen=True, slots=True)
class Catalog:
    """`objects` are in force. `refused` are with the sentence that says what stays in force instead, or "" where nothing does."""

    objects: Mapping[Key, Object] = field(default_factory=lambda: MappingProxyType({}))
    refused: tuple[tuple[Refused, str], ...] = ()

    def update(self, parsed: Parsed) -> Catalog:
        """The catalog after all sources were read anew."""
        objects = {entry.key: entry for entry in parsed.objects}
        refused: list[tuple[Refused, str]] = []
        files_kept: dict[str, list[Object]] = {}
        for entry in parsed.refused:
            key = entry.key
            if key is None:
                if entry.file not in files_kept:
                    files_kept[entry.file] = [old for old in self.objects.values() if old.file == entry.file]
                kept = files_kept[entry.file]
                for old in kept:
                    objects.setdefault(old.key, old)
                refused.append((entry, KEPT_FILE if kept else ""))
                continue
            old_version = self.objects.get(key)
            if old_version is not None:
                objects.setdefault(key, old_version)
            refused.append((entry, KEPT if old_version is not None else ""))
        return Catalog(MappingProxyType(objects), tuple(refused))
