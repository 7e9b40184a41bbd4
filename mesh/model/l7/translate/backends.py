"""Backends of Gateway API's routes: which service one names, and whether the route may lead there.

A Service of another namespace is a backend only where a ReferenceGrant of that namespace allows it. Without, what it would get is answered
or closed as if it were none, whether it is there or not. One backend needs no grant: the service that the route is attached to, to which
its clients sent their requests themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mesh.model.l7.notes import Problem
from mesh.model.l7.profile import Context
from mesh.model.l7.translate.attached import NETWORKING, AnyRoute
from mesh.model.l7.translate.targets import Chosen, Finder, Reference, service_host
from mesh.model.manifest.gatewayapi.common import SERVICE_GROUPS, Backend


def chosen_backend(route: AnyRoute, backend: Backend, finder: Finder, where: str, otherwise: str) -> Chosen | None:
    """None where it is no service, or may not be one; noted, with what happens `otherwise`."""
    host = backend_host(backend, route.namespace, finder.context)
    if not host:
        finder.notes.add(Problem.UNSUPPORTED, route.key, where, f"a {backend.kind} is no backend here: {otherwise}")
        return None
    wanted = reference(route, host, finder.context)
    if wanted is not None and host != finder.frontend and wanted not in finder.granted:
        field = f"{where}.namespace" if backend.namespace else f"{where}.name"
        finder.notes.add(Problem.NOT_GRANTED, route.key, field, f"{not_granted(wanted)}: {otherwise}")
        return None
    return finder.find(host, "", backend.port, route.key, where)


def backend_host(backend: Backend, owner: str, context: Context) -> str:
    """The host that a backend names; "" where it names no service."""
    if backend.kind == "Service" and backend.group in SERVICE_GROUPS:
        return service_host(backend.name, backend.namespace or owner, context)
    if backend.kind == "Hostname" and backend.group == NETWORKING:
        return backend.name
    return ""


def reference(route: AnyRoute, host: str, context: Context) -> Reference | None:
    """What a ReferenceGrant must allow before a route leads to a host; None: nothing. Hosts of ServiceEntries have exportTo instead."""
    name, _, rest = host.partition(".")
    namespace, _, rest = rest.partition(".")
    if rest != f"svc.{context.cluster_domain}" or namespace == route.namespace:
        return None
    return Reference(route.KIND, route.namespace, name, namespace)


def not_granted(wanted: Reference) -> str:
    return f"no ReferenceGrant of {wanted.of} lets {wanted.kind}s of {wanted.namespace} refer to Service {wanted.service}"


def backend_hosts(routes: Iterable[AnyRoute], context: Context) -> frozenset[str]:
    """The hosts that these send traffic to."""
    return frozenset(host for _, host in _named(routes, context))


def references(routes: Iterable[AnyRoute], context: Context) -> frozenset[Reference]:
    """All that needs a grant in these."""
    found = (reference(route, host, context) for route, host in _named(routes, context))
    return frozenset(one for one in found if one is not None)


def _named(routes: Iterable[AnyRoute], context: Context) -> Iterator[tuple[AnyRoute, str]]:
    for route in routes:
        for rule in route.spec.rules:
            filters = getattr(rule, "filters", ())
            mirrors = [entry.request_mirror.backend_ref for entry in filters if entry.request_mirror is not None]
            for backend in (*rule.backend_refs, *mirrors):
                host = backend_host(backend, route.namespace, context)
                if host:
                    yield route, host
