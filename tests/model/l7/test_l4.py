"""VirtualServices' rules for TLS and TCP."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from mesh.model.l7.notes import Problem, Translated
from mesh.model.l7.profile import Context
from mesh.model.l7.tcp import TcpDestination, TcpRoute
from mesh.model.l7.translate.ports import PortRoutes, Written, port_routes
from mesh.model.workload import AppProtocol
from tests.model.l7.objects import CLIENT, WAYPOINT, host, made, target, targets

OWN, V1, V2 = (f"outbound|80||{host(name)}" for name in ("app", "v1", "v2"))
KNOWN = targets(target("v1"), target("v2"))


def to(*names: str) -> list[dict[str, Any]]:
    return [{"destination": {"host": name}, "weight": 1} for name in names]


def translated(
    *specs: dict[str, Any], context: Context = WAYPOINT, protocol: AppProtocol = AppProtocol.TCP, **fields: Any
) -> Translated[PortRoutes]:
    found = [made("VirtualService", {"hosts": ["app", host("app"), "*.example"], **spec}, f"vs{index}") for index, spec in enumerate(specs)]
    return port_routes(target(ports={80: protocol}, **fields), 80, Written(tuple(found), targets=KNOWN), context)


def test_without_rules() -> None:
    assert translated().value.tcp == (TcpRoute((TcpDestination(OWN),)),)


def test_weights() -> None:
    route = [{"destination": {"host": "v1"}, "weight": 3}, {"destination": {"host": "v2"}, "weight": 1}, {"destination": {"host": "app"}}]
    assert translated({"tcp": [{"route": route}]}).value.tcp == (TcpRoute((TcpDestination(V1, 3), TcpDestination(V2, 1))),)
    assert translated({"tcp": [{"route": [{"destination": {"host": "v1"}}]}]}).value.tcp == (TcpRoute((TcpDestination(V1),)),)


@pytest.mark.parametrize(
    ("match", "context", "taken"),
    [
        ({"port": 80}, WAYPOINT, True),
        ({"port": 81}, WAYPOINT, False),
        ({"destinationSubnets": ["10.96.0.0/16"]}, WAYPOINT, True),
        ({"destinationSubnets": ["10.97.0.0/16", "2001:db8::/32"]}, WAYPOINT, False),
        ({"gateways": ["shop/gw"]}, WAYPOINT, False),
        ({"sourceNamespace": "shop"}, WAYPOINT, True),
        ({"sourceLabels": {"app": "web"}}, WAYPOINT, False),
        ({"sourceLabels": {"app": "web"}}, CLIENT, True),
    ],
)
def test_match(match: dict[str, Any], context: Context, taken: bool) -> None:
    found = translated({"tcp": [{"match": [match], "route": to("v1")}]}, context=context)
    assert found.value.tcp == (TcpRoute((TcpDestination(V1 if taken else OWN),)),)


def test_the_first_that_takes_the_connection() -> None:
    found = translated({"tcp": [{"match": [{"port": 81}], "route": to("v2")}, {"route": to("v1")}]}, {"tcp": [{"route": to("v2")}]})
    assert found.value.tcp == (TcpRoute((TcpDestination(V1),)),)
    assert [(note.problem, note.subject.name, note.field) for note in found.notes] == [(Problem.UNREACHABLE, "vs1", "spec.tcp[0]")]


@pytest.mark.parametrize(
    ("names", "context", "found"),
    [
        ([host("app")], WAYPOINT, [((host("app"),), V1), ((), OWN)]),
        (["a.example"], WAYPOINT, [((), OWN)]),
        (["a.example", host("app")], WAYPOINT, [((), OWN)]),
        (["a.example"], CLIENT, [(("a.example",), V1), ((), OWN)]),
    ],
)
def test_server_names(names: list[str], context: Context, found: list[tuple[tuple[str, ...], str]]) -> None:
    rules = {"tls": [{"match": [{"sniHosts": names}], "route": [{"destination": {"host": "v1"}}]}]}
    made_ = translated(rules, context=context, protocol=AppProtocol.TLS).value.tcp
    assert [(route.server_names, route.destinations[0].cluster) for route in made_] == found


def test_tls_rules_before_tcp_rules() -> None:
    rules = {
        "tls": [{"match": [{"sniHosts": [host("app")]}], "route": to("v1")}],
        "tcp": [{"route": to("v2")}],
    }
    made_ = translated(rules, protocol=AppProtocol.TLS).value.tcp
    assert [(route.server_names, route.destinations[0].cluster) for route in made_] == [((host("app"),), V1), ((), V2)]
    assert [route.server_names for route in translated(rules).value.tcp] == [()], "there are no server names without TLS"


def test_limits_of_the_destination_rule() -> None:
    pool = {"connectionPool": {"tcp": {"idleTimeout": "0s", "maxConnectionDuration": "5m"}}}
    (found,) = translated(rule={"trafficPolicy": pool}).value.tcp
    assert (found.idle, found.longest) == (None, timedelta(minutes=5))
