"""From files to objects: each object is taken whole or refused whole, and what is refused spoils nothing beside it.

Of a refused object, what can still be read is kept (`Refused`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from mesh.model.errors import BugError, ConfigError, Flaw, Refusal
from mesh.model.manifest.core import SOURCE_ANNOTATION, Key, Object, Selector
from mesh.model.manifest.kinds import (
    POLICY_GROUP,
    POLICY_KINDS,
    Policy,
    accepted_instead,
    group_of,
    known_kind,
    namespaced,
    served,
    type_of,
    versions_of,
)
from mesh.model.manifest.peerauth import PeerAuthentication
from mesh.model.manifest.record import Record
from mesh.model.manifest.refused import DEFAULT_NAMESPACE, Doubt, Parsed, Refused
from mesh.model.manifest.report import Report, shown
from mesh.model.manifest.security import DRY_RUN_ANNOTATION
from mesh.model.manifest.shapes import DNS_LABEL, ListOf, UnfitError
from mesh.model.manifest.targets import TargetRef
from mesh.model.manifest.tree import MAX_DOCUMENTS, Document, Node, documents, overlong, read, tree_of

MAX_LIST_DEPTH = 4


def parse(text: str, file: str) -> list[Object]:
    """Every object of one file. ConfigError with all refusals if there is one."""
    parsed = load_directory([(file, text)])
    refusals = [refusal for entry in parsed.refused for refusal in entry.refusals]
    if refusals:
        raise ConfigError(*refusals)
    return list(parsed.objects)


def load_directory(files: Iterable[tuple[str, str]]) -> Parsed:
    """Every object of files given as (name, text). Pure; what is wrong is in the result."""
    return combine(parse_file(text, name) for name, text in files)


def combine(files: Iterable[Parsed]) -> Parsed:
    """Files together: objects of one name refuse each other, all of them, since none can be told to be the one that is meant.
    One that was refused for itself counts as well.
    """
    objects: dict[Key, list[Object]] = {}
    refused: list[Refused] = []
    broken: dict[Key, str] = {}
    for parsed in files:
        refused += parsed.refused
        broken.update({entry.key: entry.refusals[0].where for entry in parsed.refused if entry.key is not None})
        for entry in parsed.objects:
            objects.setdefault(entry.key, []).append(entry)
    taken: list[Object] = []
    for key, copies in objects.items():
        if len(copies) == 1 and key not in broken:
            taken.append(copies[0])
            continue
        for copy in copies:
            places = [other.where for other in copies if other is not copy] + ([broken[key]] if key in broken else [])
            others = ", ".join(places)
            refusal = Refusal(
                copy.where, str(key), "metadata.name", f"{key.name}, as in {others}", f"one object called {key}", Flaw.SAME_NAME
            )
            refused.append(refused_object(copy, refusal))
    return Parsed(tuple(taken), tuple(refused))


Look = Callable[[Node, "Object | Refused"], None]


def parse_file(text: str, file: str, look: Look | None = None) -> Parsed:
    """The objects of one file, and what it holds that is none. `look` is shown each with the tree that it was read from."""
    objects: list[Object] = []
    refused: list[Refused] = []
    if why := overlong(text):
        return _refused_file(file, why)
    for number, document in enumerate(documents(text)):
        if number >= MAX_DOCUMENTS:
            return _refused_file(file, f"more than {MAX_DOCUMENTS} documents")
        try:
            root = read(document, file)
        except ConfigError as error:
            refused.append(_refused_text(document, file, error.refusals))
            continue
        for node, broken in _items(root, file, 0):
            result = _refused(node, file, broken) if broken else _object(node, file)
            if look is not None and result is not None:
                look(node, result)
            if isinstance(result, Object):
                objects.append(result)
            elif result is not None:
                refused.append(result)
    return Parsed(tuple(objects), tuple(refused))


def _items(node: Node, file: str, depth: int) -> Iterable[tuple[Node, tuple[Refusal, ...]]]:
    """The objects of a document: itself, or what a List holds. With each, why it cannot be looked into."""
    if node.text("kind") != "List" or node.text("apiVersion") != "v1":
        yield node, ()
        return
    items = node.get("items")
    if depth >= MAX_LIST_DEPTH or items is None or not isinstance(items.value, list):
        where = f"{file}:{(items or node).line}"
        value = "Lists in Lists" if depth >= MAX_LIST_DEPTH else shown(items) if items else "nothing"
        yield node, (Refusal(where, "List", "items", value, f"a list of objects, at most {MAX_LIST_DEPTH} Lists deep"),)
        return
    for item in items.value:
        yield from _items(item, file, depth + 1)


def parse_object(value: Mapping[str, Any], origin: str) -> Parsed:
    """One object as an API server gives it, decoded from JSON. `origin` is unique to it, and stands where a file and line would."""
    found = _class_of(value.get("apiVersion"), value.get("kind"))
    if found is not None:
        try:
            made = Record(found).take({name: inner for name, inner in value.items() if name not in ("apiVersion", "kind")}, where=origin)
            return Parsed((_named(made),))
        except UnfitError:
            pass
    try:
        root = tree_of(value, origin)
    except ConfigError as error:
        return Parsed(refused=(replace(_refused(_head(value, origin), origin, error.refusals), selector=None),))
    result = _object(root, origin)
    if not isinstance(result, Refused):
        raise BugError(f"{origin}: refused at first, then taken")
    return Parsed(refused=(result,))


def _head(value: Mapping[str, Any], origin: str) -> Node:
    """What an object is, without what it says."""
    metadata = value.get("metadata")
    if isinstance(metadata, dict):
        metadata = {name: metadata.get(name) for name in ("name", "namespace") if isinstance(metadata.get(name), str)}
    elif metadata is not None:
        metadata = "unreadable"
    return tree_of({"apiVersion": value.get("apiVersion"), "kind": value.get("kind"), "metadata": metadata}, origin)


def _class_of(version: Any, kind: Any) -> type[Object] | None:
    if not isinstance(version, str) or not isinstance(kind, str):
        return None
    return served(group_of(version), kind).get(version)


def _named(made: Any) -> Object:
    """As `_placed`, without a report."""
    entry: Object = made
    entry.NAME.take(entry.name)
    if entry.NAMESPACED:
        return entry if entry.namespace else _in_default(entry)
    if entry.namespace:
        raise UnfitError
    return entry


def _in_default(entry: Object) -> Object:
    return replace(entry, metadata=replace(entry.metadata, namespace=DEFAULT_NAMESPACE))


def _object(node: Node, file: str) -> Object | Refused | None:
    if node.value is None:
        return None
    report = Report(file, _subject(node), node.text("metadata", "annotations", SOURCE_ANNOTATION) or "")
    kind, version = node.text("kind") or "", node.text("apiVersion")
    classes = served(group_of(version or ""), kind)
    if not isinstance(node.value, dict):
        report.refuse(node, "", "an object: a mapping with apiVersion, kind and metadata")
    elif not known_kind(kind):
        report.refuse(node.get("kind") or node, "kind", accepted_instead(kind), None if node.get("kind") else "nothing", Flaw.UNKNOWN_KIND)
    elif version is None or version not in classes:
        at = node.get("apiVersion") or node
        accepted = " or ".join(classes or versions_of(kind))
        report.refuse(at, "apiVersion", accepted, None if node.get("apiVersion") else "nothing", Flaw.UNSERVED_VERSION)
    else:
        where = f"{file}:{node.line}" if node.line else file
        made = Record(classes[version]).read(node, "", report, where=where)
        if isinstance(made, Object):
            placed = _placed(made, node, report)
            if not report.refusals:
                return placed
    return _refused(node, file, tuple(report.refusals))


def _placed(made: Object, node: Node, report: Report) -> Object:
    """The object with its namespace filled in."""
    metadata = node.get("metadata")
    assert metadata is not None  # the record was read from it
    made.NAME.read(metadata.get("name") or metadata, "metadata.name", report)
    if made.NAMESPACED:
        return made if made.namespace else _in_default(made)
    if made.namespace:
        report.refuse(metadata.get("namespace") or metadata, "metadata.namespace", f"nothing: a {made.KIND} lives in no namespace")
    return made


def _subject(node: Node) -> str:
    group, kind, name = group_of(node.text("apiVersion") or ""), node.text("kind") or "", node.text("metadata", "name") or ""
    namespace = node.text("metadata", "namespace") or DEFAULT_NAMESPACE
    what = type_of(group, kind)
    return f"{what} {name}".strip() if not name or not namespaced(group, kind) else f"{what} {namespace}/{name}".strip()


def _refused(node: Node, file: str, refusals: tuple[Refusal, ...]) -> Refused:
    kind, version = node.text("kind") or "", node.text("apiVersion") or ""
    group = group_of(version)
    items = node.get("items")
    if kind == "List" or (not known_kind(kind) and items is not None and isinstance(items.value, list)):
        # Whatever it is called: what it holds is called otherwise.
        return Refused(refusals, file, policy=kind == "List" or _may_be_policy(version, kind) or _holds_policy(node), words=_digest(node))
    selector, targets = _reach(node)
    doubt = _doubt(node, served(group, kind), refusals)
    entry = Refused(
        refusals,
        file,
        type_of(group, kind),
        "" if not namespaced(group, kind) else None if Doubt.NAMESPACE in doubt else _namespace(node),
        node.text("metadata", "name") or "",
        _may_be_policy(version, kind),
        selector,
        targets,
        node.text("metadata", "annotations", DRY_RUN_ANNOTATION) == "true",
        _generation(node),
        doubt,
    )
    return replace(entry, words=_digest(node)) if entry.guise is not None else entry


def _digest(node: Node) -> int:
    """Of this process. Not of a text made of it: an alias to a long string may be used many times, and only `hash` counts that once."""
    match node.value:
        case dict() as fields:
            return hash(("{", *((name, _digest(value)) for name, value in fields.items())))
        case list() as items:
            return hash(("[", *(_digest(item) for item in items)))
        case float() as number:
            return hash(repr(number))  # two NaN are not the same to `hash`
        case scalar:
            return hash((type(scalar).__name__, scalar))


def _doubt(node: Node, classes: Mapping[str, type[Object]], refusals: tuple[Refusal, ...]) -> Doubt:
    """`classes`: those of its kind."""
    doubt = Doubt.NONE if classes else Doubt.KIND
    name = node.get("metadata", "name")
    if classes and name is not None:
        trial = Report("")
        next(iter(classes.values())).NAME.read(name, "", trial)
        doubt |= Doubt.NAME if trial.refusals else Doubt.NONE
    # One that is said nowhere is `default`, unless it is said in a field that is misspelt or elsewhere.
    if node.get("metadata", "namespace") is None:
        misplaced = name is None or any(_may_be_namespace(refusal.field) for refusal in refusals)
        doubt |= Doubt.NAMESPACE if misplaced else Doubt.NONE
    return doubt


def _may_be_namespace(field: str) -> bool:
    """Whether a refused field may be the one that was to say the namespace. The name, a label, or what is in a list is not."""
    where, _, inner = field.partition(".")
    if "[" in field or field == "metadata.name":
        return False
    return (where == "metadata" and bool(inner)) or bool(get_close_matches(field.rpartition(".")[2], ["namespace"], 1, 0.75))


def _generation(node: Node) -> int:
    metadata = node.get("metadata")
    found = metadata.get("generation") if metadata is not None else None
    return found.value if found is not None and type(found.value) is int else 0


def _may_be_policy(version: Any, kind: Any) -> bool:
    return kind in POLICY_KINDS or (isinstance(version, str) and version.partition("/")[0] == POLICY_GROUP)


def _holds_policy(node: Node) -> bool:
    """Whether any of a list's items may be a policy."""
    items = node.get("items")
    held = items.value if items is not None and isinstance(items.value, list) else []
    return any(_may_be_policy(item.text("apiVersion"), item.text("kind")) or _holds_policy(item) for item in held)


