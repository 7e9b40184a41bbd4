"""What a client says and is told, and what is remembered of one type on its stream: the vocabulary of `stream`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from control.xds.store import Bundle, Entry

WILDCARD = "*"
MAX_KEYS = 100_000
MAX_NOTED = 500_000
MAX_ERROR_TEXT = 4096
MAX_PASSED = 100
"""Responses of one type that may be out beside the last: then only the client's answer helps."""
PATIENCE = 1.0
"""Seconds for which a type may still be asked for: by a tunnel at the beginning of its stream (Istio's asks for workloads first), by
Envoy for what a new cluster or listener makes it ask for."""
WARMING = 300.0
"""Seconds more that a client has to answer to what it warms. Envoy asks a name server that does not answer for two minutes."""


class Refusal(Exception):  # noqa: N818 - a word of the protocol, not an accident
    """The client broke the protocol; the stream ends with this text."""


class Exhausted(Refusal):
    """There is no more of something; it may come again. `bound` is which bound, as metrics call it."""

    def __init__(self, bound: str, text: str) -> None:
        super().__init__(text)
        self.bound = bound


@dataclass(frozen=True, slots=True)
class Rules:
    """How one kind of client is served. `types`: those that there are, each before those whose resources may name its own.

    `delta`: the incremental variant. `whole`: types of which, in the other variant, every response holds all resources. `patient`: a
    client will ask for all types. `pulled`: types that a client asks for by the names that it was sent, and may want before it answers to
    those. `waits`: the seconds for which a type waits for the answer to one before it. `warms`: types that are answered to when what they
    say is ready for use; where that takes longer than `waits`, what changes meanwhile is sent too.
    """

    types: tuple[str, ...]
    delta: bool = True
    whole: frozenset[str] = frozenset()
    patient: bool = False
    pulled: frozenset[str] = frozenset()
    waits: float = math.inf
    warms: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Request:
    """`subscribe` of a state-of-the-world request are all names that are wanted from now on."""

    type_url: str
    nonce: str = ""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """`aliases` by resource: the further keys that the client asked by. `removed` is empty in the state-of-the-world variant."""

    type_url: str
    nonce: str
    version: str
    bundle: Bundle
    removed: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Noted:
    """A changed name that the client has yet to be told of: since which number, and the last one at which it changed. `had`: what the
    client has of it, None for nothing.
    """

    first: int
    last: int
    had: Entry | None


@dataclass(slots=True)
class TypeState:
    """One type on one stream.

    `asked`: the store's number at the first request. `named`: names were asked for, once at least. `unanswered`: names that were asked for,
    with the number at which they were.
    `held`: where single names are asked for, those that the client has, with their versions; `along`: those with which others are sent.
    `since`: when the outstanding response was sent, or the first of those that are; `sent`: the last of them, `passed` the nonces of the
    others. `sending`: what is in them, `fresh` the names in them that the client had nothing of. `answered`: all changes
    up to this number were sent and answered, with ACK or NACK, but for those that are kept back since something may rely on them;
    `acked`: with ACK; `covers`: what `answered` becomes with the answer to the outstanding response.
    """

    asked: int
    wildcard: bool = False
    named: bool = False
    keys: set[str] = field(default_factory=set)
    unanswered: dict[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    first: bool = True
    noted: dict[str, Noted] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    along: set[str] = field(default_factory=set)
    outstanding: str = ""
    sending: Sequence[Entry] = ()
    fresh: frozenset[str] = frozenset()
    since: float = 0.0
    sent: float = 0.0
    passed: tuple[str, ...] = ()
    covers: int = 0
    answered: int = 0
    acked: int = 0
    nacks: int = 0
    error: str = ""
