"""What is refused of an object, as it is found."""

from __future__ import annotations

import re

from mesh.model.errors import Refusal
from mesh.model.manifest.tree import Node

MAX_REFUSALS = 20


class Report:
    """The refusals of one object. Keeps the first MAX_REFUSALS. `source`: where a person wrote it, if the file was made from that."""

    def __init__(self, file: str, subject: str = "", source: str = "") -> None:
        self.file = file
        self.subject = subject
        self.source = source
        self.refusals: list[Refusal] = []

    def refuse(self, node: Node, path: str, accepted: str, value: str | None = None) -> None:
        """Line 0 is that of values which come from no file."""
        if len(self.refusals) < MAX_REFUSALS:
            place = f"{self.file}:{node.line}" if node.line else self.file
            where = f"{self.source} ({place})" if self.source else place
            self.refusals.append(Refusal(where, self.subject, path, shown(node) if value is None else value, accepted))


def shown(node: Node) -> str:
    """A value as a refusal shows it: short, and strings in quotes only where they are empty or hold blanks."""
    value = node.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if isinstance(value, str) and (not text or not text.isprintable() or " " in text or re.fullmatch(r"[-+.0-9]+|true|false", text)):
        text = repr(text)
    return text if len(text) <= 80 else text[:77] + "..."
