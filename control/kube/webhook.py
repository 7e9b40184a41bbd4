"""Keeps the CA bundle of our admission webhook what it should be: the API server trusts the webhook's certificate by it.

The ValidatingWebhookConfiguration is made by whoever installs the mesh, without a bundle. The leader puts it in, and again when it
changes or somebody applied the manifest anew. A strategic merge by the webhooks' names touches nothing else of it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable

from lightkube.resources.admissionregistration_v1 import ValidatingWebhookConfiguration
from lightkube.types import PatchType

from control.kube.client import Api
from control.kube.errors import KubeError, Missing
from control.kube.status import Leadership
from mesh.io.log import Log

log = Log("webhook")

RESOURCE = "validatingwebhookconfigurations.admissionregistration.k8s.io"
NAME = "culvert-control"
LOOK = 5.0  # until the bundle is there, no object of ours can be changed
"""Seconds between two looks."""


class WebhookBundle:
    """`bundle` gives the PEM that the API server should trust now."""

    def __init__(self, api: Api, leadership: Leadership, bundle: Callable[[], str], name: str = NAME) -> None:
        self.error = ""
        self._api = api
        self._leadership = leadership
        self._bundle = bundle
        self._name = name
        self._wake = asyncio.Event()

    def look(self) -> None:
        """The bundle changed, or we lead now."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            if self._leadership.leading:
                try:
                    if await self.ensure():
                        log.info("the webhook's CA bundle was put in place", name=self._name)
                    self.error = ""
                except KubeError as error:
                    if str(error) != self.error:
                        log.warning("the webhook's CA bundle cannot be put in place", error=str(error))
                    self.error = str(error)
            try:
                async with asyncio.timeout(LOOK):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def ensure(self) -> bool:
        """Whether it had to be written. KubeError; no configuration is nothing to write to."""
        try:
            found = await self._api.typed("get", RESOURCE, lambda client: client.get(ValidatingWebhookConfiguration, self._name))
        except Missing:
            return False
        wanted = base64.b64encode(self._bundle().encode()).decode()
        webhooks = found.webhooks or []
        if all(webhook.clientConfig.caBundle == wanted for webhook in webhooks):
            return False
        patch = {"webhooks": [{"name": webhook.name, "clientConfig": {"caBundle": wanted}} for webhook in webhooks]}
        await self._api.typed(
            "patch",
            RESOURCE,
            lambda client: client.patch(ValidatingWebhookConfiguration, self._name, patch, patch_type=PatchType.STRATEGIC),
        )
        return True
