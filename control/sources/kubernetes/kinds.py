"""What is watched: the core kinds, always, and those of our API groups in the best version that both the cluster and the parser know.

An object's *origin* is its resource, as RBAC and kubectl write it, with namespace and name: `nodes/n1`,
`virtualservices.networking.istio.io/shop/cart`. It does not name the version, so that an object stays itself when a better one is served.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.model.manifest import KINDS, Object

POLICY_GROUP = "security.istio.io"
GROUPS = frozenset({"networking.istio.io", POLICY_GROUP, "telemetry.istio.io", "gateway.networking.k8s.io"})


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind at the version at which it is watched. `type` is what keys of its objects call it (`Object.TYPE`)."""

    group: str
    version: str
    plural: str
    kind: str
    type: str
    core: bool = False
    """Validated by the API server and read by a fast, tolerant reader; others go through the strict parser."""

    @property
    def resource(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Of the whole collection, or of one object."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        return "/" + "/".join([*parts, self.plural, *(part for part in (name, subresource) if part)])

    def origin(self, namespace: str, name: str) -> str:
        return f"{self.resource}/{namespace}/{name}" if namespace else f"{self.resource}/{name}"

    def __str__(self) -> str:
        return f"{self.resource} ({self.version})"


CORE: tuple[Kind, ...] = (
    Kind("", "v1", "namespaces", "Namespace", "Namespace", core=True),
    Kind("", "v1", "nodes", "Node", "Node", core=True),
    Kind("", "v1", "serviceaccounts", "ServiceAccount", "ServiceAccount", core=True),
    Kind("", "v1", "services", "Service", "Service", core=True),
    Kind("", "v1", "pods", "Pod", "Pod", core=True),
    Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", "EndpointSlice", core=True),
)
CORE_KINDS: Mapping[str, Kind] = {kind.resource: kind for kind in CORE}


@dataclass(frozen=True, slots=True)
class Known:
    """A kind of ours as the parser knows it: versions, the best first."""

    type: str
    versions: tuple[str, ...]


def known_kinds(classes: Iterable[type[Object]] = KINDS) -> Mapping[tuple[str, str], Known]:
    """(group, kind) of what the parser reads of our groups. A kind may have a class for each of its schemas."""
    found: dict[tuple[str, str], Known] = {}
    for cls in classes:
        for api_version in cls.API_VERSIONS:
            group, _, version = api_version.rpartition("/")
            if group in GROUPS:
                before = found.get((group, cls.KIND))
                versions = (*before.versions, version) if before is not None else (version,)
                best_first = tuple(sorted(versions, key=maturity, reverse=True))
                found[group, cls.KIND] = Known(getattr(cls, "TYPE", cls.KIND), best_first)
    return found


def kind_of(resource: str, api_version: str, kind: str) -> Kind:
    """A kind of ours as an object of it says; for objects that are known before the cluster was asked what it serves."""
    group, _, version = api_version.rpartition("/")
    known = KNOWN.get((group, kind))
    return Kind(group, version, resource.partition(".")[0], kind, known.type if known is not None else kind)


def plural(kind: str) -> str:
    """As English has it: what all kinds of ours are called in their definitions, before a cluster was asked."""
    lower = kind.lower()
    if lower.endswith("s"):
        return f"{lower}es"
    return f"{lower[:-1]}ies" if re.search("[^aeiou]y$", lower) else f"{lower}s"


def maturity(version: str) -> tuple[int, int, int]:
    """Kubernetes' order of versions: v2 before v1 before v1beta2 before v1alpha3; what is no version comes last."""
    match = re.fullmatch(r"v(\d{1,9})(?:(alpha|beta)(\d{1,9}))?", version)
    if match is None:
        return (0, 0, 0)
    major, stage, minor = match.groups()
    return ({None: 3, "beta": 2, "alpha": 1}[stage], int(major), int(minor or 0))


KNOWN = known_kinds()


def split(origin: str) -> tuple[str, str, str]:
    """(resource, namespace, name) of an origin."""
    resource, _, rest = origin.partition("/")
    namespace, slash, name = rest.partition("/")
    return (resource, namespace, name) if slash else (resource, "", rest)
