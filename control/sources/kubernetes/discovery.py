"""Which kinds of ours the cluster serves, and in which version each is watched.

Polled, not watched: aggregated discovery (KEP-3352, in every release since 1.27) answers for all groups in one request, and with 304 and no
body while nothing changed, under a permission that every service account has. A watch of CustomResourceDefinitions would tell sooner, but
needs another permission and carries every CRD's schemas, megabytes in some clusters. A 404 from a list asks for a look at once.

What is not listed may be gone, or the server may just have started: its own discovery is filled after it answers. So a kind is
dropped, with what it held, only when its CustomResourceDefinition is not there either; and until the first time that all kinds of ours
were accounted for, each one that is not listed is asked for by its definition (`unlisted`), or a cluster whose policies are not listed yet
would be taken for one without policies.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from control.kube.client import Api
from control.kube.errors import Forbidden, Garbled, Missing
from control.sources.kubernetes.kinds import KNOWN, Kind, Known, maturity, plural

PATH = "/apis"
ACCEPT = ",".join(f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList" for version in ("v2", "v2beta1"))
DOCUMENT = "APIGroupDiscoveryList"
CRDS = "customresourcedefinitions.apiextensions.k8s.io"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class _Name(msgspec.Struct):
    name: str = ""


class _ResponseKind(msgspec.Struct):
    kind: str = ""


class _Resource(msgspec.Struct):
    resource: str
    verbs: tuple[str, ...] = ()
    response_kind: _ResponseKind = msgspec.field(name="responseKind", default_factory=_ResponseKind)


class _Version(msgspec.Struct):
    version: str
    resources: tuple[_Resource, ...] = ()


class _Group(msgspec.Struct):
    metadata: _Name
    versions: tuple[_Version, ...] = ()


class _Document(msgspec.Struct):
    kind: str
    items: tuple[_Group, ...] = ()


class _DefinedVersion(msgspec.Struct):
    name: str
    served: bool = False


class _DefinedSpec(msgspec.Struct):
    versions: tuple[_DefinedVersion, ...]


class _Condition(msgspec.Struct):
    type: str
    status: str = ""


class _DefinedStatus(msgspec.Struct):
    conditions: tuple[_Condition, ...] | None = None


class _Definition(msgspec.Struct):
    """A CustomResourceDefinition, of which no schema is read."""

    spec: _DefinedSpec
    status: _DefinedStatus = msgspec.field(default_factory=_DefinedStatus)

    def serves(self, versions: Collection[str]) -> bool:
        """Whether there may be objects. Before a definition is established nobody can have made one, and afterwards it stays so."""
        established = any((one.type, one.status) == ("Established", "True") for one in self.status.conditions or ())
        return established and any(version.served and version.name in versions for version in self.spec.versions)


_document = msgspec.json.Decoder(_Document)
_definition = msgspec.json.Decoder(_Definition)


def choose(body: bytes, known: Mapping[tuple[str, str], Known] = KNOWN) -> dict[str, Kind]:
    """By resource: what to watch of what a discovery document names. Of several versions the most mature that the parser reads."""
    try:
        document = _document.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Garbled(f"discovery cannot be read: {error}") from error
    if document.kind != DOCUMENT:
        raise Garbled(f"discovery is a {document.kind}: an API server before 1.27? expected {DOCUMENT}")
    found: dict[str, Kind] = {}
    for group in document.items:
        name = group.metadata.name
        for version in group.versions:
            for resource in version.resources:
                ours = known.get((name, resource.response_kind.kind))
                if ours is None or version.version not in ours.versions or not {"list", "watch"} <= set(resource.verbs):
                    continue
                kind = Kind(name, version.version, resource.resource, resource.response_kind.kind, ours.type)
                other = found.get(kind.resource)
                if other is None or maturity(kind.version) > maturity(other.version):
                    found[kind.resource] = kind
    return found


@dataclass(slots=True)
class Discovery:
    """What was served when last asked."""

    api: Api
    served: dict[str, Kind] | None = None
    _etag: str = ""

    async def look(self) -> bool:
        """Ask; whether the answer is another one than before. KubeError."""
        headers = {"Accept": ACCEPT} | ({"If-None-Match": self._etag} if self._etag else {})
        answer = await self.api.call("get", "/apis", PATH, headers=headers)
        if answer.status == 304 and self.served is not None:
            return False
        served, before = choose(answer.body), self.served
        self.served, self._etag = served, answer.headers.get("etag", "")
        return served != before

    async def unlisted(self, known: Mapping[tuple[str, str], Known] = KNOWN) -> list[str]:
        """Resources of ours that were not listed when last asked, and are served all the same. KubeError, also where one may not ask."""
        listed = {(kind.group, kind.kind) for kind in (self.served or {}).values()}
        found = []
        for (group, kind), ours in known.items():
            if (group, kind) in listed:
                continue
            resource = f"{plural(kind)}.{group}"
            definition = await self._defined(resource)
            if definition is not None and definition.serves(ours.versions):
                found.append(resource)
        return found

    async def is_gone(self, kind: Kind) -> bool:
        """Whether the API server says that there is no such CustomResourceDefinition. KubeError, except for not being allowed to ask."""
        try:
            return await self._defined(kind.resource) is None
        except Forbidden:
            return False

    async def _defined(self, resource: str) -> _Definition | None:
        """None where the API server says, of this very definition, that there is none. Any other 404 is a proxy's, or of a server that is
        not ready.
        """
        try:
            answer = await self.api.call("get", CRDS, f"{CRD_PATH}/{resource}")
        except Missing as error:
            if error.name != resource:
                raise
            return None
        try:
            return _definition.decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Garbled(f"the definition of {resource} cannot be read: {error}") from error
