"""Connected clients, and how they come to know of changes.

    publish(store, changes)     every client of the store has it in `pending`, at once
    catch_up                    a client's stream takes note of what is pending: before anybody looks at the stream, or when its turn comes

Thousands of changes for hundreds of clients are millions of notes, a second of work. So clients take their turns, SLICE seconds of notes
at a time, and are woken one by one to write what they are to be told; between two slices others have the loop. Nobody sees half of a
change, since a stream is never looked at before it has caught up, and no two changes in another order than they were published.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Gauge

from control.auth import Caller
from control.xds.messages import Refusal, Rules
from control.xds.store import Change, Store
from control.xds.stream import Stream
from mesh.model.l7.endpoints import NOWHERE
from mesh.model.workload import Locality

AT_ONCE = 5000
"""Notes, which are a few milliseconds, that need no turns."""
SLICE = 0.005
MAX_PENDING = 16
"""Publications that a client may not have noted. Who publishes that fast has this client's notes taken at once."""

ANONYMOUS = Caller()
"""Who comes over plaintext, which is loopback's, without a token. Nothing is proved of it: it may see configuration, and no secrets."""

Changed = Mapping[str, Sequence[Change]]


@dataclass(frozen=True, slots=True)
class Hello:
    """What a stream's first request says. `caller` is proved, the rest is what the client says of itself."""

    caller: Caller
    id: str
    metadata: Mapping[str, Any]
    user_agent: str
    type_url: str
    delta: bool
    locality: Locality = NOWHERE


@dataclass(frozen=True, slots=True)
class View:
    """What a client is served from. `want` is told all names of a type that it asks for now; `accepted`, up to which number of the store it
    has accepted all of a type, and the names of what it has; `close`, that it is gone. `permitted` is asked before changes are sent. It and
    `want` may raise Refusal.
    """

    store: Store
    rules: Rules
    kind: str
    want: Callable[[str, Set[str]], None] = lambda type_url, names: None
    accepted: Callable[[str, int, Collection[str]], None] = lambda type_url, number, names: None
    permitted: Callable[[Changed], None] = lambda changes: None
    close: Callable[[], None] = lambda: None


Opens = Callable[[Hello], Awaitable[View]]
"""Finds the view for a client, or raises Refusal."""


@dataclass(slots=True)
class Client:
    """One connected client, as /debug/sync shows it. `caller` is proved by its token; `id` is what it says of itself. `pending`: what its
    store became, by number, and its stream has not noted.
    """

    number: int
    caller: Caller
    peer: str
    since: float
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    id: str = ""
    view: View | None = None
    stream: Stream | None = None
    pending: deque[tuple[int, Changed]] = field(default_factory=deque)
    broken: Refusal | None = None
    sent: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By type, the size of what was sent last and when."""

    def catch_up(self) -> None:
        """To be called before the stream is looked at. What is refused ends the client: see `broken`."""
        while self.pending:
            number, changes = self.pending.popleft()
            assert self.view is not None
            assert self.stream is not None
            try:
                self.view.permitted(changes)
                self.stream.note(changes, number)
            except Refusal as refusal:
                self.broken = refusal


class Clients(dict[int, Client]):
    """By number. `behind` shows how many are yet to note what was published."""

    def __init__(self, behind: Gauge) -> None:
        super().__init__()
        self._shown = behind
        self._behind: dict[int, None] = {}
        self._turns: asyncio.Task[None] | None = None

    def publish(self, store: Store, changes: Changed) -> None:
        """`store` has changed like this; {} for what was only prepared."""
        served = [
            client for client in self.values() if client.stream is not None and client.view is not None and client.view.store is store
        ]
        for client in served:
            if len(client.pending) >= MAX_PENDING:
                client.catch_up()
            client.pending.append((store.number, changes))
        if not self._behind and len(served) * sum(map(len, changes.values())) <= AT_ONCE:
            for client in served:
                client.catch_up()
                client.wake.set()
            return
        self._behind.update(dict.fromkeys(client.number for client in served))
        if self._turns is None or self._turns.done():
            self._turns = asyncio.get_running_loop().create_task(self._take_turns())

    async def told(self) -> None:
        """When all have noted what was published: who publishes more before that has it wait with them."""
        if self._turns is not None:
            await asyncio.shield(self._turns)

    async def _take_turns(self) -> None:
        end = time.monotonic() + SLICE
        while self._behind:
            number = next(iter(self._behind))
            del self._behind[number]
            client = self.get(number)
            if client is not None:
                client.catch_up()
                client.wake.set()
            self._shown.set(len(self._behind))
            if time.monotonic() >= end:
                await asyncio.sleep(0)
                end = time.monotonic() + SLICE
