"""The webhook's CA bundle against a cluster in memory: put in by who leads, and by nobody else."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from control.kube.webhook import RESOURCE, WebhookBundle
from tests.control.kube.fake import Broken, Call, FakeCluster, Object
from tests.control.kube.rig import eventually

NAME = "culvert-control"
OLD, NEW = "-----BEGIN CERTIFICATE-----\nold\n", "-----BEGIN CERTIFICATE-----\nnew\n"


def configuration(bundle: str = "") -> Object:
    client = {"service": {"name": "culvert-control", "namespace": "istio-system"}, "caBundle": base64.b64encode(bundle.encode()).decode()}
    webhook = {"name": "validate.culvert.dev", "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"]}
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    return {**kind, "metadata": {"name": NAME}, "webhooks": [webhook]}


@dataclass
class Rig:
    cluster: FakeCluster
    leading: bool = True
    bundle: str = NEW

    def shown(self) -> str:
        webhook: Any = self.cluster.get("ValidatingWebhookConfiguration", "", NAME)["webhooks"][0]
        return base64.b64decode(webhook["clientConfig"]["caBundle"]).decode()

    def writes(self) -> list[Call]:
        return self.cluster.seen("patch", RESOURCE)


@asynccontextmanager
async def keeping(tmp_path: Path) -> AsyncIterator[tuple[Rig, WebhookBundle]]:
    cluster = FakeCluster()
    cluster.serve("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
    cluster.put(configuration(OLD))
    rig = Rig(cluster)
    api = cluster.api(tmp_path)
    yield rig, WebhookBundle(api, rig, lambda: rig.bundle)
    await api.close()


def test_the_bundle_is_put_in_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path) as (rig, webhook):
            assert await webhook.ensure()
            assert rig.shown() == NEW
            assert not await webhook.ensure()
            assert len(rig.writes()) == 1

    asyncio.run(test())


def test_who_ceases_to_lead_while_it_reads_writes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path) as (rig, webhook):
            rig.cluster.meanwhile = lambda call: setattr(rig, "leading", False)
            assert not await webhook.ensure()
            assert rig.shown() == OLD
            assert rig.writes() == []

    asyncio.run(test())


def test_what_somebody_else_writes_meanwhile_is_not_overwritten_but_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the next leader, whose CA has gone on, was faster."""
    monkeypatch.setattr("control.kube.webhook.AGAIN", 0.001)

    async def test() -> None:
        async with keeping(tmp_path) as (rig, webhook):
            newer = f"{NEW}newer\n"

            def lead(call: Call) -> None:
                if call.verb == "patch" and len(rig.writes()) == 1:
                    rig.cluster.put(configuration(newer))
                    rig.bundle = newer

            rig.cluster.meanwhile = lead
            task = asyncio.create_task(webhook.run())
            await eventually(lambda: len(rig.cluster.seen("get", RESOURCE)) == 2)
            assert rig.shown() == newer
            assert len(rig.writes()) == 1
            assert webhook.error == ""
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(test())


def test_who_does_not_lead_does_not_even_look(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path) as (rig, webhook):
            rig.leading = False
            task = asyncio.create_task(webhook.run())
            await asyncio.sleep(0)
            assert rig.cluster.calls == []
            rig.leading = True
            webhook.look()
            await eventually(lambda: rig.shown() == NEW)
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(test())


def test_trouble_is_said_and_passes(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path) as (rig, webhook):
            down = rig.cluster.fail(Broken())
            task = asyncio.create_task(webhook.run())
            await eventually(lambda: webhook.error)
            down.times = 0
            webhook.look()
            await eventually(lambda: rig.shown() == NEW and not webhook.error)
            rig.cluster.delete("ValidatingWebhookConfiguration", "", NAME)
            assert not await webhook.ensure(), "nothing to write to"
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(test())
