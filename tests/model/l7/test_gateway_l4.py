"""TCPRoutes and TLSRoutes attached to a service, and what a port speaks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.model.l7.chains import Traffic
from mesh.model.l7.notes import Problem
from mesh.model.l7.profile import Context, Kind
from mesh.model.l7.services import Resolution
from mesh.model.l7.tcp import TcpDestination, TcpRoute
from mesh.model.l7.translate.ports import PortRoutes, Written, port_routes
from mesh.model.l7.translate.targets import Target
from mesh.model.workload import AppProtocol
from tests.model.l7.gateway_routes import V1, V2, backend, l4, route, translated
from tests.model.l7.objects import WAYPOINT, problems, service

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
