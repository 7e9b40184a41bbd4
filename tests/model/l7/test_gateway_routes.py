"""HTTPRoutes, GRPCRoutes, TLSRoutes and TCPRoutes attached to a service: order, filters, backends, producers and consumers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mesh.model.l7.chains import Traffic
from mesh.model.l7.names import BLACK_HOLE
from mesh.model.l7.notes import Problem, Translated
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
    Route,
    RouteMatch,
)
from mesh.model.l7.services import Resolution
from mesh.model.l7.tcp import TcpDestination, TcpRoute
from mesh.model.l7.texts import PRESENT, exact, regex
from mesh.model.l7.translate.ports import PortRoutes, Written, port_routes
from mesh.model.l7.translate.targets import Reference, Target
from mesh.model.l7.translate.virtual_service import DEFAULT_RETRY, RETRY_ON
from mesh.model.workload import AppProtocol
from tests.model.l7.objects import CLIENT, GRPC, WAYPOINT, host, made, problems, service, target, targets

V1, V2 = (f"outbound|80||{host(name)}" for name in ("v1", "v2"))
KNOWN = targets(
    target("v1"), target("v2"), target("v1", namespace="team"), target("v1", namespace="other"), target("v2", namespace="other")
)
PARENT = {"group": "", "kind": "Service", "name": "app"}


def backend(name: str = "v1", **fields: Any) -> dict[str, Any]:
    return {"name": name, "port": 80, **fields}


def route(
    kind: str = "HTTPRoute",
    rules: list[dict[str, Any]] | None = None,
    name: str = "one",
    namespace: str = "shop",
    age: int = 0,
    **spec: Any,
) -> Any:
    parents = spec.pop("parentRefs", [{**PARENT, **({} if namespace == "shop" else {"namespace": "shop"})}])
    return made(
        kind, {"parentRefs": parents, "rules": rules if rules is not None else [{"backendRefs": [backend()]}], **spec}, name, namespace, age
    )


def translated(
    *found: Any, context: Context = WAYPOINT, protocol: AppProtocol = AppProtocol.HTTP11, port: int = 80, **written: Any
) -> Translated[PortRoutes]:
    by_kind: dict[str, list[Any]] = {}
    for entry in found:
        by_kind.setdefault(entry.KIND, []).append(entry)
    inputs = Written(
        http_routes=tuple(by_kind.get("HTTPRoute", ())),
        grpc_routes=tuple(by_kind.get("GRPCRoute", ())),
        tls_routes=tuple(by_kind.get("TLSRoute", ())),
        tcp_routes=tuple(by_kind.get("TCPRoute", ())),
        virtual_services=tuple(by_kind.get("VirtualService", ())),
        targets=KNOWN,
        **written,
    )
    return port_routes(target(ports={80: protocol, 81: protocol}), port, inputs, context)


def routes(*found: Any, **fields: Any) -> tuple[Route, ...]:
    table = translated(*found, **fields).value.table
    assert table is not None
    return table.hosts[0].routes


def one(**rule: Any) -> Route:
    (found,) = routes(route(rules=[{"backendRefs": [backend()], **rule}]))
    return found


def names(*found: Any, **fields: Any) -> list[str]:
    return [entry.name.split(".")[1] for entry in routes(*found, **fields)]


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


def grpc(match: dict[str, Any] | None, name: str = "one") -> Any:
    rule: dict[str, Any] = {"backendRefs": [backend()]}
    if match is not None:
        rule["matches"] = [match]
    return route("GRPCRoute", [rule], name)


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


# TCP and TLS


def l4(kind: str, name: str = "one", namespace: str = "shop", age: int = 0, **spec: Any) -> Any:
    return route(kind, [{"backendRefs": [backend(weight=3), backend("v2", weight=1)]}], name, namespace, age, **spec)


BACKENDS = (TcpDestination(V1, 3), TcpDestination(V2, 1))


def test_tcp() -> None:
    found = translated(l4("TCPRoute", age=1), l4("TCPRoute", "young"), protocol=AppProtocol.TCP)
    assert found.value == PortRoutes(Traffic.TCP, None, (TcpRoute(BACKENDS, name="shop.one"),))
    assert [(note.problem, note.subject.name) for note in found.notes] == [(Problem.CONFLICT, "young")]


def test_tls() -> None:
    found = translated(
        l4("TLSRoute", hostnames=["*.example", "a.example"]),
        l4("TLSRoute", "young", hostnames=["a.example", "b.example"]),
        l4("TCPRoute", "tcp"),
        protocol=AppProtocol.TLS,
    )
    assert [(entry.server_names, entry.name) for entry in found.value.tcp] == [
        (("a.example",), "shop.one"),
        (("b.example",), "shop.young"),
        (("*.example",), "shop.one"),
    ]
    assert sorted((note.problem.value, note.subject.name) for note in found.notes) == [("Conflict", "young"), ("NoEffect", "tcp")]


@pytest.mark.parametrize(
    ("protocol", "kinds", "traffic"),
    [
        (AppProtocol.UNKNOWN, (), Traffic.AUTO),
        (AppProtocol.UNKNOWN, ("HTTPRoute",), Traffic.HTTP),
        (AppProtocol.UNKNOWN, ("TCPRoute",), Traffic.TCP),
        (AppProtocol.UNKNOWN, ("TLSRoute",), Traffic.TLS),
        (AppProtocol.UNKNOWN, ("TLSRoute", "HTTPRoute"), Traffic.HTTP),
        (AppProtocol.TCP, ("HTTPRoute",), Traffic.TCP),
        (AppProtocol.HTTP11, ("TCPRoute",), Traffic.HTTP),
        (AppProtocol.TLS, ("TCPRoute",), Traffic.TLS),
    ],
)
def test_what_a_port_speaks(protocol: AppProtocol, kinds: tuple[str, ...], traffic: Traffic) -> None:
    made_ = [l4(kind, hostnames=["a.example"]) if kind == "TLSRoute" else l4(kind) if kind != "HTTPRoute" else route() for kind in kinds]
    found = translated(*made_, protocol=protocol).value
    assert found.traffic is traffic
    assert (found.table is not None) is (traffic in (Traffic.HTTP, Traffic.AUTO))
    assert bool(found.tcp) is (traffic is not Traffic.HTTP)


def test_a_wildcard_that_is_found_by_what_requests_name_is_for_those_names() -> None:
    mesh = replace(service(), service=replace(service().service, hostname="*.example.com"), resolution=Resolution.DYNAMIC_DNS)
    found = port_routes(Target(mesh), 80, Written(), WAYPOINT).value
    assert found.dynamic
    assert found.table is not None
    assert found.table.hosts[0].domains == ("*.example.com", "*.example.com:80")


def test_a_consumers_tcp_route_has_no_effect_at_a_waypoint() -> None:
    found = translated(l4("TCPRoute", namespace="team"), protocol=AppProtocol.TCP)
    assert found.value.tcp[0].name == ""
    assert problems(found) == [(Problem.NO_EFFECT, "spec.parentRefs")]
    client = translated(l4("TCPRoute", namespace="team"), protocol=AppProtocol.TCP, context=Context(Kind.CLIENT, "team"))
    assert client.value.tcp[0].name == "team.one"


def test_backends_that_are_none_close_connections() -> None:
    found = translated(route("TCPRoute", [{"backendRefs": [backend(weight=0)]}]), protocol=AppProtocol.TCP)
    assert found.value.tcp == (TcpRoute((), name="shop.one"),)


def test_grpc_clients_get_what_they_can_do() -> None:
    change = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-a", "value": "1"}]}}
    found = translated(route(rules=[{"filters": [change], "backendRefs": [backend()]}]), context=GRPC)
    assert found.value.table is not None
    assert found.value.table.hosts[0].routes[0].request == HeaderOps()
    assert [note.problem for note in found.notes] == [Problem.UNSUPPORTED]


# What a consumer writes is for its own clients


def of_everybody(found: tuple[Route, ...]) -> list[Route]:
    """What is left for clients of no consumer."""
    return [entry for entry in found if not entry.match.source_namespace]


SERVICE = made("VirtualService", {"hosts": ["app"], "http": [{"name": "mine", "route": [{"destination": {"host": "v2"}}]}]})
AGED: dict[str, Any] = {"rules": [{"backendRefs": [backend()]}], "namespace": "team", "age": 9}


@pytest.mark.parametrize(
    "consumer", [route(**AGED), route("GRPCRoute", **AGED), l4("TCPRoute", namespace="team", age=9)], ids=lambda one: one.KIND
)
@pytest.mark.parametrize("protocol", [AppProtocol.HTTP11, AppProtocol.UNKNOWN, AppProtocol.TCP, AppProtocol.TLS])
@pytest.mark.parametrize(
    "producers",
    [
        (),
        (SERVICE,),
        (route(name="p"),),
        (route("GRPCRoute", name="p"),),
        (l4("TCPRoute", "p"),),
        (l4("TLSRoute", "p", hostnames=["a.b"]),),
    ],
    ids=lambda found: found[0].KIND if found else "nothing",
)
@pytest.mark.parametrize("context", [WAYPOINT, CLIENT, GRPC], ids=lambda context: context.kind.value)
def test_a_consumers_route_changes_nothing_for_others(
    consumer: Any, protocol: AppProtocol, producers: tuple[Any, ...], context: Context
) -> None:
    alone, beside = (translated(*found, protocol=protocol, context=context) for found in (producers, (consumer, *producers)))
    assert beside.value.traffic is alone.value.traffic
    assert beside.value.tcp == alone.value.tcp
    assert [note for note in beside.notes if note.subject != consumer.key] == list(alone.notes)
    if alone.value.table is None:
        assert beside.value.table is None
    else:
        assert beside.value.table is not None
        assert of_everybody(beside.value.table.hosts[0].routes) == list(alone.value.table.hosts[0].routes)


def test_a_consumers_route_is_for_what_turns_out_to_be_http() -> None:
    found = translated(route(namespace="team"), protocol=AppProtocol.UNKNOWN)
    assert found.value.traffic is Traffic.AUTO
    assert found.value.table is not None
    ours = [entry for entry in found.value.table.hosts[0].routes if entry.match.source_namespace == "team"]
    forward = Forward((Destination(f"outbound|80||{host('v1', 'team')}"),), retry=DEFAULT_RETRY, missing_status=500)
    assert [entry.action for entry in ours] == [forward, Respond(404)]
    assert found.notes == ()


def test_a_consumers_kind_goes_before_the_producers_at_its_clients() -> None:
    team = Context(Kind.CLIENT, "team")
    found = translated(route("GRPCRoute", name="rpc", age=9), route(namespace="team"), context=team)
    assert found.value.table is not None
    assert [entry.name for entry in found.value.table.hosts[0].routes] == ["team.one.rules[0]"]
    assert found.notes == ()


def test_a_consumers_route_that_has_no_effect_leaves_the_producers() -> None:
    team = Context(Kind.CLIENT, "team")
    found = translated(l4("TCPRoute", namespace="team"), route(name="producer"), context=team)
    assert found.value.table is not None
    assert [entry.name for entry in found.value.table.hosts[0].routes] == ["shop.producer.rules[0]"]
    assert [(note.problem, note.subject.kind) for note in found.notes] == [(Problem.NO_EFFECT, "TCPRoute")]


def test_kinds_of_two_consumers_are_no_conflict() -> None:
    found = translated(route(namespace="team"), route("GRPCRoute", namespace="other"), route(name="producer"))
    assert found.value.table is not None
    assert [(entry.match.source_namespace, entry.name) for entry in found.value.table.hosts[0].routes] == [
        ("other", "other.one.rules[0]"),
        ("other", ""),
        ("team", "team.one.rules[0]"),
        ("team", ""),
        ("", "shop.producer.rules[0]"),
    ]
    assert found.notes == ()


# Other namespaces

ELSEWHERE = backend(namespace="other")
GRANTED = {"granted": frozenset({Reference(kind, "shop", "v1", "other") for kind in ("HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute")})}
V1_ELSEWHERE = f"outbound|80||{host('v1', 'other')}"


@pytest.mark.parametrize(("kind", "status"), [("HTTPRoute", 500), ("GRPCRoute", 503)])
@pytest.mark.parametrize(
    ("ref", "field"),
    [
        (ELSEWHERE, "namespace"),
        ({"group": "networking.istio.io", "kind": "Hostname", "name": host("v1", "other"), "port": 80}, "name"),
        (backend("none", namespace="other"), "namespace"),
    ],
    ids=["service", "hostname", "none"],
)
def test_a_backend_elsewhere_needs_a_grant(kind: str, status: int, ref: dict[str, Any], field: str) -> None:
    found = translated(route(kind, [{"backendRefs": [ref]}]))
    assert found.value.table is not None
    assert found.value.table.hosts[0].routes[0].action == Respond(status)
    assert problems(found) == [(Problem.NOT_GRANTED, f"spec.rules[0].backendRefs[0].{field}")]


def test_the_rest_keeps_its_share_where_one_is_not_granted() -> None:
    found = one(backendRefs=[backend(weight=3), backend(namespace="other")])
    assert isinstance(found.action, Forward)
    assert found.action.destinations == (Destination(V1, 3), Destination(NO_CLUSTER, 1))
    found = one(backendRefs=[backend(weight=3), backend(namespace="shop")])
    assert isinstance(found.action, Forward)
    assert found.action.destinations == (Destination(V1, 3), Destination(V1, 1)), "its own namespace, by name"


def test_a_grant_is_for_what_it_names() -> None:
    refs = [ELSEWHERE, backend("v2", namespace="other")]
    (found,) = routes(route(rules=[{"backendRefs": refs}]), **GRANTED)
    assert isinstance(found.action, Forward)
    assert found.action.destinations == (Destination(V1_ELSEWHERE), Destination(NO_CLUSTER))
    (found,) = routes(route(rules=[{"backendRefs": [backend(namespace="team")]}]), **GRANTED)
    assert found.action == Respond(500)


def test_copies_elsewhere_need_a_grant() -> None:
    rules = [{"filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": ELSEWHERE}}], "backendRefs": [backend()]}]
    made_ = translated(route(rules=rules))
    assert problems(made_) == [(Problem.NOT_GRANTED, "spec.rules[0].filters[0].requestMirror.backendRef.namespace")]
    (found,) = routes(route(rules=rules))
    assert isinstance(found.action, Forward)
    assert found.action.mirrors == ()
    (found,) = routes(route(rules=rules), **GRANTED)
    assert isinstance(found.action, Forward)
    assert found.action.mirrors == (Mirror(V1_ELSEWHERE, MILLION),)


@pytest.mark.parametrize("kind", ["TCPRoute", "TLSRoute"])
def test_connections_elsewhere_need_a_grant(kind: str) -> None:
    protocol = AppProtocol.TCP if kind == "TCPRoute" else AppProtocol.TLS
    names_ = {"hostnames": ["a.example"]} if kind == "TLSRoute" else {}
    made_ = route(kind, [{"backendRefs": [backend(weight=3), ELSEWHERE]}], **names_)
    found = translated(made_, protocol=protocol)
    assert found.value.tcp[0].destinations == (TcpDestination(V1, 3), TcpDestination(BLACK_HOLE, 1))
    assert problems(found) == [(Problem.NOT_GRANTED, "spec.rules[0].backendRefs[1].namespace")]
    allowed = translated(made_, protocol=protocol, **GRANTED)
    assert allowed.value.tcp[0].destinations == (TcpDestination(V1, 3), TcpDestination(V1_ELSEWHERE, 1))
    assert allowed.notes == ()


def test_a_consumer_may_lead_to_the_service_itself() -> None:
    """Its clients sent their requests there in the first place. Anything else of the producer's needs a grant."""
    found = routes(route(rules=[{"backendRefs": [backend("app", namespace="shop"), ELSEWHERE]}], namespace="team"))
    assert isinstance(found[0].action, Forward)
    assert found[0].action.destinations == (Destination(f"outbound|80||{host('app')}"), Destination(NO_CLUSTER))


def test_virtual_services_need_no_grant() -> None:
    service_ = made("VirtualService", {"hosts": ["app"], "http": [{"route": [{"destination": {"host": host("v1", "other")}}]}]})
    found = translated(service_)
    assert found.value.table is not None
    action = found.value.table.hosts[0].routes[0].action
    assert isinstance(action, Forward)
    assert [entry.cluster for entry in action.destinations] == [V1_ELSEWHERE]
    assert found.notes == ()
