"""Waits after failures, and rates."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.pacing import Backoff, Bucket


def test_waits_grow_are_capped_and_begin_anew() -> None:
    backoff = Backoff(0.5, 30.0, chance=lambda: 1.0)
    assert [backoff.wait() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    backoff.succeeded()
    assert backoff.wait() == 0.5
    assert Backoff(0.5, 30.0, chance=lambda: 0.0).wait() == 0.0, "full jitter"


def test_what_the_server_asks_for_is_the_least() -> None:
    for chance in (0.0, 0.5, 1.0):
        assert 7.0 <= Backoff(chance=lambda chance=chance: chance).wait(after=7.0) <= 14.0


def test_waits_never_overflow() -> None:
    backoff = Backoff(chance=lambda: 1.0)
    assert max(backoff.wait() for _ in range(2000)) == 30.0


def test_a_bucket_lets_a_burst_through_and_then_a_rate() -> None:
    bucket = Bucket(rate=10.0, burst=3)
    assert [bucket.take(0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(0.0) == pytest.approx(0.1)
    assert bucket.take(0.1) == 0.0
    assert bucket.take(100.0) == 0.0
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.1)]


def test_a_reservation_counts_at_once() -> None:
    bucket = Bucket(rate=10.0, burst=1)
    assert [bucket.reserve(0.0) for _ in range(3)] == [0.0, pytest.approx(0.1), pytest.approx(0.2)]
    assert bucket.reserve(1.0) == 0.0


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(2.0, 3)
    assert [bucket.take(10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(10.4) == pytest.approx(0.1)
    assert bucket.take(10.5) == 0.0


@settings(deadline=None)
@given(st.floats(0.01, 100), st.floats(0, 1e7), st.integers(1, 5))
def test_who_comes_back_when_a_bucket_said_finds_a_token(rate: float, now: float, burst: int) -> None:
    bucket = Bucket(rate, burst)
    while not (wait := bucket.take(now)):
        pass
    assert bucket.take(now + wait) == 0.0


def test_a_bucket_holds_no_more_than_its_burst() -> None:
    bucket = Bucket(2.0, 3)
    assert [bucket.take(1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
