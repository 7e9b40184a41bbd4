"""Routes between namespaces: a consumer's are for its own clients, and backends elsewhere need a grant."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.model.l7.chains import Traffic
from mesh.model.l7.names import BLACK_HOLE
from mesh.model.l7.notes import Problem
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.routes import (
    MILLION,
    NO_CLUSTER,
    Destination,
    Forward,
    Mirror,
    Respond,
    Route,
)
from mesh.model.l7.tcp import TcpDestination
from mesh.model.l7.translate.targets import Reference
from mesh.model.l7.translate.virtual_service import DEFAULT_RETRY
from mesh.model.workload import AppProtocol
from tests.model.l7.gateway_routes import V1, backend, l4, one, route, routes, translated
from tests.model.l7.objects import CLIENT, GRPC, WAYPOINT, host, made, problems


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
