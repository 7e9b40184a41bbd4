"""Manifests on their way in: read, checked object by object, and written to the store. What is refused is refused whole."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from culvert.playground.documents import Document, ObjectKey, load_documents
from culvert.playground.files import read_json, write_json
from culvert.playground.layout import Layout
from culvert.playground.refusedobjects import hold_refused
from culvert.playground.store import Store, source_of, without_source
from culvert.playground.wanted import BUILT_IN_NAMESPACES, interpret
from mesh.model.errors import CulvertError, Refusal
from mesh.model.manifest import Refused, load_directory
from mesh.model.manifest.core import SOURCE_ANNOTATION

_NOTED_PLACE = re.compile(r".* \(((.*?)(?::\d+)?)\)")  # where an object once came from, and where it is: `shop.yaml:3 (copy.yaml:7)`
SUFFIXES = (".yaml", ".yml", ".json")


class NoManifests(CulvertError):  # noqa: N818 - reads as what happened
    """A path that gives nothing to apply."""


@dataclass(frozen=True, slots=True)
class Applied:
    """`verb` is created, configured or unchanged, as kubectl says it."""

    key: ObjectKey
    verb: str


def manifest_files(paths: Iterable[Path]) -> list[Path]:
    """The files behind files and directories (not their subdirectories), sorted per directory. Raises NoManifests."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES and entry.is_file())
            if not found:
                raise NoManifests(f"{path} holds no {', '.join(SUFFIXES)} file; subdirectories are not read, name them with another -f")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise NoManifests(f"{path} does not exist")
    return [file.resolve() for file in files]


@dataclass(frozen=True, slots=True)
class Checked:
    """`refused` is object by object, as the mesh's parser gives it, for those that it refused."""

    accepted: list[Document]
    refusals: list[Refusal]
    refused: list[Refused]


def check(layers: Iterable[Mapping[str, str]], known_namespaces: Iterable[str]) -> Checked:
    """Read manifests (file name → text) and judge each object: by the mesh's strict parser, and then by what the playground can run.

    Each layer goes on top of those before it: what it says of an object counts instead of what they said. Twice within a layer is refused.
    """
    read = [_read(texts) for texts in layers]
    created = {document.key.name for documents, _ in read for document in documents if document.key.kind == "Namespace"}
    namespaces = {*BUILT_IN_NAMESPACES, *known_namespaces, *created}
    accepted: dict[ObjectKey, Document] = {}
    refused: list[Refused] = []
    refusals: dict[str, list[Refusal]] = {}
    for documents, of_layer in read:
        said = {document.key.as_key for document in documents} | {entry.key for entry in of_layer if entry.key is not None}
        refused = [entry for entry in refused if entry.key not in said] + of_layer
        for key in said:
            refusals.pop(str(key), None)
        more = [*interpret(documents).refusals, *_homeless(documents, namespaces)]
        for refusal in [refusal for entry in of_layer for refusal in entry.refusals] + more:
            refusals.setdefault(refusal.subject, []).append(refusal)
        subjects = {refusal.subject for refusal in more}
        accepted |= {document.key: document for document in documents if str(document.key) not in subjects}
    return Checked(list(accepted.values()), [refusal for found in refusals.values() for refusal in found], refused)


def _read(texts: Mapping[str, str]) -> tuple[list[Document], list[Refused]]:
    """What the mesh's parser takes of one layer, and what it refuses; each where it is written in these files."""
    refused = [
        replace(entry, refusals=tuple(_as_written(item, texts) for item in entry.refusals))
        for entry in load_directory(texts.items()).refused
    ]
    bad = {entry.key for entry in refused if entry.key is not None}
    documents = [without_source(document) for name, text in texts.items() for document in load_documents(text, name)[0]]
    return [document for document in documents if document.key.as_key not in bad], refused


def _as_written(refusal: Refusal, texts: Mapping[str, str]) -> Refusal:
    """What `get` prints still says where it once came from. Applied anew, it comes from another file, and that is the one to mend."""
    place = _NOTED_PLACE.fullmatch(refusal.where)
    return replace(refusal, where=place[1]) if place is not None and (place[2] in texts or place[1] in texts) else refusal


