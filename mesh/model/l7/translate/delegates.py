"""VirtualServices that delegate: a root rule's match over another VirtualService's rules, one level deep.

    root:  match /a, delegate → leaf          becomes, in the root's place:   match /a/b … of the leaf's rule, with the root's settings
    leaf:  match /a/b → x                                                     where the leaf has none of its own

A leaf's match must lie within the root's: of each pair of matches that contradict each other nothing is left, and a leaf's rule of which
nothing is left is dropped. Where either side has a regular expression, the other may not ask about the same thing at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mesh.model.l7.notes import Notes, Problem
from mesh.model.manifest import Key, VirtualService
from mesh.model.manifest.istio.actions import Headers
from mesh.model.manifest.istio.matches import HTTPMatch, StringMatch, UriMatch, ValueMatch
from mesh.model.manifest.istio.virtualservice import HTTPRoute

Delegates = Mapping[tuple[str, str], VirtualService]
"""By namespace and name."""


@dataclass(frozen=True, slots=True)
class Written:
    """A rule, and where it is written. `owner` is the namespace that short names in it belong to; `in_mesh`: it is for traffic inside,
    unless one of its matches says otherwise.
    """

    rule: HTTPRoute
    subject: Key
    field: str
    owner: str
    in_mesh: bool


def expanded(services: Sequence[VirtualService], delegates: Delegates, notes: Notes) -> Iterator[Written]:
    """All rules in order, with what is delegated put in its place."""
    for service in services:
        for index, rule in enumerate(service.spec.http):
            field = f"spec.http[{index}]"
            if rule.delegate is None:
                yield Written(rule, service.key, field, service.namespace, service.spec.in_mesh)
            else:
                yield from _delegated(service, rule, field, delegates, notes)


def wanted(services: Sequence[VirtualService]) -> frozenset[tuple[str, str]]:
    """Namespace and name of every VirtualService that these delegate to."""
    return frozenset(
        (rule.delegate.namespace or service.namespace, rule.delegate.name)
        for service in services
        for rule in service.spec.http
        if rule.delegate is not None
    )


def _delegated(root: VirtualService, rule: HTTPRoute, field: str, delegates: Delegates, notes: Notes) -> Iterator[Written]:
    assert rule.delegate is not None
    key = (rule.delegate.namespace or root.namespace, rule.delegate.name)
    leaf = delegates.get(key)
    if leaf is None:
        notes.add(
            Problem.MISSING_DELEGATE, root.key, f"{field}.delegate", f"there is no VirtualService {key[0]}/{key[1]}: this rule is left out"
        )
        return
    if not leaf.spec.delegated:
        notes.add(Problem.BAD_DELEGATE, root.key, f"{field}.delegate", f"{leaf.key} has hosts of its own: this rule is left out")
        return
    if not visible(leaf.spec.export_to, leaf.namespace, root.namespace):
        notes.add(
            Problem.BAD_DELEGATE, root.key, f"{field}.delegate", f"{leaf.key} is not exported to {root.namespace}: this rule is left out"
        )
        return
    for index, own in enumerate(leaf.spec.http):
        matches = _matches(rule.match, own.match)
        where = f"spec.http[{index}]"
        if matches is None:
            message = f"lies outside {field} of {root.key}, which delegates to it: it never counts there"
            notes.add(Problem.BAD_DELEGATE, leaf.key, where, message)
            continue
        yield Written(_merged(rule, own, matches), leaf.key, where, leaf.namespace, root.spec.in_mesh)


def visible(export_to: tuple[str, ...], owner: str, viewer: str) -> bool:
    return not export_to or "*" in export_to or viewer in export_to or ("." in export_to and viewer == owner)


def _merged(root: HTTPRoute, leaf: HTTPRoute, matches: tuple[HTTPMatch, ...]) -> HTTPRoute:
    """Settings are the leaf's, or else the root's, each as a whole."""
    mirrored = leaf if leaf.mirror is not None or leaf.mirrors else root
    return replace(
        leaf,
        name="-".join(filter(None, (root.name, leaf.name))),
        match=matches,
        rewrite=leaf.rewrite or root.rewrite,
        timeout=leaf.timeout if leaf.timeout is not None else root.timeout,
        retries=leaf.retries or root.retries,
        fault=leaf.fault or root.fault,
        mirror=mirrored.mirror,
        mirrors=mirrored.mirrors,
        mirror_percentage=leaf.mirror_percentage or root.mirror_percentage,
        mirror_percent=mirrored.mirror_percent,
        mirror_percent_old=mirrored.mirror_percent_old,
        cors_policy=leaf.cors_policy or root.cors_policy,
        headers=leaf.headers if leaf.headers != Headers() else root.headers,
    )


def _matches(roots: tuple[HTTPMatch, ...], leaves: tuple[HTTPMatch, ...]) -> tuple[HTTPMatch, ...] | None:
    """None where nothing can match both."""
    if not roots or not leaves:
        return roots or leaves
    found = tuple(both for root in roots for leaf in leaves if (both := _both(root, leaf)) is not None)
    return found or None


def _both(root: HTTPMatch, leaf: HTTPMatch) -> HTTPMatch | None:
    texts = ((root.uri, leaf.uri), (root.scheme, leaf.scheme), (root.method, leaf.method), (root.authority, leaf.authority))
    maps = (
        (root.headers, leaf.headers),
        (root.without_headers, leaf.without_headers),
        (root.query_params, leaf.query_params),
    )
    agree = (
        all(_inside(outer, inner) for outer, inner in texts)
        and all(_inside(outer[key], inner[key]) for outer, inner in maps for key in outer.keys() & inner.keys())
        and (root.uri is None or leaf.uri is None or root.ignore_uri_case == leaf.ignore_uri_case)
        and (root.port is None or leaf.port is None or root.port == leaf.port)
        and (not root.source_namespace or not leaf.source_namespace or root.source_namespace == leaf.source_namespace)
        and all(leaf.source_labels.get(key, value) == value for key, value in root.source_labels.items())
        and (not root.gateways or set(leaf.gateways) <= set(root.gateways))
    )
    if not agree:
        return None
    return HTTPMatch(
        name="-".join(filter(None, (root.name, leaf.name))),
        uri=leaf.uri or root.uri,
        scheme=leaf.scheme or root.scheme,
        method=leaf.method or root.method,
        authority=leaf.authority or root.authority,
        headers={**root.headers, **leaf.headers},
        without_headers={**root.without_headers, **leaf.without_headers},
        query_params={**root.query_params, **leaf.query_params},
        ignore_uri_case=leaf.ignore_uri_case if leaf.uri is not None else root.ignore_uri_case,
        port=leaf.port or root.port,
        source_labels={**root.source_labels, **leaf.source_labels},
        source_namespace=leaf.source_namespace or root.source_namespace,
        gateways=leaf.gateways or root.gateways,
        stat_prefix=leaf.stat_prefix or root.stat_prefix,
    )


AnyMatch = StringMatch | UriMatch | ValueMatch


def _inside(outer: AnyMatch | None, inner: AnyMatch | None) -> bool:
    """Whether all that `inner` takes, `outer` takes."""
    if outer is None or inner is None:
        return True
    if outer.regex is not None or inner.regex is not None:
        return False
    if outer.exact is not None:
        return inner.exact == outer.exact
    if outer.prefix is not None:
        text = inner.exact if inner.exact is not None else inner.prefix
        return text is not None and text.startswith(outer.prefix)
    return True
