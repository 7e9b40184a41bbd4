"""Who may hold a certificate, and the bound on what one may ask for."""

from __future__ import annotations

import pytest

from control.auth import Caller
from control.ca import holders as module
from control.ca.holders import Holders, Report, holder_of
from control.ca.rates import Rates


def test_who_was_given_one_may_hold_it_until_it_expires() -> None:
    holders = Holders(lambda: ["node-1"])
    holders.issued("shop/cart-1", 100.0, 0.0)
    holders.issued("shop/cart-1", 50.0, 0.0)
    holders.join("node-2", "peer")
    assert holders.names(99) == {"node-1", "node-2", "shop/cart-1"}
    assert holders.names(100) == {"node-1", "node-2"}


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 3)
    holders = Holders()
    for number in range(3):
        holders.issued(f"pod-{number}", 10.0 + number, 0.0)
    holders.issued("late", 100.0, 0.0)
    assert holders.names(5) == {"pod-0", "pod-1", "pod-2"}
    holders.issued("later", 100.0, 11.5)
    assert holders.names(11.5) == {"pod-2", "later"}


def test_who_has_renewed_counts_until_the_ca_moves_on() -> None:
    holders = Holders()
    number = holders.join("node-1", "peer")
    assert holders.confirmed() == set()
    holders.report(number, Report("one", 1), "one", 5.0)
    holders.report(number, Report("one", 2), "one", 6.0)
    assert (holders.confirmed(), holders.followers[number].confirmed_at) == ({"node-1"}, 5.0)
    holders.moved("two", 7.0)
    assert holders.confirmed() == set()
    holders.moved("one", 8.0)  # taken back: what it holds is right again
    assert holders.confirmed() == {"node-1"}
    holders.leave(number)
    assert holders.confirmed() == set()


@pytest.mark.parametrize(
    ("caller", "name"),
    [
        (Caller(node="node-1", impersonates=True), "node-1"),
        (Caller("node-1", "istio-system", "ztunnel", "ztunnel-x", "u", impersonates=True), "node-1"),
        (Caller("node-1", "web", "web", "web-1", "u"), "web/web-1"),
        (Caller(namespace="web", account="web"), "web/account:web"),
    ],
)
def test_a_holder_is_a_node_or_a_workload(caller: Caller, name: str) -> None:
    assert holder_of(caller) == name


def test_a_bucket_runs_dry_and_fills_again() -> None:
    rates = Rates(per_second=2, burst=3)
    assert [rates.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert rates.take("b", 0.0)
    assert [rates.take("a", 0.5), rates.take("a", 0.5)] == [True, False]
    assert [rates.take("a", 100.0) for _ in range(4)] == [True, True, True, False]


def test_buckets_have_a_bound() -> None:
    rates = Rates(per_second=0.001, burst=1, callers=2)
    assert rates.take("a", 0.0)
    assert rates.take("b", 0.0)
    assert not rates.take("a", 0.0)  # seen last: it stays
    assert rates.take("c", 0.0)
    assert not rates.take("a", 0.0)
    assert rates.take("b", 0.0)
