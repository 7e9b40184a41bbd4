"""The applied objects, one YAML file each: what an API server would keep. The CLI writes, the supervisor reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from culvert.playground.documents import Document, ObjectKey, dump, load_documents
from culvert.playground.files import write_atomic
from mesh.model.errors import Refusal
from mesh.model.manifest.core import SOURCE_ANNOTATION


class Store:
    """A directory of objects with a cache: a file is parsed again only when its inode, size or time changed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._cache: dict[str, tuple[tuple[int, int, int], list[Document], list[Refusal]]] = {}

    def load(self) -> dict[ObjectKey, Document]:
        """All objects. Files that do not parse (edited by hand) are left out and listed by `refusals`."""
        seen: set[str] = set()
        for entry in os.scandir(self.directory):
            if not entry.name.endswith(".yaml") or entry.name.startswith("."):
                continue
            try:
                found = entry.stat()
                stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
                seen.add(entry.name)
                if entry.name not in self._cache or self._cache[entry.name][0] != stamp:
                    documents, refusals = load_documents(Path(entry.path).read_text(), entry.path)
                    self._cache[entry.name] = (stamp, documents, refusals)
            except FileNotFoundError:
                seen.discard(entry.name)
        for name in self._cache.keys() - seen:
            del self._cache[name]
        return {document.key: document for name in sorted(self._cache) for document in self._cache[name][1]}

    def refusals(self) -> list[Refusal]:
        return [refusal for _, _, refusals in self._cache.values() for refusal in refusals]

    def put(self, document: Document) -> bool:
        """Write one object, with the place it came from. False if it is there already, unchanged."""
        return write_atomic(self.directory / document.key.file, dump(with_source(document)))

    def remove(self, keys: Iterable[ObjectKey]) -> None:
        for key in keys:
            (self.directory / key.file).unlink(missing_ok=True)


def with_source(document: Document) -> dict[str, object]:
    body = dict(document.body)
    metadata = dict(body["metadata"])
    if document.key.namespace:
        metadata["namespace"] = document.key.namespace
    annotations = dict(metadata.get("annotations") or {})
    annotations.setdefault(SOURCE_ANNOTATION, document.where)
    metadata["annotations"] = annotations
    body["metadata"] = metadata
    return body


def without_source(document: Document) -> Document:
    """As a file has it that is applied now: where the object came from before does not count any more."""
    metadata = document.body.get("metadata") or {}
    annotations = metadata.get("annotations")
    if not isinstance(annotations, Mapping) or SOURCE_ANNOTATION not in annotations:
        return document
    kept = {key: value for key, value in annotations.items() if key != SOURCE_ANNOTATION}
    return replace(document, body={**document.body, "metadata": {**metadata, "annotations": kept}})


def source_of(document: Document) -> str:
    """`file:line` in the user's own file."""
    annotations = (document.body.get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(SOURCE_ANNOTATION) or document.where)
