"""Consul's answers: what is read of them, and that anything else is no answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.sources.consul.errors import Garbled
from control.sources.consul.wire import (
    Check,
    Health,
    Instance,
    read_checks,
    read_indexes,
    read_instances,
    read_kept,
    read_services,
    write_indexes,
    write_kept,
)

# As a real agent (1.19) answers, shortened where it repeats itself.
ENTRY = {
    "Node": {
        "ID": "66c5d714-18a2-b9c5-2d13-4a882605adbe",
        "Node": "n1",
        "Address": "10.1.10.12",
        "Datacenter": "dc1",
        "TaggedAddresses": {"lan": "10.1.10.12", "wan": "10.1.10.12"},
        "Meta": {"consul-network-segment": ""},
        "CreateIndex": 11,
        "ModifyIndex": 17,
    },
    "Service": {
        "ID": "web-1",
        "Service": "web",
        "Tags": ["v2", "eu", "v2"],
        "Address": "10.0.0.1",
        "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 80}, "consul-virtual": {"Address": "240.0.0.1", "Port": 80}},
        "Meta": {"version": "2"},
        "Port": 8080,
        "Weights": {"Passing": 10, "Warning": 3},
        "EnableTagOverride": False,
        "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
        "Connect": {},
        "Locality": {"Region": "eu", "Zone": "eu-1"},
        "PeerName": "",
        "CreateIndex": 11,
        "ModifyIndex": 11,
    },
    "Checks": [
        {"Node": "n1", "CheckID": "serfHealth", "Name": "Serf", "Status": "passing", "Output": "alive", "ServiceID": "", "ServiceName": ""},
        {"Node": "n1", "CheckID": "service:web-1", "Name": "x", "Status": "passing", "ServiceID": "web-1", "ServiceName": "web"},
    ],
}


def entry(**service: Any) -> dict[str, Any]:
    return {**ENTRY, "Service": {**ENTRY["Service"], **service}}


def instances(*entries: Any) -> tuple[Instance, ...]:
    return read_instances("web", json.dumps(entries).encode())


def test_an_instance_is_read_as_consul_documents_it() -> None:
    (found,) = instances(ENTRY)
    assert found == Instance(
        node="n1",
        id="web-1",
        address="10.0.0.1",
        port=8080,
        health=Health.PASSING,
        weight=10,
        tags=("eu", "v2"),
        meta={"version": "2"},
        kind="",
        region="eu",
        zone="eu-1",
        datacenter="dc1",
        virtual=("240.0.0.1",),
    )


def test_what_may_be_absent_may_be_null_as_well() -> None:
    bare: dict[str, Any] = {"Node": {"Node": "n1", "Address": "10.1.10.12"}, "Service": {"ID": "a", "Service": "web"}}
    nulls = {"Tags": None, "Meta": None, "TaggedAddresses": None, "Weights": None, "Locality": None}
    full = {"Node": {**bare["Node"], "Locality": None}, "Service": {**bare["Service"], **nulls}, "Checks": None}
    assert instances(bare) == instances(full) == (Instance("n1", "a", "10.1.10.12", 0),)


def test_an_instance_without_address_has_its_nodes_and_the_nodes_place() -> None:
    node = {**ENTRY["Node"], "Locality": {"Region": "us"}}
    (found,) = instances({**entry(Address="", Locality=None), "Node": node})
    assert (found.address, found.region, found.zone) == ("10.1.10.12", "us", "")


@pytest.mark.parametrize(
    ("statuses", "health", "weight"),
    [
        ((), Health.PASSING, 10),
        (("passing", "passing"), Health.PASSING, 10),
        (("passing", "warning"), Health.WARNING, 3),
        (("warning", "critical", "passing"), Health.CRITICAL, 10),
        (("passing", "unheard-of"), Health.CRITICAL, 10),
    ],
)
def test_the_worst_check_counts(statuses: tuple[str, ...], health: Health, weight: int) -> None:
    checks = [{"Node": "n1", "CheckID": f"c{number}", "Status": status} for number, status in enumerate(statuses)]
    (found,) = instances({**ENTRY, "Checks": checks})
    assert (found.health, found.weight) == (health, weight)
    assert found.health.serves == (health in (Health.PASSING, Health.WARNING))


@pytest.mark.parametrize("check", ["_node_maintenance", "_service_maintenance:web-1"])
def test_maintenance_is_worse_than_anything(check: str) -> None:
    checks = [{"Node": "n1", "CheckID": check, "Status": "critical"}, {"Node": "n1", "CheckID": "c", "Status": "critical"}]
    (found,) = instances({**ENTRY, "Checks": checks})
    assert found.health is Health.MAINTENANCE
    assert not found.health.serves


def test_instances_have_an_order_of_their_own() -> None:
    some = [entry(ID=f"web-{number}") for number in range(5)]
    assert instances(*some) == instances(*reversed(some))


def test_services_are_names_with_tags() -> None:
    body = b'{"consul": [], "web": ["v2", "v1"], "old": null}'
    assert read_services(body, 3) == {"consul": (), "web": ("v1", "v2"), "old": ()}
    with pytest.raises(Garbled, match="3 services are more than 2"):
        read_services(body, 2)


def test_only_checks_that_do_not_pass_are_looked_at() -> None:
    body = json.dumps(
        [
            {"Node": "n1", "CheckID": "a", "Status": "passing", "ServiceName": "web"},
            {"Node": "n1", "CheckID": "b", "Status": "critical", "ServiceName": "web", "Output": "x" * 4096},
            {"Node": "n1", "CheckID": "serfHealth", "Status": "critical", "ServiceName": ""},
        ]
    ).encode()
    assert read_checks(body) == {Check("n1", "b", "critical", "web"), Check("n1", "serfHealth", "critical", "")}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'[{"Node": {}, "Service": {}}]',
        b'[{"Node": {"Node": "n"}, "Service": {"ID": 7, "Service": "web"}}]',
        b'[{"Node": {"Node": "n"}, "Service": {"ID": "a", "Service": "web", "Tags": "v2"}}]',
        b'[{"Node": {"Node": "n"}, "Service": {"ID": "a", "Service": "web", "Port": "80"}}]',
        b'[{"Node": {"Node": "n"}, "Service": {"ID": "a", "Service": "web", "Meta": {"x": 1}}}]',
        b'[{"Node": {"Node": "n"}, "Service": {"ID": "a", "Service": "\\ud800"}}]',
        b'[{"Extra": ' + b"[" * 100_000,
    ],
)
def test_what_has_another_shape_is_no_answer(body: bytes) -> None:
    with pytest.raises(Garbled, match="service web: the answer cannot be read"):
        read_instances("web", body)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_garbled(body: bytes) -> None:
    for read in (lambda: read_services(body, 10), lambda: read_checks(body), lambda: read_instances("web", body), lambda: read_kept(body)):
        try:
            read()
        except Garbled:
            pass


def test_what_is_kept_comes_back_as_it_was() -> None:
    found = instances(ENTRY, entry(ID="other", Kind="connect-proxy", Tags=[], Meta=None))
    assert read_kept(write_kept("web", found)) == ("web", found)
    assert read_indexes(write_indexes({"services": 2**63, "checks": 1})) == {"services": 2**63, "checks": 1}


def test_what_was_kept_by_another_version_is_garbled() -> None:
    with pytest.raises(Garbled):
        read_kept(b'{"name": "web", "instances": [{"node": "n1"}]}')
