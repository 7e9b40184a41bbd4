"""A set of named files in one Secret, replaced whole or not at all: for keys that all replicas of the control plane share.

    files = SecretFiles(api, "istio-system", "culvert-ca")
    found = await files.load()                       # None where there is none
    version = await files.save({"root.key": …}, found.version if found else "")

The Secret has a type of its own, so that it is recognised, and one of another type is nobody's to overwrite. Its resource version is the
version: of two who replace the same one, one is refused.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from control.kube.client import FIELD_MANAGER, Api
from control.kube.errors import KubeError, Missing
from mesh.io.log import Log
from mesh.model.errors import ConfigError, Refusal

log = Log("secrets")

RESOURCE = "secrets"
TYPE = "culvert.dev/files"
LABELS = {"app.kubernetes.io/part-of": "culvert", "app.kubernetes.io/managed-by": "culvert-control"}
INSTALL = "kubectl apply -f deploy/control/account.yaml -f deploy/control/rbac.yaml"
POLL = 5.0
"""Seconds between two looks at whether somebody else has saved. Asking needs the verb `get` alone; watching would need two more."""


@dataclass(frozen=True, slots=True)
class Files:
    """Contents by name, and the version that they are."""

    content: Mapping[str, bytes] = field(repr=False)
    version: str


class SecretFiles:
    """`purpose` is said on the Secret, for people."""

    def __init__(self, api: Api, namespace: str, name: str, purpose: str = "") -> None:
        self.where = f"secret {namespace}/{name}"
        self.settle = 2 * POLL
        """Seconds after a save until every replica that can reach the API server has looked."""
        self._api = api
        self._namespace = namespace
        self._name = name
        self._purpose = purpose

    async def load(self) -> Files | None:
        """What is there, None where nothing is. KubeError; ConfigError where it is none of ours."""
        try:
            found = await self._api.typed("get", RESOURCE, lambda client: client.get(Secret, self._name, namespace=self._namespace))
        except Missing:
            return None
        if found.type != TYPE:
            raise ConfigError(Refusal(self.where, "", "type", repr(found.type), f"{TYPE}: another Secret has this name"))
        try:
            content = {name: base64.b64decode(value, validate=True) for name, value in (found.data or {}).items()}
        except binascii.Error as error:
            raise ConfigError(Refusal(self.where, "", "data", f"no base64 ({error})", "what this program writes there")) from error
        return Files(content, _version(found))

    async def save(self, content: Mapping[str, bytes], expected: str) -> str:
        """Replace the version `expected` ("" for nothing); the new one. `Conflict` where another one is there, with nothing changed; any
        other KubeError leaves open whether it was saved.
        """
        metadata = ObjectMeta(name=self._name, namespace=self._namespace, labels=LABELS, resourceVersion=expected or None)
        if self._purpose:
            metadata.annotations = {"culvert.dev/purpose": self._purpose}
        secret = Secret(metadata=metadata, type=TYPE, data={name: base64.b64encode(value).decode() for name, value in content.items()})
        if expected:
            return _version(await self._api.typed("update", RESOURCE, lambda client: client.replace(secret, field_manager=FIELD_MANAGER)))
        try:
            return _version(await self._api.typed("create", RESOURCE, lambda client: client.create(secret)))
        except Missing as error:
            raise Missing(f"{error}; the namespace and our role there are made by: {INSTALL}") from error

    async def changed(self, version: str) -> None:
        """Return when another version is there, or none. What goes wrong meanwhile is waited out."""
        while True:
            await asyncio.sleep(POLL)
            try:
                found = await self.load()
            except (KubeError, ConfigError) as error:
                log.debug("a secret cannot be looked at", where=self.where, error=str(error))
                continue
            if found is None or found.version != version:
                return


def _version(secret: Secret) -> str:
    return (secret.metadata.resourceVersion if secret.metadata is not None else None) or ""
