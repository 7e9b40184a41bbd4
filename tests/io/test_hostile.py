"""Peers that hold a good certificate and break the rules behind it, or stop answering: one reason, and the tunnel ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from mesh.io import mux, tunnel
from mesh.model.errors import PeerError
from mesh.model.reasons import Reason
from mesh.wire.h2 import Limits, Rate
from mesh.wire.h2.frames import DATA, END_HEADERS, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame, rst_stream, settings
from mesh.wire.h2.headers import encode
from tests.io.certs import spiffe
from tests.io.rig import CONNECT, credentials, ends, on_loop, read_end, read_exactly, tcp_pair, write
from tests.io.test_tls import BOB, leaf, raw_context

HELLO = PREFACE + settings([])
REQUEST = encode(CONNECT)


def request(stream_id: int) -> bytes:
    return frame(HEADERS, END_HEADERS, stream_id, REQUEST)


SCRIPTS: dict[str, tuple[bytes, Reason]] = {
    "HTTP/1.1 after TLS": (b"GET / HTTP/1.1\r\nHost: tunnel\r\n\r\n", Reason.H2_PROTOCOL),
    "no SETTINGS first": (PREFACE + request(1), Reason.H2_PROTOCOL),
    "DATA on a stream that was never opened": (HELLO + frame(DATA, 0, 1, b"x"), Reason.H2_PROTOCOL),
    "a block that is no HPACK": (HELLO + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), Reason.H2_PROTOCOL),
    "an endless header block": (HELLO + frame(HEADERS, 0, 1, b"x") + b"".join(frame(9, 0, 1, b"x") for _ in range(100)), Reason.H2_FLOOD),
    "rapid reset": (HELLO + b"".join(request(n) + rst_stream(n, 8) for n in range(1, 4001, 2)), Reason.H2_FLOOD),
    "pings": (HELLO + frame(PING, 0, 0, bytes(8)) * 5000, Reason.H2_FLOOD),
    "settings": (HELLO + frame(SETTINGS, 0, 0) * 5000, Reason.H2_FLOOD),
    "resets of nothing": (HELLO + frame(RST_STREAM, 0, 1, bytes(4)), Reason.H2_PROTOCOL),
}


def speak(sock: socket.socket, context: ssl.SSLContext, said: bytes, server: bool = False, hold: threading.Event | None = None) -> None:
    """A blocking peer that says something, and listens until the other side hangs up (or stays deaf until `hold`)."""
    sock.setblocking(True)
    sock.settimeout(10)
    try:
        with context.wrap_socket(sock, server_side=server) as wrapped:
            wrapped.sendall(said)
            if hold is not None:
                hold.wait(10)
            while wrapped.recv(65536):
                pass
    except OSError:
        pass
    finally:
        sock.close()


@pytest.mark.parametrize("script", SCRIPTS)
@on_loop
async def test_a_hostile_client_is_cut_off(script: str, tmp_path: Path) -> None:
    said, reason = SCRIPTS[script]
    near, far = tcp_pair()
    context = raw_context(False, leaf(spiffe("a")), tmp_path)
    peer = asyncio.create_task(asyncio.to_thread(speak, near, context, said))
    served = await tunnel.accept(far, credentials("b"), lambda incoming: None)
    ended = await served.closed
    assert ended is reason, served.error
    assert served.open_streams == 0
    await peer


@on_loop
async def test_data_beyond_a_streams_window_resets_that_stream_alone(tmp_path: Path) -> None:
    """What was held for its app is dropped; another stream of the same tunnel goes on."""
    said = HELLO + request(1) + request(3) + frame(DATA, 0, 1, bytes(1 << 19)) * 3 + frame(DATA, 1, 3, b"fine")
    near, far = tcp_pair()
    asked: list[tunnel.Incoming] = []
    hold = threading.Event()
    peer = asyncio.create_task(asyncio.to_thread(speak, near, raw_context(False, leaf(spiffe("a")), tmp_path), said, False, hold))
    served = await tunnel.accept(far, credentials("b"), asked.append)
    while len(asked) < 2 or not asked[1].stream.held:
        await asyncio.sleep(0.001)
    assert asked[0].gone is Reason.H2_PROTOCOL
    assert (asked[0].stream.held, asked[1].stream.held, asked[1].gone) == (0, 4, None)
    served.close(Reason.OK)
    hold.set()
    await peer


@on_loop
async def test_a_server_that_sends_no_settings_is_given_up(tmp_path: Path) -> None:
    near, far = tcp_pair()
    hold = threading.Event()
    peer = asyncio.create_task(asyncio.to_thread(speak, far, raw_context(True, leaf(spiffe("b")), tmp_path), b"", True, hold))
    with pytest.raises(PeerError) as refused:
        await tunnel.dial(near, credentials("a"), BOB, asyncio.get_running_loop().time() + 0.3)
    assert refused.value.reason is Reason.H2_TIMEOUT
    hold.set()
    await peer


@on_loop
async def test_a_client_that_says_nothing_after_tls_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux, "LIMITS", Limits(settings_timeout=0.05))
    near, far = tcp_pair()
    peer = asyncio.create_task(asyncio.to_thread(speak, near, raw_context(False, leaf(spiffe("a")), tmp_path), b""))
    served = await tunnel.accept(far, credentials("b"), lambda incoming: None)
    assert await served.closed is Reason.H2_TIMEOUT
    await peer


@on_loop
async def test_a_peer_that_answers_no_ping_is_lost_and_so_are_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux, "LIMITS", Limits(ping_interval=0.03, ping_timeout=0.06))
    async with await ends() as pair:
        link = await pair.link()
        asyncio.get_running_loop().remove_reader(pair.far._descriptor)
        assert pair.far._timer is not None
        pair.far._timer.cancel()
        assert await pair.near.closed is Reason.H2_TIMEOUT
        assert await link.done is Reason.TUNNEL_LOST
        with pytest.raises(ConnectionResetError):
            await read_end(link.client)


@on_loop
async def test_an_idle_tunnel_that_answers_pings_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux, "LIMITS", Limits(ping_interval=0.02, ping_timeout=0.3))
    async with await ends() as pair:
        link = await pair.link()
        await asyncio.sleep(0.4)
        await write(link.client, b"still there?")
        assert await read_exactly(link.server, 12) == b"still there?"


@on_loop
async def test_a_peer_that_reads_nothing_and_asks_for_answers_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers wait in a bounded place, and nothing else is counted against an honest peer."""
    monkeypatch.setattr(mux, "LIMITS", Limits(pings=Rate(10_000_000, 1e9)))
    near, far = tcp_pair(receive_buffer=4096)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    hold = threading.Event()
    said = HELLO + frame(PING, 0, 0, bytes(8)) * 120_000
    peer = asyncio.create_task(asyncio.to_thread(speak, near, raw_context(False, leaf(spiffe("a")), tmp_path), said, False, hold))
    served = await tunnel.accept(far, credentials("b"), lambda incoming: None)
    assert await served.closed is Reason.H2_FLOOD
    hold.set()
    await peer


