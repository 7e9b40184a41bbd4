"""VirtualServices → routes: what becomes of each field, in which order, and what is said of what cannot be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from mesh.model.l7.notes import Problem, Translated
from mesh.model.l7.profile import Context
from mesh.model.l7.routes import (
    ClaimMatch,
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
)
from mesh.model.l7.texts import PRESENT, TextKind, TextMatch, exact, regex
from mesh.model.l7.translate.virtual_service import DEFAULT_RETRY, RETRY_ON, destinations, http_routes
from mesh.model.manifest import VirtualService
from mesh.model.workload import AppProtocol
from tests.model.l7.objects import CLIENT, GRPC, WAYPOINT, host, made, problems, target, targets

APP = f"outbound|80||{host('app')}"
REVIEWS = target("reviews", {"subsets": [{"name": "v1"}, {"name": "v2"}]})
HASHED = target("hashed", {"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}}})
BOTH = {80: AppProtocol.HTTP11, 81: AppProtocol.HTTP11}
KNOWN = targets(target(), REVIEWS, HASHED, target("many", ports={80: AppProtocol.HTTP11, 90: AppProtocol.HTTP11}))


def vs(http: Sequence[Mapping[str, Any]] = (), name: str = "one", namespace: str = "shop", **spec: Any) -> VirtualService:
    rules = {"http": list(http)} if http else {}
    found: VirtualService = made("VirtualService", {"hosts": ["app"], **rules, **spec}, name, namespace)
    return found


def routes(*found: VirtualService, context: Context = WAYPOINT, port: int = 80) -> Translated[tuple[Route, ...]]:
    return http_routes(found, target(ports=BOTH), port, context, KNOWN, {})


def rule(**fields: Any) -> dict[str, Any]:
    return {"route": [{"destination": {"host": "app"}}], **fields}


def one(context: Context = WAYPOINT, **fields: Any) -> Route:
    """The route that a single rule comes to."""
    (found,) = routes(vs([rule(**fields)]), context=context).value
    return found


def forward(**fields: Any) -> Forward:
    action = one(**fields).action
    assert isinstance(action, Forward)
    return action


def test_without_a_virtual_service() -> None:
    (found,) = routes().value
    assert found == Route(RouteMatch(), Forward((Destination(APP),), retry=DEFAULT_RETRY), name="default")


def test_with_rules_for_other_traffic_alone() -> None:
    found = routes(vs(tcp=[{"route": [{"destination": {"host": "reviews"}}]}]))
    assert [route.name for route in found.value] == ["default"]


def test_nothing_that_matches_is_no_default() -> None:
    found = routes(vs([rule(match=[{"uri": {"exact": "/x"}}])]))
    assert [route.match.path.value for route in found.value] == ["/x"]


MATCHES: list[tuple[dict[str, Any], RouteMatch]] = [
    ({"uri": {"exact": "/a"}}, RouteMatch(PathMatch(PathKind.EXACT, "/a"))),
    ({"uri": {"prefix": "/a"}, "ignoreUriCase": True}, RouteMatch(PathMatch(PathKind.PREFIX, "/a", True))),
    ({"uri": {"prefix": ""}}, RouteMatch()),
    ({"uri": {"regex": "/a.*"}, "ignoreUriCase": True}, RouteMatch(PathMatch(PathKind.REGEX, "/a.*"))),
    (
        {"scheme": {"exact": "https"}, "method": {"regex": "GET|PUT"}, "authority": {"prefix": "a."}},
        RouteMatch(
            headers=(
                HeaderMatch(":scheme", exact("https")),
                HeaderMatch(":method", regex("GET|PUT")),
                HeaderMatch(":authority", TextMatch(TextKind.PREFIX, "a.")),
            )
        ),
    ),
    (
        {"headers": {"X-B": {"exact": "1"}, "x-a": {}, "x-c": {"regex": "*"}}, "withoutHeaders": {"x-d": {"prefix": "p"}, "x-e": {}}},
        RouteMatch(
            headers=(
                HeaderMatch("x-a", PRESENT),
                HeaderMatch("x-b", exact("1")),
                HeaderMatch("x-c", PRESENT),
                HeaderMatch("x-d", TextMatch(TextKind.PREFIX, "p"), True),
                HeaderMatch("x-e", PRESENT, True),
            )
        ),
    ),
    (
        {"queryParams": {"q": {"exact": ""}, "p": {"prefix": "x"}, "r": {}}},
        RouteMatch(query=(QueryMatch("p", TextMatch(TextKind.PREFIX, "x")), QueryMatch("q", exact("")), QueryMatch("r", PRESENT))),
    ),
    (
        {"headers": {"@request.auth.claims.team": {"exact": "red"}, "@request.auth.claims[realm][role]": {}}},
        RouteMatch(claims=(ClaimMatch(("team",), exact("red")), ClaimMatch(("realm", "role")))),
    ),
    ({"port": 80}, RouteMatch()),
    ({"gateways": ["mesh", "other/gateway"]}, RouteMatch()),
    ({"sourceNamespace": "shop"}, RouteMatch()),
]


@pytest.mark.parametrize(("written", "match"), MATCHES, ids=[str(case[0])[:40] for case in MATCHES])
def test_match(written: dict[str, Any], match: RouteMatch) -> None:
    assert one(match=[written]).match == match


@pytest.mark.parametrize(
    ("written", "context", "counts"),
    [
        ({"port": 81}, WAYPOINT, False),
        ({"gateways": ["shop/gateway"]}, WAYPOINT, False),
        ({"sourceNamespace": "other"}, WAYPOINT, False),
        ({"sourceNamespace": "other"}, CLIENT, False),
        ({"sourceLabels": {"app": "web"}}, WAYPOINT, False),
        ({"sourceLabels": {"app": "web"}}, CLIENT, True),
        ({"sourceLabels": {"app": "web", "version": "v2"}}, CLIENT, False),
        ({"sourceLabels": {"app": "web"}}, GRPC, False),
        ({"uri": {"exact": ""}}, WAYPOINT, False),
    ],
)
def test_matches_that_are_decided_beforehand(written: dict[str, Any], context: Context, counts: bool) -> None:
    assert bool(routes(vs([rule(match=[written])]), context=context).value) is counts


def test_rules_for_gateways_alone() -> None:
    assert routes(vs([rule()], gateways=["shop/gateway"])).value == ()
    assert len(routes(vs([rule()], gateways=["shop/gateway", "mesh"])).value) == 1
    assert len(routes(vs([rule(match=[{"gateways": ["mesh"]}])], gateways=["shop/gateway"])).value) == 1


def test_order_and_what_is_never_reached() -> None:
    found = routes(
        vs(
            [
                rule(name="a", match=[{"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/b"}}]),
                rule(name="b", match=[{"uri": {"prefix": "/"}}, {}]),
            ]
        ),
        vs([rule(name="c")], "two"),
    )
    assert [(route.name, route.match.path.value) for route in found.value] == [("a", "/a"), ("a", "/b"), ("b", "/")]
    assert [(note.problem, note.subject.name, note.field) for note in found.notes] == [(Problem.UNREACHABLE, "two", "spec.http[0]")]


def test_names() -> None:
    assert one(name="route", match=[{"name": "match", "uri": {"exact": "/"}}]).name == "route.match"


def test_destinations_and_weights() -> None:
    found = forward(
        route=[
            {"destination": {"host": "reviews", "subset": "v1"}, "weight": 90, "headers": {"request": {"set": {"x-v": "1"}}}},
            {"destination": {"host": "reviews.shop.svc.cluster.local", "subset": "v2"}, "weight": 10},
            {"destination": {"host": "app"}},
        ]
    )
    name = f"outbound|80|%s|{host('reviews')}"
    assert found.destinations == (Destination(name % "v1", 90, HeaderOps(set=(("x-v", "1"),))), Destination(name % "v2", 10))
    assert found.missing_status == 503


@pytest.mark.parametrize(
    ("destination", "cluster", "said"),
    [
        ({"host": "app"}, APP, []),
        ({"host": "many", "port": {"number": 90}}, f"outbound|90||{host('many')}", []),
        ({"host": "many"}, f"outbound|80||{host('many')}", []),
        ({"host": "nowhere"}, f"outbound|80||{host('nowhere')}", [Problem.UNKNOWN_DESTINATION]),
        ({"host": "reviews", "port": {"number": 99}}, f"outbound|99||{host('reviews')}", [Problem.UNKNOWN_PORT]),
        ({"host": "reviews", "subset": "v9"}, f"outbound|80|v9|{host('reviews')}", [Problem.MISSING_SUBSET]),
    ],
)
def test_destination(destination: dict[str, Any], cluster: str, said: list[Problem]) -> None:
    found = routes(vs([{"route": [{"destination": destination}]}]))
    (route,) = found.value
    assert isinstance(route.action, Forward)
    assert [entry.cluster for entry in route.action.destinations] == [cluster]
    assert [note.problem for note in found.notes] == said


def test_a_port_that_is_not_the_only_one_is_the_addressed_one() -> None:
    (route,) = routes(vs([rule(route=[{"destination": {"host": "reviews"}}])]), port=81).value
    assert isinstance(route.action, Forward)
    assert route.action.destinations[0].cluster == f"outbound|80||{host('reviews')}"
    (route,) = routes(vs([rule(route=[{"destination": {"host": "many"}}])]), port=81).value
    assert isinstance(route.action, Forward)
    assert route.action.destinations[0].cluster == f"outbound|81||{host('many')}"


REDIRECTS: list[tuple[dict[str, Any], Redirect]] = [
    ({"uri": "/new"}, Redirect(path=PathRewrite(RewriteKind.FULL, "/new"))),
    ({"authority": "a.b", "redirectCode": 307}, Redirect(authority="a.b", status=307)),
    ({"scheme": "https"}, Redirect("https")),
    ({"port": 8443}, Redirect(port=8443)),
    ({"scheme": "https", "derivePort": "FROM_PROTOCOL_DEFAULT"}, Redirect("https")),
    ({"scheme": "https", "derivePort": "FROM_REQUEST_PORT"}, Redirect("https")),
]


@pytest.mark.parametrize(("written", "action"), REDIRECTS, ids=[str(case[0]) for case in REDIRECTS])
def test_redirect(written: dict[str, Any], action: Redirect) -> None:
    (found,) = routes(vs([{"redirect": written}])).value
    assert found.action == action


def test_redirect_of_a_prefix() -> None:
    (found,) = routes(vs([{"match": [{"uri": {"prefix": "/old"}}], "redirect": {"prefixRewrite": "/new"}}])).value
    assert found.action == Redirect(path=PathRewrite(RewriteKind.PREFIX, "/new"))


def test_default_port_of_a_scheme_is_written_where_the_request_would_bring_another() -> None:
    (found,) = routes(vs([{"redirect": {"scheme": "https", "derivePort": "FROM_PROTOCOL_DEFAULT"}}]), port=81).value
    assert found.action == Redirect("https", port=443)


@pytest.mark.parametrize(
    ("written", "action"),
    [
        ({"status": 503}, Respond(503)),
        ({"status": 200, "body": {"string": "héllo"}}, Respond(200, "héllo".encode())),
        ({"status": 200, "body": {"bytes": "AP8="}}, Respond(200, b"\x00\xff")),
    ],
)
def test_direct_response(written: dict[str, Any], action: Respond) -> None:
    (found,) = routes(vs([{"directResponse": written, "headers": {"response": {"set": {"x-a": "b"}}}}])).value
    assert (found.action, found.response) == (action, HeaderOps(set=(("x-a", "b"),)))


@pytest.mark.parametrize(
    ("match", "written", "path"),
    [
        ({"uri": {"prefix": "/a"}}, {"uri": "/b"}, PathRewrite(RewriteKind.PREFIX, "/b")),
        ({"uri": {"exact": "/a"}}, {"uri": "/b"}, PathRewrite(RewriteKind.FULL, "/b")),
        ({"uri": {"regex": "/a.*"}}, {"uri": "/b"}, PathRewrite(RewriteKind.FULL, "/b")),
        ({"method": {"exact": "GET"}}, {"uri": "/b"}, PathRewrite(RewriteKind.PREFIX, "/b")),
        (
            {"uri": {"prefix": "/a"}},
            {"uriRegexRewrite": {"match": "/a/(.*)", "rewrite": "/b/\\1"}},
            PathRewrite(RewriteKind.REGEX, "/b/\\1", "/a/(.*)"),
        ),
        ({"uri": {"prefix": "/a"}}, {"authority": "x"}, None),
    ],
)
def test_rewrite(match: dict[str, Any], written: dict[str, Any], path: PathRewrite | None) -> None:
    assert forward(match=[match], rewrite=written).path == path


def test_authority_of_rewrite_then_route_then_destination() -> None:
    own = [{"destination": {"host": "app"}, "headers": {"request": {"set": {"host": "destination"}}}}]
    assert forward(route=own).destinations[0].authority == "destination"
    headers = {"request": {"set": {":authority": "route"}}}
    found = forward(route=own, headers=headers)
    assert (found.authority, found.destinations[0].authority) == ("route", "")
    assert forward(route=own, headers=headers, rewrite={"authority": "rewrite"}).authority == "rewrite"


def test_timeout() -> None:
    assert forward().timeout is None
    assert forward(timeout="0s").timeout is None
    assert forward(timeout="1500ms").timeout == timedelta(seconds=1.5)


RETRIES: list[tuple[dict[str, Any], Retry]] = [
    ({"attempts": 0}, Retry(0)),
    ({"attempts": 3}, Retry(3, RETRY_ON)),
    ({"attempts": 3, "retryOn": "5xx, reset"}, Retry(3, ("5xx", "reset"))),
    ({"attempts": 3, "retryOn": "gateway-error,418"}, Retry(3, ("gateway-error", "retriable-status-codes"), (418,))),
    ({"attempts": 3, "retryOn": "retriable-status-codes,503"}, Retry(3, ("retriable-status-codes",), (503,))),
    (
        {"attempts": 1, "perTryTimeout": "2s", "backoff": "10ms", "retryRemoteLocalities": True, "retryIgnorePreviousHosts": False},
        Retry(1, RETRY_ON, (), timedelta(seconds=2), timedelta(milliseconds=10), False, 5, True),
    ),
]


@pytest.mark.parametrize(("written", "retry"), RETRIES, ids=[str(case[0]) for case in RETRIES])
def test_retries(written: dict[str, Any], retry: Retry) -> None:
    assert forward(retries=written).retry == retry


def test_retries_stay_where_a_hash_sends_them() -> None:
    hashed = [{"destination": {"host": "hashed"}}]
    found = forward(route=hashed)
    assert found.retry is not None
    assert not found.retry.elsewhere
    assert found.hashes == ()
    action = one(GRPC, route=hashed).action
    assert isinstance(action, Forward)
    assert action.hashes == (Hash(HashKind.HEADER, "x-user"),)


FAULTS: list[tuple[dict[str, Any], Fault]] = [
    ({"delay": {"fixedDelay": "5s", "percentage": {"value": 0.5}}}, Fault(timedelta(seconds=5), 5000)),
    ({"delay": {"fixedDelay": "5s", "percent": 10}}, Fault(timedelta(seconds=5), 100_000)),
    ({"delay": {"fixedDelay": "5s"}}, Fault(timedelta(seconds=5), 0)),
    ({"abort": {"httpStatus": 418, "percentage": {"value": 100}}}, Fault(abort_status=418, abort_share=1_000_000)),
    ({"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 1}}}, Fault(abort_grpc=14, abort_share=10_000)),
    ({"abort": {"httpStatus": 500}}, Fault(abort_status=500)),
]


@pytest.mark.parametrize(("written", "fault"), FAULTS, ids=[str(case[0]) for case in FAULTS])
def test_fault(written: dict[str, Any], fault: Fault) -> None:
    assert one(fault=written).fault == fault


def test_mirrors() -> None:
    name = f"outbound|80||{host('reviews')}"
    assert forward(mirror={"host": "reviews"}).mirrors == (Mirror(name),)
    assert forward(mirror={"host": "reviews"}, mirrorPercentage={"value": 0.1}).mirrors == (Mirror(name, 1000),)
    several = [
        {"destination": {"host": "reviews"}, "percentage": {"value": 50}},
        {"destination": {"host": "app"}, "percentage": {"value": 0}},
    ]
    assert forward(mirrors=several).mirrors == (Mirror(name, 500_000),)


def test_cors() -> None:
    written = {
        "allowOrigins": [{"exact": "https://a"}, {"regex": ".*"}],
        "allowMethods": ["GET"],
        "allowHeaders": ["x-a"],
        "exposeHeaders": ["x-b"],
        "maxAge": "24h",
        "allowCredentials": True,
        "unmatchedPreflights": "IGNORE",
    }
    assert one(corsPolicy=written).cors == Cors(
        (exact("https://a"), regex(".*")), ("GET",), ("x-a",), ("x-b",), timedelta(hours=24), True, False
    )


def test_a_line_break_in_a_url_is_answered_with_an_error() -> None:
    found = routes(vs([{"redirect": {"authority": "x\r\ny"}, "match": [{"uri": {"exact": "/x"}}]}, rule(rewrite={"uri": "/a\nb"})]))
    assert [route.action for route in found.value] == [Respond(500), Respond(500)]
    assert problems(found) == [(Problem.UNSUPPORTED, "spec.http[0].redirect"), (Problem.UNSUPPORTED, "spec.http[1].rewrite")]


def test_hosts_that_are_needed() -> None:
    found = vs(
        [
            rule(route=[{"destination": {"host": "reviews"}}], mirror={"host": "copies.other.svc.cluster.local"}),
            {"delegate": {"name": "leaf", "namespace": "other"}},
        ],
        tcp=[{"route": [{"destination": {"host": "db"}}]}],
    )
    leaf: VirtualService = made("VirtualService", {"http": [rule(route=[{"destination": {"host": "cart"}}])]}, "leaf", "other")
    assert destinations([found], {("other", "leaf"): leaf}, WAYPOINT) == {
        host("reviews"),
        host("copies", "other"),
        host("db"),
        host("cart", "other"),
    }
