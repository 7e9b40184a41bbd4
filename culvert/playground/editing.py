"""Finding, deleting and labelling what is applied or running. The caller holds the playground's lock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from culvert.playground.apply import remembered_refusals
from culvert.playground.documents import Document, ObjectKey
from culvert.playground.files import read_json, write_json
from culvert.playground.layout import Layout
from culvert.playground.publish import merged
from culvert.playground.records import load_records
from culvert.playground.refusedobjects import drop_refused, held_keys
from culvert.playground.store import Store
from culvert.playground.wanted import BUILT_IN_NAMESPACES
from mesh.model.errors import ConfigError, Refusal
from mesh.model.manifest import KINDS, Key, parse_object


@dataclass(frozen=True, slots=True)
class LabelChange:
    """`value` None removes the label."""

    key: str
    value: str | None

    @classmethod
    def parse(cls, word: str) -> LabelChange:
        """`key=value`, or `key-`. Raises ConfigError."""
        key, equals, value = word.partition("=")
        if not equals:
            key, value = word[:-1], ""
        if not key:
            raise ConfigError(Refusal("", "", "label", word, "key=value or key-"))
        return cls(key, value if equals else None)


@dataclass(frozen=True, slots=True)
class Deleted:
    """`pods` are the uids of running pods that end because of it."""

    objects: list[ObjectKey]
    pods: list[str]


def find_objects(
    layout: Layout, kind: str, name: str, namespace: str | None, *, built_in_namespaces: bool = False, refused: bool = False
) -> list[ObjectKey]:
    """Applied objects and running pods of this kind (in lower case) and name; with `refused` also what was refused and never accepted."""
    keys = set(Store(layout.applied).load())
    keys |= {record.pod_key for record in load_records(layout.pods)}
    if refused:
        keys |= {_key(key) for key in held_keys(layout.refused_objects)}
        keys |= {_key(key) for key in map(_named, remembered_refusals(layout)) if key is not None}
    found = sorted(
        key
        for key in keys
        if key.as_key.kind.lower() == kind and key.name == name and (not key.namespace or namespace in (None, key.namespace))
    )
    if not found and kind == "namespace" and built_in_namespaces and name in BUILT_IN_NAMESPACES:
        return [ObjectKey("Namespace", "", "", name)]
    return found


_TYPES = {cls.TYPE: (cls.KIND, cls.API_VERSIONS[0].rpartition("/")[0]) for cls in KINDS}


def _key(key: Key) -> ObjectKey:
    """The group is that of the kind, if it is one of ours; of others the refusal did not keep it, and nothing needs it."""
    kind, _, group = key.kind.partition(".")
    return ObjectKey(*_TYPES.get(key.kind, (kind, group)), key.namespace, key.name)


def _named(refusal: Refusal) -> Key | None:
    """Which object was refused, from `Kind namespace/name`; None where it had no name."""
    kind, _, name = refusal.subject.partition(" ")
    namespace, _, bare = name.rpartition("/")
    return Key(kind, namespace, bare) if bare else None


def delete_objects(layout: Layout, keys: Iterable[ObjectKey]) -> Deleted:
    """A namespace takes all that is in it along. A pod of a Deployment is replaced by another."""
    store = Store(layout.applied)
    existing = store.load()
    records = list(load_records(layout.pods))
    named = set(keys)
    gone_namespaces = {key.name for key in named if key.kind == "Namespace" and key in existing}
    removed = {key for key in existing if key in named or key.namespace in gone_namespaces}
    held = drop_refused(layout.refused_objects, [key.as_key for key in named])
    removed |= {key for key in named if key.as_key in held}
    store.remove(removed)
    ending = [record for record in records if record.pod_key in named or record.owner_key in removed]
    owned = [record for record in ending if record.pod_key not in existing and record.owner_key not in removed]
    if owned:
        write_json(layout.deletions, sorted({*(read_json(layout.deletions) or []), *(record.key for record in owned)}))
    _forget_overlays(layout, removed | {record.pod_key for record in ending})
    objects = removed | {record.pod_key for record in owned}
    return Deleted(sorted(objects), [record.uid for record in ending])


def labels_of(layout: Layout, key: ObjectKey) -> dict[str, str]:
    """As they are now: a running pod's are its template's, changed by what was set on the pod itself."""
    if key.kind == "Pod":
        template = next((record.spec().labels for record in load_records(layout.pods) if record.pod_key == key), {})
        return merged(template, (read_json(layout.overlays) or {}).get(str(key), {}))
    document = Store(layout.applied).load().get(key)
    return dict((document.body["metadata"].get("labels") or {}) if document else {})


def check_labels(key: ObjectKey, changes: Iterable[LabelChange]) -> None:
    """By the mesh's own parser, whatever they are for. Raises ConfigError: stored, they would have the whole object refused later."""
    labels = {change.key: change.value for change in changes if change.value is not None}
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "labels", "labels": labels}}
    refused = [refusal for entry in parse_object(body, "").refused for refusal in entry.refusals]
    if refused:
        raise ConfigError(*(replace(refusal, where="", subject=str(key)) for refusal in refused))


def set_labels(layout: Layout, key: ObjectKey, changes: Iterable[LabelChange]) -> None:
    """On a running pod beside its template, so that nothing restarts; on everything else in the object."""
    overlays = read_json(layout.overlays) or {}
    mine = overlays.setdefault(str(key), {})
    changes = list(changes)
    for change in changes:
        if change.value is None and key.kind != "Pod":
            mine.pop(change.key, None)
        else:
            mine[change.key] = change.value
    write_json(layout.overlays, overlays)
    if key.kind == "Pod":
        return
    store = Store(layout.applied)
    document = store.load().get(key) or Document(
        key, {"apiVersion": "v1", "kind": key.kind, "metadata": {"name": key.name}}, "culvert label"
    )
    metadata = dict(document.body["metadata"])
    labels = dict(metadata.get("labels") or {})
    for change in changes:
        labels.pop(change.key, None)
        if change.value is not None:
            labels[change.key] = change.value
    metadata["labels"] = labels
    store.put(replace(document, body={**document.body, "metadata": metadata}))


def _forget_overlays(layout: Layout, keys: Iterable[ObjectKey]) -> None:
    overlays = read_json(layout.overlays)
    if overlays:
        gone = {str(key) for key in keys}
        write_json(layout.overlays, {key: value for key, value in overlays.items() if key not in gone})
