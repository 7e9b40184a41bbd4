"""One blocking query, asked for as long as the source runs: by the rules of `cursor`, at a bounded rate, later and later after failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from control.pacing import Backoff, Bucket
from control.sources.consul.client import Answer, Client
from control.sources.consul.cursor import Cursor, News
from control.sources.consul.errors import ConsulError, NoLeader
from control.sources.consul.health import Health
from control.sources.consul.meter import Meter
from control.sources.consul.tuning import Tuning
from mesh.io.log import Log

log = Log("consul")

Apply = Callable[[News], None]
T = TypeVar("T")
OFFLOAD = 512 << 10
"""Bytes: some milliseconds of decoding."""
LEADERLESS = "its servers have no leader: what they say may be old"


async def decoded(read: Callable[[], T], size: int) -> T:
    """What `read` makes of an answer of so many bytes: on a thread if it is large."""
    return read() if size <= OFFLOAD else await asyncio.to_thread(read)


@dataclass(frozen=True, slots=True)
class Question:
    """`read` understands an answer, or raises ConsulError; what it gives is called with what the answer is by its index."""

    name: str
    path: str
    query: Mapping[str, str]
    read: Callable[[Answer], Apply]


@dataclass(frozen=True, slots=True)
class Deps:
    """What watches share. `looked` is called after each answer and each failure, with whether something may be different."""

    client: Client
    tuning: Tuning
    meter: Meter
    wall: Callable[[], float]
    looked: Callable[[bool], None]


@dataclass(slots=True)
class Watch:
    question: Question
    deps: Deps
    health: Health
    cursor: Cursor = field(default_factory=Cursor)

    async def run(self) -> None:
        """Until cancelled."""
        question, deps, tuning = self.question, self.deps, self.deps.tuning
        backoff = Backoff(tuning.first_wait, tuning.most_wait)
        bucket = Bucket(tuning.watch_rate, tuning.watch_burst)
        while True:
            try:
                answer = await deps.client.get(question.path, question.query, index=self.cursor.index, most=tuning.list_bytes)
                apply = await decoded(partial(question.read, answer), len(answer.body))
            except ConsulError as error:
                self.cursor.restart()
                self.health.failed(error)
                deps.meter.failed(question.name, error.word)
                log.debug("a question was not answered", question=question.name, error=str(error))
                deps.looked(False)
                await asyncio.sleep(backoff.wait(error.after))
                continue
            news = self.cursor.take(answer.index)
            backoff.succeeded()
            self.health.succeeded(deps.wall())
            if not answer.leader:
                self.health.failed(NoLeader(LEADERLESS), at_once=True)
            deps.meter.answered(question.name)
            apply(news)
            deps.looked(news is not News.NOTHING)
            if wait := bucket.take(time.monotonic()):
                await asyncio.sleep(wait)
