"""Both ends of the conversations that the capture matrix holds, as one program that runs inside pods.

`conversations.py serve` listens on one port per conversation (IPv4 and IPv6). `conversations.py drive SOCKET` takes commands over a
unix socket, which is reachable from outside because pods share the machine's file system, and holds the client's end.
A server that cannot answer on the connection itself (it was reset, or it closed its half) keeps what it saw under the token that the
client sent first; port REPORT tells it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

CLIENT_FIRST, SERVER_FIRST, CLIENT_HALF_CLOSE, SERVER_HALF_CLOSE, CLIENT_RESET, SERVER_RESET, BULK, REPORT = range(7001, 7009)
PORTS = {
    "client_first": CLIENT_FIRST,
    "server_first": SERVER_FIRST,
    "client_half_close": CLIENT_HALF_CLOSE,
    "server_half_close": SERVER_HALF_CLOSE,
    "client_reset": CLIENT_RESET,
    "server_reset": SERVER_RESET,
    "bulk": BULK,
}
BLOCK = hashlib.sha512(b"culvert").digest() * 1024  # 64 KiB
TOKEN = 16  # bytes that open a conversation whose outcome is asked for later
RESET = struct.pack("ii", 1, 0)

reports: dict[str, dict[str, object]] = {}
reported = threading.Condition()


def report(token: bytes, **seen: object) -> None:
    with reported:
        reports[token.hex()] = seen
        reported.notify_all()


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise EOFError(f"{len(data)} of {count} bytes, then end of stream")
        data += piece
    return bytes(data)


def read_to_end(sock: socket.socket) -> tuple[int, str]:
    """Bytes and hash until end of stream."""
    digest, count = hashlib.sha256(), 0
    while piece := sock.recv(262144):
        digest.update(piece)
        count += len(piece)
    return count, digest.hexdigest()


def send_blocks(sock: socket.socket, size: int) -> str:
    digest, left = hashlib.sha256(), size
    while left:
        piece = BLOCK[: min(left, len(BLOCK))]
        sock.sendall(piece)
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()


def both_ways(sock: socket.socket, size: int) -> dict[str, object]:
    """Send `size` bytes and read to the end at the same time."""
    got: dict[str, object] = {}

    def reader() -> None:
        try:
            got["received"], got["received_hash"] = read_to_end(sock)
        except OSError as error:
            got["error"] = repr(error)

    thread = threading.Thread(target=reader)
    thread.start()
    got["sent_hash"] = send_blocks(sock, size)
    sock.shutdown(socket.SHUT_WR)
    thread.join()
    return got


# Server


def serve_client_first(sock: socket.socket, peer: str) -> None:
    while line := sock.recv(4096):
        sock.sendall(peer.encode() + b" " + line)


def serve_server_first(sock: socket.socket, peer: str) -> None:
    sock.sendall(b"220 " + peer.encode() + b"\n")
    while line := sock.recv(4096):
        sock.sendall(line)


def serve_client_half_close(sock: socket.socket, peer: str) -> None:
    count, digest = read_to_end(sock)
    sock.sendall(json.dumps({"peer": peer, "count": count, "hash": digest}).encode())


def serve_server_half_close(sock: socket.socket, peer: str) -> None:
    token = read_exactly(sock, TOKEN)
    sock.sendall(peer.encode())
    sock.shutdown(socket.SHUT_WR)
    count, digest = read_to_end(sock)
    report(token, count=count, hash=digest)


def serve_client_reset(sock: socket.socket, peer: str) -> None:
    token = read_exactly(sock, TOKEN)
    sock.sendall(peer.encode().ljust(64))
    try:
        report(token, end="eof" if not sock.recv(1) else "data")
    except ConnectionResetError:
        report(token, end="reset")


def serve_server_reset(sock: socket.socket, peer: str) -> None:
    sock.sendall(peer.encode().ljust(64))
    read_exactly(sock, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def serve_bulk(sock: socket.socket, peer: str) -> None:
    token, size = read_exactly(sock, TOKEN), struct.unpack("!Q", read_exactly(sock, 8))[0]
    report(token, **both_ways(sock, size))


def serve_report(sock: socket.socket, peer: str) -> None:
    key = read_exactly(sock, TOKEN).hex()
    with reported:
        reported.wait_for(lambda: key in reports, timeout=30)
        answer = reports.pop(key, {"end": "nothing was reported"})
    sock.sendall(json.dumps(answer).encode())


SERVERS: dict[int, Callable[[socket.socket, str], None]] = {
    CLIENT_FIRST: serve_client_first,
    SERVER_FIRST: serve_server_first,
    CLIENT_HALF_CLOSE: serve_client_half_close,
    SERVER_HALF_CLOSE: serve_server_half_close,
    CLIENT_RESET: serve_client_reset,
    SERVER_RESET: serve_server_reset,
    BULK: serve_bulk,
    REPORT: serve_report,
}


def plain(address: str) -> str:
    """An address as people write it: the v4 inside a mapped v6 one."""
    return address.removeprefix("::ffff:")


def serve() -> None:
    def one(sock: socket.socket, peer: str, handler: Callable[[socket.socket, str], None]) -> None:
        with sock, contextlib.suppress(OSError, EOFError):
            handler(sock, plain(peer))

    def listen(port: int, handler: Callable[[socket.socket, str], None]) -> None:
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
        while True:
            sock, address = listener.accept()
            threading.Thread(target=one, args=(sock, address[0], handler), daemon=True).start()

    for port, handler in SERVERS.items():
        threading.Thread(target=listen, args=(port, handler), daemon=True).start()
    threading.Event().wait()


# Client


def connect(host: str, port: int, timeout: float = 20) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    sock.settimeout(timeout)
    try:
        sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def ask_report(host: str, token: bytes) -> dict[str, object]:
    with connect(host, REPORT, 40) as sock:
        sock.sendall(token)
        answer: dict[str, object] = json.loads(b"".join(iter(lambda: sock.recv(65536), b"")))
        return answer


def talk_client_first(sock: socket.socket, host: str, size: int) -> dict[str, object]:
    sock.sendall(b"hello")
    peer, _, line = sock.recv(4096).decode().partition(" ")
    return {"client_seen": peer, "ok": line == "hello"}


def talk_server_first(sock: socket.socket, host: str, size: int) -> dict[str, object]:
    banner = sock.recv(4096).decode()
    sock.sendall(b"again")
    return {"client_seen": banner[4:].strip(), "ok": banner.startswith("220 ") and sock.recv(4096) == b"again"}


def talk_client_half_close(sock: socket.socket, host: str, size: int) -> dict[str, object]:
    sent = send_blocks(sock, 300_000)
    sock.shutdown(socket.SHUT_WR)
    answer = json.loads(b"".join(iter(lambda: sock.recv(65536), b"")))
    return {"client_seen": answer["peer"], "ok": answer["count"] == 300_000 and answer["hash"] == sent}


def talk_server_half_close(sock: socket.socket, host: str, size: int) -> dict[str, object]:
    token = os.urandom(TOKEN)
    sock.sendall(token)
    peer = b"".join(iter(lambda: sock.recv(4096), b"")).decode()
    sent = send_blocks(sock, 300_000)
    sock.shutdown(socket.SHUT_WR)
    seen = ask_report(host, token)
    return {"client_seen": peer, "ok": seen == {"count": 300_000, "hash": sent}, "seen": seen}


def talk_client_reset(sock: socket.socket, host: str, size: int) -> dict[str, object]:
    token = os.urandom(TOKEN)
    sock.sendall(token)
    peer = read_exactly(sock, 64).decode().strip()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()
    seen = ask_report(host, token)
    return {"client_seen": peer, "ok": seen == {"end": "reset"}, "seen": seen}


def talk_server_reset(sock: socket.socket, host: str, size: int) -> dict[str, object]:
    peer = read_exactly(sock, 64).decode().strip()
    sock.sendall(b"x")
    try:
        end = "eof" if not sock.recv(1) else "data"
    except ConnectionResetError:
        end = "reset"
    return {"client_seen": peer, "ok": end == "reset", "seen": end}


def talk_bulk(sock: socket.socket, host: str, size: int) -> dict[str, object]:
    token = os.urandom(TOKEN)
    sock.settimeout(100)
    sock.sendall(token + struct.pack("!Q", size))
    mine = both_ways(sock, size)
    theirs = ask_report(host, token)
    ok = mine.get("received") == theirs.get("received") == size
    ok = ok and mine["received_hash"] == theirs["sent_hash"] and mine["sent_hash"] == theirs["received_hash"]
    return {"ok": ok, "mine": mine, "theirs": theirs}


TALKS: dict[str, Callable[[socket.socket, str, int], dict[str, object]]] = {
    "client_first": talk_client_first,
    "server_first": talk_server_first,
    "client_half_close": talk_client_half_close,
    "server_half_close": talk_server_half_close,
    "client_reset": talk_client_reset,
    "server_reset": talk_server_reset,
    "bulk": talk_bulk,
}

held: dict[str, tuple[socket.socket, float]] = {}


def talk(name: str, host: str, size: int) -> dict[str, object]:
    with connect(host, PORTS[name]) as sock:
        try:
            peer, own = sock.getpeername(), sock.getsockname()
        except OSError as error:  # reset before it was used
            raise ConnectionResetError(str(error)) from error
        answer = TALKS[name](sock, host, size)
    return {"server_seen": plain(peer[0]), "server_port": peer[1], "own": plain(own[0]), **answer}


def hold(host: str, key: str) -> dict[str, object]:
    """Open a connection, prove that it works, and keep it."""
    sock = connect(host, CLIENT_FIRST)
    answer = talk_client_first(sock, host, 0)
    held[key] = sock, time.monotonic()
    return answer


def touch(key: str, idle: float) -> dict[str, object]:
    """Use a connection that was kept, once it has been idle for `idle` seconds, and close it."""
    sock, since = held.pop(key)
    with sock:
        time.sleep(max(0.0, since + idle - time.monotonic()))
        return talk_client_first(sock, "", 0)


def load(host: str, port: int, seconds: float, pause: float) -> dict[str, object]:
    """New connections one after another for `seconds`: how many worked, and how each of the others failed."""
    good, failed, longest, last = 0, [], 0.0, time.monotonic()
    end = last + seconds
    while (now := time.monotonic()) < end:
        try:
            with connect(host, port, 5) as sock:
                sock.sendall(b"hello")
                if not sock.recv(4096).endswith(b"hello"):
                    raise EOFError("no answer")
            good += 1
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        except (OSError, EOFError) as error:
            failed.append(f"{now - end + seconds:.2f}s {error!r}")
        if pause:
            time.sleep(pause)
    return {"good": good, "failed": failed, "longest_gap": max(longest, time.monotonic() - last)}


COMMANDS: dict[str, Callable[..., dict[str, object]]] = {"talk": talk, "hold": hold, "touch": touch, "load": load}


def drive(path: str) -> None:
    def one(channel: socket.socket) -> None:
        with channel:
            try:
                command = json.loads(channel.makefile("rb").readline())
                answer = COMMANDS[command.pop("do")](**command)
            except (OSError, EOFError, ValueError) as error:
                answer = {"ok": False, "error": type(error).__name__, "detail": str(error)}
            channel.sendall(json.dumps(answer).encode() + b"\n")

    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    while True:
        channel, _ = listener.accept()
        threading.Thread(target=one, args=(channel,), daemon=True).start()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        drive(sys.argv[2])
