"""CONNECT headers: what is built is what is read, and what is not HBONE is named and refused."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.errors import BugError
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress, WorkloadType
from mesh.wire.baggage import Baggage
from mesh.wire.h2.headers import request_fault, response_fault
from mesh.wire.hbone import (
    Authority,
    ConnectRequest,
    ConnectResponse,
    Refused,
    connect_headers,
    forwarded,
    forwarded_host,
    parse_authority,
    read_request,
    read_response,
    read_traceparent,
    response_headers,
    traceparent,
)

SOURCE = SocketAddress(ip_address("10.244.1.7"), 43210)
TRACE = "00-0102030405060708090a0b0c0d0e0f10-1112131415161718-00"
BAGGAGE = Baggage("Kubernetes", "shop", WorkloadType.DEPLOYMENT, "cart", "cart", "v1", "eu", "eu-1a")


def request(**changes: str) -> tuple[tuple[bytes, bytes], ...]:
    fields = {":method": "CONNECT", ":authority": "10.244.2.9:8080"} | {name.replace("_", "-"): value for name, value in changes.items()}
    return tuple((name.encode(), value.encode()) for name, value in fields.items())


def test_a_request_reads_back_as_it_was_built() -> None:
    headers = connect_headers(
        "[fd00::9]:8080",
        source=SOURCE,
        traceparent=TRACE,
        baggage=BAGGAGE.encode(),
        service_host="cart.shop.svc.cluster.local",
        network="east",
    )
    assert request_fault(headers) == ""
    assert [name for name, _ in headers[:2]] == [b":method", b":authority"]
    assert read_request(headers) == ConnectRequest(
        Authority(ip_address("fd00::9"), 8080), BAGGAGE, "cart.shop.svc.cluster.local", TRACE, "east"
    )


def test_what_istio_sends_is_what_we_send() -> None:
    assert connect_headers(
        "10.244.2.9:8080", source=SOURCE, traceparent=TRACE, baggage="k8s.namespace.name=shop", service_host="cart.shop"
    ) == (
        (b":method", b"CONNECT"),
        (b":authority", b"10.244.2.9:8080"),
        (b"baggage", b"k8s.namespace.name=shop"),
        (b"forwarded", b'for="10.244.1.7:43210";host=cart.shop'),
        (b"traceparent", TRACE.encode()),
    )


def test_only_method_and_authority_are_required() -> None:
    assert read_request(request()) == ConnectRequest(Authority(ip_address("10.244.2.9"), 8080))


@pytest.mark.parametrize("method", ["GET", "connect", "CONNECT ", ""])
def test_other_methods_are_refused(method: str) -> None:
    refused = read_request(((b":method", method.encode()), (b":authority", b"a:1")))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.status) == (Reason.BAD_METHOD, 400)


GOOD = {
    "10.244.1.5:8080": Authority(ip_address("10.244.1.5"), 8080),
    "[fd00::1]:1": Authority(ip_address("fd00::1"), 1),
    "[FD00:0::1]:65535": Authority(ip_address("fd00::1"), 65535),
    "Cart.shop.svc.cluster.local:80": Authority("cart.shop.svc.cluster.local", 80),
    "cart.shop.:80": Authority("cart.shop", 80),
    "a_b:80": Authority("a_b", 80),
    "1cart:80": Authority("1cart", 80),
}


@pytest.mark.parametrize("text", GOOD)
def test_authorities(text: str) -> None:
    authority = parse_authority(text)
    assert authority == GOOD[text]
    assert parse_authority(str(authority)) == authority


def test_an_address_is_known_from_a_name() -> None:
    numeric, name = parse_authority("10.0.0.1:80"), parse_authority("a:80")
    assert numeric is not None
    assert name is not None
    assert numeric.address == SocketAddress(ip_address("10.0.0.1"), 80)
    assert name.address is None


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":80", "a", "a:", "a:0", "a:00", "a:080", "a:65536", "a:99999", "a:100000", "a:-1", "a:+1",
        "a: 80", " a:80", "a:80 ", "a:8_0", "a:٨٠",
        "10.0.0.1", "10.0.0:80", "10.0.0.256:80", "10.0.0.1.2:80", "010.0.0.1:80", "1234:80", "10.0.0.1.:80",
        "fd00::1:80", "[fd00::1]", "[fd00::1]80", "[fd00::1:80", "fd00::1]:80", "[fd00::1%eth0]:80",
        "[]:80", "[10.0.0.1]:80", "[[fd00::1]]:80", "[a]:80",
        "user@a:80", "http://a:80", "a/b:80", "a..b:80", ".a:80", "-a:80", "a-:80", "a\r\nb:80", "a\x00b:80",
        "bücher:80", "*.a:80", "a:80:80",
        "a" * 64 + ":80", ".".join(["a" * 60] * 5) + ":80",
    ],
)  # fmt: skip
def test_loose_authorities_are_refused(text: str) -> None:
    assert parse_authority(text) is None
    refused = read_request(((b":method", b"CONNECT"), (b":authority", text.encode())))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.status) == (Reason.BAD_AUTHORITY, 400)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_an_authority_that_is_taken_has_one_meaning(text: str) -> None:
    authority = parse_authority(text)
    if authority is not None:
        assert 1 <= authority.port <= 65535
        assert parse_authority(str(authority)) == authority


@settings(deadline=None)
@given(st.one_of(st.ip_addresses()), st.integers(1, 65535))
def test_every_address_is_an_authority(ip: object, port: int) -> None:
    text = f"{ip}:{port}" if "." in str(ip) and ":" not in str(ip) else f"[{ip}]:{port}"
    if "%" not in text:
        assert str(parse_authority(text)) == text


FORWARDED = {
    b'for="10.0.0.1:5";host=cart.shop': "cart.shop",
    b'for="[fd00::1]:5";host=cart.shop': "cart.shop",
    b"for=10.0.0.1;Host=cart": "cart",
    b'host="cart.shop:80"': "cart.shop:80",
    b'host="a\\"b"': 'a"b',
    b"for=1.2.3.4, for=5.6.7.8;host=a, host=b": "a",
    b"proto=http; host=a ; by=b": "a",
    b'for="10.0.0.1:5"': None,
    b"host=": None,
    b'for="10.0.0.1:5;host=cart': None,
    b"host": None,
    b"nonsense nonsense": None,
    b"": None,
    b'for=";host=evil";proto=http': None,
}


@pytest.mark.parametrize("value", FORWARDED)
def test_forwarded_host(value: bytes) -> None:
    assert forwarded_host(value) == FORWARDED[value]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_forwarded_never_fails(value: bytes) -> None:
    forwarded_host(value)
    read_traceparent(value)


def test_forwarded_is_built_quoted() -> None:
    assert forwarded(SocketAddress(ip_address("fd00::1"), 5), "cart") == 'for="[fd00::1]:5";host=cart'
    assert forwarded(SOURCE) == 'for="10.244.1.7:43210"'
    assert forwarded(SOURCE, "a;b") == 'for="10.244.1.7:43210"'


def test_traceparent_is_made_of_the_bytes_given() -> None:
    assert traceparent(bytes(range(1, 25))) == TRACE
    with pytest.raises(BugError):
        traceparent(bytes(23))


@settings(deadline=None)
@given(st.binary(min_size=24, max_size=24))
def test_every_traceparent_that_we_make_is_valid(random: bytes) -> None:
    made = traceparent(random)
    assert read_traceparent(made.encode()) == made


def test_zero_ids_are_avoided() -> None:
    made = traceparent(bytes(24))
    assert read_traceparent(made.encode()) == made


@pytest.mark.parametrize(
    "value",
    [
        "", TRACE[:-1], TRACE + "0", TRACE.upper(), "ff" + TRACE[2:], "00-" + "0" * 32 + TRACE[35:],
        TRACE[:36] + "0" * 16 + "-00", TRACE.replace("-", "_"),
    ],
)  # fmt: skip
def test_bad_traceparents_count_as_absent(value: str) -> None:
    read = read_request(request(traceparent=value))
    assert read_traceparent(value.encode()) is None
    assert isinstance(read, ConnectRequest)
    assert read.traceparent is None


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (200, Reason.OK),
        (400, Reason.PEER_BAD_REQUEST),
        (401, Reason.PEER_DENIED),
        (503, Reason.PEER_UNAVAILABLE),
        (204, Reason.PEER_STATUS),
        (500, Reason.PEER_STATUS),
    ],
)
def test_responses_read_back_and_have_a_reason(status: int, reason: Reason) -> None:
    headers = response_headers(status, BAGGAGE.encode())
    assert response_fault(headers) == ""
    assert read_response(headers) == ConnectResponse(status, BAGGAGE if status == 200 else None)
    assert read_response(headers).reason is reason


def test_hints_that_no_header_can_hold_are_left_out() -> None:
    headers = connect_headers("a:1", source=SOURCE, traceparent=TRACE, baggage="a=b c", service_host="ü", network="x\r\ny")
    assert [name for name, _ in headers] == [b":method", b":authority", b"forwarded", b"traceparent"]
    assert request_fault(headers) == ""


@pytest.mark.parametrize("authority", ["", "a b:1", "ü:1", "a\r\n:1"])
def test_an_authority_that_we_made_wrong_is_our_bug(authority: str) -> None:
    with pytest.raises(BugError):
        connect_headers(authority, source=SOURCE, traceparent=TRACE)
