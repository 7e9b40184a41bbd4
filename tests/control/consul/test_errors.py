"""What answers that are none mean, and how long is waited after them."""

from __future__ import annotations

import ssl

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.sources.consul.errors import (
    LONGEST_WAIT,
    MAX_MESSAGE,
    Busy,
    ConsulError,
    Denied,
    Failed,
    Garbled,
    NoLeader,
    Rejected,
    Unreachable,
    failure,
    translated,
)
from control.sources.consul.http import TooLongError
from control.sources.consul.pace import Backoff, Bucket


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, "No cluster leader", NoLeader),
        (500, "rpc error making call: No cluster leader", NoLeader),
        (500, "No known Consul servers", NoLeader),
        (500, "No path to datacenter", Failed),
        (502, "<html>", Failed),
        (503, "RPC rate limit exceeded", Failed),
        (429, "Your IP is issuing too many concurrent connections", Busy),
        (403, "Permission denied: token with AccessorID '…' lacks permission 'service:read' on \"web\"", Denied),
        (401, "", Denied),
        (400, 'Invalid query parameter: "ns" - Namespaces are a Consul Enterprise feature', Rejected),
        (404, "", Rejected),
        (301, "", Garbled),
    ],
)
def test_a_status_says_what_helps(status: int, body: str, kind: type[ConsulError]) -> None:
    found = failure(status, {}, body.encode())
    assert type(found) is kind
    assert str(status) in str(found)
    assert body[:50] in str(found)


def test_what_is_denied_is_said_with_what_is_needed() -> None:
    assert "service:read and node:read" in str(failure(403, {}, b"Permission denied"))


@pytest.mark.parametrize(("header", "after"), [("7", 7.0), ("", 0.0), ("soon", 0.0), ("99999", LONGEST_WAIT), ("-1", 0.0), ("1" * 20, 0.0)])
def test_a_server_may_ask_us_to_wait_but_not_for_ever(header: str, after: float) -> None:
    assert failure(429, {"retry-after": header}, b"").after == after
    assert isinstance(failure(503, {"retry-after": header}, b""), Busy if after else Failed)


@settings(deadline=None)
@given(st.binary(max_size=2000), st.integers(100, 999))
def test_any_failure_is_one_short_printable_line(body: bytes, status: int) -> None:
    text = str(failure(status, {}, body))
    assert len(text) < MAX_MESSAGE + 200
    assert "\n" not in text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), Unreachable),
        (ConnectionRefusedError(111, "refused"), Unreachable),
        (ssl.SSLCertVerificationError("self-signed"), Unreachable),
        (h11.RemoteProtocolError("what?"), Garbled),
        (TooLongError("too long"), Garbled),
        (RecursionError(), Garbled),
    ],
)
def test_foreign_exceptions_become_ours(error: Exception, kind: type[ConsulError]) -> None:
    with pytest.raises(ConsulError) as caught, translated("the list"):
        raise error
    assert type(caught.value) is kind
    assert str(caught.value).startswith("the list: ")
    assert caught.value.word == kind.__name__.lower()


def test_bugs_stay_bugs() -> None:
    with pytest.raises(AttributeError), translated("x"):
        raise AttributeError


def test_waits_grow_to_a_limit_and_begin_anew() -> None:
    backoff = Backoff(0.5, 4.0, lambda: 1.0)
    assert [backoff.wait() for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    backoff.succeeded()
    assert backoff.wait(after=10.0) == 10.5
    assert Backoff(0.5, 4.0, lambda: 0.0).wait() == 0.0


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
