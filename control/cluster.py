"""All that a control plane has to do with a Kubernetes cluster, as one thing to start and stop.

    objects  →  the source (a feed of the pipeline)                callers   →  TokenReview, or the cluster's published keys
    the CA   →  a Secret that all replicas share                   admission →  the API server asks on a port of its own
    statuses, events, the webhook's CA bundle  ←  written by the one replica that the Lease names

Losing the API server stops none of it: what was heard last is served, callers are proved by keys, and what is to be written waits.
"""

from __future__ import annotations

import asyncio
import os
import secrets

from control.admission import LIMITS
from control.admission import routes as admission
from control.auth.issuer import Issuer
from control.auth.kubernetes import TokenReviews
from control.ca import CertificateAuthority, DirectoryStore
from control.ca.copied import CopiedStore
from control.ca.secret import SecretStore
from control.ca.store import Store
from control.config import Config, KubernetesConfig
from control.keep import Keeper
from control.kube.access import Access
from control.kube.client import Api
from control.kube.conditions import Wanted
from control.kube.elector import Elector
from control.kube.events import Announcer, Subject
from control.kube.secrets import SecretFiles
from control.kube.status import StatusWriter
from control.kube.webhook import WebhookBundle
from control.meters import EventMeter, KubernetesMeter, ReviewMeter, StatusMeter, ValidationMeter
from control.metrics import Metrics
from control.ports import listening
from control.resolve import Changes, Mesh
from control.sources.kubernetes import KubernetesSource
from mesh.io.http import HttpServer
from mesh.io.log import Log
from mesh.model.manifest import Key

log = Log("control")

PURPOSE = "the mesh's certificate authority"
REFUSED, IN_FORCE = "Refused", "NotEnforced"
WORTH_SAYING = {"Accepted": REFUSED, "Enforced": IN_FORCE}
"""Conditions of which an Event is made where they are False, and its reason."""


class Cluster:
    """`keeper`: what keeps what was heard, None for nothing."""

    def __init__(self, config: Config, settings: KubernetesConfig, mesh: Mesh, metrics: Metrics, keeper: Keeper | None) -> None:
        self._config = config
        self._settings = settings
        self._mesh = mesh
        self._meter = ValidationMeter(metrics.registry)
        registry = metrics.registry
        self._api = api = Api(Access(settings.kubeconfig, settings.context))
        book = keeper.book("kubernetes") if keeper is not None else None
        self.source = KubernetesSource(api, book=book, meter=KubernetesMeter(registry))
        self._issuer = Issuer(api, keeper.book("openid") if keeper is not None else None)
        self.authenticator = TokenReviews(api, self.source, issuer=self._issuer, trusted=settings.trusted, meter=ReviewMeter(registry))
        instance = config.instance or os.uname().nodename
        self.elector = Elector(api, settings.namespace, f"{instance}_{secrets.token_hex(4)}", changed=self._lead)
        self._writer = StatusWriter(api, self.source, self.elector, StatusMeter(registry))
        self._announcer = Announcer(api, self.elector, instance, EventMeter(registry))
        self.source.watch_live(self._writer.look)
        self._webhook: HttpServer | None = None
        self._bundle: WebhookBundle | None = None

    def store(self) -> Store:
        """Where the CA is kept."""
        local = DirectoryStore(self._config.ca_dir)
        if not self._settings.ca_secret:
            return local
        files = SecretFiles(self._api, self._settings.namespace, self._settings.ca_secret, PURPOSE)
        return CopiedStore(SecretStore(files), local)

    async def start(self, ca: CertificateAuthority) -> int | None:
        """Listen for admission; its port, None where it is off. Raises ConfigError where the address is taken."""
        self._bundle = WebhookBundle(self._api, self.elector, lambda: ca.keeper.authority.bundle)
        if not self._settings.webhook_address:
            return None
        self._webhook = HttpServer(admission(self._meter), limits=LIMITS, tls=ca.serving(self._config.server_names).context())
        with listening("CULVERT_WEBHOOK_ADDRESS", self._settings.webhook_address):
            await self._webhook.start(self._settings.webhook_address)
        return int(self._webhook.addresses[0][1])

    async def run(self, ca: CertificateAuthority) -> None:
        """Until cancelled. The source is run by the pipeline."""
        assert self._bundle is not None  # made by `start`
        async with asyncio.TaskGroup() as group:
            for work in (self.elector, self._issuer, self._writer, self._announcer, self._bundle):
                group.create_task(work.run())
            group.create_task(self._follow(ca, self._bundle))

    async def close(self) -> None:
        if self._webhook is not None:
            await self._webhook.close()
        await self._api.close()

    def problems(self) -> list[str]:
        bundle = self._bundle.error if self._bundle is not None else ""
        found = {"nobody can be elected to write statuses": self.elector.error, "the webhook's CA bundle cannot be written": bundle}
        return [f"{what}: {why}" for what, why in found.items() if why]

    def published(self, changes: Changes) -> None:
        """What is to be said of objects is another thing now."""
        for key, status in changes.statuses.items():
            wanted = status.wanted if status is not None else None
            self._writer.want(key, wanted)
            if wanted is not None:
                self._announce(key, wanted)

    def _lead(self, leading: bool) -> None:
        self._writer.lead(leading)
        if leading:
            # Whoever led before may have ended between a change and its Event; those that were written are found there.
            for key, status in self._mesh.statuses.items():
                if status.wanted is not None:
                    self._announce(key, status.wanted)
            if self._bundle is not None:
                self._bundle.look()

    def _announce(self, key: Key, wanted: Wanted) -> None:
        kind, live = self.source.kind(key.kind), self.source.live(key)
        if kind is None or live is None:
            return
        subject = Subject(kind.api_version, kind.kind, key.namespace, key.name, live.uid, live.resource_version)
        for condition in wanted.conditions:
            if condition.status == "False" and condition.type in WORTH_SAYING:
                self._announcer.report(subject, WORTH_SAYING[condition.type], condition.message, wanted.generation)

    async def _follow(self, ca: CertificateAuthority, bundle: WebhookBundle) -> None:
        """The API server must know a root before the webhook shows a certificate from it."""
        changed = ca.changes()
        while True:
            await changed.wait()
            changed.clear()
            bundle.look()
