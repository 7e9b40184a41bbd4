"""The PROXY protocol header, version 2, that an app behind an application tunnel is sent first (haproxy.org, proxy-protocol.txt, §2.2).

With Istio's TLV 0xD0: the client's SPIFFE id, as the tunnel has proved it.
"""

from __future__ import annotations

import struct

from mesh.model.workload import SocketAddress

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TLV_IDENTITY = 0xD0

_VERSION_PROXY = 0x21
_TCP4, _TCP6 = 0x11, 0x21


def proxy_header(source: SocketAddress, destination: SocketAddress, identity: str) -> bytes:
    """The header for a connection from `source` that was meant for `destination`. Both of one family, or v4 is written as mapped v6."""
    ips = [source.ip, destination.ip]
    if all(ip.version == 4 for ip in ips):
        family, packed = _TCP4, [ip.packed for ip in ips]
    else:
        family, packed = _TCP6, [ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed for ip in ips]
    name = identity.encode()
    body = b"".join(packed) + struct.pack("!HHBH", source.port, destination.port, TLV_IDENTITY, len(name)) + name
    return SIGNATURE + struct.pack("!BBH", _VERSION_PROXY, family, len(body)) + body
