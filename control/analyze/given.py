"""What is analysed: the objects of files or of a cluster, what was refused of them, and what the mesh does not read but which makes pods.

given = Given()
given.file("shop.yaml", text)
given.cluster(objects)           # (origin, Parsed) of everything that an API server holds
given.applied()                  # the files' objects in the place of the cluster's
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol

from control.analyze.unread import UNREAD
from mesh.model.errors import Flaw
from mesh.model.manifest import GROUPS, Key, Object, Parsed, Refused, parse_file
from mesh.model.manifest.kinds import OF_KIND, group_of, known_kind
from mesh.model.manifest.tree import Node, plain

IGNORE_ANNOTATION = "culvert.dev/ignore"
OWN_GROUPS = frozenset(GROUPS - {"", "apps", "discovery.k8s.io"})
"""APIs of which every kind is the mesh's business."""
NO_OBJECT = "document without a kind"
TYPO = 0.85
"""How alike two names are of which one is taken for the other, misspelt."""
GROUP_TYPO = 0.9
"""The same of groups, which have most of their letters in common: networking.k8s.io is another one than networking.istio.io."""


class Cluster(Protocol):
    """A cluster as it is now."""

    def objects(self) -> Iterable[tuple[str, Parsed]]:
        """Every object of every kind that is read, each with its origin."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a finding is about: `name` is `Kind namespace/name`, "" for a file of which nothing can be read."""

    name: str
    namespace: str
    where: str


def about(entry: Object) -> Subject:
    return Subject(str(entry.key), entry.namespace, entry.where)


@dataclass(frozen=True, slots=True)
class Refusals:
    """What was refused, and where its object begins."""

    refused: Refused
    subject: Subject


@dataclass(frozen=True, slots=True)
class Foreign:
    """An object that is none of the mesh's. `template` is that of the pods that it makes, as plain values; `path` is where it stands."""

    kind: str
    group: str
    subject: Subject
    name: str
    spec: Mapping[str, Any]
    template: Mapping[str, Any] | None = None
    path: str = ""


@dataclass(slots=True)
class Given:
    """`complete`: what is not here does not exist."""

    complete: bool = False
    objects: list[Object] = field(default_factory=list)
    refusals: list[Refusals] = field(default_factory=list)
    foreign: list[Foreign] = field(default_factory=list)
    ignored: dict[str, frozenset[str]] = field(default_factory=dict)
    """By subject, codes that the object itself asks not to hear of."""
    live: set[Key] = field(default_factory=set)
    """Objects that are as an API server has them, with a status that counts."""

    @property
    def count(self) -> int:
        """How many objects there are, whatever became of them."""
        return len(self.objects) + len(self.refusals) + len(self.foreign)

    @property
    def namespaces(self) -> set[str]:
        """Those that there is anything of."""
        found = {entry.name if entry.KIND == "Namespace" else entry.namespace for entry in self.objects}
        found |= {entry.subject.namespace for entry in self.refusals} | {entry.subject.namespace for entry in self.foreign}
        return found - {""}

    def file(self, name: str, text: str) -> None:
        begins: dict[int, Subject] = {}

        def look(node: Node, result: Object | Refused) -> None:
            if isinstance(result, Object):
                self._taken(result)
            elif _is_foreign(node, result):
                begins[id(result)] = _NOTHING
                self.foreign.append(foreign := _foreign(node, name))
                self._ignore(foreign.subject.name, node.text("metadata", "annotations", IGNORE_ANNOTATION) or "")
            else:
                begins[id(result)] = _subject(result, f"{name}:{node.line}")
                self._ignore(begins[id(result)].name, node.text("metadata", "annotations", IGNORE_ANNOTATION) or "")

        for refused in parse_file(text, name, look).refused:
            subject = begins.get(id(refused)) or _subject(refused, refused.refusals[0].where)
            if subject is not _NOTHING:
                self.refusals.append(Refusals(refused, subject))

    def cluster(self, objects: Iterable[tuple[str, Parsed]]) -> None:
        self.complete = True
        for origin, parsed in objects:
            for entry in parsed.objects:
                self._taken(entry)
                self.live.add(entry.key)
            self.refusals += [Refusals(refused, _subject(refused, origin)) for refused in parsed.refused]

    def over(self, base: Given) -> Given:
        """What there is when these are applied on top of something: a cluster, or other files."""
        names = {str(entry.key) for entry in self.objects} | {entry.subject.name for entry in self.refusals}
        names |= {entry.subject.name for entry in self.foreign}
        made = {(entry.subject.namespace, entry.name) for entry in self.foreign if entry.template is not None}
        made |= {(entry.namespace, entry.name) for entry in self.objects if entry.KIND == "Deployment"}
        kept = [entry for entry in base.objects if str(entry.key) not in names and not _made_by(entry, made)]
        return Given(
            base.complete,
            [*kept, *self.objects],
            [*(entry for entry in base.refusals if entry.subject.name not in names or not entry.subject.name), *self.refusals],
            [*(entry for entry in base.foreign if entry.subject.name not in names), *self.foreign],
            {**base.ignored, **self.ignored},
            {entry.key for entry in kept} & base.live,
        )

    def _taken(self, entry: Object) -> None:
        self.objects.append(entry)
        self._ignore(str(entry.key), entry.annotations.get(IGNORE_ANNOTATION, ""))

    def _ignore(self, subject: str, text: str) -> None:
        codes = frozenset(filter(None, re.split(r"[\s,]+", text)))
        if codes:
            self.ignored[subject] = self.ignored.get(subject, frozenset()) | codes


