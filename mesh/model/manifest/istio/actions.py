"""What a VirtualService does with a request: destinations and what is changed, answered, delayed, copied or tried again on the way."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mesh.model.manifest.istio.matches import StringMatch
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import (
    DNS_LABEL,
    DNS_NAME,
    NOTHING,
    PORT,
    Choice,
    Flag,
    Integer,
    ListOf,
    MapOf,
    Number,
    Numbers,
    Parsed,
    Text,
)
from mesh.model.manifest.words import BYTES, COUNT, DURATION, HEADER_NAME, METHODS, NONEMPTY, POSITIVE, REGEX, WEIGHT, WILD_HOST

MAX_BODY = 1 << 20
STATUS = Integer(200, 599)
CHANGED_HEADER = Parsed(str.lower, "a header's name, :authority, or host", r":authority|[A-Za-z0-9!#$%&'*+.^_`|~-]+", 256)
GRPC_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED"),
    *("RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    "UNAUTHENTICATED",
)
RETRY_WORDS = (
    *("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx", "refused-stream"),
    *("retriable-status-codes", "retriable-headers", "http3-post-connect-failure"),
    *("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"),
)


def _retry_on(text: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


_RETRY_WORD = rf"\s*(?:{'|'.join(RETRY_WORDS)}|[1-5][0-9][0-9])\s*"
RETRY_ON = Parsed(
    _retry_on,
    f"words separated by commas, each a status code or one of {', '.join(RETRY_WORDS)}",
    rf"(?:{_RETRY_WORD}(?:,{_RETRY_WORD})*)?",
    1024,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSelector:
    number: int = item(PORT, required=True, about="The number of the service's port.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    host: str = item(WILD_HOST, required=True, about="The service's name; without a dot, one of the rule's own namespace.")
    subset: str = item(DNS_LABEL, "", about="A subset that a DestinationRule of the host defines.")
    port: PortSelector | None = item(Record(PortSelector), about="The service's port, if not the one that the client addressed.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderChanges:
    """Set, then added, then removed. Names in lower case."""

    set: Mapping[str, str] = item(MapOf(CHANGED_HEADER, Text(), 256), NOTHING, about="Headers that get this value, whatever they had.")
    add: Mapping[str, str] = item(MapOf(HEADER_NAME, Text(), 256), NOTHING, about="Headers that get this value beside what they have.")
    remove: tuple[str, ...] = item(ListOf(HEADER_NAME, most=256), (), about="Headers that are taken away.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    request: HeaderChanges = item(Record(HeaderChanges), HeaderChanges(), about="Changes of the request.")
    response: HeaderChanges = item(Record(HeaderChanges), HeaderChanges(), about="Changes of the response.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRouteDestination:
    destination: Destination = item(Record(Destination), required=True, about="Where requests go.")
    weight: int = item(WEIGHT, 0, about="Its share: the weight over the sum of all weights; a single destination gets everything.")
    headers: Headers = item(Record(Headers), Headers(), about="Header changes for this destination, after those of the route.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Percent:
    value: float = item(Number(0, 100), 0.0, about="From 0 to 100; parts of a percent count.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRedirect:
    uri: str = item(NONEMPTY, "", about="The path that replaces the whole path.")
    prefix_rewrite: str = item(NONEMPTY, "", about="What replaces the prefix that matched.")
    authority: str = item(NONEMPTY, "", about="The host of the new location.")
    port: int | None = item(PORT, about="The port of the new location.")
    derive_port: str = item(
        Choice(("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT")), "", about="Where the port comes from instead: the scheme, or the request."
    )
    scheme: str = item(Choice(("http", "https")), "", about="The scheme of the new location.")
    redirect_code: int = item(Numbers((301, 302, 303, 307, 308)), 301, about="The status of the answer.")

    RULES = (
        Rule(
            lambda redirect: (
                redirect.uri or redirect.prefix_rewrite or redirect.authority or redirect.port or redirect.derive_port or redirect.scheme
            ),
            "",
            "at least one of uri, prefixRewrite, authority, port, derivePort and scheme",
            "has(self.uri) || has(self.prefixRewrite) || has(self.authority) || has(self.port) || has(self.derivePort) || has(self.scheme)",
        ),
        Rule(
            lambda redirect: not (redirect.uri and redirect.prefix_rewrite),
            "prefixRewrite",
            "one of uri and prefixRewrite",
            "!(has(self.uri) && has(self.prefixRewrite))",
        ),
        Rule(
            lambda redirect: not (redirect.port and redirect.derive_port),
            "derivePort",
            "one of port and derivePort",
            "!(has(self.port) && has(self.derivePort))",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Exactly one of two."""

    string: str | None = item(Text(longest=MAX_BODY), about="The body as text, up to 1 MB.")
    bytes: bytes | None = item(BYTES, about="The body in base64, up to 1 MB.")

    RULES = (
        Rule(
            lambda body: (body.string is None) != (body.bytes is None),
            "",
            "exactly one of string and bytes",
            "has(self.string) != has(self.bytes)",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPDirectResponse:
    status: int = item(STATUS, required=True, about="The status of the answer.")
    body: Body | None = item(Record(Body), about="The body of the answer; none if absent.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegate:
    name: str = item(DNS_NAME, required=True, about="The name of a VirtualService without hosts.")
    namespace: str = item(DNS_LABEL, "", about="Its namespace, if not that of this one.")


def _replacement(text: str) -> str:
    """RE2's way to write one: \\1 to \\9 are groups, \\\\ a backslash; any other backslash would be an error when it is used."""
    if re.search(r"\\(?![0-9\\])", text.replace("\\\\", "")):
        raise ValueError(text)
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class RegexRewrite:
    match: str = item(REGEX, required=True, about="An RE2 expression; every part of the path that it matches is replaced.")
    rewrite: str = item(
        Parsed(_replacement, "text with \\1 to \\9 for groups"), required=True, about="What replaces it, with \\1 to \\9 for groups."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRewrite:
    uri: str = item(NONEMPTY, "", about="What replaces the prefix that matched, or the whole path where no prefix did.")
    authority: str = item(NONEMPTY, "", about="The host that the destination is told.")
    uri_regex_rewrite: RegexRewrite | None = item(Record(RegexRewrite), about="A rewrite of the path by a regular expression.")

    RULES = (
        Rule(
            lambda rewrite: rewrite.uri or rewrite.authority or rewrite.uri_regex_rewrite,
            "",
            "at least one of uri, authority and uriRegexRewrite",
            "has(self.uri) || has(self.authority) || has(self.uriRegexRewrite)",
        ),
        Rule(
            lambda rewrite: not (rewrite.uri and rewrite.uri_regex_rewrite),
            "uriRegexRewrite",
            "one of uri and uriRegexRewrite",
            "!(has(self.uri) && has(self.uriRegexRewrite))",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRetry:
    """Times in seconds; None where the proxy's own default counts. `retry_on` are words and status codes; empty for the mesh's."""

    attempts: int = item(COUNT, 0, about="How often a failed request is tried again; 0 for never.")
    per_try_timeout: float | None = item(POSITIVE, about="How long one try may take; absent, as long as the whole request.")
    retry_on: tuple[str, ...] = item(RETRY_ON, (), about="What is tried again, separated by commas: 5xx, reset, 503 and so on.")
    retry_remote_localities: bool | None = item(Flag(), about="Whether other tries go to localities that were not tried.")
    retry_ignore_previous_hosts: bool = item(Flag(), True, about="Whether a try avoids hosts that were tried before.")
    backoff: float | None = item(POSITIVE, about="The wait before the first further try; it grows with each.")

    RULES = (
        Rule(
            lambda retry: retry.attempts or not (retry.per_try_timeout or retry.retry_on or retry.retry_remote_localities),
            "attempts",
            "1 or more, where perTryTimeout, retryOn or retryRemoteLocalities is set",
            "has(self.attempts) && self.attempts > 0 || !(has(self.perTryTimeout) || has(self.retryOn) && self.retryOn != '' || "
            "has(self.retryRemoteLocalities) && self.retryRemoteLocalities)",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultDelay:
    """Seconds. `share` is how many of a hundred requests are meant."""

    fixed_delay: float | None = item(POSITIVE, about="How long requests wait.")
    exponential_delay: float | None = item(POSITIVE, about="Istio has never done it.", unsupported="no proxy can do it")
    percentage: Percent | None = item(Record(Percent), about="How many requests are delayed; absent, none is.")
    percent: int | None = item(Integer(0, 100), about="The old way to say percentage, in whole numbers.")

    RULES = (
        Rule(
            lambda delay: (delay.fixed_delay is None) != (delay.exponential_delay is None),
            "fixedDelay",
            "a delay: fixedDelay",
            "has(self.fixedDelay) != has(self.exponentialDelay)",
        ),
    )

    @property
    def share(self) -> float:
        return self.percentage.value if self.percentage is not None else float(self.percent or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultAbort:
    """Exactly one kind of answer. `share` is how many of a hundred requests are meant."""

    http_status: int | None = item(STATUS, about="The HTTP status that requests get.")
    grpc_status: str = item(Choice(GRPC_CODES), "", about="The gRPC status that requests get, by name.")
    http2_error: str = item(NONEMPTY, "", name="http2Error", about="Istio has never done it.", unsupported="no proxy can do it")
    percentage: Percent | None = item(Record(Percent), about="How many requests are aborted; absent, none is.")

    RULES = (
        Rule(
            lambda abort: [abort.http_status is not None, bool(abort.grpc_status), bool(abort.http2_error)].count(True) == 1,
            "",
            "exactly one of httpStatus and grpcStatus",
            "[has(self.httpStatus), has(self.grpcStatus), has(self.http2Error)].filter(x, x).size() == 1",
        ),
    )

    @property
    def share(self) -> float:
        return self.percentage.value if self.percentage is not None else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPFault:
    delay: FaultDelay | None = item(Record(FaultDelay), about="Requests that wait before they go on.")
    abort: FaultAbort | None = item(Record(FaultAbort), about="Requests that are answered with an error.")

    RULES = (
        Rule(
            lambda fault: fault.delay is not None or fault.abort is not None,
            "",
            "at least one of delay and abort",
            "has(self.delay) || has(self.abort)",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPMirror:
    destination: Destination = item(Record(Destination), required=True, about="Where copies go; their answers are thrown away.")
    percentage: Percent | None = item(Record(Percent), about="How many requests are copied; absent, all.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsPolicy:
    """`max_age` in seconds. `origins` is all that is allowed, however it was written."""

    allow_origins: tuple[StringMatch, ...] = item(ListOf(Record(StringMatch), most=256), (), about="Origins that may ask.")
    allow_origin: tuple[str, ...] = item(ListOf(NONEMPTY, most=256), (), about="The old way to say allowOrigins, each exact or *.")
    allow_methods: tuple[str, ...] = item(
        ListOf(Choice((*METHODS, "*")), most=64), (), about="Methods that Access-Control-Allow-Methods names."
    )
    allow_headers: tuple[str, ...] = item(ListOf(HEADER_NAME, most=256), (), about="Headers that Access-Control-Allow-Headers names.")
    expose_headers: tuple[str, ...] = item(ListOf(HEADER_NAME, most=256), (), about="Headers that Access-Control-Expose-Headers names.")
    max_age: float | None = item(DURATION, about="How long browsers keep the answer to a preflight; whole seconds count.")
    allow_credentials: bool | None = item(Flag(), about="Whether requests may carry credentials.")
    unmatched_preflights: str = item(
        Choice(("UNSPECIFIED", "FORWARD", "IGNORE")),
        "UNSPECIFIED",
        about="What becomes of preflights of other origins: FORWARD, or IGNORE.",
    )

    RULES = (
        Rule(
            lambda cors: not (cors.allow_origins and cors.allow_origin),
            "allowOrigin",
            "one of allowOrigins and allowOrigin",
            "!(has(self.allowOrigins) && size(self.allowOrigins) > 0 && has(self.allowOrigin) && size(self.allowOrigin) > 0)",
        ),
        Rule(lambda cors: cors.max_age is None or cors.max_age == int(cors.max_age), "maxAge", "whole seconds"),
    )

    @property
    def origins(self) -> tuple[StringMatch, ...]:
        old = (StringMatch(regex=".*") if origin == "*" else StringMatch(exact=origin) for origin in self.allow_origin)
        return self.allow_origins or tuple(old)
