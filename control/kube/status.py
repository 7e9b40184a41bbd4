"""Writes statuses: what is wanted of each object, against what the API server has, by the leader alone.

    writer = StatusWriter(api, source, elector)
    source.watch_live(writer.look)              # somebody changed the object: is its status still as it should be?
    writer.want(key, Wanted(…))                 # what resolution says of it, as often as one likes

A status is written when it differs, by a merge patch of its `status` subresource that names the version that it was made for: who was
faster wins, and it is made anew for what they wrote. What the API server has is known from the watch, so nothing is read, and a new
leader writes only what is not there yet. What waits is one entry per object, the newest; RATE bounds what leaves, QUIET how often for one.
Where somebody else undoes what is written, it is written ever more rarely (`Pace`): neither of us would ever stop.

Server-side apply is not used: some of these lists are atomic in their schemas (routes' parents), and applying one takes it whole from its
other writers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from control.kube.client import FIELD_MANAGER, MERGE_PATCH, Api
from control.kube.conditions import Wanted, changes
from control.kube.errors import Busy, Conflict, Forbidden, Invalid, KubeError, Missing
from control.pacing import Backoff, Bucket
from mesh.io.log import Log
from mesh.model.manifest import Key

log = Log("status")

RATE, BURST = 20.0, 50
QUIET = 1.0
"""Seconds between two writes to one object."""
MOST_QUIET = 300.0
"""The same where somebody undoes every one of them."""
RIVAL = 5
"""Writes undone in a row after which that is said."""
AGAIN = 1.0
"""Seconds to wait for the watch to bring what made a write a conflict."""
GONE = 10.0
"""Seconds in which the watch should have brought that an object is gone."""
REFUSED_AGAIN = 300.0
"""Seconds after which a write that was not acceptable or not allowed is tried again, if nothing changed meanwhile."""
PATIENCE = 5.0
"""Seconds for one write. Less than the leader's lease outlives its term (`lease.Timing`)."""


