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
