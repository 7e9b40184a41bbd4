"""HBONE: what a CONNECT request between two tunnels says, and what the answer says. Pure: header fields in, frozen types out.

    :method = CONNECT                     the only method
    :authority = 10.244.1.5:8080          where the stream goes: ip:port, [v6]:port or hostname:port, nothing looser
    baggage = k8s.namespace.name=shop,…   who the source says it is: for metrics only, never for policy (`Baggage`)
    forwarded = for="10.244.2.7:43210";host=catalog.shop.svc.cluster.local    only `host` is read: the service that was meant
    traceparent = 00-<32 hex>-<16 hex>-00  names the connection in both tunnels' logs

The answer is `:status` 200, when policy allows it and the app has accepted, with the destination's baggage; or 400, 401, 503 with no body.
Field for field this is what Istio's ztunnel sends and takes. A request that breaks HTTP/2 never gets here (`wire.h2.headers`);
one that is good HTTP/2 and no HBONE is answered 400 with the reason (`Refused`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from mesh.model.errors import BugError
from mesh.model.reasons import Reason
from mesh.model.workload import IPAddress, SocketAddress
from mesh.wire.baggage import Baggage, parse_baggage
from mesh.wire.h2.events import Headers

STATUS_OK = 200
STATUS_BAD_REQUEST = 400
STATUS_DENIED = 401
STATUS_UNAVAILABLE = 503

TRACE_RANDOM_SIZE = 24
"""How many random bytes `traceparent` wants: 16 of trace id, 8 of span id."""

_PORT = re.compile(r"[1-9][0-9]{0,4}")
_CLEAN = re.compile(r"[\x21-\x7e]+")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_FORWARDED_PAIR = re.compile(r"\s*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=(?:\"((?:[^\"\\]|\\.)*)\"|([!#$%&'*+\-.^_`|~0-9A-Za-z:\[\]]*))\s*([;,]|$)")

# What every tunnel sends for a connection to a service. Only a shortcut.
_FORWARDED_USUAL = re.compile(rb'for="[0-9a-fA-F.:\[\]]{1,64}";host=([a-zA-Z0-9.-]{1,253})')


@dataclass(frozen=True, slots=True)
class Authority:
    """Where a stream goes. `host` is an address, or a hostname in lower case."""

    host: IPAddress | str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if isinstance(self.host, IPv6Address) else f"{self.host}:{self.port}"

    @property
    def address(self) -> SocketAddress | None:
        """The address and port, or None if the host is a name."""
        return None if isinstance(self.host, str) else SocketAddress(self.host, self.port)


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """A well-formed HBONE request. What the peer left out, or wrote unreadably where it does not matter, is None."""

    authority: Authority
    baggage: Baggage | None = None
    forwarded_host: str | None = None
    traceparent: str | None = None
    network: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is no HBONE: answer `status` and name `reason`; `detail` is for the log."""

    reason: Reason
    detail: str
    status: int = STATUS_BAD_REQUEST


@dataclass(frozen=True, slots=True)
class ConnectResponse:
    """The peer tunnel's answer."""

    status: int
    baggage: Baggage | None = None

    @property
    def reason(self) -> Reason:
        """OK for 200, else why the stream cannot be used."""
        return _STATUS_REASONS.get(self.status, Reason.PEER_STATUS)


_STATUS_REASONS = {
    STATUS_OK: Reason.OK,
    STATUS_BAD_REQUEST: Reason.PEER_BAD_REQUEST,
    STATUS_DENIED: Reason.PEER_DENIED,
    STATUS_UNAVAILABLE: Reason.PEER_UNAVAILABLE,
}


# Requests.


def connect_headers(
    authority: str, *, source: SocketAddress, traceparent: str, baggage: str = "", service_host: str = "", network: str = ""
) -> Headers:
    """The request that opens a stream to `authority`, for a connection that comes from `source`.

    `service_host`: the service that the app addressed, if it addressed one. `network`: only inside a tunnel through an
    east-west gateway. These two and `baggage` only help the peer's metrics: left out where a header cannot hold them.
    """
    fields = [(b":method", b"CONNECT"), (b":authority", _ascii(authority))]
    if baggage and _CLEAN.fullmatch(baggage):
        fields.append((b"baggage", _ascii(baggage)))
    fields.append((b"forwarded", _ascii(forwarded(source, service_host))))
    fields.append((b"traceparent", _ascii(traceparent)))
    if network and _CLEAN.fullmatch(network):
        fields.append((b"x-forwarded-network", _ascii(network)))
    return tuple(fields)


