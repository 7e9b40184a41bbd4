"""Services: parsing, addresses, endpoints."""

from __future__ import annotations

from typing import Any

import pytest

from culvert.playground.fields import Report
from culvert.playground.podspec import ContainerPort, ContainerSpec, PodSpec
from culvert.playground.serviceaddresses import ServiceAddresses
from culvert.playground.services import Backend, Endpoint, ServiceSpec, cluster_addresses, parse_service, port_states


def parse(**spec: Any) -> tuple[ServiceSpec, Report]:
    report = Report("shop.yaml:1", "Service shop/web")
    body = {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}, **spec}}
    return parse_service(body, report), report


def pod(name: str, *addresses: str, ready: bool = True, port: int = 8080) -> Backend:
    spec = PodSpec((ContainerSpec("c", ("true",), ports=(ContainerPort("http", port),)),))
    return Backend("shop", name, {"app": "web"}, addresses, spec, ready)


@pytest.mark.parametrize(
    ("spec", "families"),
    [
        ({}, (4,)),
        ({"ipFamilyPolicy": "PreferDualStack"}, (4, 6)),
        ({"ipFamilies": ["IPv6"]}, (6,)),
        ({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "RequireDualStack"}, (6, 4)),
        ({"clusterIP": "fd00:10:96::1f4"}, (6,)),
    ],
)
def test_families_as_kubernetes_gives_them(spec: dict[str, Any], families: tuple[int, ...]) -> None:
    service, report = parse(**spec)
    assert report.refusals == []
    assert service.families == families


def test_headless_has_no_address() -> None:
    service, _ = parse(clusterIP="None")
    assert service.headless
    assert cluster_addresses(service, 300) == ()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"clusterIP": "192.168.0.1"}, "spec.clusterIP"),
        ({"sessionAffinity": "ClientIP"}, "spec.sessionAffinity"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port"),
        ({"ports": []}, "spec.ports"),
        ({"ports": [{"port": 1}, {"port": 2}]}, "spec.ports"),
        ({"colour": "red"}, "spec.colour"),
        ({"selector": {"app": 1}}, "spec.selector"),
    ],
)
def test_what_is_refused(spec: dict[str, Any], field: str) -> None:
    _, report = parse(**spec)
    assert [refusal.field for refusal in report.refusals] == [field]


def test_endpoints_are_the_ready_pods_of_the_address_family_at_their_own_port() -> None:
    service, _ = parse(ports=[{"port": 80, "targetPort": "http"}], ipFamilyPolicy="PreferDualStack")
    pods = [pod("b", "10.244.2.2", "fd00::2", port=9090), pod("a", "10.244.1.2"), pod("c", "10.244.1.3", ready=False)]
    states = port_states(service, ("10.96.1.1", "fd00:10:96::101"), pods)
    assert [state.endpoints for state in states] == [
        (Endpoint("10.244.1.2", 8080), Endpoint("10.244.2.2", 9090)),
        (Endpoint("fd00::2", 9090),),
    ]


def test_a_service_without_selector_or_of_another_namespace_has_no_endpoints() -> None:
    service, _ = parse(selector=None)
    assert port_states(service, ("10.96.1.1",), [pod("a", "10.244.1.2")])[0].endpoints == ()
    other = ServiceSpec("tools", "web", {"app": "web"}, service.ports)
    assert port_states(other, ("10.96.1.1",), [pod("a", "10.244.1.2")])[0].endpoints == ()


def test_not_ready_pods_serve_where_the_service_asks_for_them() -> None:
    service, _ = parse(publishNotReadyAddresses=True)
    assert len(port_states(service, ("10.96.1.1",), [pod("a", "10.244.1.2", ready=False)])[0].endpoints) == 1


def test_addresses_are_kept_and_a_requested_one_belongs_to_its_first_owner() -> None:
    addresses = ServiceAddresses({"shop/web": 400})
    web, _ = parse()
    assert addresses.host_for(web) == (400, "")
    fixed = ServiceSpec("shop", "fixed", requested="10.96.1.144")
    host, problem = addresses.host_for(fixed)
    assert host is None
    assert "shop/web" in problem
    addresses.keep(["shop/fixed"])
    assert addresses.host_for(fixed) == (400, "")