def _namespace(node: Node) -> str | None:
    metadata = node.get("metadata")
    if metadata is None or metadata.value is None:
        return DEFAULT_NAMESPACE if isinstance(node.value, dict) else None
    namespace = metadata.get("namespace")
    if isinstance(metadata.value, dict) and (namespace is None or namespace.value is None):
        return DEFAULT_NAMESPACE
    if namespace is None:
        return None
    trial = Report("")
    value = DNS_LABEL.read(namespace, "", trial)
    return str(value) if not trial.refusals else None


def _reach(node: Node) -> tuple[Mapping[str, str] | None, tuple[TargetRef, ...]]:
    """Selector and targets of a refused policy, as far as they can be read without doubt; (None, ()) where they cannot."""
    spec = node.get("spec")
    if spec is None or spec.value is None:
        return {}, ()
    if not isinstance(spec.value, dict):
        return None, ()
    trial = Report("")
    selector, single, several = (spec.get(name) for name in ("selector", "targetRef", "targetRefs"))
    wanted = Record(Selector).read(selector, "selector", trial) if selector is not None and selector.value is not None else None
    targets = ListOf(Record(TargetRef)).read(several, "targetRefs", trial) if several is not None and several.value is not None else ()
    if single is not None and single.value is not None:
        targets = (*targets, Record(TargetRef).read(single, "targetRef", trial))
    if trial.refusals or (wanted is not None and targets):
        return None, ()
    return (wanted.match_labels if wanted is not None else {}), targets


