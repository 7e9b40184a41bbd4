"""Checks shared by the protobuf codecs. Each returns the value in its frozen form, or refuses the whole message."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import NoReturn, TypeVar

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from mesh.model.errors import ConfigError, Refusal
from mesh.model.workload import IPAddress, IPNetwork

K = TypeVar("K", bound=int)
T = TypeVar("T")
BITS = {4: 32, 16: 128}


class Decoding:
    """One message in the act of being decoded: who it says it is, and where it came from."""

    __slots__ = ("subject", "where")

    def __init__(self, subject: str, where: str) -> None:
        self.subject = subject
        self.where = where

    def refuse(self, field: str, value: object, accepted: str) -> NoReturn:
        raise ConfigError(Refusal(self.where, self.subject, field, value if isinstance(value, str) and value else repr(value), accepted))

    def text(self, field: str, value: str) -> str:
        if not value:
            self.refuse(field, value, "a non-empty string")
        return value

    def segment(self, field: str, value: str) -> str:
        """One part of a SPIFFE id or of a `<namespace>/<name>` key: what holds a slash would read as another one."""
        if not value or "/" in value:
            self.refuse(field, value, "a non-empty name without '/'")
        return value

    def key(self, field: str, value: str) -> tuple[str, str]:
        namespace, slash, name = value.partition("/")
        if not (namespace and slash and name) or "/" in name:
            self.refuse(field, value, "<namespace>/<name>")
        return namespace, name

    def port(self, field: str, value: int, lowest: int = 1) -> int:
        if not lowest <= value <= 65535:
            self.refuse(field, value, f"a port from {lowest} to 65535")
        return value

    def ip(self, field: str, raw: bytes) -> IPAddress:
        if len(raw) == 4:
            return IPv4Address(raw)
        if len(raw) != 16:
            self.refuse(field, f"{len(raw)} bytes", "an address of 4 or 16 bytes")
        address = IPv6Address(raw)
        if address.ipv4_mapped is not None:
            # Sockets report such peers as IPv4, so this could never match: in a DENY that would be silently open.
            self.refuse(field, str(address), "an IPv4 address in its own 4 bytes")
        return address

    def network(self, field: str, raw: bytes, length: int) -> IPNetwork:
        address = self.ip(f"{field}.address", raw)
        if length > BITS[len(raw)]:
            self.refuse(f"{field}.length", length, f"a prefix length from 0 to {BITS[len(raw)]}")
        if length == 0 and any(raw):
            # Zero is also how an absent length reads; one host must never become every host.
            self.refuse(f"{field}.length", length, "a prefix length of at least 1 for an address that is not all zeros")
        return ip_network((address, length), strict=False)

    def member(self, field: str, value: K, table: Mapping[K, T]) -> T:
        found = table.get(value)
        if found is None:
            self.refuse(field, value, "one of " + ", ".join(f"{number} ({_name(member)})" for number, member in table.items()))
        return found

    def no_unknown(self, field: str, message: Message) -> None:
        """Refuse fields of a newer schema: in a policy, what is not understood could be what narrows it."""
        unknown = UnknownFieldSet(message)
        if len(unknown):
            self.refuse(field, f"unknown field number {unknown[0].field_number}", "the fields of this version's schema")


def _name(member: object) -> str:
    return str(getattr(member, "name", member))
