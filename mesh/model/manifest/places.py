"""Where in a file the fields of its objects stand: for who shows people the line.

    places = Places(text)
    places.find(14, "spec.http[0].route[1].destination.host", "cart")       # line 14 is where the object called cart begins

The parser keeps lines, not columns, and forgets them. So a document is composed once more, but only when something in it is asked about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from mesh.model.manifest.tree import Document, compose, documents

MERGE = "tag:yaml.org,2002:merge"
MAX_LISTS = 4
MAX_MERGES = 8
_STEP = re.compile(r"\[([^\]]*)\]|([^.\[]+)")


@dataclass(frozen=True, slots=True)
class Place:
    """`line` and `column` are counted from 1; `length` in characters, all of them on that line."""

    line: int
    column: int
    length: int


@dataclass(frozen=True, slots=True)
class _Spot:
    """A value, and the key that it is under; None for an item of a list and for a whole object."""

    value: yaml.Node
    key: yaml.Node | None = None


class Places:
    """The fields of one file."""

    def __init__(self, text: str) -> None:
        self._documents = list(documents(text))
        self._objects: dict[int, list[tuple[int, yaml.Node]]] = {}

    def find(self, line: int, path: str, name: str = "", *, key: bool = False) -> Place | None:
        """The place of a field, or of the nearest one above it that is written, of the object that begins at `line`.

        Of several objects that begin there, as in JSON without line breaks, the one called `name`, if any is. `key`: not of the value, but
        of the field's name. None where no object begins there.
        """
        index = next((index for index in reversed(range(len(self._documents))) if self._documents[index].line <= line), None)
        if index is None:
            return None
        found = [root for begins, root in self._objects_of(index) if begins == line]
        if not found:
            return None
        root = next((root for root in found if _name(root) == name), found[0])
        return _place(_walk(_Spot(root), path), self._documents[index].line, key)

    def _objects_of(self, index: int) -> list[tuple[int, yaml.Node]]:
        known = self._objects.get(index)
        if known is None:
            known = self._objects[index] = list(_objects(self._documents[index]))
        return known


def _objects(document: Document) -> Iterator[tuple[int, yaml.Node]]:
    try:
        root = compose(document.text)
    except yaml.YAMLError:
        return
    if root is not None:
        yield from _items(root, document.line, 0)


def _items(root: yaml.Node, first: int, depth: int) -> Iterator[tuple[int, yaml.Node]]:
    yield first + root.start_mark.line, root
    items = _child(_Spot(root), "items")
    if depth < MAX_LISTS and items is not None and isinstance(items.value, yaml.SequenceNode):
        for item in items.value.value:
            yield from _items(item, first, depth + 1)


def _name(root: yaml.Node) -> str:
    spot = _walk(_Spot(root), "metadata.name")
    return str(spot.value.value) if isinstance(spot.value, yaml.ScalarNode) else ""


def _walk(spot: _Spot, path: str) -> _Spot:
    for step in _STEP.finditer(path):
        inner = _child(spot, step.group(1) if step.group(2) is None else step.group(2))
        if inner is None:
            break
        spot = inner
    return spot


def _child(spot: _Spot, step: str, merges: int = 0) -> _Spot | None:
    value = spot.value
    if isinstance(value, yaml.SequenceNode):
        index = int(step) if step.isdecimal() else len(value.value)
        return _Spot(value.value[index]) if index < len(value.value) else None
    if not isinstance(value, yaml.MappingNode):
        return None
    merged: list[yaml.Node] = []
    for key, inner in value.value:
        if isinstance(key, yaml.ScalarNode) and key.value == step and key.tag != MERGE:
            return _Spot(inner, key)
        if key.tag == MERGE:
            merged += inner.value if isinstance(inner, yaml.SequenceNode) else [inner]
    if merges < MAX_MERGES:
        found = (_child(_Spot(source), step, merges + 1) for source in merged)
        return next((inner for inner in found if inner is not None), None)
    return None


def _place(spot: _Spot, first: int, named: bool) -> Place:
    """A scalar on one line stands for itself; anything else is shown by its key, or by what it begins with."""
    value, key = spot.value, spot.key
    node = value
    if named or not _on_one_line(value) or not isinstance(value, yaml.ScalarNode):
        if key is not None:
            node = key
        elif isinstance(value, yaml.MappingNode) and value.value:
            node = value.value[0][0]
    start, end = node.start_mark, node.end_mark
    length = end.column - start.column if end.line == start.line else 1
    return Place(first + start.line, start.column + 1, max(1, length))


def _on_one_line(node: yaml.Node) -> bool:
    return bool(node.start_mark.line == node.end_mark.line and node.end_mark.column > node.start_mark.column)
