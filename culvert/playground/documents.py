"""YAML text to objects with their place: the door through which manifests come into the playground."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from mesh.model.errors import ConfigError, Refusal

CORE_KINDS = {"Namespace", "ServiceAccount", "Pod", "Service", "Deployment"}
CLUSTER_SCOPED = {"Namespace", "Node", "GatewayClass", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
SOURCE_ANNOTATION = "culvert.dev/source"


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """`group` is empty for the core API; `namespace` is empty for cluster-scoped kinds."""

    kind: str
    group: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

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


class _Loader(yaml.CSafeLoader):
    """Dates stay strings as in Kubernetes' YAML, and a key given twice is an error instead of the last one winning."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    result: dict[str, Any] = {}
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in result:
            raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark)
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def load_documents(text: str, file: str) -> tuple[list[Document], list[Refusal]]:
    """Every object of one file. A file that is no YAML is refused whole; an object without kind or name is refused by itself."""
    documents: list[Document] = []
    refusals: list[Refusal] = []
    try:
        loader = _Loader(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                if node is None or node.tag == "tag:yaml.org,2002:null":
                    continue
                value = loader.construct_document(node)
                for item in _items(value):
                    where = f"{file}:{node.start_mark.line + 1}"
                    try:
                        documents.append(_document(item, where))
                    except ConfigError as error:
                        refusals += error.refusals
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        return [], [Refusal(f"{file}{line}", "", "", error.problem or "no YAML", "YAML documents, each a Kubernetes object")]
    except yaml.YAMLError as error:
        return [], [Refusal(file, "", "", str(error).splitlines()[0], "YAML documents, each a Kubernetes object")]
    return documents, refusals


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        return list(value["items"])
    return [value]


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