def _ascii(value: str) -> bytes:
    """A field's value. Raises BugError: what comes here was parsed or made by us."""
    if _CLEAN.fullmatch(value) is None:
        raise BugError(f"{value!r} is no header value")
    return value.encode("ascii")


def read_request(headers: Headers) -> ConnectRequest | Refused:
    """What a RequestReceived asks for. Only the method and the authority can refuse it: the rest is for telemetry."""
    method = authority = b""
    baggage: list[bytes] = []
    host = trace = network = None
    for name, value in headers:
        if name == b":method":
            method = value
        elif name == b":authority":
            authority = value
        elif name == b"baggage":
            baggage.append(value)
        elif name == b"forwarded":
            host = host or forwarded_host(value)
        elif name == b"traceparent":
            trace = read_traceparent(value)
        elif name == b"x-forwarded-network":
            network = value.decode("ascii", "replace")
    if method != b"CONNECT":
        return Refused(Reason.BAD_METHOD, f"method {_shown(method)}")
    target = parse_authority(authority.decode("ascii", "replace"))
    if target is None:
        return Refused(Reason.BAD_AUTHORITY, f"authority {_shown(authority)}")
    return ConnectRequest(target, parse_baggage(baggage), host, trace, network)


def _shown(value: bytes) -> str:
    return repr(value[:100])[1:]


# Responses.


def response_headers(status: int, baggage: str = "") -> Headers:
    """The answer. Send it with END_STREAM unless `status` is 200."""
    if status == STATUS_OK and baggage:
        return ((b":status", b"200"), (b"baggage", _ascii(baggage)))
    return ((b":status", b"%d" % status),)


def read_response(headers: Headers) -> ConnectResponse:
    """What a ResponseReceived says; the machine below has checked that `:status` is there and has three digits."""
    status = 0
    baggage: list[bytes] = []
    for name, value in headers:
        if name == b":status":
            status = int(value)
        elif name == b"baggage":
            baggage.append(value)
    return ConnectResponse(status, parse_baggage(baggage))


# The parts.


@lru_cache(maxsize=1024)
def parse_authority(text: str) -> Authority | None:
    """`ip:port`, `[v6]:port` or `hostname:port`, or None. Port 1 to 65535 without leading zeros; no user part, no zone, no spaces."""
    host, colon, digits = text.rpartition(":")
    if not colon or _PORT.fullmatch(digits) is None or int(digits) > 65535:
        return None
    port = int(digits)
    try:
        if host.startswith("["):
            # A zone means something on one machine only, and must not come from another.
            return Authority(IPv6Address(host[1:-1]), port) if host.endswith("]") and "%" not in host else None
        if host.replace(".", "").isdigit():
            return Authority(IPv4Address(host), port)
    except AddressValueError:
        return None
    name = host.removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        return None
    return Authority(name.lower(), port)


def forwarded(source: SocketAddress, service_host: str = "") -> str:
    """The `forwarded` field (RFC 7239): quoted, since an address with a port is no token."""
    return f'for="{source}";host={service_host}' if service_host and _TOKEN.fullmatch(service_host) else f'for="{source}"'


def forwarded_host(value: bytes) -> str | None:
    """The first `host=` of a `forwarded` field, or None if there is none or the field is not RFC 7239."""
    usual = _FORWARDED_USUAL.fullmatch(value)
    if usual is not None:
        return usual.group(1).decode("ascii")
    text = value.decode("ascii", "replace")
    host: str | None = None
    at = 0
    while at < len(text):
        pair = _FORWARDED_PAIR.match(text, at)
        if pair is None:
            return None
        name, quoted, token = pair.group(1, 2, 3)
        if name.lower() == "host" and host is None:
            host = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = pair.end()
    return host or None


def traceparent(random: bytes) -> str:
    """A new W3C trace context from 24 random bytes. Not sampled: the tunnel exports no spans of its own."""
    if len(random) != TRACE_RANDOM_SIZE:
        raise BugError(f"a traceparent wants {TRACE_RANDOM_SIZE} random bytes")
    trace, span = random[:16], random[16:]
    # All zeros is no valid id; it is as likely as any other value, and cannot be left to chance in a test with fixed bytes.
    return f"00-{(trace if any(trace) else b'1' * 16).hex()}-{(span if any(span) else b'1' * 8).hex()}-00"


def read_traceparent(value: bytes) -> str | None:
    """A valid `traceparent` of version 00's shape (55 characters), or None."""
    return value.decode("ascii") if _TRACEPARENT.fullmatch(value) else None
