"""Where a CONNECT goes, as a table."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from mesh.model.inbound import Deliver, Refused, inbound, meant_service
from mesh.model.reasons import Reason
from mesh.model.state import MeshState
from mesh.model.workload import GatewayAddress, NamespacedHostname, NetworkAddress, Service, ServicePort, SocketAddress, Workload

POD = ip_address("10.0.0.5")
OTHER = ip_address("10.0.0.6")
VIP = ip_address("10.96.0.1")
SVC = NamespacedHostname("shop", "svc.shop")
WAYPOINT = NamespacedHostname("shop", "waypoint.shop")
WORKLOAD = Workload("uid", "pod", "shop", (POD,), services={SVC: {80: 8080, 81: 0}, NamespacedHostname("shop", "late.shop"): {1: 1}})
SERVICE = Service("svc", "shop", SVC.hostname, (NetworkAddress("", VIP),), ports=(ServicePort(80, 0), ServicePort(81, 9090)))


def state(*more: Workload | Service) -> MeshState:
    made = MeshState()
    for each in (WORKLOAD, SERVICE, *more):
        if isinstance(each, Workload):
            made.upsert_workload(each)
        else:
            made.upsert_service(each)
    return made


def at(ip: object, port: int) -> SocketAddress:
    return SocketAddress(ip, port)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        (POD, 8080, Deliver(at(POD, 8080), at(POD, 8080), SERVICE)),
        (POD, 1234, Deliver(at(POD, 1234), at(POD, 1234), None)),
        ("svc.shop", 80, Deliver(at(POD, 8080), at(POD, 8080), SERVICE)),
        ("svc.shop", 81, Deliver(at(POD, 9090), at(POD, 9090), SERVICE)),
        ("svc.shop", 82, Reason.NO_HEALTHY_UPSTREAM),
        ("late.shop", 1, Reason.NO_HEALTHY_UPSTREAM),  # the service has not arrived
        ("other.shop", 80, Reason.NO_HEALTHY_UPSTREAM),
        (OTHER, 8080, Reason.AUTHORITY_MISMATCH),
        (VIP, 80, Reason.AUTHORITY_MISMATCH),
        (ip_address("127.0.0.1"), 8080, Reason.AUTHORITY_MISMATCH),
        (ip_address("::ffff:10.0.0.5"), 8080, Reason.AUTHORITY_MISMATCH),
        (POD, 15001, Reason.SELF_CALL),
        (POD, 15006, Reason.SELF_CALL),
        (POD, 15008, Reason.SELF_CALL),
    ],
)
def test_a_plain_pod(host: object, port: int, expected: Deliver | Reason) -> None:
    decision = inbound(WORKLOAD, POD, host, port, None, state())  # type: ignore[arg-type]
    assert (decision.reason if isinstance(decision, Refused) else decision) == expected


@pytest.mark.parametrize("names", ["service", "weighted", "workload", "nobody"])
def test_a_waypoint_stands_in_for_what_names_it_and_for_nothing_else(names: str) -> None:
    waypoint = replace(WORKLOAD, services={WAYPOINT: {15008: 15008}})
    gateway = GatewayAddress(WAYPOINT)
    service = replace(SERVICE, waypoint=gateway if names == "service" else None)
    if names == "weighted":
        from mesh.model.workload import WeightedWaypoint

        service = replace(service, weighted_waypoints=(WeightedWaypoint(gateway, 100),))
    pod = Workload("other", "other", "shop", (OTHER,), waypoint=gateway if names == "workload" else None)
    known = state(service, pod, waypoint)
    asked, port = (OTHER, 8080) if names == "workload" else (VIP, 80)
    decision = inbound(waypoint, POD, asked, port, None, known)
    if names == "nobody":
        assert isinstance(decision, Refused)
    else:
        assert isinstance(decision, Deliver)
        assert (decision.target, decision.meant) == (at(POD, port), at(asked, port))


@pytest.mark.parametrize(("port", "to"), [(15088, 15088), (0, 80)])
def test_an_application_tunnel_goes_to_loopback_and_announces_what_was_meant(port: int, to: int) -> None:
    sandwich = replace(WORKLOAD, application_tunnel_port=port, application_tunnel_proxy=True)
    decision = inbound(sandwich, POD, VIP, 80, None, state())
    assert decision == Deliver(at(ip_address("127.0.0.1"), to), at(VIP, 80), None, announce=True)


def test_an_application_tunnel_is_no_way_to_the_tunnels_ports() -> None:
    sandwich = replace(WORKLOAD, application_tunnel_port=15001)
    assert isinstance(inbound(sandwich, POD, VIP, 80, None, state()), Refused)


def test_the_hint_chooses_among_the_services_of_the_workload() -> None:
    second = replace(SERVICE, hostname="a-second.shop", vips=())
    workload = replace(WORKLOAD, services={SVC: {80: 8080}, second.key: {80: 8080}})
    known = state(second)
    assert meant_service(workload, 8080, None, known) == second  # the first by name
    assert meant_service(workload, 8080, "svc.shop", known) == SERVICE
    assert meant_service(workload, 8080, "evil.elsewhere", known) == second
    assert meant_service(workload, 1, None, known) is None
