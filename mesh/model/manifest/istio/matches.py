"""What a VirtualService asks of requests and connections."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import DNS_LABEL, LABELS, NETWORK, NOTHING, PORT, Flag, ListOf, MapOf, Text
from mesh.model.manifest.words import GATEWAY_NAME, MATCHED_HEADER, NONEMPTY, PRESENT, REGEX, REGEX_OR_PRESENT, WILD_HOST
from mesh.model.workload import IPNetwork

SIDECARS_ONLY = "clients are selected by proxies beside them; a waypoint serves every client, and a rule with this never matches there"
EMPTY_TEXT = Text()
NETWORKS = ListOf(NETWORK, most=256)
GATEWAYS = ListOf(GATEWAY_NAME, most=256)


@dataclass(frozen=True, slots=True, kw_only=True)
class StringMatch:
    """Exactly one of three; a regular expression must match the whole value. None where it is not the one."""

    exact: str | None = item(EMPTY_TEXT, about="The whole value.")
    prefix: str | None = item(NONEMPTY, about="What the value begins with.")
    regex: str | None = item(REGEX, about="An RE2 expression that the whole value must match.")

    RULES = (
        Rule(
            lambda match: [match.exact, match.prefix, match.regex].count(None) == 2,
            "",
            "exactly one of exact, prefix and regex",
            "[has(self.exact), has(self.prefix), has(self.regex)].filter(x, x).size() == 1",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UriMatch:
    """As StringMatch, but an empty prefix is that of every path."""

    exact: str | None = item(EMPTY_TEXT, about="The whole path, without the query.")
    prefix: str | None = item(EMPTY_TEXT, about="What the path begins with, as text: /foo also takes /foobar.")
    regex: str | None = item(REGEX, about="An RE2 expression that the whole path must match.")

    RULES = StringMatch.RULES


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueMatch:
    """At most one of three; none, or the regular expression `*`, asks whether there is a value at all."""

    exact: str | None = item(EMPTY_TEXT, about="The whole value.")
    prefix: str | None = item(NONEMPTY, about="What the value begins with.")
    regex: str | None = item(REGEX_OR_PRESENT, about="An RE2 expression that the whole value must match; * asks whether it is there.")

    RULES = (
        Rule(
            lambda match: [match.exact, match.prefix, match.regex].count(None) >= 2,
            "",
            "at most one of exact, prefix and regex",
            "[has(self.exact), has(self.prefix), has(self.regex)].filter(x, x).size() <= 1",
        ),
    )

    @property
    def present(self) -> bool:
        """Only whether it is there is asked."""
        return self.exact is None and self.prefix is None and self.regex in (None, PRESENT)


VALUES = MapOf(MATCHED_HEADER, Record(ValueMatch), 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPMatch:
    """One entry of `match`: all that it asks must hold. Headers' names are in lower case."""

    name: str = item(Text(), "", about="A name for logs, after that of the route.")
    uri: UriMatch | None = item(Record(UriMatch), about="The path, without the query.")
    scheme: StringMatch | None = item(Record(StringMatch), about="The scheme: http or https.")
    method: StringMatch | None = item(Record(StringMatch), about="The method, in capitals.")
    authority: StringMatch | None = item(Record(StringMatch), about="The host that the request names.")
    headers: Mapping[str, ValueMatch] = item(
        VALUES, NOTHING, about="Headers that must be there, by name; verified claims as @request.auth.claims[..]."
    )
    without_headers: Mapping[str, ValueMatch] = item(VALUES, NOTHING, about="Headers that must not match; one that is absent passes.")
    query_params: Mapping[str, ValueMatch] = item(
        MapOf(NONEMPTY, Record(ValueMatch), 256), NOTHING, about="Query parameters that must be there, by name."
    )
    ignore_uri_case: bool = item(Flag(), False, about="Whether exact and prefix of uri take letters of either case.")
    port: int | None = item(PORT, about="The port of the service that the client addressed.")
    source_labels: Mapping[str, str] = item(LABELS, NOTHING, about="Labels of the client's pod.", unsupported=SIDECARS_ONLY)
    source_namespace: str = item(DNS_LABEL, "", about="The namespace of the proxy that routes: a waypoint's own.")
    gateways: tuple[str, ...] = item(GATEWAYS, (), about="Where the match counts, instead of the gateways above.")
    stat_prefix: str = item(Text(), "", about="A name for further metrics.", unsupported="metrics have Istio's names alone")

    @property
    def everything(self) -> bool:
        """No request can fail it."""
        asks = (self.scheme, self.method, self.authority, self.port) == (None, None, None, None)
        path = self.uri is None or self.uri.prefix in ("", "/") or self.uri.regex in (".*", "/.*")
        rest = self.headers or self.without_headers or self.query_params or self.source_labels or self.source_namespace or self.gateways
        return asks and path and not rest


@dataclass(frozen=True, slots=True, kw_only=True)
class L4Match:
    """What can be asked of a connection whose bytes are not looked at."""

    destination_subnets: tuple[IPNetwork, ...] = item(NETWORKS, (), about="Addresses or CIDR blocks that the client addressed.")
    port: int | None = item(PORT, about="The port of the service that the client addressed.")
    source_labels: Mapping[str, str] = item(LABELS, NOTHING, about="Labels of the client's pod.", unsupported=SIDECARS_ONLY)
    source_namespace: str = item(DNS_LABEL, "", about="The namespace of the proxy that routes: a waypoint's own.")
    gateways: tuple[str, ...] = item(GATEWAYS, (), about="Where the match counts, instead of the gateways above.")
    source_subnet: IPNetwork | None = item(
        NETWORK, about="Addresses of clients; Istio reads no longer.", unsupported="Istio dropped it, and so do we"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSMatch:
    """One entry of `match` for TLS that is passed on unopened."""

    sni_hosts: tuple[str, ...] = item(
        ListOf(WILD_HOST, 1, 256), required=True, about="Server names that the client asks for; each within the hosts above."
    )
    destination_subnets: tuple[IPNetwork, ...] = item(NETWORKS, (), about="Addresses or CIDR blocks that the client addressed.")
    port: int | None = item(PORT, about="The port of the service that the client addressed.")
    source_labels: Mapping[str, str] = item(LABELS, NOTHING, about="Labels of the client's pod.", unsupported=SIDECARS_ONLY)
    source_namespace: str = item(DNS_LABEL, "", about="The namespace of the proxy that routes: a waypoint's own.")
    gateways: tuple[str, ...] = item(GATEWAYS, (), about="Where the match counts, instead of the gateways above.")
