"""ReferenceGrant: who may refer to objects of its namespace. v1, v1beta1 and v1alpha2 are the same."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from dataclasses import dataclass

from mesh.model.manifest.core import Object
from mesh.model.manifest.gatewayapi import GROUP
from mesh.model.manifest.gatewayapi.common import GROUP_NAME, KIND_NAME
from mesh.model.manifest.record import Record, item
from mesh.model.manifest.shapes import DNS_LABEL, ListOf
from mesh.model.manifest.words import NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFrom:
    group: str = item(GROUP_NAME, required=True, about="The API group of who refers; empty for the core API.")
    kind: str = item(KIND_NAME, required=True, about="The kind of who refers, such as HTTPRoute.")
    namespace: str = item(DNS_LABEL, required=True, about="The namespace of who refers.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTo:
    group: str = item(GROUP_NAME, required=True, about="The API group of what is referred to; empty for the core API.")
    kind: str = item(KIND_NAME, required=True, about="The kind of what is referred to, such as Service.")
    name: str = item(NAME, "", about="Its name; absent, any of that kind.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceGrantSpec:
    from_: tuple[GrantFrom, ...] = item(ListOf(Record(GrantFrom), 1, 16), required=True, about="Who may refer, any of these.")
    to: tuple[GrantTo, ...] = item(ListOf(Record(GrantTo), 1, 16), required=True, about="To what, any of these.")

    def allows(self, source: tuple[str, str, str], target: tuple[str, str, str]) -> bool:
        """(group, kind, namespace) to (group, kind, name)."""
        return any((entry.group, entry.kind, entry.namespace) == source for entry in self.from_) and any(
            (entry.group, entry.kind) == target[:2] and entry.name in ("", target[2]) for entry in self.to
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceGrant(Object):
    """Lets objects of other namespaces refer to objects of this one."""

    KIND = "ReferenceGrant"
    API_VERSIONS = (f"{GROUP}/v1", f"{GROUP}/v1beta1", f"{GROUP}/v1alpha2")

    spec: ReferenceGrantSpec = item(Record(ReferenceGrantSpec), required=True, about="Who may refer to what.")