def _homeless(documents: Iterable[Document], namespaces: Collection[str]) -> Iterator[Refusal]:
    accepted = f"an existing namespace ({', '.join(sorted(namespaces))}), or a Namespace object beside it"
    for document in documents:
        if document.key.namespace and document.key.namespace not in namespaces:
            yield Refusal(document.where, str(document.key), "metadata.namespace", document.key.namespace, accepted)


def apply(layout: Layout, *layers: Mapping[str, str]) -> tuple[list[Applied], list[Refusal]]:
    """Take over everything that is accepted, of manifests (file name → text) on top of one another. The refusals are kept for
    `culvert get refused` until their files are applied again, or their objects from wherever.
    """
    texts = {name: text for layer in layers for name, text in layer.items()}
    store = Store(layout.applied)
    existing = store.load()
    checked = check(layers, [key.name for key in existing if key.kind == "Namespace"])
    refusals = checked.refusals
    overlays: dict[str, dict[str, str | None]] = read_json(layout.overlays) or {}
    applied = []
    for document in checked.accepted:
        document = with_labels(document, overlays.get(str(document.key), {}))
        before = existing.get(document.key)
        if before is not None and _meaning(before) == _meaning(document):
            applied.append(Applied(document.key, "unchanged"))
            if source_of(before) == document.where:
                continue
        else:
            applied.append(Applied(document.key, "created" if before is None else "configured"))
        store.put(document)
    accepted = {document.key.as_key for document in checked.accepted}
    hold_refused(layout.refused_objects, texts, checked.refused, {key.as_key for key in store.load()}, accepted)
    remember_refusals(layout, texts, refusals, {str(item.key) for item in applied})
    next_generation(layout)
    return applied, refusals


def with_labels(document: Document, overlay: Mapping[str, str | None]) -> Document:
    """Labels that `culvert label` set stay through an apply, unless the manifest itself says something of them."""
    labels = {key: value for key, value in overlay.items() if value is not None}
    if not labels or document.key.kind == "Pod":
        return document
    metadata = dict(document.body["metadata"])
    metadata["labels"] = {**labels, **(metadata.get("labels") or {})}
    return replace(document, body={**document.body, "metadata": metadata})


def _meaning(document: Document) -> Any:
    """The object without what applying adds to it, in a form that compares."""
    body = json.loads(json.dumps(document.body, default=str))
    metadata = body["metadata"]
    annotations = dict(metadata.get("annotations") or {})
    annotations.pop(SOURCE_ANNOTATION, None)
    metadata["annotations"] = annotations
    metadata.setdefault("namespace", document.key.namespace)
    return body


def next_generation(layout: Layout) -> int:
    """Tell the supervisor that something changed; it reports the number back when all it says reflects the change."""
    number = int(read_json(layout.generation) or 0) + 1
    write_json(layout.generation, number)
    return number


def remember_refusals(layout: Layout, files: Iterable[str], refusals: Iterable[Refusal], mended: Collection[str] = ()) -> None:
    """Replace what is remembered of these files, and of objects (by subject) that are accepted or gone now, or refused anew."""
    refusals = list(refusals)
    mended = {*mended, *(refusal.subject for refusal in refusals if " " in refusal.subject)}
    kept: list[dict[str, str]] = read_json(layout.refused) or []
    again = tuple(f"{file}:" for file in files)
    kept = [item for item in kept if not f"{item['where']}:".startswith(again) and item["subject"] not in mended]
    kept += [{slot: getattr(refusal, slot) for slot in Refusal.__slots__} for refusal in refusals]
    write_json(layout.refused, kept)


def forget_refused(layout: Layout, texts: Mapping[str, str], keys: Iterable[ObjectKey]) -> list[str]:
    """Let go of what is held and remembered as refused of these files and objects. What that was: subjects, or file names."""
    before = remembered_refusals(layout)
    hold_refused(layout.refused_objects, texts, (), ())
    remember_refusals(layout, texts, (), {str(key) for key in keys})
    left = remembered_refusals(layout)
    gone = [item for item in before if item not in left]
    return sorted({item.subject if " " in item.subject else f"what could not be read in {item.where}" for item in gone})


def remembered_refusals(layout: Layout) -> list[Refusal]:
    return [Refusal(**item) for item in read_json(layout.refused) or []]
