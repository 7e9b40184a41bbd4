"""What comes in: the objects in force and what was refused. And what is read of single objects by many others.

Levels of the tables, low to high; a query reads only what is lower:

     0  what comes in                 10  facts of one object          20  gateways
    30  policies, each by itself      40  what pods with the same labels have in common
    50  workloads                     60  services                     70…  routes, clusters, listeners          90  status
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from control.catalog import Rejection, Subject
from control.resolve.engine import Input, Read, query
from mesh.model.identity import DEFAULT_TRUST_DOMAIN
from mesh.model.manifest import Key, Namespace, Node, Object
from mesh.model.manifest.shapes import NOTHING
from mesh.model.state import DEFAULT_ROOT_NAMESPACE
from mesh.model.workload import Locality


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """`root_namespace`: where policies are for all of the mesh. `cluster`: prefix of workloads' uids."""

    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    cluster: str = "Kubernetes"
    cluster_domain: str = "cluster.local"


# The catalog says what changed; where an object stands is part of what is told of it, though not of its equality.
OBJECTS: Input[Key, Object | None] = Input("objects", None, operator.is_)
REJECTIONS: Input[Subject, Rejection | None] = Input("rejections", None)
SETTINGS: Input[None, MeshSettings] = Input("settings", MeshSettings())

Pair = tuple[str, str]
Labels = tuple[Pair, ...]
"""Labels as a key: sorted."""

NOWHERE = Locality()

ANYTHING: Pair = ("", "")
"""Stands for the label of a selector that has none."""


def labels_of(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def first_pair(selector: Mapping[str, str]) -> Pair:
    """One label that whatever is selected must have: selectors are found by it."""
    return min(selector.items(), default=ANYTHING)


def pairs(labels: Iterable[Pair]) -> Iterable[Pair]:
    """Under which pairs to look for selectors that select something with these labels."""
    yield ANYTHING
    yield from labels


@query(10)
def namespace_labels(read: Read, namespace: str) -> Mapping[str, str]:
    found = read(OBJECTS, Key(Namespace.KIND, "", namespace))
    return found.labels if found is not None else NOTHING


@query(10)
def node_locality(read: Read, node: str) -> Locality:
    found = read(OBJECTS, Key(Node.KIND, "", node))
    return Locality(found.region, found.zone, found.subzone) if isinstance(found, Node) else NOWHERE