@on_loop
async def test_a_byte_changed_on_the_way_ends_the_tunnel() -> None:
    async with await ends() as pair:
        link = await pair.link()
        await write(link.client, b"x")
        await read_exactly(link.server, 1)
        pair.near.channel._sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await pair.far.closed is Reason.TUNNEL_LOST
        assert await link.far_done is Reason.TUNNEL_LOST
        assert await pair.near.closed is Reason.TUNNEL_LOST


@on_loop
async def test_an_app_that_breaks_after_it_ended_its_side_is_found_by_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is not watched any more, and the other end has nothing to say that would fail."""
    monkeypatch.setattr(mux, "LIMITS", Limits(ping_interval=0.03, ping_timeout=10.0))
    async with await ends() as pair:
        link = await pair.link()
        await write(link.server, b"unread")  # closing with bytes unread makes the kernel send a reset
        link.client.shutdown(socket.SHUT_WR)
        assert await read_end(link.server) == b""
        while link.sent.received < 6:
            await asyncio.sleep(0.001)
        assert not link.stream.reading
        link.client.close()
        assert (await link.done, await link.far_done) == (Reason.RESET_BY_SOURCE, Reason.RESET_BY_SOURCE)


@on_loop
async def test_key_updates_are_answered_and_do_no_harm(tmp_path: Path) -> None:
    key, certificate = leaf(spiffe("a"))
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "leaf").write_text(certificate)
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.getsockname()[1]}", "-tls1_3", "-alpn", "h2"]
        command += ["-cert", str(tmp_path / "leaf"), "-key", str(tmp_path / "key")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        far, _ = server.accept()
    assert process.stdin is not None
    try:
        served = await tunnel.accept(far, credentials("b"), lambda incoming: None)
        for _ in range(3):
            sent = await settled(far)
            while count_sent(far) == sent:
                process.stdin.write(b"K\n")  # s_client: update keys, and ask the peer to do the same
                process.stdin.flush()
                await settled(far)
        assert (served.queued, served.closed.done()) == (0, False)
        served.close(Reason.OK)
    finally:
        process.kill()
        process.communicate()


async def settled(sock: socket.socket) -> int:
    """`count_sent`, once it has not moved for a while."""
    before = -1
    while before != count_sent(sock):
        before = count_sent(sock)
        await asyncio.sleep(0.03)
    return before


def count_sent(sock: socket.socket) -> int:
    """tcpi_bytes_acked of struct tcp_info: bytes that the peer's kernel has taken."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)[120:128], "little")
