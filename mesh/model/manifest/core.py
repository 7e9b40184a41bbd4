"""What every object has, and the objects that hold nothing else of interest: namespaces, service accounts and nodes."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from mesh.model.manifest.record import Record, item
from mesh.model.manifest.shapes import (
    ANNOTATIONS,
    DNS_LABEL,
    DNS_NAME,
    LABEL_VALUE,
    LABELS,
    NOTHING,
    STRING,
    Flag,
    Integer,
    ListOf,
    MapOf,
    Opaque,
    Shape,
    Text,
)

SOURCE_ANNOTATION = "culvert.dev/source"
ANYTHING = Opaque()
UNREAD = Opaque(kept=False)
TIMESTAMP = Text(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[-+]\d\d:\d\d)", "a time such as 2026-01-31T12:00:00Z", 40)


class Key(NamedTuple):
    """What an object is called in all of a cluster. `kind` is its `TYPE`; `namespace` is empty for kinds that are in none."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerReference:
    api_version: str = item(STRING, "")
    kind: str = item(STRING, required=True)
    name: str = item(STRING, required=True)
    uid: str = item(STRING, "")
    controller: bool = item(Flag(), False)
    block_owner_deletion: bool = item(Flag(), False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """`namespace` is `default` where an object that lives in one names none; empty for others."""

    name: str = item(DNS_NAME, required=True)
    namespace: str = item(DNS_LABEL, "")
    labels: Mapping[str, str] = item(LABELS, NOTHING)
    annotations: Mapping[str, str] = item(ANNOTATIONS, NOTHING)
    uid: str = item(STRING, "")
    owner_references: tuple[OwnerReference, ...] = item(ListOf(Record(OwnerReference)), ())
    creation_timestamp: str = item(TIMESTAMP, "")
    deletion_timestamp: str = item(TIMESTAMP, "")
    deletion_grace_period_seconds: int | None = item(Integer(0))
    generate_name: str = item(STRING, "")
    generation: int | None = item(Integer(0))
    resource_version: str = item(STRING, "")
    finalizers: tuple[str, ...] = item(ListOf(STRING), ())
    managed_fields: Any = item(UNREAD)
    self_link: str = item(STRING, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """Any object. `KIND` and `API_VERSIONS` say which documents it is read from; `TYPE` is what it is called where kinds of several
    groups meet, which is the kind unless two of them share it. `where` is `file:line`, or the origin of an object that is from no
    file, and is no part of equality.
    """

    KIND: ClassVar[str] = ""
    TYPE: ClassVar[str] = ""
    API_VERSIONS: ClassVar[tuple[str, ...]] = ()
    NAMESPACED: ClassVar[bool] = True
    NAME: ClassVar[Shape] = DNS_NAME

    def __init_subclass__(cls) -> None:
        cls.TYPE = cls.__dict__.get("TYPE", cls.KIND)

    where: str = field(default="", compare=False)
    metadata: Metadata = item(Record(Metadata), required=True)

    @property
    def key(self) -> Key:
        return Key(self.TYPE, self.metadata.namespace, self.metadata.name)

    @property
    def file(self) -> str:
        file, _, line = self.where.rpartition(":")
        return file if line.isdigit() else self.where

    @property
    def source(self) -> str:
        """Where a person wrote it: what the annotation says if this file was made from another, else `where`."""
        return self.metadata.annotations.get(SOURCE_ANNOTATION) or self.where

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.labels

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.metadata.annotations


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace(Object):
    KIND = "Namespace"
    API_VERSIONS = ("v1",)
    NAMESPACED = False
    NAME = DNS_LABEL

    spec: Any = item(UNREAD)
    status: Any = item(UNREAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount(Object):
    KIND = "ServiceAccount"
    API_VERSIONS = ("v1",)

    automount_service_account_token: bool | None = item(Flag())
    secrets: Any = item(UNREAD)
    image_pull_secrets: Any = item(UNREAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node(Object):
    """Where pods run: all that is asked of it is its place."""

    KIND = "Node"
    API_VERSIONS = ("v1",)
    NAMESPACED = False

    spec: Any = item(UNREAD)
    status: Any = item(UNREAD)

    @property
    def region(self) -> str:
        return self.labels.get("topology.kubernetes.io/region", "")

    @property
    def zone(self) -> str:
        return self.labels.get("topology.kubernetes.io/zone", "")

    @property
    def subzone(self) -> str:
        return self.labels.get("topology.istio.io/subzone", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Labels that a pod must have, all of them. Empty selects every pod."""

    match_labels: Mapping[str, str] = item(
        MapOf(LABELS.key, LABEL_VALUE, 4096), NOTHING, about="Labels that a pod must have, all of them; none selects every pod."
    )


def selects(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())
