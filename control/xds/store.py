"""What one kind of client is served: resources by type and name, each in its wire form. Shared by all clients of the kind.

A resource is serialised once, when it changes. What many clients are sent at the same time is put together once as well (`Bundle`):
messages of protocol buffers may be concatenated, so a response is its few fields of its own, followed by bytes that all of them share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Name = tuple[str, str]
"""Type URL and name of a resource."""


class Entry:
    """One resource. Never changed once it is in a store.

    `any` is the message packed in `google.protobuf.Any`, as the field that both kinds of response hold it in.
    `keys` are further words by which it may be asked for; `groups` are names of resources with which it is sent along to who asks for
    those. `needs` names what a client should have before it gets this. `follows` names what a client will ask for when it gets this.
    `named`: it counts only where another resource names it.
    """

    __slots__ = ("any", "follows", "groups", "keys", "name", "named", "needs", "version")

    def __init__(
        self,
        name: str,
        type_url: str,
        body: bytes,
        *,
        keys: tuple[str, ...] = (),
        groups: tuple[str, ...] = (),
        needs: tuple[Name, ...] = (),
        follows: tuple[Name, ...] = (),
        named: bool = False,
    ) -> None:
        self.name = name
        self.version = hashlib.sha256(body).hexdigest()[:16]
        self.any = _field(RESOURCES, _text(ANY_TYPE_URL, type_url) + _field(ANY_VALUE, body))
        self.keys = keys
        self.groups = groups
        self.needs = needs
        self.follows = follows
        self.named = named

    def delta(self, aliases: Iterable[str] = ()) -> bytes:
        """The element of a DeltaDiscoveryResponse: envoy.service.discovery.v3.Resource, whose field 2 is the Any, as in `any`."""
        head = _text(RESOURCE_VERSION, self.version) + _text(RESOURCE_NAME, self.name)
        tail = b"".join([_text(RESOURCE_ALIASES, alias) for alias in aliases])
        return b"".join((_TAGS[RESOURCES], _varint(len(head) + len(self.any) + len(tail)), head, self.any, tail))


class Change(NamedTuple):
    """What became of a name. None: there is no such resource."""

    name: str
    before: Entry | None
    now: Entry | None


@dataclass(slots=True)
class Bundle:
    """Entries that go out together, with their bytes for each kind of response, made when they are first needed."""

    entries: Sequence[Entry]
    _delta: bytes | None = None
    _whole: bytes | None = None

    def delta(self) -> bytes:
        if self._delta is None:
            self._delta = b"".join([entry.delta() for entry in self.entries])
        return self._delta

    def state_of_the_world(self) -> bytes:
        if self._whole is None:
            self._whole = b"".join([entry.any for entry in self.entries])
        return self._whole


EMPTY_BUNDLE = Bundle(())
MAX_BUNDLES = 64


class TypeStore:
    """The resources of one type."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._keys: dict[str, str | dict[str, None]] = {}  # most have one name
        self._members: dict[str, str | dict[str, None]] = {}
        self._bundles: dict[tuple[str, ...], Bundle] = {}
        self._everything: Bundle | None = None

    def apply(self, changes: Mapping[str, Entry | None]) -> list[Change]:
        """Take changes over; those that are none are left out of the answer."""
        found = []
        for name, now in changes.items():
            before = self.entries.get(name)
            if before is now or (before is not None and now is not None and before.version == now.version):
                continue
            if before is not None:
                self._unlist(before)
            if now is None:
                del self.entries[name]
            else:
                self.entries[name] = now
                self._list(now)
            found.append(Change(name, before, now))
        if found:
            self._bundles.clear()
            self._everything = None
        return found

    def direct(self, key: str) -> list[Entry]:
        """The resources with this name or key."""
        names = dict.fromkeys(_names(self._keys.get(key)))
        if key in self.entries:
            names[key] = None
        return [self.entries[name] for name in names]

    def find(self, key: str) -> list[Entry]:
        """What answers a request for `key`: what has this name or key, and what is sent along; empty where nothing does."""
        names = {entry.name: None for entry in self.direct(key)}
        for name in tuple(names):
            names.update(dict.fromkeys(_names(self._members.get(name))))
        return [self.entries[name] for name in names]

    def bundle(self, names: Iterable[str]) -> Bundle:
        """These resources, all of which are there. Clients that are sent the same share it."""
        key = tuple(names)
        if not key:
            return EMPTY_BUNDLE
        found = self._bundles.get(key)
        if found is None:
            if len(self._bundles) >= MAX_BUNDLES:
                self._bundles.clear()
            found = self._bundles[key] = Bundle([self.entries[name] for name in key])
        return found

    def everything(self) -> Bundle:
        if self._everything is None:
            self._everything = Bundle(list(self.entries.values()))
        return self._everything

    def _list(self, entry: Entry) -> None:
        for index, words in ((self._keys, entry.keys), (self._members, entry.groups)):
            for word in words:
                found = index.get(word)
                if found is None:
                    index[word] = entry.name
                elif isinstance(found, str):
                    index[word] = {found: None, entry.name: None}
                else:
                    found[entry.name] = None

    def _unlist(self, entry: Entry) -> None:
        for index, words in ((self._keys, entry.keys), (self._members, entry.groups)):
            for word in words:
                found = index[word]
                if isinstance(found, dict) and len(found) > 1:
                    del found[entry.name]
                else:
                    del index[word]


def _names(found: str | dict[str, None] | None) -> Iterable[str]:
    return () if found is None else (found,) if isinstance(found, str) else found


class Store:
    """Resources of several types. `number` counts the changes from 1; 0 is before the first, when nothing is known.

    `lazy`: types whose resources are worked out when somebody asks for them by name; `prepared` are those for which that is done.
    """

    def __init__(self, types: Iterable[str], lazy: Iterable[str] = ()) -> None:
        self.number = 0
        self.lazy = frozenset(lazy)
        self.prepared: set[Name] = set()
        self.types = {type_url: TypeStore() for type_url in types}

    def apply(self, changes: Mapping[str, Mapping[str, Entry | None]]) -> dict[str, list[Change]]:
        """Take changes over, by type. The number goes up if there are any, and the first time in any case."""
        found = {type_url: self.types[type_url].apply(entries) for type_url, entries in changes.items()}
        found = {type_url: changed for type_url, changed in found.items() if changed}
        if found or not self.number:
            self.number += 1
        return found

    def knows(self, type_url: str, key: str) -> bool:
        """Whether what there is of `key` has been worked out; false while a client that asked first has to wait for it."""
        return type_url not in self.lazy or (type_url, key) in self.prepared


# Protocol buffers, as far as it takes to frame what is serialised already (protobuf.dev/programming-guides/encoding).

RESOURCES = 2  # of DiscoveryResponse, of DeltaDiscoveryResponse; and `resource` of Resource
ANY_TYPE_URL, ANY_VALUE = 1, 2
RESOURCE_VERSION, RESOURCE_NAME, RESOURCE_ALIASES = 1, 3, 4
LENGTH_DELIMITED = 2
_TAGS = [bytes((number << 3 | LENGTH_DELIMITED,)) for number in range(16)]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, value: bytes) -> bytes:
    return b"".join((_TAGS[number], _varint(len(value)), value))


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())
