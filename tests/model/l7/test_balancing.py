"""Endpoints → groups: localities, priorities and shares, as one proxy sees them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.l7.endpoints import Endpoint, HostPort, Tunnel
from mesh.model.l7.translate.balancing import Candidate, Viewpoint, assignment, depends_on_viewpoint, endpoint
from mesh.model.l7.translate.destination_rule import Effective, effective, merge
from mesh.model.workload import Health, Locality, SocketAddress, TunnelProtocol, Workload
from tests.model.l7.objects import made

HERE = Viewpoint(Locality("eu", "eu-1", "rack-1"), {"version": "v1", "env": "prod"}, "net", "c1", "node-1")


def candidate(name: str, place: str = "eu/eu-1/rack-1", labels: dict[str, str] | None = None, **fields: Any) -> Candidate:
    number = sum(map(ord, name)) % 250
    workload = Workload(name, name, "shop", (ip_address(f"10.0.0.{number}"),), locality=Locality(*place.split("/")), **fields)
    return Candidate(workload, 8080, labels or {})


def policy(**found: Any) -> Effective:
    if not found:
        return Effective()
    merged = merge([made("DestinationRule", {"host": "app", "trafficPolicy": found})]).value
    return effective(merged, 80, "")


def locality(outlier: bool = True, **setting: Any) -> Effective:
    """A policy with these locality settings."""
    parts: dict[str, Any] = {"loadBalancer": {"localityLbSetting": setting}} if setting else {}
    return policy(**parts, **({"outlierDetection": {}} if outlier else {}))


PLACES = ["eu/eu-1/rack-1", "eu/eu-1/rack-2", "eu/eu-2/rack-1", "us/us-1/rack-1", "asia/a/r"]
ALL = [candidate(place, place) for place in PLACES]


def priorities(found: Effective, candidates: list[Candidate] | None = None, **fields: Any) -> dict[str, int]:
    """By the locality of endpoints."""
    groups = assignment("c", ALL if candidates is None else candidates, found, HERE, **fields).groups
    return {"/".join((group.locality.region, group.locality.zone, group.locality.subzone)): group.priority for group in groups}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Effective(), [0, 0, 0, 0, 0]),
        (locality(), [0, 1, 2, 3, 3]),
        (locality(enabled=False), [0, 0, 0, 0, 0]),
        (locality(outlier=False, failover=[{"from": "eu", "to": "us"}]), [0, 0, 0, 0, 0]),
        (locality(failover=[{"from": "eu", "to": "us"}]), [0, 1, 2, 3, 4]),
        (locality(failover=[{"from": "us", "to": "asia"}]), [0, 1, 2, 3, 3]),
        (locality(failoverPriority=["topology.kubernetes.io/region"]), [0, 0, 0, 1, 1]),
        (locality(failoverPriority=["topology.kubernetes.io/region", "topology.kubernetes.io/zone"]), [0, 0, 1, 2, 2]),
        (locality(failoverPriority=["topology.kubernetes.io/region=us"]), [1, 1, 1, 0, 1]),
    ],
)
def test_priorities_by_place(found: Effective, expected: list[int]) -> None:
    assert priorities(found) == dict(zip(PLACES, expected, strict=True))


def test_priorities_have_no_gaps() -> None:
    assert priorities(locality(), ALL[2:]) == {PLACES[2]: 0, PLACES[3]: 1, PLACES[4]: 1}


def test_priorities_by_labels() -> None:
    candidates = [
        candidate("both", "a/a/a", {"env": "prod", "version": "v1"}),
        candidate("first", "a/a/b", {"env": "prod", "version": "v2"}),
        candidate("second", "a/a/c", {"env": "test", "version": "v1"}),
        candidate("none", "a/a/d"),
    ]
    found = priorities(locality(failoverPriority=["env", "version"]), candidates)
    assert found == {"a/a/a": 0, "a/a/b": 1, "a/a/c": 2, "a/a/d": 2}


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [("PreferClose", [0, 0, 1, 2, 2]), ("PreferSameZone", [0, 0, 1, 2, 2]), ("PreferSameNode", [0, 1, 2, 3, 3]), ("", [0, 0, 0, 0, 0])],
)
def test_distribution_of_a_kubernetes_service(distribution: str, expected: list[int]) -> None:
    candidates = [candidate(place, place, network="net", node="node-1") for place in PLACES]
    assert priorities(Effective(), candidates, distribution=distribution) == dict(zip(PLACES, expected, strict=True))


def test_same_node() -> None:
    candidates = [
        candidate("a", "eu/eu-1/rack-1", network="net", node="node-1"),
        candidate("b", "eu/eu-1/rack-1", network="net", node="node-2"),
    ]
    groups = assignment("c", candidates, Effective(), HERE, distribution="PreferSameNode").groups
    assert [(group.priority, len(group.endpoints)) for group in groups] == [(0, 1), (1, 1)]


def shares(to: dict[str, int], from_: str = "eu/*") -> dict[str, int]:
    found = locality(outlier=False, distribute=[{"from": from_, "to": to}])
    groups = assignment("c", ALL, found, HERE).groups
    return {group.locality.region + "/" + group.locality.zone + "/" + group.locality.subzone: group.weight for group in groups}


def test_shares() -> None:
    assert shares({"eu/eu-1/*": 80, "us": 20}) == {PLACES[0]: 40_000, PLACES[1]: 40_000, PLACES[3]: 20_000}
    assert shares({"eu/eu-1/rack-1": 70, "eu/*": 30}) == {PLACES[0]: 70_000, PLACES[1]: 15_000, PLACES[2]: 15_000}
    assert shares({"mars": 100}, "us/*") == dict.fromkeys(PLACES, 0), "nothing is said of where the proxy is"
    assert shares({"mars": 100}) == {}


def test_subsets_and_health() -> None:
    candidates = [
        candidate("v1", labels={"version": "v1"}),
        candidate("v2", labels={"version": "v2"}),
        candidate("sick", labels={"version": "v1"}, health=Health.UNHEALTHY),
    ]
    one = assignment("c", candidates, Effective(), subset={"version": "v1"})
    assert [len(group.endpoints) for group in one.groups] == [1]
    assert len(assignment("c", candidates, Effective(), unready=True).groups[0].endpoints) == 3


def test_endpoint() -> None:
    workload = Workload(
        "u", "n", "shop", (ip_address("10.0.0.1"),), protocol=TunnelProtocol.HBONE, service_account="a", capacity=5, canonical_name="c"
    )
    assert endpoint(Candidate(workload, 80)) == Endpoint(
        SocketAddress(ip_address("10.0.0.1"), 80),
        5,
        tunnel=Tunnel(("spiffe://cluster.local/ns/shop/sa/a",)),
        workload="n;shop;c;;Kubernetes",
    )
    named = endpoint(Candidate(Workload("u", "n", "shop", hostname="db.example"), 5432))
    assert named is not None
    assert (named.address, named.tunnel) == (HostPort("db.example", 5432), None)
    assert endpoint(Candidate(Workload("u", "n", "shop"), 80)) is None


@pytest.mark.parametrize(
    ("found", "distribution", "depends"),
    [
        (Effective(), "", False),
        (Effective(), "PreferClose", True),
        (locality(), "", True),
        (locality(enabled=False), "PreferClose", False),
        (locality(outlier=False, failoverPriority=["a"]), "", False),
        (locality(outlier=False, distribute=[{"from": "*", "to": {"a": 100}}]), "", True),
    ],
)
def test_whether_places_differ(found: Effective, distribution: str, depends: bool) -> None:
    assert depends_on_viewpoint(found, distribution) is depends


@given(st.permutations(ALL), st.sampled_from([Effective(), locality(), locality(failoverPriority=["env"])]))
def test_order_of_arrival_does_not_matter(candidates: list[Candidate], found: Effective) -> None:
    assert assignment("c", candidates, found, HERE) == assignment("c", ALL, found, HERE)
