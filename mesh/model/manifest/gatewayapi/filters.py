"""What routes change, copy, redirect or allow on the way of a request."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mesh.model.manifest.gatewayapi.common import PORT_OF_SERVICE, Backend, LocalRef
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import PORT, Choice, Flag, Integer, ListOf, Numbers, Text
from mesh.model.manifest.words import HEADER_NAME, METHODS, PRECISE_HOSTNAME

HEADER_VALUE = Text(r"(?s).+", "a value of up to 4096 characters", 4096)
REDIRECTS = (301, 302, 303, 307, 308)
MAX_FILTERS = 16
NO_EXTENSIONS = "no filter is defined outside the Gateway API"
NO_CHECKS = "routes ask no authorizer; an AuthorizationPolicy with the action CUSTOM does"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    name: str = item(HEADER_NAME, required=True, about="The header's name.")
    value: str = item(HEADER_VALUE, required=True, about="The header's value.")


HEADERS = ListOf(Record(Header), most=16, unique="name")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderModifier:
    """Names in lower case."""

    set: tuple[Header, ...] = item(HEADERS, (), about="Headers that get this value, whatever they had.")
    add: tuple[Header, ...] = item(HEADERS, (), about="Headers that get this value beside what they have.")
    remove: tuple[str, ...] = item(ListOf(HEADER_NAME, most=16, distinct=True), (), about="Headers that are taken away.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fraction:
    numerator: int = item(Integer(0, 2**31 - 1), required=True, about="How many.")
    denominator: int = item(Integer(1, 2**31 - 1), 100, about="Of how many.")

    RULES = (
        Rule(
            lambda part: part.numerator <= part.denominator, "numerator", "no more than denominator", "self.numerator <= self.denominator"
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorBackend(Backend):
    RULES = (PORT_OF_SERVICE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    backend_ref: MirrorBackend = item(Record(MirrorBackend), required=True, about="Where copies go; their answers are thrown away.")
    percent: int | None = item(Integer(0, 100), about="How many of a hundred requests are copied; absent, all.")
    fraction: Fraction | None = item(Record(Fraction), about="How many requests are copied, more finely.")

    RULES = (
        Rule(
            lambda mirror: mirror.percent is None or mirror.fraction is None,
            "fraction",
            "one of percent and fraction",
            "!(has(self.percent) && has(self.fraction))",
        ),
    )

    @property
    def share(self) -> float:
        """How many of a hundred requests."""
        if self.fraction is not None:
            return 100.0 * self.fraction.numerator / self.fraction.denominator
        return 100.0 if self.percent is None else float(self.percent)


PATH_TYPES = ("ReplaceFullPath", "ReplacePrefixMatch")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathModifier:
    type: str = item(Choice(PATH_TYPES), required=True, about="Whether the whole path is replaced, or the prefix that matched.")
    replace_full_path: str | None = item(Text(longest=1024), about="The new path.")
    replace_prefix_match: str | None = item(Text(longest=1024), about="What replaces the prefix.")

    RULES = (
        Rule(
            lambda path: (path.replace_full_path is not None) == (path.type == "ReplaceFullPath"),
            "replaceFullPath",
            "replaceFullPath with the type ReplaceFullPath, and with nothing else",
            "has(self.replaceFullPath) == (self.type == 'ReplaceFullPath')",
        ),
        Rule(
            lambda path: (path.replace_prefix_match is not None) == (path.type == "ReplacePrefixMatch"),
            "replacePrefixMatch",
            "replacePrefixMatch with the type ReplacePrefixMatch, and with nothing else",
            "has(self.replacePrefixMatch) == (self.type == 'ReplacePrefixMatch')",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    scheme: str = item(Choice(("http", "https")), "", about="The scheme of the new location.")
    hostname: str = item(PRECISE_HOSTNAME, "", about="The host of the new location.")
    path: PathModifier | None = item(Record(PathModifier), about="The path of the new location.")
    port: int | None = item(PORT, about="The port of the new location; absent, that of the scheme, or of the listener.")
    status_code: int = item(Numbers(REDIRECTS), 302, about="The status of the answer.")


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlRewrite:
    hostname: str = item(PRECISE_HOSTNAME, "", about="The host that the destination is told.")
    path: PathModifier | None = item(Record(PathModifier), about="The path that the destination is told.")


ORIGIN = Text(
    r"\*|https?://(?:\*|(?:\*\.)?(?:[a-zA-Z0-9-]+\.)*[a-zA-Z0-9-]+)(?::[0-9]{1,5})?",
    "'*', or http:// or https:// with a host, which may begin with '*.', and perhaps a port",
    253,
)


def _alone(values: tuple[str, ...]) -> bool:
    return "*" not in values or len(values) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """`max_age` in seconds."""

    allow_origins: tuple[str, ...] = item(ListOf(ORIGIN, most=64, distinct=True), (), about="Origins that may ask.")
    allow_credentials: bool = item(Flag(), False, about="Whether requests may carry credentials.")
    allow_methods: tuple[str, ...] = item(
        ListOf(Choice((*METHODS, "*")), most=9, distinct=True), (), about="Methods that are allowed beside the simple ones; * for all."
    )
    allow_headers: tuple[str, ...] = item(
        ListOf(HEADER_NAME, most=64, distinct=True), (), about="Headers that requests may carry; * for all."
    )
    expose_headers: tuple[str, ...] = item(
        ListOf(HEADER_NAME, most=64, distinct=True), (), about="Headers of answers that scripts may see; * for all."
    )
    max_age: int = item(Integer(1, 2**31 - 1), 5, about="How many seconds browsers keep the answer to a preflight.")

    RULES = (
        Rule(
            lambda cors: all(map(_alone, (cors.allow_origins, cors.allow_methods, cors.allow_headers, cors.expose_headers))),
            "",
            "'*' alone in its list",
            "[has(self.allowOrigins) ? self.allowOrigins : [], has(self.allowHeaders) ? self.allowHeaders : [], "
            "has(self.allowMethods) ? self.allowMethods : [], has(self.exposeHeaders) ? self.exposeHeaders : []]"
            ".all(words, !('*' in words) || size(words) == 1)",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcAuth:
    allowed_headers: tuple[str, ...] = item(ListOf(HEADER_NAME, most=64, distinct=True), (), about="Headers that the authorizer is shown.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAuth:
    path: str = item(Text(longest=1024), "", about="What stands before the request's path when the authorizer is asked.")
    allowed_headers: tuple[str, ...] = item(ListOf(HEADER_NAME, most=64, distinct=True), (), about="Headers that the authorizer is shown.")
    allowed_response_headers: tuple[str, ...] = item(
        ListOf(HEADER_NAME, most=64, distinct=True), (), about="Headers of its answer that the destination is shown."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBody:
    max_size: int = item(Integer(0, 65535), 0, about="How many bytes of the body the authorizer is shown.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalAuth:
    protocol: str = item(Choice(("HTTP", "GRPC")), required=True, about="How the authorizer is asked.")
    backend_ref: MirrorBackend = item(Record(MirrorBackend), required=True, about="The authorizer.")
    grpc: GrpcAuth | None = item(Record(GrpcAuth), about="More for GRPC.")
    http: HttpAuth | None = item(Record(HttpAuth), about="More for HTTP.")
    forward_body: ForwardBody | None = item(Record(ForwardBody), about="Whether the authorizer is shown the body.")


# Filter type → attribute and field that go with it.
GRPC_TYPES = {
    "RequestHeaderModifier": ("request_header_modifier", "requestHeaderModifier"),
    "ResponseHeaderModifier": ("response_header_modifier", "responseHeaderModifier"),
    "RequestMirror": ("request_mirror", "requestMirror"),
    "ExtensionRef": ("extension_ref", "extensionRef"),
}
HTTP_TYPES = GRPC_TYPES | {
    "RequestRedirect": ("request_redirect", "requestRedirect"),
    "URLRewrite": ("url_rewrite", "urlRewrite"),
    "CORS": ("cors", "cors"),
    "ExternalAuth": ("external_auth", "externalAuth"),
}
ONCE = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "CORS", "ExternalAuth")


def _goes_with_type(types: dict[str, tuple[str, str]]) -> Rule:
    return Rule(
        lambda entry: all((getattr(entry, attribute) is not None) == (entry.type == name) for name, (attribute, _) in types.items()),
        "type",
        "the field that goes with the type, and no other",
        " && ".join(f"has(self.{wire}) == (self.type == '{name}')" for name, (_, wire) in types.items()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPCFilter:
    type: str = item(Choice(tuple(GRPC_TYPES)), required=True, about="What is done; the field of the same name says how.")
    request_header_modifier: HeaderModifier | None = item(Record(HeaderModifier), about="Changes of the request's headers.")
    response_header_modifier: HeaderModifier | None = item(Record(HeaderModifier), about="Changes of the answer's headers.")
    request_mirror: Mirror | None = item(Record(Mirror), about="A copy of the request that goes elsewhere.")
    extension_ref: LocalRef | None = item(
        Record(LocalRef), about="A filter that another API defines.", unsupported=NO_EXTENSIONS, guard=True
    )

    RULES = (_goes_with_type(GRPC_TYPES),)


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPFilter:
    type: str = item(Choice(tuple(HTTP_TYPES)), required=True, about="What is done; the field of the same name says how.")
    request_header_modifier: HeaderModifier | None = item(Record(HeaderModifier), about="Changes of the request's headers.")
    response_header_modifier: HeaderModifier | None = item(Record(HeaderModifier), about="Changes of the answer's headers.")
    request_mirror: Mirror | None = item(Record(Mirror), about="A copy of the request that goes elsewhere.")
    request_redirect: Redirect | None = item(Record(Redirect), about="An answer that sends the client elsewhere.")
    url_rewrite: UrlRewrite | None = item(Record(UrlRewrite), about="Changes of host and path on the way.")
    cors: Cors | None = item(Record(Cors), about="What browsers are told about requests of other origins.")
    external_auth: ExternalAuth | None = item(
        Record(ExternalAuth), about="An authorizer that is asked first.", unsupported=NO_CHECKS, guard=True
    )
    extension_ref: LocalRef | None = item(
        Record(LocalRef), about="A filter that another API defines.", unsupported=NO_EXTENSIONS, guard=True
    )

    RULES = (_goes_with_type(HTTP_TYPES),)


def _types(filters: Iterable[GRPCFilter | HTTPFilter]) -> list[str]:
    return [entry.type for entry in filters]


def repeated(filters: Iterable[GRPCFilter | HTTPFilter]) -> bool:
    """Whether something is done twice that can be done once."""
    types = _types(filters)
    return any(types.count(name) > 1 for name in ONCE)


FILTERS_ONCE = Rule(lambda holder: not repeated(holder.filters), "filters", "each type once, but RequestMirror and ExtensionRef")
NOT_BOTH = Rule(
    lambda holder: not {"RequestRedirect", "URLRewrite"} <= set(_types(holder.filters)),
    "filters",
    "one of RequestRedirect and URLRewrite",
    "!has(self.filters) || !self.filters.exists(one, one.type == 'RequestRedirect') || !self.filters.exists(one, one.type == 'URLRewrite')",
)
