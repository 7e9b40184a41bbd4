"""The Python mirror of bpf/include/abi.h. tests/bpf/test_abi.py compares names, offsets, sizes and numbers with the object's BTF.

Addresses are 16 bytes in network order, IPv4 written v4-mapped. Ports are in network order.
"""

from __future__ import annotations

import ctypes
import socket
from enum import IntEnum
from ipaddress import IPv6Address

from mesh.model.workload import IPAddress, SocketAddress

ABI_VERSION = 1

MARK_DELIVERY = 0x111
MARK_TUNNEL_LOW = 0x539
POD_CAPTURE = 1


class Counter(IntEnum):
    """`enum culvert_counter`: index into the per-CPU array. KERNEL_* are members of mesh.model.reasons.Reason."""

    CAPTURED = 0
    STEERED = 1
    DELIVERED = 2
    SELF_CALL = 3
    LINK_LOCAL = 4
    KERNEL_NO_LISTENER = 5
    KERNEL_UNKNOWN_ADDRESS = 6
    KERNEL_NO_STORAGE = 7
    KERNEL_TUNNEL_PORT = 8
    KERNEL_NODE_PROBE = 9
    KERNEL_UNREDIRECTABLE = 10

    @property
    def word(self) -> str:
        """The reason's word, or the counter's own name: `kernel_no_listener`, `captured`."""
        return self.name.lower()


class Addr(ctypes.Structure):
    """`struct culvert_addr`."""

    _fields_ = (("word", ctypes.c_uint32 * 4),)

    @classmethod
    def of(cls, ip: IPAddress) -> Addr:
        packed = ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
        return cls.from_buffer_copy(packed)

    @property
    def ip(self) -> IPAddress:
        address = IPv6Address(bytes(self))
        return address.ipv4_mapped or address


class Endpoint(ctypes.Structure):
    """`struct culvert_endpoint`."""

    _fields_ = (("addr", Addr), ("port", ctypes.c_uint16), ("reserved", ctypes.c_uint16))

    @property
    def address(self) -> SocketAddress:
        return SocketAddress(self.addr.ip, socket.ntohs(self.port))


class Constants(ctypes.Structure):
    """`struct culvert_constants`, the section .rodata.culvert."""

    _fields_ = (("node_netns", ctypes.c_uint64), ("mark", ctypes.c_uint32), ("reserved", ctypes.c_uint32))


class Config(ctypes.Structure):
    """`struct culvert_config`. `abi_version` is the first field in every version."""

    _fields_ = (("abi_version", ctypes.c_uint32), ("mark", ctypes.c_uint32), ("node_netns", ctypes.c_uint64))


class Pod(ctypes.Structure):
    """`struct culvert_pod`."""

    _fields_ = (("own4", Addr), ("own6", Addr), ("flags", ctypes.c_uint32), ("reserved", ctypes.c_uint32))


class Home(ctypes.Structure):
    """`struct culvert_home`."""

    _fields_ = (("netns", ctypes.c_uint64),)


class Listener(ctypes.Structure):
    """`struct culvert_listener`."""

    _fields_ = (("netns", ctypes.c_uint64), ("family", ctypes.c_uint32), ("reserved", ctypes.c_uint32))


class Flow(ctypes.Structure):
    """`struct culvert_flow`."""

    _fields_ = (("netns", ctypes.c_uint64), ("local", Endpoint), ("reserved", ctypes.c_uint32))


class Tuple(ctypes.Structure):
    """`struct culvert_tuple`."""

    _fields_ = (("client", Endpoint), ("server", Endpoint))


class Capture(ctypes.Structure):
    """`struct culvert_capture`."""

    _fields_ = (("asked", Endpoint), ("own", Addr))


class Event(ctypes.Structure):
    """`struct culvert_event`."""

    _fields_ = (
        ("time", ctypes.c_uint64),
        ("netns", ctypes.c_uint64),
        ("source", Endpoint),
        ("destination", Endpoint),
        ("counter", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "culvert_addr": Addr,
    "culvert_endpoint": Endpoint,
    "culvert_constants": Constants,
    "culvert_config": Config,
    "culvert_pod": Pod,
    "culvert_home": Home,
    "culvert_listener": Listener,
    "culvert_flow": Flow,
    "culvert_tuple": Tuple,
    "culvert_capture": Capture,
    "culvert_event": Event,
}
