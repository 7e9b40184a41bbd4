"""Baggage: Istio's keys in Istio's order, read leniently since nothing is decided by it, and bounded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.workload import Locality, Workload, WorkloadType
from mesh.wire.baggage import MAX_FIELD, MAX_VALUE, Baggage, baggage_of, parse_baggage

FULL = Baggage("Kubernetes", "shop", WorkloadType.DEPLOYMENT, "cart-v1", "cart", "v1", "eu", "eu-1a")
FULL_TEXT = (
    "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart-v1,service.name=cart,service.version=v1,"
    "cloud.region=eu,cloud.availability_zone=eu-1a"
)


def test_encoding_is_istios() -> None:
    assert FULL.encode() == FULL_TEXT
    assert parse_baggage([FULL_TEXT.encode()]) == FULL


def test_empty_values_are_left_out() -> None:
    assert Baggage(namespace="shop", revision="v1").encode() == "k8s.namespace.name=shop,service.version=v1"
    assert Baggage().encode() == ""


@pytest.mark.parametrize("kind", WorkloadType)
def test_workload_types(kind: WorkloadType) -> None:
    said = Baggage(workload_type=kind, workload_name="x")
    assert said.encode() == f"k8s.{kind.value}.name=x"
    assert parse_baggage([said.encode().encode()]) == said


def test_what_a_workload_says() -> None:
    workload = Workload(
        uid="u", name="cart-v1-abc", namespace="shop", canonical_name="cart", canonical_revision="v1",
        workload_type=WorkloadType.DEPLOYMENT, workload_name="cart-v1", locality=Locality("eu", "eu-1a"),
    )  # fmt: skip
    assert baggage_of(workload) == FULL


READ = {
    (b"k8s.namespace.name=a", b"service.name=b"): Baggage(namespace="a", service="b"),
    (b" k8s.namespace.name = a ;ttl=1 , service.name=b",): Baggage(namespace="a", service="b"),
    (b"service.name=a,service.name=b",): Baggage(service="b"),
    (b"service.name=a=b",): Baggage(service="a=b"),
    (b"service.name=,other=x,nonsense,,=",): Baggage(),
    (b"service.name=%0Ax",): Baggage(service="%0Ax"),
    (b"service.name=" + b"x" * (MAX_VALUE + 1),): Baggage(),
    (b"service.name=a," * MAX_FIELD,): Baggage(),
    (b"",): Baggage(),
}


@pytest.mark.parametrize("lines", READ)
def test_reading(lines: tuple[bytes, ...]) -> None:
    assert parse_baggage(lines) == READ[lines]


def test_no_field_is_not_an_empty_field() -> None:
    assert parse_baggage([]) is None


def test_values_that_would_break_the_field_are_escaped() -> None:
    text = Baggage(region="a,b=c;d e\r\nü%").encode()
    assert text == "cloud.region=a%2Cb%3Dc%3Bd%20e%0D%0A%C3%BC%25"


NAMES = st.text("abcxyz0189-._:/@", min_size=0, max_size=60)


@settings(deadline=None)
@given(st.builds(Baggage, NAMES, NAMES, st.just(WorkloadType.JOB), NAMES.filter(bool), NAMES, NAMES, NAMES, NAMES))
def test_names_read_back(said: Baggage) -> None:
    assert parse_baggage([said.encode().encode()]) == said


@settings(deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=4))
def test_reading_never_fails(lines: list[bytes]) -> None:
    parse_baggage(lines)