def refused_object(entry: Object, refusal: Refusal) -> Refused:
    selector: Mapping[str, str] = {}
    targets: tuple[TargetRef, ...] = ()
    if isinstance(entry, Policy):
        selector = entry.spec.match_labels
        targets = () if isinstance(entry, PeerAuthentication) else entry.spec.targets
    dry_run = entry.annotations.get(DRY_RUN_ANNOTATION) == "true"
    policy = entry.KIND in POLICY_KINDS
    generation = entry.metadata.generation or 0
    return Refused((refusal,), entry.file, entry.TYPE, entry.namespace, entry.name, policy, selector, targets, dry_run, generation)


_POLICY_WORDS = re.compile(rf"\b(?:{'|'.join(sorted(POLICY_KINDS))}|{re.escape(POLICY_GROUP)})\b")
_METADATA = re.compile(r"""^( *)(.*)\bmetadata["']?[ ]*:[ ]*(.*)$""", re.M)
_NAMESPACE = re.compile(r"""["']?namespace["']?[ ]*:[ ]+["']?([a-z0-9](?:[-a-z0-9]*[a-z0-9])?)["']?[ ]*(?:#.*)?""")
_METADATA_WORD = re.compile(r"\bmetadata\b")
_OTHER_METADATA = re.compile(r"""["']?(?:name|labels|annotations)["']?[ ]*:""")
_NAMESPACE_KEY = re.compile(r"""\bnamespace["']?[ ]*:""")


