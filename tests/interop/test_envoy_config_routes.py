"""Routes, as a real Envoy understands what we encode: a client-side proxy, plain upstreams, everything over delta ADS.

client ─▶ Envoy (a listener at the service's address) ─▶ one of `a`, `b`, `c`
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from mesh.model.codec.envoy import client, routes
from mesh.model.l7.chains import Chain, Traffic
from mesh.model.l7.clusters import Balancing, Cluster, Policy
from mesh.model.l7.endpoints import LocalityGroup
from mesh.model.l7.names import cluster_name
from mesh.model.l7.routes import (
    MILLION,
    Cors,
    Destination,
    Fault,
    Forward,
    Hash,
    HashKind,
    HeaderMatch,
    HeaderOps,
    Mirror,
    PathKind,
    PathMatch,
    PathRewrite,
    QueryMatch,
    Redirect,
    Respond,
    Retry,
    RewriteKind,
    Route,
    RouteMatch,
    RouteTable,
    VirtualHost,
)
from mesh.model.l7.texts import PRESENT, TextKind, TextMatch, exact, regex
from tests.interop import envoy, proxied
from tests.interop.proxied import Answer, ask
from tests.interop.upstream import Upstream, upstream

pytestmark = [pytest.mark.interop, pytest.mark.skipif(envoy.binary() is None, reason="Envoy is not installed: make envoy")]

HOST, LOCALHOST = "shop.example", "127.0.0.1"
TABLE = "table"


def to(name: str) -> str:
    return cluster_name(f"{name}.example", 80)


@dataclass
class Rig:
    envoy: proxied.Proxied
    port: int
    upstreams: Mapping[str, Upstream]

    def serve(self, *routes: Route) -> None:
        self.envoy.serve(RouteTable(TABLE, (VirtualHost(TABLE, ("*",), routes),)), self.port)

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        return ask(self.port, path, method, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    (port,) = envoy.free_ports(1)
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(upstream(name)) for name in ("a", "b", "c")}
        resources: list[Any] = [client.listener(Chain(HOST, port, Traffic.HTTP, (ip_address(LOCALHOST),), table=TABLE), proxied.CLIENT)]
        for name, one in upstreams.items():
            resources += proxied.service(Cluster(to(name), f"{name}.example", 80), [LocalityGroup((proxied.plain_endpoint(one),))])
        three = [LocalityGroup(tuple(proxied.plain_endpoint(one) for one in upstreams.values()))]
        resources += proxied.service(Cluster(to("three"), "three.example", 80), three)
        hashed = Balancing(Policy.RING_HASH, (Hash(HashKind.HEADER, "x-user"),))
        resources += proxied.service(Cluster(to("hashed"), "hashed.example", 80, balancing=hashed), three)
        table = RouteTable(TABLE, (VirtualHost(TABLE, ("*",), ()),))
        made = stack.enter_context(proxied.proxied(tmp_path_factory.mktemp("routes"), *resources, routes.route_table(table)))
        yield Rig(made, port, upstreams)


def forward(name: str, **fields: Any) -> Forward:
    return Forward((Destination(to(name)),), **fields)


def when(path: PathMatch | None = None, **fields: Any) -> RouteMatch:
    return RouteMatch(path or PathMatch(), **fields)


REST = Route(when(), forward("c"))

MATCHES: list[tuple[str, RouteMatch, list[str | tuple[str, dict[str, str]]], list[str | tuple[str, dict[str, str]]]]] = [
    ("exact", when(PathMatch(PathKind.EXACT, "/v1")), ["/v1", "/v1?a=b"], ["/v1/", "/v1x", "/V1"]),
    ("exact in any case", when(PathMatch(PathKind.EXACT, "/v1", True)), ["/V1"], ["/v2"]),
    ("prefix", when(PathMatch(PathKind.PREFIX, "/v1")), ["/v1", "/v1/x", "/v1x"], ["/v2", "/a/v1", "/V1"]),
    ("segments", when(PathMatch(PathKind.SEGMENTS, "/v1")), ["/v1", "/v1/", "/v1/x", "/v1?q"], ["/v1x", "/"]),
    ("regex is whole", when(PathMatch(PathKind.REGEX, "/v[0-9]+")), ["/v12", "/v1?q=/x"], ["/v12/x", "/av1"]),
    ("header", when(headers=(HeaderMatch("x-user", exact("ann")),)), [("/", {"x_user": "ann"})], ["/", ("/", {"x_user": "Ann"})]),
    (
        "header by prefix and suffix",
        when(headers=(HeaderMatch("x-user", TextMatch(TextKind.PREFIX, "a")), HeaderMatch("x-user", TextMatch(TextKind.SUFFIX, "z")))),
        [("/", {"x_user": "abcz"})],
        [("/", {"x_user": "abc"})],
    ),
    ("header by regex", when(headers=(HeaderMatch("x-user", regex("a.c")),)), [("/", {"x_user": "abc"})], [("/", {"x_user": "abcd"})]),
    ("header present", when(headers=(HeaderMatch("x-user", PRESENT),)), [("/", {"x_user": "x"})], ["/"]),
    ("header absent", when(headers=(HeaderMatch("x-user", PRESENT, True),)), ["/"], [("/", {"x_user": "x"})]),
    (
        "header other than",
        when(headers=(HeaderMatch("x-user", exact("ann"), True),)),
        ["/", ("/", {"x_user": "bob"})],
        [("/", {"x_user": "ann"})],
    ),
    ("authority", when(headers=(HeaderMatch(":authority", exact("a.b")),)), [("/", {"host": "a.b"})], ["/", ("/", {"host": "a.b:80"})]),
    ("query", when(query=(QueryMatch("q", exact("1")),)), ["/?q=1", "/?x&q=1&q=2"], ["/?q=2", "/", "/?q=2&q=1"]),
    ("query present", when(query=(QueryMatch("q"),)), ["/?q", "/?q=1"], ["/?r=q"]),
    (
        "all of it",
        when(PathMatch(PathKind.EXACT, "/v1"), headers=(HeaderMatch("x-user", exact("ann")),), query=(QueryMatch("q", exact("1")),)),
        [("/v1?q=1", {"x_user": "ann"})],
        [("/v1?q=1", {}), ("/v1", {"x_user": "ann"}), ("/v2?q=1", {"x_user": "ann"})],
    ),
]


@pytest.mark.parametrize(("match", "takes", "leaves"), [case[1:] for case in MATCHES], ids=[case[0] for case in MATCHES])
def test_match(rig: Rig, match: RouteMatch, takes: list[Any], leaves: list[Any]) -> None:
    rig.serve(Route(match, forward("a")), REST)
    for cases, server in ((takes, "a"), (leaves, "c")):
        for case in cases:
            path, headers = (case, {}) if isinstance(case, str) else case
            assert rig.ask(path, **headers).server == server, case


def test_method(rig: Rig) -> None:
    rig.serve(Route(when(headers=(HeaderMatch(":method", exact("POST")),)), forward("a")), REST)
    assert rig.ask("/", "POST").server == "a"
    assert rig.ask("/", "GET").server == "c"


def test_first_route_counts_and_none_is_404(rig: Rig) -> None:
    rig.serve(
        Route(when(PathMatch(PathKind.PREFIX, "/a")), forward("a")),
        Route(when(PathMatch(PathKind.PREFIX, "/ab")), forward("b")),
    )
    assert rig.ask("/abc").server == "a"
    assert rig.ask("/b").status == 404


def test_weights(rig: Rig) -> None:
    rig.serve(Route(when(), Forward((Destination(to("a"), 80), Destination(to("b"), 20), Destination(to("c"), 0)))))
    counts = Counter(rig.ask().server for _ in range(400))
    assert set(counts) == {"a", "b"}
    assert 40 <= counts["b"] <= 125


def test_a_share_without_a_cluster_is_answered_with_the_routes_status(rig: Rig) -> None:
    rig.serve(Route(when(), Forward((Destination(to("a"), 1), Destination("unknown", 1)), missing_status=500)))
    counts = Counter(rig.ask().status for _ in range(200))
    assert set(counts) == {200, 500}
    rig.serve(Route(when(), Forward((Destination("unknown"),))))
    assert rig.ask().status == 503


def test_headers_of_route_and_destination(rig: Rig) -> None:
    request = HeaderOps(
        set=(("x-set", "route"), ("x-both", "route"), ("x-empty", "")), add=(("x-add", "1"), ("x-add", "2")), remove=("x-gone",)
    )
    response = HeaderOps(set=(("x-answer", "route"),), remove=("x-server",))
    of_destination = HeaderOps(set=(("x-both", "destination"),), add=(("x-add", "3"),))
    destination = Destination(to("a"), request=of_destination, response=HeaderOps(add=(("x-answer", "destination"),)))
    rig.serve(Route(when(), Forward((destination,)), request=request, response=response))
    answer = rig.ask("/", x_gone="1", x_set="client", x_add="0")
    headers = answer.echo["headers"]
    assert "x-gone" not in headers
    assert (headers["x-set"], headers["x-both"], headers["x-add"], headers["x-empty"]) == ("route", "destination", "0,1,2,3", "")
    assert "x-server" not in answer.headers
    assert answer.headers["x-answer"] == "destination"


REWRITES = [
    (
        "prefix",
        PathMatch(PathKind.PREFIX, "/old"),
        PathRewrite(RewriteKind.PREFIX, "/new"),
        {"/old/x?q=1": "/new/x?q=1", "/oldest": "/newest"},
    ),
    (
        "segments",
        PathMatch(PathKind.SEGMENTS, "/foo"),
        PathRewrite(RewriteKind.SEGMENTS, "/xyz/"),
        {"/foo/bar": "/xyz/bar", "/foo": "/xyz", "/foo/": "/xyz/", "/foo/bar?q": "/xyz/bar?q"},
    ),
    (
        "segments to the root",
        PathMatch(PathKind.SEGMENTS, "/foo.v1"),
        PathRewrite(RewriteKind.SEGMENTS, "/"),
        {"/foo.v1/bar": "/bar", "/foo.v1": "/", "/foo.v1/": "/", "/foo.v1/foo.v1/x?a=/foo.v1": "/foo.v1/x?a=/foo.v1"},
    ),
    ("segments of the root", PathMatch(), PathRewrite(RewriteKind.SEGMENTS, "/xyz"), {"/bar": "/xyz/bar", "/": "/xyz/"}),
    ("full of exact", PathMatch(PathKind.EXACT, "/a"), PathRewrite(RewriteKind.FULL, "/b"), {"/a?q=1": "/b?q=1"}),
    ("full of prefix", PathMatch(PathKind.PREFIX, "/a"), PathRewrite(RewriteKind.FULL, r"/b\1"), {"/a/c/d?q=1": r"/b\1?q=1"}),
    (
        "regex",
        PathMatch(PathKind.PREFIX, "/a"),
        PathRewrite(RewriteKind.REGEX, r"/z/\2/\1", "^/a/([^/]+)/([^/]+)$"),
        {"/a/b/c": "/z/c/b", "/a/b": "/a/b"},
    ),
]


@pytest.mark.parametrize(("match", "rewrite", "paths"), [case[1:] for case in REWRITES], ids=[case[0] for case in REWRITES])
def test_rewrite(rig: Rig, match: PathMatch, rewrite: PathRewrite, paths: dict[str, str]) -> None:
    rig.serve(Route(when(match), forward("a", path=rewrite)))
    for asked, seen in paths.items():
        assert rig.ask(asked).echo["path"] == seen


def test_authority_of_route_and_of_destination(rig: Rig) -> None:
    rig.serve(
        Route(when(PathMatch(PathKind.PREFIX, "/route")), forward("a", authority="route.example")),
        Route(when(), Forward((Destination(to("a"), authority="destination.example"),))),
    )
    assert rig.ask("/route").echo["headers"]["host"] == "route.example"
    assert rig.ask("/").echo["headers"]["host"] == "destination.example"


REDIRECTS = [
    ("whole path", Redirect(path=PathRewrite(RewriteKind.FULL, "/new")), "/old?q=1", (301, "http://h/new?q=1")),
    ("prefix", Redirect(path=PathRewrite(RewriteKind.PREFIX, "/new"), status=302), "/old/x", (302, "http://h/new/x")),
    ("segments", Redirect(path=PathRewrite(RewriteKind.SEGMENTS, "/"), status=308), "/old/x", (308, "http://h/x")),
    ("authority", Redirect(authority="other", status=303), "/old", (303, "http://other/old")),
    ("port", Redirect(port=8443, status=307), "/old", (307, "http://h:8443/old")),
    ("scheme", Redirect(scheme="https"), "/old?a", (301, "https://h/old?a")),
    ("all", Redirect("https", "other", 8443, PathRewrite(RewriteKind.FULL, "/x")), "/old", (301, "https://other:8443/x")),
]


@pytest.mark.parametrize(("action", "asked", "expected"), [case[1:] for case in REDIRECTS], ids=[case[0] for case in REDIRECTS])
def test_redirect(rig: Rig, action: Redirect, asked: str, expected: tuple[int, str]) -> None:
    rig.serve(Route(when(PathMatch(PathKind.PREFIX, "/old")), action))
    answer = rig.ask(asked, host="h")
    assert (answer.status, answer.headers["location"]) == expected


def test_direct_response(rig: Rig) -> None:
    rig.serve(
        Route(when(PathMatch(PathKind.EXACT, "/big")), Respond(200, b"x" * 900_000)),
        Route(when(), Respond(418, b"short\x00\xff"), response=HeaderOps(set=(("x-kind", "tea"),))),
    )
    answer = rig.ask()
    assert (answer.status, answer.body, answer.headers["x-kind"]) == (418, b"short\x00\xff", "tea")
    assert len(rig.ask("/big").body) == 900_000


def test_timeout(rig: Rig) -> None:
    rig.serve(
        Route(when(PathMatch(PathKind.PREFIX, "/slow/0.3")), forward("a")),
        Route(when(), forward("a", timeout=timedelta(milliseconds=200))),
    )
    assert rig.ask("/slow/0.3").status == 200
    began = time.monotonic()
    assert rig.ask("/slow/5").status == 504
    assert time.monotonic() - began < 3


def test_retries(rig: Rig) -> None:
    on = ("5xx",)
    rig.serve(
        Route(when(PathMatch(PathKind.PREFIX, "/flaky/once")), forward("a", retry=Retry(1, on, backoff=timedelta(milliseconds=1)))),
        Route(when(PathMatch(PathKind.PREFIX, "/flaky/codes")), forward("a", retry=Retry(3, ("retriable-status-codes",), (503,)))),
        Route(when(PathMatch(PathKind.PREFIX, "/flaky/none")), forward("a", retry=Retry(0, on))),
        Route(when(PathMatch(PathKind.PREFIX, "/slow")), forward("a", retry=Retry(1, on, per_try=timedelta(milliseconds=300)))),
        # Envoy throws dice for another host, so many times: of three, the third is found by then.
        Route(when(), forward("three", retry=Retry(2, ("gateway-error", "connect-failure", "reset"), reselect=60, spread=True))),
    )
    assert rig.ask("/flaky/once/1").status == 200
    assert rig.ask("/flaky/once/3").status == 503
    assert rig.ask("/flaky/codes/3").status == 200
    assert rig.ask("/flaky/codes/3").echo["headers"]["x-envoy-attempt-count"] == "1"
    assert rig.ask("/flaky/none/1").status == 503
    assert rig.ask("/slow/2").status == 504
    proxied.eventually(lambda: rig.upstreams["a"].seen["/slow/2"] == 2, "both tries arrive")
    assert rig.ask("/close").status == 503
    assert {one.seen["/close"] for one in rig.upstreams.values()} == {1}, "each host once, since tried ones are avoided"


def test_fault(rig: Rig) -> None:
    rig.serve(
        Route(when(PathMatch(PathKind.PREFIX, "/abort")), forward("a"), fault=Fault(abort_status=418, abort_share=MILLION)),
        Route(when(PathMatch(PathKind.PREFIX, "/grpc")), forward("a"), fault=Fault(abort_grpc=14, abort_share=MILLION)),
        Route(when(PathMatch(PathKind.PREFIX, "/half")), forward("a"), fault=Fault(abort_status=500, abort_share=MILLION // 2)),
        Route(when(), forward("a"), fault=Fault(delay=timedelta(milliseconds=300), delay_share=MILLION)),
    )
    assert rig.ask("/abort").status == 418
    answer = rig.ask("/grpc", "POST", content_type="application/grpc")
    assert (answer.status, answer.headers["grpc-status"]) == (200, "14")
    counts = Counter(rig.ask("/half").status for _ in range(200))
    assert 50 < counts[500] < 150
    began = time.monotonic()
    assert rig.ask("/delayed").status == 200
    assert time.monotonic() - began > 0.25  # Envoy's clock stands still while it works: 0.3 s may be some milliseconds less


def test_mirror(rig: Rig) -> None:
    rig.serve(Route(when(), forward("a", mirrors=(Mirror(to("b")), Mirror(to("c"), 0)))))
    assert rig.ask("/mirrored", host="h").server == "a"
    assert rig.upstreams["b"].wait_for("/mirrored")
    (copy,) = [request for request in rig.upstreams["b"].requests if request["path"] == "/mirrored"]
    assert copy["headers"]["host"] == "h"
    assert rig.upstreams["c"].seen["/mirrored"] == 0


def preflight(rig: Rig, origin: str, path: str = "/") -> Answer:
    return rig.ask(path, "OPTIONS", origin=origin, access_control_request_method="PUT")


def test_cors(rig: Rig) -> None:
    cors = Cors(
        (exact("https://ok.example"), TextMatch(TextKind.SUFFIX, ".good.example")),
        methods=("GET", "PUT"),
        headers=("x-a", "x-b"),
        expose=("x-c",),
        max_age=timedelta(hours=1),
        credentials=True,
    )
    ignoring = Cors(cors.origins, forward_unmatched=False)
    rig.serve(Route(when(PathMatch(PathKind.PREFIX, "/ignore")), forward("a"), cors=ignoring), Route(when(), forward("a"), cors=cors))
    for origin in ("https://ok.example", "https://www.good.example"):
        answer = preflight(rig, origin)
        assert (answer.status, answer.server) == (200, "")
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["access-control-allow-methods"] == "GET,PUT"
        assert answer.headers["access-control-allow-headers"] == "x-a,x-b"
        assert answer.headers["access-control-max-age"] == "3600"
        assert answer.headers["access-control-allow-credentials"] == "true"
    assert preflight(rig, "https://evil.example").server == "a"
    ignored = preflight(rig, "https://evil.example", "/ignore")
    assert (ignored.status, ignored.server) == (200, "")
    assert "access-control-allow-origin" not in ignored.headers
    plain = rig.ask("/", origin="https://ok.example")
    assert (plain.server, plain.headers["access-control-allow-origin"]) == ("a", "https://ok.example")
    assert plain.headers["access-control-expose-headers"] == "x-c"
    assert "access-control-allow-origin" not in rig.ask("/").headers


def test_hash_of_a_cluster(rig: Rig) -> None:
    rig.serve(Route(when(), forward("hashed")))
    servers = {user: {rig.ask(x_user=user).server for _ in range(8)} for user in "abcdefghij"}
    assert all(len(found) == 1 for found in servers.values())
    assert len(set().union(*servers.values())) > 1
    assert len({rig.ask().server for _ in range(60)}) == 3, "without a key, any"


def test_paths_are_made_regular_before_they_are_looked_at(rig: Rig) -> None:
    rig.serve(Route(when(PathMatch(PathKind.PREFIX, "/a/")), forward("a")), REST)
    assert rig.ask("/b/../a/x").echo["path"] == "/a/x"
    assert rig.ask("/%61/x").server == "a"
    assert rig.ask("/a/../b").server == "c"
