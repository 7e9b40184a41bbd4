"""The nodes' rules for services, as text. That nft takes them and the kernel obeys is tests/e2e's business."""

from __future__ import annotations

from culvert.playground.nft import TABLE, render_ruleset
from culvert.playground.services import Endpoint, ServicePortState

WEB = ServicePortState("shop/web", "TCP", "10.96.1.1", 80, (Endpoint("10.244.1.2", 8080), Endpoint("10.244.2.2", 8080)))
WEB6 = ServicePortState("shop/web", "TCP", "fd00:10:96::101", 80, (Endpoint("fd00:10:244:1::2", 8080),))
DNS = ServicePortState("shop/dns", "UDP", "10.96.1.2", 53, (Endpoint("10.244.1.3", 5353),))
EMPTY = ServicePortState("shop/empty", "TCP", "10.96.1.3", 80, ())


def lines(*states: ServicePortState, pods: tuple[str, ...] = ()) -> list[str]:
    return [line.strip() for line in render_ruleset(states, pods).splitlines()]


def test_the_table_is_replaced_whole() -> None:
    assert lines()[:3] == [f"table inet {TABLE} {{}}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]


def test_a_service_spreads_over_its_endpoints() -> None:
    found = lines(WEB)
    assert "meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.1.2 . 8080, 1 : 10.244.2.2 . 8080 }" in found
    assert "ip daddr . meta l4proto . th dport vmap { 10.96.1.1 . tcp . 80 : goto service_0 }" in found


def test_families_and_protocols_are_kept_apart() -> None:
    found = lines(WEB6, DNS)
    assert "ip daddr . meta l4proto . th dport vmap { 10.96.1.2 . udp . 53 : goto service_0 }" in found
    assert "ip6 daddr . meta l4proto . th dport vmap { fd00:10:96::101 . tcp . 80 : goto service_1 }" in found
    assert "meta l4proto udp dnat ip to numgen random mod 1 map { 0 : 10.244.1.3 . 5353 }" in found


def test_a_service_without_endpoints_is_not_translated_and_so_refused() -> None:
    found = lines(EMPTY)
    assert not any("10.96.1.3" in line for line in found)
    assert found.count("ip daddr 10.96.0.0/16 meta l4proto tcp reject with tcp reset") == 2


def test_only_a_packet_to_its_own_sender_changes_its_source() -> None:
    found = lines(WEB, pods=("10.244.1.3", "10.244.1.2", "fd00:10:244:1::2"))
    assert "ct status dnat ip saddr . ip daddr { 10.244.1.2 . 10.244.1.2, 10.244.1.3 . 10.244.1.3 } masquerade" in found
    assert "ct status dnat ip6 saddr . ip6 daddr { fd00:10:244:1::2 . fd00:10:244:1::2 } masquerade" in found
    assert sum("masquerade" in line for line in found) == 2


def test_the_same_facts_in_another_order_are_the_same_text() -> None:
    assert render_ruleset([WEB, DNS, WEB6], ["b", "a"]) == render_ruleset([WEB6, WEB, DNS], ["a", "b"])