_NOTHING = Subject("", "", "")


def _subject(refused: Refused, where: str) -> Subject:
    return Subject(refused.refusals[0].subject, refused.namespace or "", where)


def _is_foreign(node: Node, refused: Refused) -> bool:
    """What is no object of Kubernetes at all, or one whose group and kind are not ours. A kind of ours in a group that is misspelt stays an
    error.
    """
    if refused.refusals[0].flaw not in (Flaw.UNKNOWN_KIND, Flaw.UNSERVED_VERSION):
        return False
    version, kind = node.text("apiVersion"), node.text("kind")
    if isinstance(node.value, dict) and node.get("apiVersion") is None and node.get("kind") is None:
        return True  # values of a chart, a list of resources, a package's description
    group = group_of(version or "")
    if (group, kind) in UNREAD:
        return True
    if not version or not kind or group in OWN_GROUPS:
        return False
    if group in GROUPS:
        return not known_kind(kind) and not get_close_matches(kind, OF_KIND, 1, TYPO)
    return not known_kind(kind) or not any(_alike(group, own) for own in OWN_GROUPS)


def _alike(group: str, own: str) -> bool:
    """Whether one is probably meant to be the other: `networking.istio.com`, `gateway.networking.io`, `networking.istoi.io`."""
    telling = {*own.split(".")} & {"istio", "security"}  # others have gateways, networking and telemetry of their own
    return bool({*group.split(".")} & telling or get_close_matches(group, [own], 1, GROUP_TYPO))


# Where kinds that make pods keep what they make them from.
TEMPLATES = (("spec", "template"), ("spec", "jobTemplate", "spec", "template"))


def _foreign(node: Node, file: str) -> Foreign:
    kind, name = node.text("kind") or NO_OBJECT, node.text("metadata", "name") or ""
    namespace = node.text("metadata", "namespace") or "default"
    subject = Subject(f"{kind} {namespace}/{name}", namespace, f"{file}:{node.line}")
    spec = node.get("spec")
    found = plain(spec) if spec is not None and isinstance(spec.value, dict) else {}
    for path in TEMPLATES:
        template = node.get(*path)
        if template is not None and isinstance(template.value, dict) and template.get("spec", "containers") is not None:
            return Foreign(kind, group_of(node.text("apiVersion") or ""), subject, name, found, plain(template), ".".join(path))
    return Foreign(kind, group_of(node.text("apiVersion") or ""), subject, name, found)


def _made_by(entry: Object, makers: set[tuple[str, str]]) -> bool:
    """Whether a pod is made by one of these: directly, or through a ReplicaSet."""
    owners = entry.metadata.owner_references
    hashed = entry.labels.get("pod-template-hash", "")
    names = {owner.name.removesuffix(f"-{hashed}") if hashed and owner.kind == "ReplicaSet" else owner.name for owner in owners}
    return any((entry.namespace, name) in makers for name in names)
