"""What one client holds of one type, and what to tell it next. No I/O.

At most one response of a type is on its way to a client: the next waits for the acknowledgement, and then carries all that changed
meanwhile. So a slow client costs one set of versions, never a queue. The first request of a type is always answered, even
with nothing: clients wait for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from control.xds.resources import Resource, TypeResources

WILDCARD = "*"
MAX_NAMES = 100_000  # names that one client may subscribe to; more is a fault of the client


@dataclass(frozen=True, slots=True)
class Update:
    """One response. `aliases` maps a resource's name to the keys under which this client asked for it."""

    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]]


class TypeSession:
    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.wildcard = False
        self.names: set[str] = set()
        self.held: dict[str, str] = {}
        self.rejected = ""
        self.acked = 0
        self._asked: set[str] = set()  # names to be answered, whether or not the client holds them
        self._started = False
        self._answered = False
        self._count = 0
        self._awaiting: str | None = None
        self._sent_changes = -1

    def on_request(
        self,
        subscribe: Iterable[str],
        unsubscribe: Iterable[str],
        held: Mapping[str, str],
        nonce: str,
        error: str | None,
    ) -> bool:
        """Take one request in; whether it rejected what we sent. Raises ValueError where the client asks for too much."""
        subscribe, unsubscribe = list(subscribe), set(unsubscribe)
        if not self._started:
            self._started = True
            self.held = dict(held)
            self.wildcard = not subscribe
        rejected = False
        if nonce and nonce == self._awaiting:
            self._awaiting = None
            rejected = error is not None
            self.rejected = error or ""
            if not rejected:
                self.acked = int(nonce)
        for name in subscribe:
            if name == WILDCARD:
                self.wildcard = True
            else:
                self.names.add(name)
                self._asked.add(name)
        if WILDCARD in unsubscribe:
            self.wildcard = False
        for name in unsubscribe:
            self.names.discard(name)
            self._asked.discard(name)
            self.held.pop(name, None)
        if len(self.names) > MAX_NAMES:
            raise ValueError(f"more than {MAX_NAMES} names subscribed")
        return rejected

    @property
    def synced(self) -> bool:
        """Whether the client has acknowledged all that it was sent."""
        return self._answered and self._awaiting is None

    def next_update(self, current: TypeResources) -> Update | None:
        """The response to send now, or None while nothing is to be said or an acknowledgement is awaited."""
        if not self._started or self._awaiting is not None:
            return None
        if self._answered and not self._asked and self._sent_changes == current.changes:
            return None
        wanted: dict[str, Resource] = dict(current.by_name) if self.wildcard else {}
        aliases: dict[str, tuple[str, ...]] = {}
        absent: set[str] = set()
        forced: set[str] = set()
        for key in self.names:
            resource = current.find(key)
            if resource is None:
                if key in self._asked or key in self.held:
                    absent.add(key)
                continue
            wanted[resource.name] = resource
            if key != resource.name:
                aliases[resource.name] = (*aliases.get(resource.name, ()), key)
            if key in self._asked:
                forced.add(resource.name)
        fresh = tuple(item for name, item in wanted.items() if name in forced or self.held.get(name) != item.version)
        removed = tuple(sorted(absent | {name for name in self.held if name not in wanted}))
        self._sent_changes = current.changes
        self._asked.clear()
        if self._answered and not fresh and not removed:
            return None
        self._answered = True
        for item in fresh:
            self.held[item.name] = item.version
        for name in removed:
            self.held.pop(name, None)
        self._count += 1
        self._awaiting = str(self._count)
        return Update(self._awaiting, fresh, removed, aliases)
