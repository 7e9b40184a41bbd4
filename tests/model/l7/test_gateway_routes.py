"""HTTPRoutes and GRPCRoutes attached to a service: matches, order, filters, backends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from mesh.model.l7.notes import Problem
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.routes import (
    MILLION,
    NO_CLUSTER,
    Cors,
    Destination,
    Forward,
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
    RouteMatch,
)
from mesh.model.l7.texts import PRESENT, exact, regex
from mesh.model.l7.translate.virtual_service import DEFAULT_RETRY, RETRY_ON
from mesh.model.workload import AppProtocol
from tests.model.l7.gateway_routes import PARENT, V1, V2, backend, grpc, names, one, route, routes, translated
from tests.model.l7.objects import CLIENT, GRPC, made, problems

MATCHES: list[tuple[dict[str, Any], RouteMatch]] = [
    ({}, RouteMatch()),
    ({"path": {"value": "/"}}, RouteMatch()),
    ({"path": {"value": "/a/"}}, RouteMatch(PathMatch(PathKind.SEGMENTS, "/a"))),
    ({"path": {"type": "Exact", "value": "/a/"}}, RouteMatch(PathMatch(PathKind.EXACT, "/a/"))),
    ({"path": {"type": "RegularExpression", "value": "/a.*"}}, RouteMatch(PathMatch(PathKind.REGEX, "/a.*"))),
    ({"method": "GET"}, RouteMatch(headers=(HeaderMatch(":method", exact("GET")),))),
    (
        {"headers": [{"name": "X-A", "value": "1"}, {"type": "RegularExpression", "name": "x-b", "value": "2|3"}]},
        RouteMatch(headers=(HeaderMatch("x-a", exact("1")), HeaderMatch("x-b", regex("2|3")))),
    ),
    ({"queryParams": [{"name": "q", "value": "1"}]}, RouteMatch(query=(QueryMatch("q", exact("1")),))),
]


@pytest.mark.parametrize(("written", "match"), MATCHES, ids=[str(case[0])[:40] for case in MATCHES])
def test_match(written: dict[str, Any], match: RouteMatch) -> None:
    assert one(matches=[written]).match == match


def test_hostnames_are_asked_of_the_request() -> None:
    found = routes(route(hostnames=["*.example.com", "a.example.com"]))
    assert [entry.match.headers for entry in found] == [
        (HeaderMatch(":authority", regex(r"(?i)a\.example\.com(?::[0-9]+)?")),),
        (HeaderMatch(":authority", regex(r"(?i)[^:]+\.example\.com(?::[0-9]+)?")),),
    ]


def test_the_most_specific_first() -> None:
    matches = {
        "rest": {},
        "expression": {"path": {"type": "RegularExpression", "value": "/.*"}},
        "short": {"path": {"value": "/a"}},
        "long": {"path": {"value": "/a/b"}},
        "exact": {"path": {"type": "Exact", "value": "/a"}},
        "method": {"path": {"value": "/a"}, "method": "GET"},
        "header": {"path": {"value": "/a"}, "headers": [{"name": "a", "value": "1"}]},
        "query": {"path": {"value": "/a"}, "queryParams": [{"name": "a", "value": "1"}]},
        "headers": {"path": {"value": "/a"}, "headers": [{"name": "a", "value": "1"}, {"name": "b", "value": "1"}]},
    }
    found = [route(rules=[{"matches": [match], "backendRefs": [backend()]}], name=name) for name, match in matches.items()]
    assert names(*found) == ["exact", "long", "method", "headers", "header", "query", "short", "rest", "expression"]


def test_ties_go_to_the_older_then_by_name_then_in_order() -> None:
    assert names(route(name="young", age=1), route(name="old", age=2), route(name="b"), route(name="a")) == ["old", "young", "a", "b"]
    (first, second) = routes(route(rules=[{"name": "x", "backendRefs": [backend()]}, {"name": "y", "backendRefs": [backend()]}]))
    assert [first.name, second.name] == ["shop.one.x", "shop.one.y"]


@pytest.mark.parametrize(
    ("parent", "counts"),
    [
        (PARENT, True),
        ({**PARENT, "group": "core"}, True),
        ({**PARENT, "port": 80}, True),
        ({**PARENT, "port": 81}, False),
        ({**PARENT, "sectionName": "p80"}, True),
        ({**PARENT, "sectionName": "p81"}, False),
        ({**PARENT, "name": "other"}, False),
        ({**PARENT, "namespace": "other"}, False),
        ({"name": "app"}, False),
    ],
)
def test_parents(parent: dict[str, Any], counts: bool) -> None:
    assert (routes(route(parentRefs=[parent]))[0].name != "default") is counts


def test_producers_and_consumers() -> None:
    producer, consumer = route(name="producer"), route(name="consumer", namespace="team")
    assert names(producer, consumer, context=CLIENT) == ["producer"]
    assert names(producer, consumer, context=Context(Kind.CLIENT, "team")) == ["consumer"]
    assert names(producer, consumer, context=Context(Kind.CLIENT, "third")) == ["producer"]
    assert routes(consumer, context=Context(Kind.CLIENT, "third"))[0].name == "default"
    found = routes(producer, consumer)
    assert [(entry.match.source_namespace, entry.name.split(".")[1] if entry.name else "") for entry in found] == [
        ("team", "consumer"),
        ("team", ""),
        ("", "producer"),
    ]
    assert found[1].action == Respond(404)


def test_backends() -> None:
    found = one(backendRefs=[backend(weight=9), backend("v2", weight=1), backend("v2", weight=0)])
    assert found.action == Forward((Destination(V1, 9), Destination(V2, 1)), retry=DEFAULT_RETRY, missing_status=500)


@pytest.mark.parametrize(
    ("backends", "action", "said"),
    [
        ([], Respond(500), []),
        ([backend(weight=0)], Respond(500), []),
        ([backend("none")], Respond(500), [Problem.UNKNOWN_DESTINATION]),
        ([backend(port=99)], Respond(500), [Problem.UNKNOWN_PORT]),
        ([{"group": "x.y", "kind": "Bucket", "name": "b"}], Respond(500), [Problem.UNSUPPORTED]),
    ],
)
def test_backends_that_are_none(backends: list[dict[str, Any]], action: Respond, said: list[Problem]) -> None:
    found = translated(route(rules=[{"backendRefs": backends}]))
    assert found.value.table is not None
    assert found.value.table.hosts[0].routes[0].action == action
    assert [note.problem for note in found.notes] == said


def test_a_backend_that_is_none_keeps_its_share() -> None:
    action = one(backendRefs=[backend(), backend("none", weight=3)]).action
    assert isinstance(action, Forward)
    assert action.destinations == (Destination(V1, 1), Destination(NO_CLUSTER, 3))
    assert action.missing_status == 500


def test_filters() -> None:
    found = one(
        filters=[
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-A", "value": "5%"}], "remove": ["x-b"]}},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "x-c", "value": "1"}]}},
            {"type": "RequestMirror", "requestMirror": {"backendRef": backend("v2"), "fraction": {"numerator": 1, "denominator": 4}}},
            {"type": "RequestMirror", "requestMirror": {"backendRef": backend("v2"), "percent": 0}},
            {"type": "URLRewrite", "urlRewrite": {"hostname": "x.example", "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}},
        ]
    )
    assert found.request == HeaderOps(set=(("x-a", "5%%"),), remove=("x-b",))
    assert found.response == HeaderOps(add=(("x-c", "1"),))
    action = found.action
    assert isinstance(action, Forward)
    assert action.mirrors == (Mirror(V2, MILLION // 4),)
    assert (action.authority, action.path) == ("x.example", PathRewrite(RewriteKind.FULL, "/x"))


def test_prefix_rewrite() -> None:
    rewrite = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}
    action = one(matches=[{"path": {"value": "/old"}}], filters=[{"type": "URLRewrite", "urlRewrite": rewrite}]).action
    assert isinstance(action, Forward)
    assert action.path == PathRewrite(RewriteKind.SEGMENTS, "/new")


@pytest.mark.parametrize(
    ("written", "port", "action"),
    [
        ({"hostname": "a.b"}, 80, Redirect(authority="a.b", status=302)),
        ({"hostname": "a.b"}, 81, Redirect(authority="a.b", port=81, status=302)),
        ({"scheme": "https", "statusCode": 301}, 80, Redirect("https")),
        ({"scheme": "https"}, 81, Redirect("https", port=443, status=302)),
        ({"port": 8083, "scheme": "https", "statusCode": 308}, 80, Redirect("https", port=8083, status=308)),
        (
            {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}, "statusCode": 307},
            80,
            Redirect(path=PathRewrite(RewriteKind.FULL, "/x"), status=307),
        ),
    ],
)
def test_redirect(written: dict[str, Any], port: int, action: Redirect) -> None:
    rules = [{"filters": [{"type": "RequestRedirect", "requestRedirect": written}]}]
    (found,) = routes(route(rules=rules), port=port)
    assert found.action == action


def test_filters_that_cannot_be_done_answer_with_an_error() -> None:
    extension = {"type": "ExtensionRef", "extensionRef": {"group": "x.y", "kind": "Magic", "name": "m"}}
    found = translated(route(rules=[{"filters": [extension], "backendRefs": [backend()]}]))
    assert found.value.table is not None
    assert found.value.table.hosts[0].routes[0].action == Respond(500)
    assert problems(found) == [(Problem.UNSUPPORTED, "spec.rules[0].filters[0]")]


def test_filters_of_a_backend() -> None:
    change = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-a", "value": "1"}]}}
    action = one(backendRefs=[backend(filters=[change])]).action
    assert isinstance(action, Forward)
    assert action.destinations == (Destination(V1, 1, HeaderOps(set=(("x-a", "1"),))),)
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": backend("v2")}}
    assert one(backendRefs=[backend(filters=[mirror])]).action == Respond(500)


def test_cors() -> None:
    written = {"allowOrigins": ["https://*.example.com", "https://a"], "allowMethods": ["PUT"], "allowCredentials": True, "maxAge": 60}
    assert one(filters=[{"type": "CORS", "cors": written}]).cors == Cors(
        (regex(r"https\:\/\/[^/:]+\.example\.com"), exact("https://a")),
        ("GET", "HEAD", "POST", "PUT"),
        max_age=timedelta(seconds=60),
        credentials=True,
    )
    assert one(filters=[{"type": "CORS", "cors": {"allowOrigins": ["*"], "allowMethods": ["*"]}}]).cors == Cors(
        (PRESENT,), ("*",), max_age=timedelta(seconds=5)
    )


@pytest.mark.parametrize(
    ("rule", "timeout", "retry"),
    [
        ({"timeouts": {"request": "0s"}}, None, DEFAULT_RETRY),
        ({"timeouts": {"request": "10s", "backendRequest": "2s"}}, 10, Retry(2, RETRY_ON, per_try=timedelta(seconds=2))),
        ({"timeouts": {"backendRequest": "2s"}, "retry": {"attempts": 0}}, 2, Retry(0)),
        (
            {"retry": {"codes": [500, 503], "attempts": 5, "backoff": "100ms"}},
            None,
            Retry(5, RETRY_ON, (500, 503), None, timedelta(seconds=0.1)),
        ),
    ],
)
def test_timeouts_and_retries(rule: dict[str, Any], timeout: float | None, retry: Retry) -> None:
    action = one(**rule).action
    assert isinstance(action, Forward)
    assert (action.timeout, action.retry) == (timedelta(seconds=timeout) if timeout else None, retry)


# gRPC


METHODS: list[tuple[dict[str, Any] | None, PathMatch]] = [
    (None, PathMatch()),
    ({"method": {"service": "a.B", "method": "C"}}, PathMatch(PathKind.EXACT, "/a.B/C")),
    ({"method": {"service": "a.B"}}, PathMatch(PathKind.PREFIX, "/a.B/")),
    ({"method": {"method": "C"}}, PathMatch(PathKind.REGEX, "/(?:[^/]+)/(?:C)")),
    ({"method": {"type": "RegularExpression", "service": "a[.].*"}}, PathMatch(PathKind.REGEX, "/(?:a[.].*)/(?:[^/]+)")),
]


@pytest.mark.parametrize(("match", "path"), METHODS, ids=[str(case[0]) for case in METHODS])
def test_methods(match: dict[str, Any] | None, path: PathMatch) -> None:
    (found,) = routes(grpc(match), protocol=AppProtocol.GRPC)
    assert found.match.path == path


def test_order_of_methods() -> None:
    found = [
        grpc(None, "rest"),
        grpc({"method": {"service": "a.B"}}, "service"),
        grpc({"method": {"service": "a.Longer"}}, "longer"),
        grpc({"method": {"service": "a.B", "method": "C"}}, "method"),
        grpc({"method": {"service": "a.B", "method": "C"}, "headers": [{"name": "x", "value": "1"}]}, "header"),
    ]
    assert names(*found, protocol=AppProtocol.GRPC) == ["longer", "header", "method", "service", "rest"]


def test_a_broken_backend_of_grpc_is_unavailable() -> None:
    (found,) = routes(route("GRPCRoute", [{"backendRefs": [backend("none")]}]))
    assert found.action == Respond(503)


def test_one_kind_of_route_per_port() -> None:
    found = translated(route(age=1), route("GRPCRoute", age=2, name="rpc"))
    assert found.value.table is not None
    assert found.value.table.hosts[0].routes[0].name == "shop.rpc.rules[0]"
    assert [(note.problem, note.subject.kind) for note in found.notes] == [(Problem.CONFLICT, "HTTPRoute")]


def test_routes_of_the_gateway_api_count_before_virtual_services() -> None:
    service = made("VirtualService", {"hosts": ["app"], "http": [{"directResponse": {"status": 200}}]})
    found = translated(route(), service)
    assert found.value.table is not None
    assert found.value.table.hosts[0].routes[0].name == "shop.one.rules[0]"
    assert problems(found) == [(Problem.CONFLICT, "spec.http")]


def test_grpc_clients_get_what_they_can_do() -> None:
    change = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-a", "value": "1"}]}}
    found = translated(route(rules=[{"filters": [change], "backendRefs": [backend()]}]), context=GRPC)
    assert found.value.table is not None
    assert found.value.table.hosts[0].routes[0].request == HeaderOps()
    assert [note.problem for note in found.notes] == [Problem.UNSUPPORTED]
