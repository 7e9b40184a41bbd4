"""Keeps the CA bundle of our admission webhook what it should be: the API server trusts the webhook's certificate by it.

The ValidatingWebhookConfiguration is made by whoever installs the mesh, without a bundle. The leader puts it in, and again when it
changes or somebody applied the manifest anew. A strategic merge by the webhooks' names touches nothing else of it. It names the version
that it was made for, and is over before anybody else can lead: a bundle of before cannot come after that of the next leader.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable

from lightkube.resources.admissionregistration_v1 import ValidatingWebhookConfiguration
from lightkube.types import PatchType

from control.kube.client import Api
from control.kube.errors import Conflict, KubeError, Missing
from control.kube.status import PATIENCE, Leadership
from mesh.io.log import Log

log = Log("webhook")

RESOURCE = "validatingwebhookconfigurations.admissionregistration.k8s.io"
NAME = "culvert-control"
LOOK = 5.0  # until the bundle is there, no object of ours can be changed
"""Seconds between two looks."""
AGAIN = 1.0
"""Seconds to the next look where somebody else was faster."""


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
            wait = LOOK
            self._wake.clear()
            if self._leadership.leading:
                try:
                    if await self.ensure():
                        log.info("the webhook's CA bundle was put in place", name=self._name)
                    self.error = ""
                except Conflict:
                    wait = AGAIN
                except KubeError as error:
                    if str(error) != self.error:
                        log.warning("the webhook's CA bundle cannot be put in place", error=str(error))
                    self.error = str(error)
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def ensure(self) -> bool:
        """Whether it was written: not where it is right, where there is nothing to write to, or where we lead no more. KubeError."""
        try:
            found = await self._api.typed("get", RESOURCE, lambda client: client.get(ValidatingWebhookConfiguration, self._name))
        except Missing:
            return False
        wanted = base64.b64encode(self._bundle().encode()).decode()
        webhooks = found.webhooks or []
        if all(webhook.clientConfig.caBundle == wanted for webhook in webhooks) or not self._leadership.leading:
            return False
        patch = {
            "metadata": {"resourceVersion": found.metadata.resourceVersion if found.metadata is not None else None},
            "webhooks": [{"name": webhook.name, "clientConfig": {"caBundle": wanted}} for webhook in webhooks],
        }
        await self._api.typed(
            "patch",
            RESOURCE,
            lambda client: client.patch(ValidatingWebhookConfiguration, self._name, patch, patch_type=PatchType.STRATEGIC),
            PATIENCE,
        )
        return True