class Held(Protocol):
    """What the API server has of an object, as last seen."""

    @property
    def resource_version(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def uid(self) -> str: ...
    @property
    def status(self) -> Mapping[str, Any]: ...


class Address(Protocol):
    @property
    def resource(self) -> str: ...
    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str: ...


class View(Protocol):
    """The Kubernetes source."""

    def kind(self, type_: str) -> Address | None: ...
    def live(self, key: Key) -> Held | None: ...


class Leadership(Protocol):
    @property
    def leading(self) -> bool: ...


class StatusMeter(Protocol):
    def wrote(self, kind: str) -> None: ...
    def failed(self, kind: str, reason: str) -> None: ...
    def waiting(self, objects: int) -> None: ...


class NoStatusMeter:
    def wrote(self, kind: str) -> None: ...
    def failed(self, kind: str, reason: str) -> None: ...
    def waiting(self, objects: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Written:
    """What the API server has of an object after our last write, and what was wanted then."""

    resource_version: str
    generation: int
    uid: str
    status: Mapping[str, Any]
    wanted: Wanted


@dataclass(slots=True)
class Pace:
    """How one object is written to. `undone`: how many writes in a row somebody else has undone; `missing`: the last one met no object."""

    wrote: float = float("-inf")
    undone: int = 0
    missing: bool = False

    @property
    def until(self) -> float:
        """Before this, nothing is written."""
        return self.wrote + min(MOST_QUIET, QUIET * 2.0 ** min(self.undone, 30))

    def begin(self, now: float) -> None:
        if now > self.until + MOST_QUIET:
            self.undone = 0  # who undoes one once in a while is no rival
        self.wrote = now


class _Metadata(msgspec.Struct):
    version: str = msgspec.field(name="resourceVersion", default="")
    generation: int = 0
    uid: str = ""


class _Answer(msgspec.Struct):
    metadata: _Metadata
    status: dict[str, Any] = {}


_answer = msgspec.json.Decoder(_Answer)


class StatusWriter:
    """`now` is monotonic, `wall` gives Unix seconds."""

    def __init__(
        self,
        api: Api,
        view: View,
        leadership: Leadership,
        meter: StatusMeter | None = None,
        *,
        bucket: Bucket | None = None,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._view = view
        self._leadership = leadership
        self._meter = meter or NoStatusMeter()
        self._bucket = bucket or Bucket(RATE, BURST)
        self._now = now
        self._wall = wall
        self._wanted: dict[Key, Wanted] = {}
        self._due: dict[Key, float] = {}  # since when, or from when on, the object is to be looked at
        self._paces: dict[Key, Pace] = {}
        self._written: dict[Key, Written] = {}
        self._backoff = Backoff()
        self._wake = asyncio.Event()

    def want(self, key: Key, wanted: Wanted | None) -> None:
        """From now on. None: nothing is wanted of it any more, as when it is gone; what its status says stays."""
        if wanted is None:
            for known in (self._wanted, self._due, self._paces, self._written):
                known.pop(key, None)
        elif self._wanted.get(key) != wanted:
            self._wanted[key] = wanted
            if (pace := self._paces.get(key)) is not None:
                pace.undone = 0
            self.look(key)

    def want_all(self, wanted: Mapping[Key, Wanted]) -> None:
        """As `want`, of everything there is."""
        for key in self._wanted.keys() - wanted.keys():
            self.want(key, None)
        for key, value in wanted.items():
            self.want(key, value)

    def look(self, key: Key) -> None:
        """The object, or what is wanted of it, is another one now."""
        if key in self._wanted:
            pace = self._paces.get(key)
            self._due[key] = min(self._due.get(key, float("inf")), pace.until if pace is not None else 0.0)
            self._wake.set()

    def lead(self, leading: bool) -> None:
        """Called when we begin or cease to lead."""
        if leading:
            for key in self._wanted:
                self.look(key)
        else:
            self._due.clear()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            now = self._now()
            key = next((key for key, due in self._due.items() if due <= now), None) if self._leadership.leading else None
            self._meter.waiting(len(self._due))
            if key is None:
                await self._sleep(min(self._due.values(), default=now + 60.0) - now if self._leadership.leading else 1.0)
                continue
            plan = self._plan(key)
            if plan is None:
                del self._due[key]
            elif (wait := self._bucket.take(now)) > 0:
                await asyncio.sleep(wait)
            else:
                await asyncio.sleep(await self._write(key, *plan))

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _plan(self, key: Key) -> tuple[Address, Held, Wanted, dict[str, Any]] | None:
        """What to write, and in the place of what. None: nothing, now."""
        address, held = self._view.kind(key.kind), self._view.live(key)
        wanted = self._wanted.get(key)
        if address is None or held is None or wanted is None or not held.resource_version:
            return None
        written = self._written.get(key)
        if written is not None and written.uid == held.uid:
            if _number(written.resource_version) > _number(held.resource_version):
                held = written  # the watch has not brought it yet
            if held.status == written.status and wanted == written.wanted:
                return None  # as written. Where it is not as wanted, a schema leaves something out, and would again
        if held.generation > wanted.generation:
            return None  # what is wanted of the new one is not known yet
        found = changes(held.status, wanted, datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        return (address, held, wanted, found) if found else None

    async def _write(self, key: Key, address: Address, held: Held, wanted: Wanted, status: dict[str, Any]) -> float:
        """One patch; the seconds to wait before anything else is written."""
        resource = f"{address.resource}/status"
        body = msgspec.json.encode({"metadata": {"resourceVersion": held.resource_version, "uid": held.uid}, "status": status})
        written = self._written.get(key)
        undone = written is not None and written.uid == held.uid and written.wanted == wanted
        self._due.pop(key, None)
        pace = self._paces.setdefault(key, Pace())
        pace.begin(self._now())
        try:
            answer = await self._api.call(
                "patch",
                resource,
                address.path(key.namespace, key.name, "status"),
                query={"fieldManager": FIELD_MANAGER},
                body=body,
                headers={"Content-Type": MERGE_PATCH},
                patience=PATIENCE,
            )
            made = _answer.decode(answer.body)
        except Missing as error:
            if not pace.missing:
                pace.missing = True
                self._retry(key, GONE)  # it is gone, and the watch will say so
                return 0.0
            self._meter.failed(key.kind, "missing")
            log.error("a status cannot be written; does its definition lack the status subresource?", object=str(key), error=str(error))
            self._retry(key, REFUSED_AGAIN)
            return 0.0
        except Conflict:
            self._retry(key, AGAIN)
            return 0.0
        except (Forbidden, Invalid) as error:
            self._meter.failed(key.kind, type(error).__name__.lower())
            log.error("a status cannot be written", object=str(key), error=str(error))
            self._retry(key, REFUSED_AGAIN)
            return 0.0
        except (KubeError, msgspec.MsgspecError) as error:
            self._meter.failed(key.kind, type(error).__name__.lower())
            self._retry(key, 0.0)
            return self._backoff.wait(error.after if isinstance(error, Busy) else 0.0)
        self._backoff.succeeded()
        pace.missing = False
        if undone:
            pace.undone += 1
            self._meter.failed(key.kind, "undone")
            if pace.undone == RIVAL:
                log.warning("somebody else undoes a status whenever it is written: it is written ever more rarely", object=str(key))
        self._written[key] = Written(made.metadata.version, made.metadata.generation, made.metadata.uid, made.status, wanted)
        self._meter.wrote(key.kind)
        return 0.0

    def _retry(self, key: Key, after: float) -> None:
        """Again after that, or as soon as something changes."""
        if key in self._wanted:
            self._due[key] = min(self._due.get(key, float("inf")), self._now() + after)


def _number(version: str) -> int:
    return int(version) if version.isascii() and version.isdigit() else 0
