"""Addresses: deterministic, reused late, and told when a range is full."""

from __future__ import annotations

import pytest

from culvert.playground.addresses import (
    AddressesExhausted,
    gateways,
    next_pod_host,
    node_wire_addresses,
    pod_addresses,
    pod_ranges,
    service_addresses,
    service_host,
    service_host_of,
)


def test_each_node_has_its_own_ranges() -> None:
    assert [str(address) for address in node_wire_addresses(1)] == ["172.30.0.11", "fd00:172:30::b"]
    assert [str(network) for network in pod_ranges(3)] == ["10.244.3.0/24", "fd00:10:244:3::/64"]
    assert [str(address) for address in gateways(2)] == ["10.244.2.1", "fd00:10:244:2::1"]
    assert [str(address) for address in pod_addresses(2, 17)] == ["10.244.2.17", "fd00:10:244:2::11"]


def test_pod_hosts_go_round_and_skip_what_is_used() -> None:
    assert next_pod_host(set(), 1) == 2
    assert next_pod_host({3}, 2) == 4
    assert next_pod_host(set(), 254) == 2
    assert next_pod_host(set(range(2, 255)) - {100}, 200) == 100


def test_a_full_node_says_so() -> None:
    with pytest.raises(AddressesExhausted, match="253 pods"):
        next_pod_host(set(range(2, 255)), 5)


def test_a_service_gets_the_same_address_at_every_start() -> None:
    first = service_host("bookstore/catalog", set())
    assert first == service_host("bookstore/catalog", set())
    assert service_host("bookstore/catalog", {first}) == first + 1
    assert 256 <= first < 65535


@pytest.mark.parametrize("host", [256, 300, 65534])
def test_service_addresses_of_both_families_name_the_same_host(host: int) -> None:
    four, six = service_addresses(host)
    assert service_host_of(str(four)) == service_host_of(str(six)) == host


def test_an_address_outside_the_service_ranges_is_none() -> None:
    assert service_host_of("10.97.0.1") is None
    assert service_host_of("fd00:10:97::1") is None
