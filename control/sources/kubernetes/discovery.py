"""Which kinds of ours the cluster serves, and in which version each is watched.

Polled, not watched: aggregated discovery (KEP-3352, in every release since 1.27) answers for all groups in one request, and with 304 and no
body while nothing changed, under a permission that every service account has. A watch of CustomResourceDefinitions would tell sooner, but
needs another permission and carries every CRD's schemas, megabytes in some clusters. A 404 from a list asks for a look at once.

What is not listed may be gone, or the server may just have started: its own discovery is filled after it answers. So a kind is
dropped, with what it held, only when its CustomResourceDefinition is not there either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from control.kube.client import Api
from control.kube.errors import Forbidden, Garbled, Missing
from control.sources.kubernetes.kinds import KNOWN, Kind, Known, maturity

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


_document = msgspec.json.Decoder(_Document)


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

    async def is_gone(self, kind: Kind) -> bool:
        """Whether the API server says that there is no such CustomResourceDefinition. KubeError, except for not being allowed to ask."""
        try:
            await self.api.call("get", CRDS, f"{CRD_PATH}/{kind.resource}")
        except Missing:
            return True
        except Forbidden:
            return False
        return False
