"""Whether one match takes everything that another does, so that what comes after it is never reached."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.model.manifest.gatewayapi.http import HTTPRouteMatch
from mesh.model.manifest.istio.matches import HTTPMatch, L4Match, StringMatch, TLSMatch, UriMatch, ValueMatch

AnyText = StringMatch | UriMatch | ValueMatch
NO_MATCH = HTTPMatch()


def covers(earlier: HTTPMatch, later: HTTPMatch) -> bool:
    """Of two matches of VirtualServices. False where that is not plain to see."""
    if earlier.ignore_uri_case != later.ignore_uri_case and (earlier.uri is not None and not _all_paths(earlier)):
        return False
    return (
        (_all_paths(earlier) or _text(earlier.uri, later.uri))
        and _text(earlier.scheme, later.scheme)
        and _text(earlier.method, later.method)
        and _text(earlier.authority, later.authority)
        and _values(earlier.headers, later.headers)
        and _same(earlier.without_headers, later.without_headers)
        and _values(earlier.query_params, later.query_params)
        and _where(earlier, later)
    )


def covers_l4(earlier: L4Match, later: L4Match) -> bool:
    return _subnets(earlier, later) and _where(earlier, later)


def covers_tls(earlier: TLSMatch, later: TLSMatch) -> bool:
    return set(later.sni_hosts) <= set(earlier.sni_hosts) and _subnets(earlier, later) and _where(earlier, later)


def _subnets(earlier: L4Match | TLSMatch, later: L4Match | TLSMatch) -> bool:
    return not earlier.destination_subnets or set(later.destination_subnets) <= set(earlier.destination_subnets) != set()


def _where(earlier: HTTPMatch | L4Match | TLSMatch, later: HTTPMatch | L4Match | TLSMatch) -> bool:
    """Port, client and gateways: the earlier one asks nothing more than the later one."""
    return (
        earlier.port in (None, later.port)
        and earlier.source_namespace in ("", later.source_namespace)
        and all(later.source_labels.get(key) == value for key, value in earlier.source_labels.items())
        and earlier.gateways == later.gateways
    )


def _all_paths(match: HTTPMatch) -> bool:
    return match.uri is None or match.uri.prefix in ("", "/") or match.uri.regex in (".*", "/.*")


def _text(earlier: AnyText | None, later: AnyText | None) -> bool:
    if earlier is None:
        return True
    if later is None:
        return False
    if earlier == later:
        return True
    if earlier.prefix is not None:
        text = later.exact if later.exact is not None else later.prefix
        return text is not None and text.startswith(earlier.prefix)
    return earlier.regex == ".*"


def _values(earlier: Mapping[str, ValueMatch], later: Mapping[str, ValueMatch]) -> bool:
    return all(name in later and (asked.present or _text(asked, later[name])) for name, asked in earlier.items())


def _same(earlier: Mapping[str, ValueMatch], later: Mapping[str, ValueMatch]) -> bool:
    return all(later.get(name) == asked for name, asked in earlier.items())


def same(one: HTTPRouteMatch, other: HTTPRouteMatch) -> bool:
    """Of the Gateway API's matches the most specific counts, so that only the same one again is never reached."""
    return _ordered(one) == _ordered(other)


def _ordered(match: HTTPRouteMatch) -> tuple[object, ...]:
    path = (match.path.type, match.path.value.rstrip("/") if match.path.type == "PathPrefix" else match.path.value)
    headers = tuple(sorted((entry.name, entry.type, entry.value) for entry in match.headers))
    query = tuple(sorted((entry.name, entry.type, entry.value) for entry in match.query_params))
    return (path, headers, query, match.method)
