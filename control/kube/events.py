"""Events about objects, as `kubectl describe` shows them: what was refused and why, by the leader, said once.

An Event's name is made of the object, the reason and the message, so that a new leader that wants to say what its predecessor said finds it
said. The same words about a later version of the object raise the Event's count. What waits is bounded, and so is the rate, for
all and for each object (client-go's: 25 at once, then one in five minutes): somebody who applies a broken object in a loop gets few.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol

from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Event
from lightkube.types import PatchType

from control.kube.client import Api
from control.kube.conditions import CONTROLLER
from control.kube.errors import Busy, Conflict, Forbidden, Invalid, KubeError, Missing
from control.kube.status import Leadership
from control.pacing import Backoff, Bucket
from mesh.io.log import Log

log = Log("events")

RESOURCE = "events"
MOST_WAITING = 1000
MOST_KNOWN = 4096
RATE, BURST = 5.0, 50
OBJECT_RATE, OBJECT_BURST = 1 / 300, 25
LONGEST_MESSAGE = 1024
"""The API's own limit for messages of events."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """`reason`: one word in CamelCase. `generation`: of the object, which tells the same words about a new version from a repetition."""

    subject: Subject
    reason: str
    message: str
    generation: int
    type: str = "Warning"

    @property
    def name(self) -> str:
        """Of the Event."""
        digest = sha256("\0".join((self.subject.uid, self.subject.kind, self.type, self.reason, self.message)).encode()).hexdigest()
        return f"{self.subject.name[:200]}.{digest[:16]}"

    @property
    def namespace(self) -> str:
        """Where the Event lives: with its object, or in `default`, where those about objects of no namespace are."""
        return self.subject.namespace or "default"


class EventMeter(Protocol):
    def said(self, reason: str) -> None: ...
    def dropped(self, why: str) -> None:
        """full, rate, refused."""


class NoEventMeter:
    def said(self, reason: str) -> None: ...
    def dropped(self, why: str) -> None: ...


@dataclass(slots=True)
class Said:
    generation: int
    count: int = 1


class Announcer:
    """`now` is monotonic."""

    def __init__(
        self,
        api: Api,
        leadership: Leadership,
        instance: str,
        meter: EventMeter | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._leadership = leadership
        self._instance = instance
        self._meter = meter or NoEventMeter()
        self._now = now
        self._waiting: OrderedDict[str, Report] = OrderedDict()
        self._said: OrderedDict[str, Said] = OrderedDict()
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._bucket = Bucket(RATE, BURST)
        self._backoff = Backoff()
        self._wake = asyncio.Event()

    def report(self, subject: Subject, reason: str, message: str, generation: int) -> None:
        """Say it, if we lead, and it was not said of this version of the object."""
        if not self._leadership.leading:
            return
        if len(message) > LONGEST_MESSAGE:
            message = message[: LONGEST_MESSAGE - 1] + "…"
        report = Report(subject, reason, message, generation)
        said = self._said.get(report.name)
        if said is not None and said.generation >= generation:
            return
        if report.name not in self._waiting and len(self._waiting) >= MOST_WAITING:
            self._meter.dropped("full")
            return
        self._waiting[report.name] = report
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            name, report = self._waiting.popitem(last=False)
            if self._of_object(report.subject).take(self._now()) > 0:
                self._meter.dropped("rate")
                continue
            await asyncio.sleep(self._bucket.reserve(self._now()))
            if not self._leadership.leading:
                continue  # not any more
            try:
                await self._say(name, report)
                self._backoff.succeeded()
            except (Forbidden, Invalid, Missing) as error:
                # Missing: the namespace is gone, or going.
                self._meter.dropped("refused")
                log.warning(
                    "an event cannot be written", about=f"{report.subject.kind} {report.namespace}/{report.subject.name}", error=str(error)
                )
            except KubeError as error:
                self._waiting.setdefault(name, report)
                await asyncio.sleep(self._backoff.wait(error.after if isinstance(error, Busy) else 0.0))

    async def _say(self, name: str, report: Report) -> None:
        said = self._said.get(name)
        if said is not None:
            try:
                await self._raise_count(name, report, said.count + 1)
                self._know(name, Said(report.generation, said.count + 1))
                self._meter.said(report.reason)
                return
            except Missing:
                del self._said[name]  # the API server forgets events after an hour
        try:
            await self._create(name, report)
            self._meter.said(report.reason)
        except Conflict:
            pass  # another leader has said it
        self._know(name, Said(report.generation))

    async def _create(self, name: str, report: Report) -> None:
        subject, now = report.subject, datetime.now(UTC)
        event = Event(
            metadata=ObjectMeta(name=name, namespace=report.namespace),
            involvedObject=ObjectReference(
                apiVersion=subject.api_version,
                kind=subject.kind,
                namespace=subject.namespace or None,
                name=subject.name,
                uid=subject.uid,
                resourceVersion=subject.resource_version or None,
            ),
            type=report.type,
            reason=report.reason,
            message=report.message,
            count=1,
            firstTimestamp=now,
            lastTimestamp=now,
            source=EventSource(component=CONTROLLER),
            reportingComponent=CONTROLLER,
            reportingInstance=self._instance[:128],
        )
        await self._api.typed("create", RESOURCE, lambda client: client.create(event))

    async def _raise_count(self, name: str, report: Report, count: int) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        patch = {"count": count, "lastTimestamp": now}
        await self._api.typed(
            "patch", RESOURCE, lambda client: client.patch(Event, name, patch, namespace=report.namespace, patch_type=PatchType.MERGE)
        )

    def _know(self, name: str, said: Said) -> None:
        self._said[name] = said
        self._said.move_to_end(name)
        while len(self._said) > MOST_KNOWN:
            self._said.popitem(last=False)

    def _of_object(self, subject: Subject) -> Bucket:
        bucket = self._buckets.setdefault(subject.uid, Bucket(OBJECT_RATE, OBJECT_BURST))
        self._buckets.move_to_end(subject.uid)
        while len(self._buckets) > MOST_KNOWN:
            self._buckets.popitem(last=False)
        return bucket
