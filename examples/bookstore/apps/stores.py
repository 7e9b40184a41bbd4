"""Just enough of two database protocols to be their honest client: Redis (client speaks first) and MySQL (server speaks first).

Every call opens a connection of its own, so that each one is a new connection for the mesh.
"""

from __future__ import annotations

import socket
import struct
from typing import BinaryIO

PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH = 0x0200, 0x8000, 0x80000
COM_QUERY = b"\x03"
OK, EOF, ERROR = 0x00, 0xFE, 0xFF


def redis(host: str, *words: str | int, port: int = 6379, timeout: float = 5.0) -> object:
    """One command by RESP. Integers, strings, arrays and None come back as such; an error reply raises OSError."""
    with socket.create_connection((host, port), timeout) as sock, sock.makefile("rb") as reader:
        parts = [str(word).encode() for word in words]
        sock.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        return _reply(reader)


def _reply(reader: BinaryIO) -> object:
    line = reader.readline()
    if not line.endswith(b"\r\n"):
        raise OSError("redis closed the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest.decode()
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else reader.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return [_reply(reader) for _ in range(int(rest))]
    raise OSError(f"redis: {rest.decode()}")


def mysql(host: str, query: str, port: int = 3306, user: str = "bookstore", timeout: float = 5.0) -> list[tuple[str | None, ...]]:
    """The rows of one query. The greeting comes from the server before we send a byte. Errors raise OSError."""
    with socket.create_connection((host, port), timeout) as sock, sock.makefile("rb") as reader:
        _, greeting = _packet(reader)
        if greeting[0] != 10:
            raise OSError(f"mysql: {greeting[3:].decode(errors='replace')}")
        flags = PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH
        login = struct.pack("<IIB23x", flags, 1 << 24, 45) + user.encode() + b"\0" + b"\0" + b"mysql_native_password\0"
        sock.sendall(_framed(1, login))
        if _packet(reader)[1][0] != OK:
            raise OSError("mysql: login refused")
        sock.sendall(_framed(0, COM_QUERY + query.encode()))
        return _rows(reader)


def _framed(sequence: int, body: bytes) -> bytes:
    return struct.pack("<I", len(body))[:3] + bytes([sequence]) + body


def _packet(reader: BinaryIO) -> tuple[int, bytes]:
    """Sequence number and body of one packet."""
    head = reader.read(4)
    if len(head) < 4:
        raise OSError("mysql closed the connection")
    body = reader.read(int.from_bytes(head[:3], "little"))
    if body[:1] == bytes([ERROR]):
        raise OSError(f"mysql: {body[3:].decode(errors='replace')}")
    return head[3], body


def _rows(reader: BinaryIO) -> list[tuple[str | None, ...]]:
    """The text result set: column count, columns, EOF, rows, EOF."""
    _, head = _packet(reader)
    if head[0] == OK:
        return []
    for _ in range(head[0] + 1):
        _packet(reader)
    rows = []
    while True:
        _, body = _packet(reader)
        if body[0] == EOF and len(body) < 9:
            return rows
        rows.append(_strings(body))


def _strings(body: bytes) -> tuple[str | None, ...]:
    """Length-encoded strings (our values are all shorter than 251 bytes); 0xfb is NULL."""
    values: list[str | None] = []
    at = 0
    while at < len(body):
        length = body[at]
        values.append(None if length == 0xFB else body[at + 1 : at + 1 + length].decode())
        at += 1 + (0 if length == 0xFB else length)
    return tuple(values)
