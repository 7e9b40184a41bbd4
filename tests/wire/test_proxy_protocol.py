"""The PROXY header, byte by byte."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from mesh.model.workload import SocketAddress
from mesh.wire.proxy_protocol import proxy_header

V4, V6 = ip_address("10.0.0.1"), ip_address("fd00::1")
MAPPED = bytes(10) + b"\xff\xff\x0a\0\0\1"


@pytest.mark.parametrize(
    ("source", "destination", "family", "addresses"),
    [
        (V4, V4, 0x11, V4.packed * 2),
        (V6, V6, 0x21, V6.packed * 2),
        (V4, V6, 0x21, MAPPED + V6.packed),
    ],
)
def test_header(source: object, destination: object, family: int, addresses: bytes) -> None:
    made = proxy_header(SocketAddress(source, 0x1234), SocketAddress(destination, 80), "spiffe://td/ns/n/sa/a")  # type: ignore[arg-type]
    body = addresses + b"\x12\x34\0\x50" + b"\xd0\0\x15" + b"spiffe://td/ns/n/sa/a"
    assert made == b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, family]) + len(body).to_bytes(2, "big") + body
