"""Inbound on loopback: what a peer may ask of a pod, and what it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from mesh.io.counters import Tally
from mesh.io.sockets import begin_connect, stream_socket
from mesh.io.tunnel import Stream, Tunnel, dial
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.policy import Action, Authorization, Clause, Match, PolicyScope, Rule, StringKind, StringMatch
from mesh.model.reasons import Reason
from mesh.model.workload import HBONE_PORT, SocketAddress
from mesh.wire.hbone import connect_headers
from mesh.wire.zds import WorkloadInfo
from tests.io.rig import credentials
from tests.ztunnel.rig import CALLER, DESTINATION, OTHER, SERVER, Lab, needs_root, run
from ztunnel import inbound, plaintext

pytestmark = needs_root

HOP = SocketAddress(SERVER, HBONE_PORT)
TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-00"
CLIENT = SocketAddress(ip_address("127.0.0.1"), 1)


@contextlib.asynccontextmanager
async def pod(lab: Lab) -> AsyncIterator[None]:
    """Our end: the pod `b` behind SERVER:15008."""
    lab.certificates.held = credentials("server")
    lab.pod.info = WorkloadInfo("b", "default", "server")

    async def handle(sock: socket.socket) -> None:
        name = sock.getpeername()
        await inbound.serve(lab.deps, lab.pod, sock, SocketAddress(ip_address(name[0]), name[1]))

    async with lab.serving(handle):
        yield
        for tunnel in list(lab.pod.tunnels):
            tunnel.close(Reason.OK)


@contextlib.asynccontextmanager
async def client(account: str = "client") -> AsyncIterator[Tunnel]:
    sock = stream_socket(4)
    begin_connect(sock, HOP)
    accepted = frozenset({Identity("cluster.local", "default", "server")})
    tunnel = await dial(sock, credentials(account), accepted, asyncio.get_running_loop().time() + 5)
    try:
        yield tunnel
    finally:
        tunnel.close(Reason.OK)


async def ask(tunnel: Tunnel, authority: str) -> Stream:
    async with asyncio.timeout(5):
        return await tunnel.connect(connect_headers(authority, source=CLIENT, traceparent=TRACE))


@pytest.mark.parametrize(
    ("authority", "status", "reason"),
    [
        (f"{OTHER}:80", 400, "authority_mismatch"),
        ("10.0.0.1:80", 400, "authority_mismatch"),
        ("nonsense", 400, "bad_authority"),
        ("unknown.example:80", 503, "no_healthy_upstream"),
        (f"{SERVER}:15001", 503, "self_call"),
        (f"{SERVER}:15006", 503, "self_call"),
        (f"{SERVER}:15008", 503, "self_call"),
        (f"{SERVER}:9", 503, "connect_failed"),
    ],
    ids=["another-pod", "another-network", "nonsense", "unknown", "outbound", "inbound", "tunnel", "nobody-listens"],
)
def test_what_is_refused(authority: str, status: int, reason: str) -> None:
    async def check(lab: Lab) -> None:
        async with pod(lab), client() as tunnel:
            assert (await ask(tunnel, authority)).status == status
            assert (await lab.line())["reason"] == reason
            assert lab.metrics.refusals.get(reason, "inbound") == 1
            assert lab.registry.size == 0

    run(check)


def test_another_method() -> None:
    async def check(lab: Lab) -> None:
        async with pod(lab), client() as tunnel:
            get = ((b":method", b"GET"), (b":scheme", b"https"), (b":authority", f"{SERVER}:80".encode()), (b":path", b"/"))
            try:
                async with asyncio.timeout(5):
                    assert (await tunnel.connect(get)).status == 400
                assert (await lab.line())["reason"] == "bad_method"
            except PeerError:
                pass  # the HTTP/2 below may refuse it before HBONE looks at it
            assert lab.registry.size == 0

    run(check)


def allow(account: str) -> Authorization:
    match = Match(principals=(StringMatch(StringKind.EXACT, f"cluster.local/ns/default/sa/{account}"),))
    return Authorization("only", "default", PolicyScope.NAMESPACE, Action.ALLOW, (Rule((Clause((match,)),)),))


def test_policy_speaks_before_the_app_is_asked() -> None:
    async def check(lab: Lab) -> None:
        lab.view.apply_policies([allow("client")], {}, [])
        async with pod(lab):
            async with client("stranger") as tunnel:
                assert (await ask(tunnel, f"{SERVER}:9")).status == 401  # nobody listens there, which is not told
                line = await lab.line()
                assert (line["reason"], line["src.identity"]) == ("policy_no_allow", "spiffe://cluster.local/ns/default/sa/stranger")
                assert "default/only" in line["error"]
            async with client() as tunnel:
                assert (await ask(tunnel, f"{SERVER}:9")).status == 503

    run(check)


@pytest.mark.parametrize(
    ("policies", "named", "reason"),
    [
        ([], ("default/absent",), "policy_missing"),
        ([Authorization("bad", "default", PolicyScope.NAMESPACE, Action.DENY, enforceable=False)], (), "policy_unenforceable"),
        ([Authorization("none", "default", PolicyScope.NAMESPACE, Action.ALLOW)], (), "policy_no_allow"),
        ([Authorization("all", "default", PolicyScope.NAMESPACE, Action.DENY, (Rule(),))], (), "policy_deny"),
        ([Authorization("dry", "default", PolicyScope.NAMESPACE, Action.DENY, (Rule(),), dry_run=True)], (), "connect_failed"),
    ],
)
def test_every_denial_has_its_reason(policies: list[Authorization], named: tuple[str, ...], reason: str) -> None:
    async def check(lab: Lab) -> None:
        lab.view.apply_addresses([replace(DESTINATION, policies=named)], [], [])
        lab.view.apply_policies(policies, {}, [])
        async with pod(lab), client() as tunnel:
            assert (await ask(tunnel, f"{SERVER}:9")).status == (503 if reason == "connect_failed" else 401)
            assert (await lab.line())["reason"] == reason

    run(check)


def test_a_pod_that_is_not_announced_any_more() -> None:
    async def check(lab: Lab) -> None:
        async with pod(lab), client() as tunnel:
            lab.view.apply_addresses([], [], ["b"])
            assert (await ask(tunnel, f"{SERVER}:80")).status == 503
            assert (await lab.line())["reason"] == "unknown_workload"

    run(check)


def test_200_comes_once_the_app_has_accepted_and_the_app_sees_the_client() -> None:
    async def check(lab: Lab) -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server((str(SERVER), 0)) as app:
            app.setblocking(False)
            async with pod(lab), client() as tunnel:
                stream = await ask(tunnel, f"{SERVER}:{app.getsockname()[1]}")
                assert stream.status == 200
                assert dict(stream.headers)[b"baggage"] == b"k8s.cluster.name=Kubernetes,k8s.namespace.name=default"
                accepted, peer = await loop.sock_accept(app)
                assert peer[0] == "127.0.0.1"
                near, far = socket.socketpair()
                near.setblocking(False)
                far.setblocking(False)
                stream.splice(near, Tally(), lambda reason: None)
                await loop.sock_sendall(far, b"question")
                assert await loop.sock_recv(accepted, 100) == b"question"
                await loop.sock_sendall(accepted, b"answer")
                assert await loop.sock_recv(far, 100) == b"answer"
                accepted.close()
                assert await loop.sock_recv(far, 100) == b""
                far.close()
                line = await lab.line()
                assert (line["bytes_sent"], line["bytes_recv"], line["reason"]) == (6, 8, "ok")

    run(check)


def test_the_application_tunnel_is_told_who_is_there() -> None:
    async def check(lab: Lab) -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as app:
            app.setblocking(False)
            sandwich = replace(DESTINATION, application_tunnel_port=app.getsockname()[1], application_tunnel_proxy=True)
            lab.view.apply_addresses([sandwich], [], [])
            async with pod(lab), client() as tunnel:
                assert (await ask(tunnel, "10.0.0.1:80")).status == 200
                accepted, _ = await loop.sock_accept(app)
                header = await loop.sock_recv(accepted, 200)
                assert header.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11")
                assert header.endswith(b"spiffe://cluster.local/ns/default/sa/client")
                assert ip_address("10.0.0.1").packed in header
                accepted.close()

    run(check)


def test_connections_are_bounded() -> None:
    async def check(lab: Lab) -> None:
        lab.registry._limit = 1
        with socket.create_server((str(SERVER), 0)) as app:
            authority = f"{SERVER}:{app.getsockname()[1]}"
            async with pod(lab), client() as tunnel:
                assert (await ask(tunnel, authority)).status == 200
                assert (await ask(tunnel, authority)).status == 503
                assert (await lab.line())["reason"] == "too_many_connections"

    run(check)


def test_no_certificate_is_no_handshake() -> None:
    async def check(lab: Lab) -> None:
        async with pod(lab):
            lab.certificates.held = None
            with pytest.raises(PeerError):
                async with client():
                    pass
            assert (await lab.line())["reason"] == "no_certificate"

    run(check)


def test_a_peer_of_no_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    async def check(lab: Lab) -> None:
        async with pod(lab):
            with socket.create_connection((str(SERVER), HBONE_PORT)) as scanner:
                scanner.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert (await lab.line())["reason"] == "tls_handshake"

    run(check)


@pytest.mark.parametrize(("strict", "reason"), [(False, "ok"), (True, "mtls_required")])
def test_plaintext_is_judged_without_an_identity(strict: bool, reason: str) -> None:
    async def check(lab: Lab) -> None:
        loop = asyncio.get_running_loop()
        lab.pod.info = WorkloadInfo("b", "default", "server")
        match = Match(not_principals=(StringMatch(StringKind.PRESENCE),))
        rules = (Rule((Clause((match,)),)),)
        policy = Authorization("istio_converted_static_strict", "istio-system", PolicyScope.GLOBAL, Action.DENY, rules)
        lab.view.apply_policies([policy] if strict else [], {}, [])
        with socket.create_server((str(SERVER), 0)) as steered, socket.socket() as outsider:
            outsider.bind((str(CALLER), 0))
            outsider.connect(steered.getsockname())
            ours, peer = steered.accept()
            ours.setblocking(False)
            outsider.setblocking(False)
            plaintext.steered(lab.deps, lab.pod, ours, SocketAddress(ip_address(peer[0]), peer[1]))
            if strict:
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(outsider, 1)
            else:
                accepted, seen = steered.accept()  # the app is behind the same address here
                assert seen[0] == str(CALLER)
                accepted.close()
                assert await loop.sock_recv(outsider, 1) == b""
                outsider.close()
            assert (await lab.line())["reason"] == reason

    run(check)
