"""HTTP routes: the first of a list whose match takes the request says what becomes of it; none means 404.

Order is meaning: whoever makes a list has put it into the order in which it is read. Shares are parts per million, so that they are whole
numbers. Durations are `timedelta`; None is "no limit", never "the proxy's own default".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from mesh.model.l7.texts import PRESENT, TextMatch

MILLION = 1_000_000
NO_CLUSTER = "unknown"
"""The name of a cluster that never exists: its share of requests is answered with `Forward.missing_status`."""


class PathKind(Enum):
    """`SEGMENTS` is a prefix of whole segments: `/a` takes `/a` and `/a/b`, not `/ab`."""

    EXACT = "exact"
    PREFIX = "prefix"
    SEGMENTS = "segments"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class PathMatch:
    """On the path without its query. A value for SEGMENTS has no `/` at its end. `ignore_case` is not for REGEX."""

    kind: PathKind = PathKind.PREFIX
    value: str = "/"
    ignore_case: bool = False

    @property
    def takes_all(self) -> bool:
        if self.kind is PathKind.REGEX:
            return self.value in (".*", "/.*")
        return self.kind is PathKind.PREFIX and self.value == "/"


ANY_PATH = PathMatch()


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """`name` in lower case, or one of `:method`, `:scheme`, `:authority`. `negated`: the text must not match; a header that is absent
    counts as an empty one then, and for PRESENT as absent.
    """

    name: str
    text: TextMatch = PRESENT
    negated: bool = False


@dataclass(frozen=True, slots=True)
class QueryMatch:
    """The first value of a query parameter."""

    name: str
    text: TextMatch = PRESENT


@dataclass(frozen=True, slots=True)
class ClaimMatch:
    """A claim of a token that was verified; `path` leads into nested ones. A claim that is a list matches by any of its members."""

    path: tuple[str, ...]
    text: TextMatch = PRESENT
    negated: bool = False


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """All of it must hold. `source_namespace`: requests of workloads of this namespace only, as their certificates prove; "" for all."""

    path: PathMatch = ANY_PATH
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()
    claims: tuple[ClaimMatch, ...] = ()
    source_namespace: str = ""

    @property
    def takes_all(self) -> bool:
        return self.path.takes_all and not (self.headers or self.query or self.claims or self.source_namespace)


@dataclass(frozen=True, slots=True)
class HeaderOps:
    """In this order: remove, set, add. `:authority` is no business of these: `Forward.authority` is."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


NO_OPS = HeaderOps()


class RewriteKind(Enum):
    """What of the path is replaced: the text that the match's prefix took (PREFIX), its segments, with no `/` doubled or lost (SEGMENTS),
    the whole path (FULL), or what `pattern` finds, with \\1 for its first group (REGEX).
    """

    PREFIX = "prefix"
    SEGMENTS = "segments"
    FULL = "full"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class PathRewrite:
    kind: RewriteKind
    value: str
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Destination:
    """One of a route's clusters; `authority` replaces the request's, "" leaves it. Header ops come after the route's."""

    cluster: str
    weight: int = 1
    request: HeaderOps = NO_OPS
    response: HeaderOps = NO_OPS
    authority: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """`on` holds Envoy's words (`retry_on` and `retry_grpc_on` together); `attempts` counts tries after the first, and 0 is none.

    `elsewhere`: not on a host that was tried already, which is looked for `reselect` times. `spread`: every second try in other localities.
    """

    attempts: int
    on: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    per_try: timedelta | None = None
    backoff: timedelta | None = None
    elsewhere: bool = True
    reselect: int = 5
    spread: bool = False


class HashKind(Enum):
    HEADER = "header"
    COOKIE = "cookie"
    SOURCE_IP = "source ip"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Hash:
    """What chooses the endpoint where balancing is by hash. `ttl` is for COOKIE: None leaves making it to others; 0 is a session's."""

    kind: HashKind
    name: str = ""
    path: str = ""
    ttl: timedelta | None = None
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy is sent to `cluster` for `share` of the requests, and its answer thrown away."""

    cluster: str
    share: int = MILLION


@dataclass(frozen=True, slots=True)
class Fault:
    """Delay first, then abort, each by dice of its own. `abort_status` is an HTTP status, `abort_grpc` a gRPC one; at most one is given."""

    delay: timedelta | None = None
    delay_share: int = 0
    abort_status: int | None = None
    abort_grpc: int | None = None
    abort_share: int = 0


@dataclass(frozen=True, slots=True)
class Cors:
    """`forward_unmatched`: a preflight of an origin that is not allowed goes upstream; else it is answered 200 without CORS headers."""

    origins: tuple[TextMatch, ...]
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    max_age: timedelta | None = None
    credentials: bool = False
    forward_unmatched: bool = True


@dataclass(frozen=True, slots=True)
class Forward:
    """`missing_status` (503, or 500 for Gateway API's routes) answers where a chosen cluster does not exist.

    `hashes` is only for clients that look for them in routes (gRPC); others read them from the cluster.
    """

    destinations: tuple[Destination, ...]
    path: PathRewrite | None = None
    authority: str = ""
    timeout: timedelta | None = None
    retry: Retry | None = None
    mirrors: tuple[Mirror, ...] = ()
    hashes: tuple[Hash, ...] = ()
    missing_status: int = 503


@dataclass(frozen=True, slots=True)
class Redirect:
    """None and "" leave that part of the URL as it was. Where `scheme` changes, a port that was the old one's default is left out."""

    scheme: str = ""
    authority: str = ""
    port: int | None = None
    path: PathRewrite | None = None
    status: int = 301


@dataclass(frozen=True, slots=True)
class Respond:
    status: int
    body: bytes = b""


Action = Forward | Redirect | Respond


@dataclass(frozen=True, slots=True)
class Route:
    """`name` goes to logs. Fault and CORS are for forwarding only."""

    match: RouteMatch
    action: Action
    name: str = ""
    request: HeaderOps = NO_OPS
    response: HeaderOps = NO_OPS
    fault: Fault | None = None
    cors: Cors | None = None


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """`domains` are compared with the request's authority, port included; `*` takes all."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class RouteTable:
    name: str
    hosts: tuple[VirtualHost, ...]
