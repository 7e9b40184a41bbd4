"""Socket options, connects, and listeners that run out of descriptors."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import resource
import socket

import pytest

from mesh.io import sockets
from mesh.io.acceptor import Acceptor, Spare
from mesh.model.errors import PeerError
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress
from tests.io.rig import free_port, on_loop, read_end, tcp_pair

LOOPBACK = ipaddress.ip_address("127.0.0.1")


def test_tune_sets_what_istio_sets() -> None:
    near, far = tcp_pair()
    with near, far:
        sockets.tune(near)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [near.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [180, 180, 9]
        assert not near.getblocking()


def test_accepted_sockets_inherit_the_options_of_their_listener() -> None:
    with sockets.listener(0, host="127.0.0.1") as listening, socket.create_connection(listening.getsockname()[:2]):
        accepted, _ = listening.accept()
        with accepted:
            options = (socket.TCP_NODELAY, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [accepted.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [1, 180, 180, 9]
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_listener_serves_both_families_and_shares_its_port() -> None:
    with sockets.listener(0) as first, sockets.listener(first.getsockname()[1]) as second:
        assert first.family == second.family == socket.AF_INET6
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, first.getsockname()[1]), 1).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_marks_and_transparent_sources() -> None:
    mark = 0xABCDE539
    with sockets.listener(0, mark=mark, transparent=True) as listening:
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) & 0xFFFFFFFF == mark
        assert listening.getsockopt(socket.IPPROTO_IP, sockets.IP_TRANSPARENT)
    for source in ("198.51.100.7", "2001:db8::7"):
        ip = ipaddress.ip_address(source)
        with sockets.stream_socket(ip.version, mark) as sock:
            sockets.bind_source(sock, ip)
            assert sock.getsockname()[0] == source
            assert sock.getsockname()[1] in sockets.DELIVERY_PORTS
        with sockets.stream_socket(ip.version, mark) as sock:
            sockets.bind_source(sock, ip, tries=0)
            assert sock.getsockname()[:2] == (source, 0), "the kernel chooses when it knows where to"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_source_ports_where_somebody_listens_are_left_out() -> None:
    source = ipaddress.ip_address("198.51.100.7")
    with sockets.stream_socket(4) as first:
        sockets.bind_source(first, source)
        at = first.getsockname()[1]
    following = at + 1 if at + 1 in sockets.DELIVERY_PORTS else sockets.DELIVERY_PORTS[0]
    with socket.create_server(("0.0.0.0", following)), sockets.stream_socket(4) as second:
        sockets.bind_source(second, source)
        assert second.getsockname()[1] != following


def test_no_original_destination_where_nothing_was_redirected() -> None:
    near, far = tcp_pair()
    with near, far:
        assert sockets.original_destination(far) is None


def test_addresses_are_ours() -> None:
    assert sockets.socket_address(("::ffff:10.0.0.7", 80, 0, 0)) == SocketAddress(ipaddress.ip_address("10.0.0.7"), 80)
    assert sockets.socket_address(("fe80::1%eth0", 80, 0, 2)) == SocketAddress(ipaddress.ip_address("fe80::1"), 80)
    assert sockets.socket_address("/run/some.sock") is None
    near, far = tcp_pair()
    with far:
        assert sockets.peer_address(near) == SocketAddress(LOOPBACK, far.getsockname()[1])
        near.close()
        assert sockets.peer_address(near) is None


def test_reset_is_safe_on_a_closed_socket() -> None:
    near, far = tcp_pair()
    sockets.reset(near)
    sockets.reset(near)
    far.setblocking(True)
    with far, pytest.raises(ConnectionResetError):
        far.recv(1)


@on_loop
async def test_a_refused_connect_is_connect_failed() -> None:
    sock = sockets.stream_socket(4)
    with pytest.raises(PeerError) as failed:
        await sockets.connect(sock, SocketAddress(LOOPBACK, free_port()), None)
    assert failed.value.reason is Reason.CONNECT_FAILED
    assert os.strerror(errno.ECONNREFUSED) in failed.value.detail
    assert sock.fileno() == -1


@on_loop
async def test_an_unreachable_family_is_connect_failed() -> None:
    sock = sockets.stream_socket(4)
    with pytest.raises(PeerError) as failed:
        await sockets.connect(sock, SocketAddress(ipaddress.ip_address("255.255.255.255"), 80), None)
    assert failed.value.reason is Reason.CONNECT_FAILED
    assert sock.fileno() == -1


@on_loop
async def test_the_acceptor_hands_over_sockets_until_it_is_closed() -> None:
    accepted: list[tuple[socket.socket, SocketAddress | None]] = []
    arrived = asyncio.Event()

    def on_accept(sock: socket.socket, address: SocketAddress | None) -> None:
        accepted.append((sock, address))
        if len(accepted) == 100:
            arrived.set()

    spare = Spare()
    listening = sockets.listener(0)
    port = listening.getsockname()[1]
    acceptor = Acceptor(listening, on_accept, lambda reason: None, spare)
    clients = [sockets.stream_socket(4) for _ in range(100)]
    for client in clients:
        sockets.begin_connect(client, SocketAddress(LOOPBACK, port))
    await arrived.wait()
    assert {address for _, address in accepted} == {sockets.socket_address(client.getsockname()) for client in clients}
    assert not any(sock.getblocking() for sock, _ in accepted)
    acceptor.close()
    acceptor.close()
    late = sockets.stream_socket(4)
    with pytest.raises(PeerError):
        await sockets.connect(late, SocketAddress(LOOPBACK, port), None)
    for sock in [*clients, *(sock for sock, _ in accepted)]:
        sock.close()
    spare.close()


@on_loop
async def test_without_descriptors_new_connections_are_refused_and_running_ones_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.io.acceptor.BACKOFF", 0.02)
    refused: list[Reason] = []
    accepted: list[socket.socket] = []
    arrived = asyncio.Event()

    def on_accept(sock: socket.socket, address: SocketAddress | None) -> None:
        accepted.append(sock)
        arrived.set()

    spare = Spare()
    listening = sockets.listener(0)
    target = SocketAddress(LOOPBACK, listening.getsockname()[1])
    acceptor = Acceptor(listening, on_accept, refused.append, spare)
    running = await sockets.connect(sockets.stream_socket(4), target, None)
    await arrived.wait()
    arrived.clear()
    victims = [sockets.stream_socket(4) for _ in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Descriptors are numbered from below: with the limit at the highest in use plus one, and the gaps filled, none is left.
    fillers = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    try:
        while True:
            try:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for victim in victims:
            sockets.begin_connect(victim, target)
        for victim in victims:
            with pytest.raises(ConnectionResetError):
                await read_end(victim)
        assert refused
        assert set(refused) == {Reason.FDS_EXHAUSTED}
        await asyncio.get_running_loop().sock_sendall(running, b"still here")
        assert await asyncio.get_running_loop().sock_recv(accepted[0], 100) == b"still here"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)
    # With descriptors again, and the back-off over, connections are taken again.
    again = await sockets.connect(sockets.stream_socket(4), target, None)
    await arrived.wait()
    assert len(accepted) == 2
    acceptor.close()
    spare.close()
    for sock in (running, again, *victims, *accepted):
        sock.close()
