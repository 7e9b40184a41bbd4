"""YAML text to objects with their place: the door through which manifests come into the playground."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from mesh.model.errors import ConfigError, Refusal
from mesh.model.manifest import Key, type_of
from mesh.model.manifest.tree import Node, documents, plain, read

CLUSTER_SCOPED = {"Namespace", "Node", "GatewayClass", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """`group` is empty for the core API; `namespace` is empty for cluster-scoped kinds."""

    kind: str
    group: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return str(self.as_key)

    @property
    def as_key(self) -> Key:
        """As the mesh's own parser calls the object."""
        return Key(type_of(self.group, self.kind), self.namespace, self.name)

    @property
    def label(self) -> str:
        """As kubectl prints it: `deployment.apps/reviews`."""
        kind = self.kind.lower()
        return f"{kind}.{self.group}/{self.name}" if self.group else f"{kind}/{self.name}"

    @property
    def file(self) -> str:
        parts = [self.kind.lower(), self.group, self.namespace, self.name]
        return ".".join(part for part in parts if part) + ".yaml"


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a manifest. `where` is `file:line`; equal documents say the same, wherever they stand."""

    key: ObjectKey
    body: Mapping[str, Any]
    where: str


def load_documents(text: str, file: str) -> tuple[list[Document], list[Refusal]]:
    """Every object of one file. A document that is no YAML, or has no kind or name, is refused by itself; the rest of the file goes on."""
    found: list[Document] = []
    refusals: list[Refusal] = []
    for part in documents(text):
        try:
            root = read(part, file)
        except ConfigError as error:
            refusals += error.refusals
            continue
        for node in items(root):
            try:
                found.append(_document(plain(node), f"{file}:{node.line}"))
            except ConfigError as error:
                refusals += error.refusals
    return found, refusals


def items(node: Node) -> list[Node]:
    """The objects of a document: itself, or what a List holds."""
    inner = node.get("items")
    if node.text("kind") == "List" and inner is not None and isinstance(inner.value, list):
        return list(inner.value)
    return [] if node.value is None else [node]


def _document(value: Any, where: str) -> Document:
    if not isinstance(value, dict):
        raise ConfigError(Refusal(where, "", "", repr(value)[:60], "a mapping with apiVersion, kind and metadata"))
    kind, version, metadata = value.get("kind"), value.get("apiVersion"), value.get("metadata")
    if not isinstance(kind, str) or not kind:
        raise ConfigError(Refusal(where, "", "kind", repr(kind), "a string such as Deployment"))
    if not isinstance(version, str) or not version:
        raise ConfigError(Refusal(where, kind, "apiVersion", repr(version), "a string such as v1 or apps/v1"))
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise ConfigError(Refusal(where, kind, "metadata.name", "nothing", "a name"))
    namespace = metadata.get("namespace", "default")
    if not isinstance(namespace, str) or not namespace:
        raise ConfigError(
            Refusal(where, f"{kind} {metadata['name']}", "metadata.namespace", repr(namespace), "a string, or nothing for default")
        )
    if "/" in metadata["name"] or "/" in namespace:
        raise ConfigError(Refusal(where, kind, "metadata.name", metadata["name"], "a name without a slash"))
    group = version.rpartition("/")[0]
    return Document(ObjectKey(kind, group, "" if kind in CLUSTER_SCOPED else namespace, metadata["name"]), value, where)


def dump(body: Mapping[str, Any]) -> str:
    """An object as a YAML document, fields in the order in which they came."""
    return yaml.dump(dict(body), Dumper=yaml.CSafeDumper, sort_keys=False, default_flow_style=False, width=140)
