"""What is known of the views that proxies look at, and how much of that there may be.

A client says itself which ports its view has, often also where it is, and which names it wants: each of them costs work and memory that
lasts longer than its stream. So there are so many views of one caller and in all, and so many names of one client and in one view. Who
needs room takes that of a view that nobody looks at, or of a name that nobody asks for, the one that is so for the longest time.
Only what is worked out already makes room: what is not has still to be reported, and would be taken for what comes after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from control.auth import Caller
from control.resolve.l7.plans import Ref
from control.resolve.l7.views import View
from control.xds.messages import Exhausted
from control.xds.secrets import Follower, Made
from control.xds.store import Entry, Store
from mesh.model.identity import Identity

MAX_VIEWS = 256
MAX_OF_POD, MAX_OF_OTHERS = 4, 32
"""Views that a caller may have opened. Who speaks for a node, or is on loopback and proves nothing, may be many proxies, a pod is one."""
MAX_NAMES = 10_000
MAX_NAMES_OF_CLIENT = 2_500


@dataclass(slots=True)
class Scope:
    """A store, and how many clients look at it. `made`: the secrets in it; `made_at`: the store's number with which it got them, or the
    first of their token.
    """

    store: Store
    identity: Identity | None
    clients: int = 0
    followers: set[Follower] = field(default_factory=set)
    made: Made | None = None
    made_at: int = 0


@dataclass(slots=True)
class Viewed:
    """What is known of a view. `opener` asked for it first. `wanted`: what gRPC clients asked for by name, and how many of them do;
    `unwanted`: those of them that nobody does, the first to be so first; `prepared`: what of it is worked out. `ready`: the view as a whole
    is. `ending`: since `idle_since` nobody looks at it, and it ends then.
    """

    opener: Caller
    ready: bool
    entries: dict[str, dict[str, Entry | None]] = field(default_factory=dict)
    scopes: dict[Identity | None, Scope] = field(default_factory=dict)
    wanted: dict[Ref, int] = field(default_factory=dict)
    unwanted: dict[Ref, None] = field(default_factory=dict)
    prepared: set[Ref] = field(default_factory=set)
    ending: asyncio.TimerHandle | None = None
    idle_since: float = 0.0

    @property
    def clients(self) -> int:
        return sum(scope.clients for scope in self.scopes.values())

    @property
    def settled(self) -> bool:
        """All that was asked for is worked out."""
        return self.ready and len(self.prepared) == len(self.wanted)

    def want(self, ref: Ref) -> bool:
        """One client more asks for this. Whether it is new."""
        fresh = ref not in self.wanted
        self.unwanted.pop(ref, None)
        self.wanted[ref] = self.wanted.get(ref, 0) + 1
        return fresh

    def let_go(self, ref: Ref) -> None:
        """One client less asks for this. It is kept: it may be wanted again."""
        self.wanted[ref] -= 1
        if not self.wanted[ref]:
            self.unwanted[ref] = None

    def room(self, view: View) -> Ref | None:
        """What to drop for one name more; None where there is room. Exhausted where all are asked for."""
        if len(self.wanted) < MAX_NAMES:
            return None
        for ref in self.unwanted:
            if ref in self.prepared:
                return ref
        raise Exhausted("names", f"more than {MAX_NAMES} names asked for by clients of {view}")

    def drop(self, ref: Ref) -> None:
        """Forget a name. What there is of it goes when the mesh says so."""
        del self.unwanted[ref], self.wanted[ref]
        self.prepared.discard(ref)
        for scope in self.scopes.values():
            scope.store.prepared.discard((ref.type_url, ref.name))


class Names:
    """What one client of a view asks for, by type."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._names: dict[str, set[str]] = {}
        self._count = 0

    def now(self, type_url: str, names: Set[str]) -> tuple[list[Ref], list[Ref]]:
        """(those that are new, those that are not wanted any more), when these are wanted of a type. Exhausted for too many."""
        known = self._names.setdefault(type_url, set())
        new, gone = names - known, known - names
        if self._count + len(new) - len(gone) > MAX_NAMES_OF_CLIENT:
            raise Exhausted("names", f"more than {MAX_NAMES_OF_CLIENT} names asked for by one client")
        return [self._ref(type_url, name) for name in new], [self._ref(type_url, name) for name in gone]

    def add(self, ref: Ref) -> None:
        self._names[ref.type_url].add(ref.name)
        self._count += 1

    def discard(self, ref: Ref) -> None:
        self._names[ref.type_url].discard(ref.name)
        self._count -= 1

    def all(self) -> list[Ref]:
        return [self._ref(type_url, name) for type_url, names in self._names.items() for name in names]

    def _ref(self, type_url: str, name: str) -> Ref:
        return Ref(self._view, type_url, name)


def to_end(views: dict[View, Viewed], caller: Caller) -> View | None:
    """Which view to end for a new one of this caller; None where there is room. Exhausted where none may be ended."""
    own = [view for view, viewed in views.items() if viewed.opener == caller]
    most = MAX_OF_POD if caller.pod else MAX_OF_OTHERS
    if len(own) >= most:
        return _idle(views, own, Exhausted("caller_views", f"more than {most} views of {caller}"))
    if len(views) >= MAX_VIEWS:
        return _idle(views, views, Exhausted("views", f"more than {MAX_VIEWS} views"))
    return None


def _idle(views: dict[View, Viewed], among: Iterable[View], otherwise: Exhausted) -> View:
    found = [view for view in among if views[view].ending is not None and views[view].settled]
    if not found:
        raise otherwise
    return min(found, key=lambda view: views[view].idle_since)
