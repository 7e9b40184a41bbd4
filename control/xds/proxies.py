"""What proxies are served: waypoints, Envoys beside clients, and gRPC clients without a proxy.

Proxies that see the same have one view, whose resources are worked out once; those of one view that also have the same identity share a
store, in which the secrets of that identity are. A view is worked out as long as somebody looks at it, and LINGER seconds more.

What a proxy is comes from what it says of itself (the node id, as Istio's proxies have it), but whose it is from what its credential
proves: a waypoint must be a pod of that Gateway, and secrets are for the identity of the pod that the caller was proved to be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from control.auth import Caller
from control.resolve import Changes, Mesh
from control.resolve.l7.plans import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE, Ref, Resource
from control.resolve.l7.views import CLIENT_PORTS, View
from control.resolve.waypoints import GATEWAY_NAME
from control.xds.messages import Refusal, Rules
from control.xds.server import Hello
from control.xds.server import View as Served
from control.xds.store import Change, Entry, Store
from mesh.io.log import Log
from mesh.model.identity import Identity
from mesh.model.l7.profile import Kind
from mesh.model.manifest import Key, Node, Pod
from mesh.model.workload import Locality

log = Log("xds")

# Each before those whose resources may name its own.
PROXY_TYPES = (SECRET_TYPE, CLUSTER_TYPE, ENDPOINT_TYPE, ROUTE_TYPE, LISTENER_TYPE)
WHOLE = frozenset({CLUSTER_TYPE, LISTENER_TYPE})
DELTA_RULES, WHOLE_RULES = Rules(PROXY_TYPES), Rules(PROXY_TYPES, delta=False, whole=WHOLE)
LINGER = 30.0
MAX_NAMES = 10_000

Publish = Callable[[Store, Mapping[str, list[Change]]], None]


class Secrets(Protocol):
    """Where the secrets of an identity come from."""

    def entries(self, identity: Identity) -> Mapping[str, Entry]:
        """By name: a certificate with its key, and the roots. Made anew for whoever comes first."""


@dataclass(slots=True)
class Scope:
    """A store, and how many clients look at it."""

    store: Store
    identity: Identity | None
    clients: int = 0


@dataclass(slots=True)
class Viewed:
    """What is known of a view. `wanted`: what gRPC clients asked for by name, and how many of them; `prepared`: what of it is worked out.
    `ready`: the view as a whole is.
    """

    entries: dict[str, dict[str, Entry | None]] = field(default_factory=dict)
    scopes: dict[Identity | None, Scope] = field(default_factory=dict)
    wanted: dict[Ref, int] = field(default_factory=dict)
    prepared: set[Ref] = field(default_factory=set)
    ready: bool = False
    ending: asyncio.TimerHandle | None = None

    @property
    def clients(self) -> int:
        return sum(scope.clients for scope in self.scopes.values())


class Proxies:
    """The views that somebody looks at. `poke` has the mesh worked on soon."""

    def __init__(self, mesh: Mesh, poke: Callable[[], None], publish: Publish, secrets: Secrets | None = None) -> None:
        self.views: dict[View, Viewed] = {}
        self._mesh = mesh
        self._poke = poke
        self._publish = publish
        self._secrets = secrets

    # Clients come and go.

    async def open(self, hello: Hello) -> Served:
        """Refusal for who claims to be what it is not proved to be."""
        view, identity = self._who(hello)
        viewed = self.views.get(view)
        if viewed is None:
            viewed = self.views[view] = Viewed(ready=view.kind is Kind.GRPC)
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
        names: set[Ref] = set()

        def want(type_url: str, asked: Iterable[str]) -> None:
            if view.kind is Kind.GRPC:
                self._want(viewed, names, {Ref(view, type_url, name) for name in asked})

        def close() -> None:
            scope.clients -= 1
            for ref in names:
                viewed.wanted[ref] -= 1
            if not viewed.clients:
                viewed.ending = asyncio.get_running_loop().call_later(LINGER, self._end, view)

        return Served(scope.store, DELTA_RULES if hello.delta else WHOLE_RULES, str(view), want, close)

    def _want(self, viewed: Viewed, names: set[Ref], asked: set[Ref]) -> None:
        """Note what one client asks for. What nobody asks for any more is kept until the view ends: it may be wanted again."""
        for ref in asked - names:
            if len(names) >= MAX_NAMES:
                raise Refusal(f"more than {MAX_NAMES} names asked for")
            names.add(ref)
            if ref not in viewed.wanted:
                if len(viewed.wanted) >= MAX_NAMES:
                    raise Refusal(f"more than {MAX_NAMES} names asked for by clients of {ref.view}")
                self._mesh.pin(ref)
                self._poke()
            viewed.wanted[ref] = viewed.wanted.get(ref, 0) + 1

    def _end(self, view: View) -> None:
        """Nobody has looked at a view for a while."""
        viewed = self.views.get(view)
        if viewed is None or viewed.clients:
            return
        del self.views[view]
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
            viewed.ready = True
            for scope in viewed.scopes.values():
                scope.store.prepared.update((ref.type_url, ref.name) for ref in refs)
                if fresh:
                    self._fill(viewed, scope)
                else:
                    self._publish(scope.store, scope.store.apply(found))

    def renew_secrets(self) -> None:
        """Secrets may be others now: roots have changed, or a certificate has come of age."""
        if self._secrets is None:
            return
        for viewed in self.views.values():
            for scope in viewed.scopes.values():
                if scope.identity is not None and viewed.ready:
                    changed = scope.store.apply({SECRET_TYPE: dict(self._secrets.entries(scope.identity))})
                    if changed:
                        self._publish(scope.store, changed)

    def _fill(self, viewed: Viewed, scope: Scope) -> None:
        changes = {type_url: dict(entries) for type_url, entries in viewed.entries.items()}
        if scope.identity is not None and self._secrets is not None:
            changes[SECRET_TYPE] = dict(self._secrets.entries(scope.identity))
        self._publish(scope.store, scope.store.apply(changes))

    # Who is who.

    def _who(self, hello: Hello) -> tuple[View, Identity | None]:
        kind, name, namespace = _said(hello)
        caller = hello.caller
        if caller.namespace:
            if namespace and namespace != caller.namespace:
                raise Refusal(f"the node says namespace {namespace}, but the token is of {caller.namespace}")
            namespace, name = caller.namespace, caller.pod or name
        pod = self._mesh.catalog.objects.get(Key(Pod.TYPE, namespace, name)) if name else None
        if not isinstance(pod, Pod) or not _proved(caller, pod):
            pod = None
        identity = self._identity(caller, pod)
        locality = self._locality(pod) or hello.locality
        if kind is Kind.WAYPOINT:
            gateway = pod.labels.get(GATEWAY_NAME, "") if pod is not None else ""
            if not gateway:
                raise Refusal(f"{namespace}/{name} is no pod of a waypoint that this caller may speak for: label {GATEWAY_NAME} is wanted")
            return View(kind, namespace, gateway, locality, tunnels=True), identity
        if kind is Kind.GRPC:
            return View(kind, namespace or "default", locality=locality), None
        bind, tunnels = (hello.metadata.get(key) == "true" for key in ("CULVERT_BIND", "ENABLE_HBONE"))
        ports = _port(hello, "CULVERT_OUTBOUND_PORT", CLIENT_PORTS[0]), _port(hello, "HTTP_PROXY_PORT", CLIENT_PORTS[1])
        return View(kind, namespace or "default", locality=locality, bind=bind, tunnels=tunnels, ports=ports), identity

    def _identity(self, caller: Caller, pod: Pod | None) -> Identity | None:
        """For whom there may be secrets: the account that the caller was proved to be, or that of the pod that its node vouches for."""
        domain = self._mesh.settings.trust_domain
        if caller.account:
            return Identity(domain, caller.namespace, caller.account)
        return Identity(domain, pod.namespace, pod.spec.account) if pod is not None else None

    def _locality(self, pod: Pod | None) -> Locality | None:
        node = self._mesh.catalog.objects.get(Key(Node.TYPE, "", pod.spec.node_name)) if pod is not None else None
        return Locality(node.region, node.zone, node.subzone) if isinstance(node, Node) else None


def _proved(caller: Caller, pod: Pod) -> bool:
    """Whether the caller is this pod, or the node that it is on and may speak for it."""
    if caller.account:
        return (caller.namespace, caller.account) == (pod.namespace, pod.spec.account) and caller.pod in ("", pod.name)
    return caller.impersonates and bool(caller.node) and caller.node == pod.spec.node_name


def _said(hello: Hello) -> tuple[Kind, str, str]:
    """(kind, pod's name, namespace) as the client says. `type~ip~pod.namespace~namespace.svc.domain` is how Istio's proxies do."""
    parts = hello.id.split("~")
    namespace = str(hello.metadata.get("NAMESPACE", ""))
    if len(parts) == 4:
        name, _, own = parts[2].rpartition(".")
        namespace = namespace or own
        if parts[0] == "waypoint":
            return Kind.WAYPOINT, name, namespace
    else:
        name = ""
    grpc = hello.user_agent.lower().startswith("grpc") or hello.metadata.get("GENERATOR") == "grpc"
    return (Kind.GRPC if grpc else Kind.CLIENT), name, namespace


def _port(hello: Hello, name: str, default: int) -> int:
    text = str(hello.metadata.get(name, ""))
    if not text:
        return default
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise Refusal(f"metadata {name} is {text!r}: expected a port from 1 to 65535")
    return int(text)


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
