"""The resources that are served, by type and name. Serialised once when they change, shared by all clients.

A resource's version is a hash of its content, so that it survives a restart: a client that reconnects is sent only what differs.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Resource:
    """`body` is the serialised message, `aliases` other keys under which an on-demand client may ask for it."""

    name: str
    version: str
    body: bytes
    aliases: frozenset[str] = frozenset()


@dataclass(slots=True)
class TypeResources:
    """All resources of one type, and `changes`, which grows by one with every change."""

    by_name: dict[str, Resource] = field(default_factory=dict)
    by_alias: dict[str, str] = field(default_factory=dict)
    changes: int = 0

    def find(self, key: str) -> Resource | None:
        return self.by_name.get(key) or self.by_name.get(self.by_alias.get(key, ""))


class Resources:
    """What is served. `wait` returns at the next change; nothing is queued, so a slow client sees only the newest state."""

    def __init__(self, types: Iterable[str]) -> None:
        self.types: Mapping[str, TypeResources] = {url: TypeResources() for url in types}
        self._changed = asyncio.Event()

    def replace(self, type_url: str, messages: Mapping[str, tuple[Message, frozenset[str]]]) -> tuple[int, int]:
        """Make `messages` (name → message, aliases) all there is of a type; how many changed or came, and how many went."""
        current = self.types[type_url]
        fresh = {name: make(name, message, aliases) for name, (message, aliases) in messages.items()}
        changed = sum(1 for name, resource in fresh.items() if current.by_name.get(name) != resource)
        gone = sum(1 for name in current.by_name if name not in fresh)
        if changed or gone:
            current.by_name = fresh
            current.by_alias = {alias: name for name, resource in fresh.items() for alias in resource.aliases}
            current.changes += 1
            event, self._changed = self._changed, asyncio.Event()
            event.set()
        return changed, gone

    def next_change(self) -> asyncio.Event:
        """An event that is set at the next change; take it before looking, so that no change is missed."""
        return self._changed


def make(name: str, message: Message, aliases: frozenset[str] = frozenset()) -> Resource:
    body = message.SerializeToString(deterministic=True)
    return Resource(name, hashlib.blake2b(body, digest_size=12).hexdigest(), body, aliases)
