"""What proxies are served: waypoints, Envoys beside clients, and gRPC clients without a proxy.

Proxies that see the same have one view, whose resources are worked out once; those of one view that also have the same identity share a
store, in which the secrets of that identity are. A view is worked out as long as somebody looks at it, and LINGER seconds more, if nobody
needs the room.

`who` says which proxy sees what, `views` what is known of a view, and `secrets` what its identity is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import replace

from prometheus_client import CollectorRegistry

from control.meters import ViewMeter
from control.resolve import Changes, Mesh
from control.resolve.l7.plans import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE, Ref, Resource
from control.resolve.l7.views import View
from control.xds.clients import Hello
from control.xds.clients import View as Served
from control.xds.messages import PATIENCE, Refusal, Rules
from control.xds.secrets import SECRETS, Follower, Secrets
from control.xds.store import Change, Entry, Store
from control.xds.views import Names, Scope, Viewed, to_end
from control.xds.who import who
from mesh.io.log import Log
from mesh.model.l7.profile import Kind

log = Log("xds")

# Each before those whose resources may name its own.
PROXY_TYPES = (SECRET_TYPE, CLUSTER_TYPE, ENDPOINT_TYPE, ROUTE_TYPE, LISTENER_TYPE)
DELTA_RULES = Rules(
    PROXY_TYPES, pulled=frozenset({SECRET_TYPE, ENDPOINT_TYPE, ROUTE_TYPE}), waits=PATIENCE, warms=frozenset({CLUSTER_TYPE})
)
WHOLE_RULES = replace(DELTA_RULES, delta=False, whole=frozenset({CLUSTER_TYPE, LISTENER_TYPE}))
LINGER = 30.0

Publish = Callable[[Store, Mapping[str, list[Change]]], None]


class Proxies:
    """The views that somebody looks at. `poke` has the mesh worked on soon."""

    def __init__(
        self, mesh: Mesh, poke: Callable[[], None], publish: Publish, secrets: Secrets | None = None, meter: ViewMeter | None = None
    ) -> None:
        self.views: dict[View, Viewed] = {}
        self._mesh = mesh
        self._poke = poke
        self._publish = publish
        self._secrets = secrets
        self._meter = meter or ViewMeter(CollectorRegistry())

    # Clients come and go.

    async def open(self, hello: Hello) -> Served:
        """Refusal for who claims to be what it is not proved to be, Exhausted where there is no room."""
        proxy = who(self._mesh, hello)
        view, identity = proxy.view, proxy.identity
        viewed = self.views.get(view)
        if viewed is None:
            if (victim := to_end(self.views, hello.caller)) is not None:
                self._end(victim, "room")
            viewed = self.views[view] = Viewed(hello.caller, ready=view.kind is Kind.GRPC)
            self._meter.views(len(self.views))
            if view.kind is not Kind.GRPC:
                self._mesh.pin(view)
                self._poke()
        if viewed.ending is not None:
            viewed.ending.cancel()
            viewed.ending = None
        scope = viewed.scopes.get(identity)
        if scope is None:
            lazy = PROXY_TYPES if view.kind is Kind.GRPC else ()
            scope = viewed.scopes[identity] = Scope(Store(PROXY_TYPES, lazy), identity)
            scope.store.prepared.update((ref.type_url, ref.name) for ref in viewed.prepared)
            if viewed.ready:
                self._fill(viewed, scope)
        scope.clients += 1
        names = Names(view)
        follower: Follower | None = None

        def want(type_url: str, asked: Set[str]) -> None:
            nonlocal follower
            if view.kind is Kind.GRPC:
                self._want(view, viewed, names, type_url, asked)
            elif type_url == SECRET_TYPE and identity is None and hello.caller.node:
                raise Refusal("no secrets: this caller may speak for no pod that its node id names; the pod may not be known yet")
            elif type_url == SECRET_TYPE and follower is None and identity is not None and self._secrets is not None:
                follower = self._secrets.follow(proxy.holder, f"{hello.id} as {identity}")
                scope.followers.add(follower)
                if scope.made is not None:
                    follower.given(scope.made)

        def accepted(type_url: str, number: int, names: Collection[str]) -> None:
            if type_url != SECRET_TYPE or follower is None or scope.made is None:
                return
            if number >= scope.made_at and SECRETS.issubset(names):
                follower.accepted(scope.made)

        def permitted(changes: Mapping[str, Sequence[Change]]) -> None:
            if SECRET_TYPE in changes and who(self._mesh, hello).identity != identity:
                raise Refusal(f"{identity} is not this caller's any more")

        def close() -> None:
            if follower is not None:
                scope.followers.discard(follower)
                follower.close()
            scope.clients -= 1
            for ref in names.all():
                viewed.let_go(ref)
            if not viewed.clients:
                viewed.idle_since = asyncio.get_running_loop().time()
                self._linger(view, viewed)

        return Served(scope.store, DELTA_RULES if hello.delta else WHOLE_RULES, str(view), want, accepted, permitted, close)

    def _want(self, view: View, viewed: Viewed, names: Names, type_url: str, asked: Set[str]) -> None:
        """Note what one client asks for now of a type."""
        new, gone = names.now(type_url, asked)
        for ref in gone:
            names.discard(ref)
            viewed.let_go(ref)
        for ref in new:
            if ref not in viewed.wanted and (dropped := viewed.room(view)) is not None:
                viewed.drop(dropped)
                self._mesh.unpin(dropped)
                self._meter.dropped()
            names.add(ref)
            if viewed.want(ref):
                self._mesh.pin(ref)
                self._poke()

    def _linger(self, view: View, viewed: Viewed) -> None:
        viewed.ending = asyncio.get_running_loop().call_later(LINGER, self._end_idle, view, viewed)

    def _end_idle(self, view: View, viewed: Viewed) -> None:
        """Nobody has looked at a view for a while."""
        if viewed.settled:
            self._end(view, "idle")
        else:
            self._linger(view, viewed)

    def _end(self, view: View, why: str) -> None:
        viewed = self.views.pop(view)
        if viewed.ending is not None:
            viewed.ending.cancel()
        self._meter.ended(why)
        self._meter.views(len(self.views))
        left = {identity for other in self.views.values() for identity in other.scopes}
        for identity in viewed.scopes.keys() - left:
            if identity is not None and self._secrets is not None:
                self._secrets.forget(identity)
        for ref in viewed.wanted:
            self._mesh.unpin(ref)
        if view.kind is not Kind.GRPC:
            self._mesh.unpin(view)
        self._poke()

    # The mesh changes.

    def apply(self, changes: Changes, entries: Mapping[Ref, Entry | None]) -> None:
        """`entries` are the changed resources in their wire form."""
        by_view: dict[View, dict[str, dict[str, Entry | None]]] = {}
        for ref, entry in entries.items():
            by_view.setdefault(ref.view, {}).setdefault(ref.type_url, {})[ref.name] = entry
        done: dict[View, list[Ref]] = {}
        for wanted in changes.pinned:
            if isinstance(wanted, Ref):
                done.setdefault(wanted.view, []).append(wanted)
            else:
                done.setdefault(wanted, [])
        for view in by_view.keys() | done.keys():
            viewed = self.views.get(view)
            if viewed is None:
                continue
            found = by_view.get(view, {})
            for type_url, named in found.items():
                _apply(viewed.entries.setdefault(type_url, {}), named)
            refs = done.get(view, [])
            viewed.prepared.update(refs)
            fresh = not viewed.ready
            viewed.ready = viewed.ready or view in done
            if not viewed.ready:
                continue  # what is gone with an earlier view of this name
            for scope in viewed.scopes.values():
                scope.store.prepared.update((ref.type_url, ref.name) for ref in refs)
                if fresh:
                    self._fill(viewed, scope)
                else:
                    self._publish(scope.store, scope.store.apply(found))

    def renew_secrets(self) -> None:
        """Secrets may be others now: roots have changed, or a certificate has come of age."""
        for viewed in self.views.values():
            for scope in viewed.scopes.values():
                if viewed.ready:
                    self._give(scope, {})

    def _fill(self, viewed: Viewed, scope: Scope) -> None:
        self._give(scope, {type_url: dict(entries) for type_url, entries in viewed.entries.items()})

    def _give(self, scope: Scope, changes: Mapping[str, Mapping[str, Entry | None]]) -> None:
        """These changes, and the secrets as they are to be now, to a scope."""
        made = self._secrets.current(scope.identity) if self._secrets is not None and scope.identity is not None else None
        if made is None:
            changed = scope.store.apply(changes)
        elif made is scope.made and not changes:
            return
        else:
            changed = scope.store.apply({**changes, SECRET_TYPE: made.entries})
            if scope.made is None or scope.made.token != made.token:
                scope.made_at = scope.store.number
            scope.made = made
            for follower in scope.followers:
                follower.given(made)
        self._publish(scope.store, changed)


def _apply(known: dict[str, Entry | None], changes: Mapping[str, Entry | None]) -> None:
    for name, entry in changes.items():
        if entry is None:
            known.pop(name, None)
        else:
            known[name] = entry


def proxy_entries(changes: Mapping[Ref, Resource | None]) -> dict[Ref, Entry | None]:
    """Changed resources in their wire form. Much work: to be done on a thread."""
    return {
        ref: None
        if made is None
        else Entry(ref.name, ref.type_url, made.body, needs=made.needs if ref.view.kind is not Kind.GRPC else (), follows=made.follows)
        for ref, made in changes.items()
    }
