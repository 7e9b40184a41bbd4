"""Where findings stand: from an object and a path in it to a line and a column of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from control.analyze import Finding
from control.analyze.codes.reading import UNKNOWN_FIELD
from mesh.model.manifest.places import Places


@dataclass(frozen=True, slots=True)
class Located:
    """`file` is "" for what is in a cluster alone. `line` and `column` count from 1, 0 where they are not known. `text` is that line."""

    finding: Finding
    file: str = ""
    line: int = 0
    column: int = 0
    length: int = 0
    text: str = ""


class Locator:
    """Over the texts of files by their names."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._places: dict[str, Places] = {}
        self._lines: dict[str, list[str]] = {}

    def locate(self, finding: Finding) -> Located:
        file, begins = self.split(finding.where)
        if not file:
            return Located(finding)
        name = finding.subject.rpartition("/")[2].rpartition(" ")[2]
        of_key = finding.code is UNKNOWN_FIELD
        place = self._of(file).find(begins, finding.field, name, key=of_key) if begins else None
        at = self.split(finding.at)[1]
        # The parser knows the line of a value; where the field itself could not be found, that is nearer than the object's first.
        if place is None or (at and at != place.line and finding.field and place.line == begins):
            line = at or begins
            return Located(finding, file, line, 0, 0, self._text(file, line))
        return Located(finding, file, place.line, place.column, place.length, self._text(file, place.line))

    def split(self, where: str) -> tuple[str, int]:
        """File and line of what says where something is; nothing for an origin in a cluster."""
        file, _, line = where.rpartition(":")
        if file in self._texts and line.isdecimal():
            return file, int(line)
        return (where, 0) if where in self._texts else ("", 0)

    def _of(self, file: str) -> Places:
        if file not in self._places:
            self._places[file] = Places(self._texts[file])
        return self._places[file]

    def _text(self, file: str, line: int) -> str:
        if file not in self._lines:
            self._lines[file] = self._texts[file].splitlines()
        lines = self._lines[file]
        return lines[line - 1] if 0 < line <= len(lines) else ""
