"""Outbound on loopback: every way in which the next hop can fail has its own reason.

The hop is SERVER:15008 with a server of ours, or something else, behind it; the app is one end of a TCP connection.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import ip_address

import pytest

from mesh.io.tunnel import Incoming
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress
from mesh.wire.h2 import Code
from tests.ztunnel.rig import OTHER, SERVER, Lab, needs_root, run

pytestmark = needs_root


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "peer_bad_request"), (401, "peer_denied"), (503, "peer_unavailable"), (418, "peer_status"), (204, "peer_status")],
)
def test_every_status_but_200_is_a_refusal_with_its_reason(status: int, reason: str) -> None:
    async def check(lab: Lab) -> None:
        async with lab.hbone(lambda incoming: incoming.reject(status)):
            line = await lab.refused()
        assert (line["reason"], line["dst.hbone_addr"]) == (reason, f"{SERVER}:80")
        assert f"answered {status}" in line["error"]
        assert repr(lab.pool).startswith(f"<Pool uid-a→{SERVER}:15008 [0")  # the tunnel is none the worse

    run(check)


def test_the_request_says_what_istios_says() -> None:
    async def check(lab: Lab) -> None:
        async with lab.hbone(lambda incoming: incoming.reject(503)):
            await lab.refused()
        assert dict(lab.requests[0].headers) == {
            b":method": b"CONNECT",
            b":authority": f"{SERVER}:80".encode(),
            b"baggage": b"k8s.cluster.name=Kubernetes,k8s.namespace.name=default",
            b"forwarded": b'for="10.9.9.9:4444"',
            b"traceparent": lab.requests[0].headers[-1][1],
        }

    run(check)


def test_nobody_listens() -> None:
    async def check(lab: Lab) -> None:
        line = await lab.refused()
        assert line["reason"] == "connect_failed"
        assert f"{SERVER}:15008" in line["error"]

    run(check)


def test_a_peer_with_another_identity() -> None:
    async def check(lab: Lab) -> None:
        async with lab.hbone(lambda incoming: incoming.reject(503), account="impostor"):
            line = await lab.refused()
        assert line["reason"] == "identity_mismatch"
        assert "sa/impostor" in line["error"]

    run(check)


def test_a_peer_that_speaks_no_tls() -> None:
    async def handle(sock: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await asyncio.sleep(0.2)
        sock.close()

    async def check(lab: Lab) -> None:
        async with lab.serving(handle):
            assert (await lab.refused())["reason"] == "tls_handshake"

    run(check)


def test_a_peer_that_says_nothing() -> None:
    async def handle(sock: socket.socket) -> None:
        with sock:
            await asyncio.sleep(5)

    async def check(lab: Lab) -> None:
        async with lab.serving(handle):
            assert (await lab.refused())["reason"] == "tls_timeout"

    run(check)


def test_no_certificate() -> None:
    async def check(lab: Lab) -> None:
        lab.certificates.held = None
        line = await lab.refused()
        assert line["reason"] == "no_certificate"
        assert "the CA is away" in line["error"]

    run(check)


@pytest.mark.parametrize("destination", ["127.0.0.1:15001", "127.0.0.1:15006", "[::1]:15008"])
def test_the_tunnels_own_ports(destination: str) -> None:
    host, _, port = destination.rpartition(":")

    async def check(lab: Lab) -> None:
        assert (await lab.refused(SocketAddress(ip_address(host.strip("[]")), int(port))))["reason"] == "self_call"

    run(check)


def test_the_tunnel_breaks_before_it_answers() -> None:
    async def check(lab: Lab) -> None:
        async with lab.hbone(lambda incoming: incoming.tunnel.close(Reason.OK)):
            assert (await lab.refused())["reason"] == "tunnel_lost"

    run(check)


def test_a_tunnel_that_drains_is_followed_by_another() -> None:
    """The peer restarts: it takes no notice of the request, and the next tunnel goes to its successor."""

    async def check(lab: Lab) -> None:
        async with lab.hbone(lambda incoming: incoming.reject(503)):
            await lab.refused()
            lab.tunnels[0].drain()
            await asyncio.sleep(0.05)
            assert repr(lab.pool) == "<Pool empty>"
            connection, app = lab.start()
            assert (await lab.end(connection))["reason"] == "peer_unavailable"
            app.close()
            assert len(lab.tunnels) == 2
            lab.tunnels[1].h2.goaway(Code.NO_ERROR, b"")
            lab.tunnels[1].schedule_flush()  # in flight, when the next request leaves
            connection, app = lab.start()
            assert (await lab.end(connection))["reason"] == "peer_unavailable"
            app.close()
            assert len(lab.tunnels) == 3

    run(check)


def test_streams_share_tunnels_up_to_the_bound() -> None:
    async def check(lab: Lab) -> None:
        accepted: list[Incoming] = []
        async with lab.hbone(accepted.append):
            started = [lab.start() for _ in range(5)]
            async with asyncio.timeout(5):
                while len(accepted) < 5:
                    await asyncio.sleep(0.005)
            assert len(lab.tunnels) == 3
            for incoming in accepted:
                incoming.reject(503)
            for connection, app in started:
                await lab.end(connection)
                app.close()

    run(check)


def test_aborted_at_every_stage() -> None:
    async def check(lab: Lab) -> None:
        # while the dial runs
        connection, app = lab.start()
        connection.abort(Reason.DRAINING)
        assert (await lab.end(connection))["reason"] == "draining"
        app.close()
        # while the answer is awaited
        async with lab.hbone(lambda incoming: None):
            connection, app = lab.start()
            async with asyncio.timeout(5):
                while not lab.requests:
                    await asyncio.sleep(0.005)
            connection.abort(Reason.POD_REMOVED)
            assert (await lab.end(connection))["reason"] == "pod_removed"
            app.close()
            await asyncio.sleep(0.05)
            assert lab.requests[0].gone is not None  # the peer was told
        assert lab.pool.waiting == 0

    run(check)


def test_passthrough_refused_and_reset() -> None:
    async def check(lab: Lab) -> None:
        line = await lab.refused(SocketAddress(OTHER, 9))
        assert (line["reason"], line["dst.addr"]) == ("connect_failed", f"{OTHER}:9")
        with socket.create_server((str(OTHER), 0)) as server:
            connection, app = lab.start(SocketAddress(OTHER, server.getsockname()[1]))
            far, _ = server.accept()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await asyncio.sleep(0.01)
            far.close()
            assert (await lab.end(connection))["reason"] == "reset_by_destination"
            app.close()

    run(check)


def test_descriptors_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*arguments: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("ztunnel.dial.stream_socket", no_more)

    async def check(lab: Lab) -> None:
        assert (await lab.refused())["reason"] == "fds_exhausted"

    run(check)
    run(lambda lab: _passthrough_without_descriptors(lab))


async def _passthrough_without_descriptors(lab: Lab) -> None:
    assert (await lab.refused(SocketAddress(OTHER, 9)))["reason"] == "fds_exhausted"


def test_a_late_answer_is_in_time() -> None:
    """The connection waits for its tunnel and its answer; the app's first bytes wait in the kernel meanwhile."""

    async def check(lab: Lab) -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)

        class Count:
            sent = received = 0

        def answer(incoming: Incoming) -> None:
            loop.call_later(0.05, lambda: incoming.accept().splice(near, Count(), lambda reason: None))

        async with lab.hbone(answer):
            connection, app = lab.start()
            app.send(b"early")
            assert await loop.sock_recv(far, 10) == b"early"
            await loop.sock_sendall(far, b"reply")
            far.close()
            assert await loop.sock_recv(app, 10) == b"reply"
            assert await loop.sock_recv(app, 10) == b""
            app.close()
            line = await lab.end(connection)
        assert (line["reason"], line["bytes_sent"], line["bytes_recv"]) == ("ok", 5, 5)
        assert line["dst.identity"] == "spiffe://cluster.local/ns/default/sa/server"

    run(check)