def _refused_file(file: str, value: str) -> Parsed:
    """It may hold any policy."""
    return Parsed(refused=(Refused((Refusal(file, "", "", value, "several smaller files", Flaw.UNREADABLE),), file, policy=True),))


def _refused_text(document: Document, file: str, refusals: tuple[Refusal, ...]) -> Refused:
    """A document that is no YAML. If it speaks of policies, it covers the namespace that it is of, if there is no doubt of that."""
    policy = _POLICY_WORDS.search(document.text) is not None
    lines = (line.rstrip() for line in document.text.splitlines())
    words = hash("\n".join(line for line in lines if line and not line.lstrip().startswith("#")))
    return Refused(refusals, file, "", _namespace_in(document.text), "", policy, doubt=Doubt.NAMESPACE, words=words)  # it may be several


def _namespace_in(text: str) -> str | None:
    """The namespace of the one object that a text without structure seems to be; None where it may be another."""
    found = list(_METADATA.finditer(text))
    if len(found) != 1 or len(_METADATA_WORD.findall(text)) != 1:
        return None
    indent, before, rest = found[0].groups()
    if rest.startswith("{"):
        inner, closed, _ = rest[1:].partition("}")
        fields = [field.strip() for field in inner.split(",")]
        return _one_namespace(text, fields, whole=bool(closed)) if "{" not in inner else None
    if before or (rest and not rest.startswith("#")):
        return None
    lines = [line for line in text[found[0].end() :].splitlines() if line.strip() and not line.lstrip().startswith("#")]
    depths = [len(line) - len(line.lstrip(" ")) for line in lines]
    end = next((number for number, depth in enumerate(depths) if depth <= len(indent)), len(lines))
    fields = [line.strip() for line, depth in zip(lines[:end], depths[:end], strict=True) if depth == depths[0]]
    return _one_namespace(text, fields, whole=end < len(lines))


def _one_namespace(text: str, fields: list[str], *, whole: bool) -> str | None:
    """What the one field that is a namespace says, if `text` speaks of no other. `whole`: there are no more fields than these."""
    named = [field for field in fields if _NAMESPACE_KEY.search(field)]
    if len(named) != len(_NAMESPACE_KEY.findall(text)):
        return None
    if not named:
        return DEFAULT_NAMESPACE if whole and all(_OTHER_METADATA.match(field) for field in fields) else None
    found = _NAMESPACE.fullmatch(named[0])
    return found[1] if found and len(named) == 1 else None
