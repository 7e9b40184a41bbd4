"""`culvert apply`, `delete` and `label`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from culvert.cli.kinds import resolve_changeable
from culvert.cli.output import FAILED, FailedError, UsageError, note, show_refusals
from culvert.cli.refused import ASK_SECONDS, explain, warn_of
from culvert.cli.target import name_option
from culvert.playground.apply import NoManifests, apply, forget_refused, manifest_files, next_generation
from culvert.playground.control import exclusive, load_spec, wait_status
from culvert.playground.documents import ObjectKey, load_documents
from culvert.playground.editing import LabelChange, check_labels, delete_objects, find_objects, labels_of, set_labels
from culvert.playground.layout import Layout
from culvert.playground.outcome import STDIN
from culvert.playground.readiness import readiness
from mesh.model.enrolment import MODE_LABEL

OBSERVE_SECONDS = 10.0
MODES = ("ambient", "none")
NOT_CHANGED = "not changed"


def read_texts(paths: list[Path]) -> list[dict[str, str]]:
    """For each path, file name → text of its manifests; `-` is standard input. Raises UsageError for paths that give nothing."""
    return [{STDIN: _text(STDIN, sys.stdin.read)} if path == Path("-") else _texts(path) for path in paths]


def _texts(path: Path) -> dict[str, str]:
    try:
        return {str(file): _text(str(file), partial(file.read_text, encoding="utf-8")) for file in manifest_files([path])}
    except NoManifests as error:
        raise UsageError(str(error)) from error


def _text(name: str, read: Callable[[], str]) -> str:
    try:
        return read()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}:{line}: this is no text in UTF-8; nothing was done") from error
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from error


def run_apply(layout: Layout, files: list[Path], *, wait: bool, timeout: float) -> None:
    if not files:
        raise UsageError("say what to apply: culvert apply -f FILE_OR_DIRECTORY")
    layers = read_texts(files)
    with exclusive(layout):
        load_spec(layout)
        applied, refusals = apply(layout, *layers)
        generation = next_generation(layout)
    for item in applied:
        print(f"{item.key.label} {item.verb}")
    show_refusals(refusals)
    _observe(layout, generation)
    for outcome in explain(layout, refusals, ASK_SECONDS):
        note(str(outcome))
    warn_of(layout, (item.key for item in applied))
    if wait:
        last = ""
        try:
            wait_status(layout, generation, lambda found: readiness(found).done, timeout)
        except TimeoutError:
            last = f"; see culvert status{name_option(layout)}"
        if last:
            raise FailedError(f"applied, but not everything is ready after {timeout:g} s{last}")
    if refusals:
        sys.exit(FAILED)


def run_delete(layout: Layout, named: list[str], files: list[Path], namespace: str | None, *, wait: bool) -> None:
    if bool(named) == bool(files):
        raise UsageError("say what to delete: culvert delete KIND NAME, or culvert delete -f FILE_OR_DIRECTORY")
    if named == ["refused"]:
        raise UsageError("say of which file: culvert delete refused FILE, as culvert get refused names it")
    texts = {name: text for layer in read_texts(files) for name, text in layer.items()}
    with exclusive(layout):
        load_spec(layout)
        if named[:1] == ["refused"]:
            texts, keys = dict.fromkeys(map(_refused_file, named[1:]), ""), []
        elif files:
            keys = [document.key for file, text in texts.items() for document in load_documents(text, file)[0]]
        else:
            keys = [_one(layout, kind, name, namespace, refused=True) for kind, name in _pairs(named)]
        deleted = delete_objects(layout, keys)
        cleared = forget_refused(layout, texts, keys)
        generation = next_generation(layout)
    for key in deleted.objects:
        print(f"{key.label} deleted")
    for what in sorted(set(cleared) - {str(key) for key in deleted.objects}):
        print(f"{what} is no longer held as refused")
    for key in sorted(set(keys) - set(deleted.objects)):
        if str(key) in cleared:
            continue
        note(f"{key.label} does not exist")
    _observe(layout, generation)
    if wait and deleted.pods:
        gone = set(deleted.pods)
        try:
            wait_status(layout, generation, lambda found: not gone & {pod["uid"] for pod in found["pods"]}, 60.0)
        except TimeoutError as error:
            raise FailedError("deleted, but some pods have not ended after 60 s; see culvert get pods" + name_option(layout)) from error
    if not deleted.objects and not cleared:
        if texts:
            note("nothing of it was there: nothing deleted")
        sys.exit(FAILED)


def run_label(layout: Layout, what: list[str], namespace: str | None) -> None:
    words = [word for word in what if "=" not in word and not word.endswith("-")]
    changes = [LabelChange.parse(word) for word in what if "=" in word or word.endswith("-")]
    pairs = _pairs(words)
    if not changes or not pairs:
        raise UsageError("culvert label KIND NAME key=value... (key- removes one)")
    check_mode(changes)
    with exclusive(layout):
        load_spec(layout)
        keys = [_one(layout, kind, name, namespace, create_namespace=True) for kind, name in pairs]
        for key in keys:
            check_labels(key, changes)
        verbs = [label_verb(labels_of(layout, key), changes) for key in keys]
        for key, verb in zip(keys, verbs, strict=True):
            if verb != NOT_CHANGED:
                set_labels(layout, key, changes)
        generation = next_generation(layout)
    for key, verb in zip(keys, verbs, strict=True):
        print(f"{key.label} {verb}")
    _observe(layout, generation)


def check_mode(changes: Iterable[LabelChange]) -> None:
    """A mode that nobody knows would quietly mean none. Raises UsageError."""
    for change in changes:
        if change.key == MODE_LABEL and change.value not in (None, *MODES):
            raise UsageError(f"{MODE_LABEL}={change.value} is not accepted; accepted: {', '.join(MODES)}, or {MODE_LABEL}- to remove it")


def label_verb(labels: Mapping[str, str], changes: Iterable[LabelChange]) -> str:
    """What became of an object with these labels."""
    real = [change for change in changes if labels.get(change.key) != change.value]
    if not real:
        return NOT_CHANGED
    return "labeled" if any(change.value is not None for change in real) else "unlabeled"


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    """`KIND NAME NAME` or `KIND/NAME KIND/NAME`."""
    if words and all("/" in word for word in words):
        return [(word.partition("/")[0], word.partition("/")[2]) for word in words]
    if len(words) < 2 or any("/" in word for word in words):
        raise UsageError("name what you mean as KIND NAME or KIND/NAME, for example: namespace bookstore")
    return [(words[0], name) for name in words[1:]]


def _refused_file(word: str) -> str:
    """As refusals name it: with or without the line."""
    file = word.rpartition(":")[0] if word.rpartition(":")[2].isdigit() else word
    return file if file == STDIN else str(Path(file).resolve())


def _one(
    layout: Layout, kind: str, name: str, namespace: str | None, *, create_namespace: bool = False, refused: bool = False
) -> ObjectKey:
    def find(kind: str) -> list[ObjectKey]:
        return find_objects(layout, kind, name, namespace, built_in_namespaces=create_namespace, refused=refused)

    # What was refused may be of any kind, also of one that is not known here.
    found = find(kind.lower()) or [key for each in resolve_changeable(kind) for key in find(each)]
    if not found:
        where = f" in namespace {namespace}" if namespace else ""
        raise FailedError(f"{kind} {name} does not exist{where}; see what does: culvert get {kind}{name_option(layout)}")
    if len(found) > 1:
        raise UsageError(f"{kind} {name} may be any of {', '.join(map(str, found))}; say which by its kind and -n NAMESPACE")
    return found[0]


def _observe(layout: Layout, generation: int) -> None:
    try:
        wait_status(layout, generation, lambda found: True, OBSERVE_SECONDS)
    except TimeoutError:
        note("the supervisor has not taken it up yet; see culvert status" + name_option(layout))
