"""Credentials, and every peer that is wrong in one respect: the reason at the side that noticed it."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from mesh.io import tls, tunnel
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from tests.io.certs import HOUR, NOW, Authority, mesh_ca, spiffe
from tests.io.rig import credentials, on_loop, tcp_pair

Pair = tuple[bytes, str]  # private key PEM, leaf PEM
OTHER_CA = Authority("somebody else")
BOB = frozenset({credentials("b").identity})


def leaf(*uris: str, usages: tuple[object, ...] = (), expired: bool = False, future: bool = False, ca: Authority | None = None) -> Pair:
    extra: dict[str, object] = {"usages": usages} if usages else {}
    if expired:
        extra |= {"not_before": NOW - 3 * HOUR, "not_after": NOW - HOUR}
    if future:
        extra |= {"not_before": NOW + HOUR, "not_after": NOW + 2 * HOUR}
    return (ca or mesh_ca()).issue(*uris, **extra)  # type: ignore[arg-type]


def raw_context(server: bool, own: Pair | None, tmp_path: Path, alpn: tuple[str, ...] = ("h2",), tls12: bool = False) -> ssl.SSLContext:
    """A context that checks nothing: what an attacker or a misconfigured peer would use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if tls12:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if own is not None:
        (tmp_path / "key").write_bytes(own[0])
        (tmp_path / "leaf").write_text(own[1])
        context.load_cert_chain(tmp_path / "leaf", tmp_path / "key")
    return context


def raw_peer(sock: socket.socket, context: ssl.SSLContext, server: bool) -> Exception | None:
    """Shake hands, blocking, and read until the other side is done with us. What went wrong here, if anything did."""
    sock.setblocking(True)
    sock.settimeout(10)
    try:
        with context.wrap_socket(sock, server_side=server) as wrapped:
            while wrapped.recv(4096):
                pass
    except OSError as error:
        return error
    finally:
        sock.close()
    return None


WRONG_CLIENTS: dict[str, tuple[Callable[[], Pair | None], dict[str, object], Reason]] = {
    "another trust domain": (lambda: leaf(spiffe("a", domain="other.example")), {}, Reason.WRONG_TRUST_DOMAIN),
    "the first id counts": (lambda: leaf(spiffe("a", domain="other.example"), spiffe("a")), {}, Reason.WRONG_TRUST_DOMAIN),
    "expired": (lambda: leaf(spiffe("a"), expired=True), {}, Reason.CERTIFICATE_EXPIRED),
    "not yet valid": (lambda: leaf(spiffe("a"), future=True), {}, Reason.CERTIFICATE_EXPIRED),
    "another CA": (lambda: leaf(spiffe("a"), ca=OTHER_CA), {}, Reason.CERTIFICATE_UNTRUSTED),
    "only good as a server": (lambda: leaf(spiffe("a"), usages=(ExtendedKeyUsageOID.SERVER_AUTH,)), {}, Reason.CERTIFICATE_UNTRUSTED),
    "no SPIFFE id": (lambda: leaf(), {}, Reason.NO_SPIFFE_ID),
    "a SPIFFE id of another shape": (lambda: leaf("spiffe://cluster.local/workload/a"), {}, Reason.NO_SPIFFE_ID),
    "no certificate": (lambda: None, {}, Reason.CERTIFICATE_MISSING),
    "TLS 1.2": (lambda: leaf(spiffe("a")), {"tls12": True}, Reason.TLS_VERSION),
    "another protocol": (lambda: leaf(spiffe("a")), {"alpn": ("http/1.1",)}, Reason.ALPN_MISMATCH),
    "no ALPN": (lambda: leaf(spiffe("a")), {"alpn": ()}, Reason.ALPN_MISMATCH),
}


@pytest.mark.parametrize("case", WRONG_CLIENTS)
@on_loop
async def test_a_wrong_client_is_refused_by_the_server(case: str, tmp_path: Path) -> None:
    own, options, reason = WRONG_CLIENTS[case]
    near, far = tcp_pair()
    context = raw_context(False, own(), tmp_path, **options)  # type: ignore[arg-type]
    peer = asyncio.create_task(asyncio.to_thread(raw_peer, near, context, False))
    with pytest.raises(PeerError) as refused:
        await tunnel.accept(far, credentials("b"), lambda incoming: None)
    assert refused.value.reason is reason, refused.value
    await peer


WRONG_SERVERS: dict[str, tuple[Callable[[], Pair], dict[str, object], Reason]] = {
    "somebody else": (lambda: leaf(spiffe("mallory")), {}, Reason.IDENTITY_MISMATCH),
    "another trust domain": (lambda: leaf(spiffe("b", domain="other.example")), {}, Reason.IDENTITY_MISMATCH),
    "expired": (lambda: leaf(spiffe("b"), expired=True), {}, Reason.CERTIFICATE_EXPIRED),
    "another CA": (lambda: leaf(spiffe("b"), ca=OTHER_CA), {}, Reason.CERTIFICATE_UNTRUSTED),
    "only good as a client": (lambda: leaf(spiffe("b"), usages=(ExtendedKeyUsageOID.CLIENT_AUTH,)), {}, Reason.CERTIFICATE_UNTRUSTED),
    "no SPIFFE id": (lambda: leaf(), {}, Reason.NO_SPIFFE_ID),
    "TLS 1.2": (lambda: leaf(spiffe("b")), {"tls12": True}, Reason.TLS_VERSION),
    "another protocol": (lambda: leaf(spiffe("b")), {"alpn": ("http/1.1",)}, Reason.ALPN_MISMATCH),
    "no ALPN": (lambda: leaf(spiffe("b")), {"alpn": ()}, Reason.ALPN_MISMATCH),
}


@pytest.mark.parametrize("case", WRONG_SERVERS)
@on_loop
async def test_a_wrong_server_is_refused_by_the_client(case: str, tmp_path: Path) -> None:
    own, options, reason = WRONG_SERVERS[case]
    near, far = tcp_pair()
    context = raw_context(True, own(), tmp_path, **options)  # type: ignore[arg-type]
    peer = asyncio.create_task(asyncio.to_thread(raw_peer, far, context, True))
    with pytest.raises(PeerError) as refused:
        await tunnel.dial(near, credentials("a"), BOB, None)
    assert refused.value.reason is reason, refused.value
    await peer


@on_loop
async def test_any_of_the_servers_ids_may_be_the_accepted_one() -> None:
    key, certificate = leaf(spiffe("other"), spiffe("b"))
    near, far = tcp_pair()
    server = tls.make_credentials(key, [certificate, mesh_ca().root_pem])
    accepting = asyncio.create_task(tunnel.accept(far, server, lambda incoming: None))
    dialled = await tunnel.dial(near, credentials("a"), BOB, None)
    assert dialled.peer_identity == credentials("b").identity
    dialled.close(Reason.OK)
    assert await (await accepting).closed is Reason.GOAWAY


@on_loop
async def test_a_client_that_the_server_refuses_learns_it_from_dial() -> None:
    key, certificate = leaf(spiffe("a", domain="other.example"))
    ours = tls.make_credentials(key, [certificate, mesh_ca().root_pem])
    near, far = tcp_pair()
    accepting = asyncio.create_task(tunnel.accept(far, credentials("b"), lambda incoming: None))
    with pytest.raises(PeerError) as refused:
        await tunnel.dial(near, ours, BOB, None)
    assert refused.value.reason is Reason.TLS_HANDSHAKE
    with pytest.raises(PeerError):
        await accepting


@on_loop
async def test_an_expired_client_is_told_so() -> None:
    near, far = tcp_pair()
    key, certificate = leaf(spiffe("a"), expired=True)
    good = credentials("a")
    with tls._anonymous_file(certificate.encode()) as chain, tls._anonymous_file(key) as secret:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        context.load_verify_locations(cadata="\n".join(good.roots_pem))
        context.load_cert_chain(chain, secret)
    expired = tls.Credentials(good.identity, good.server, context, 0.0, 1.0, (certificate,), good.roots_pem)
    accepting = asyncio.create_task(tunnel.accept(far, credentials("b"), lambda incoming: None))
    with pytest.raises(PeerError) as refused:
        await tunnel.dial(near, expired, BOB, None)
    assert refused.value.reason is Reason.TLS_HANDSHAKE
    assert "refused our certificate" in refused.value.detail
    with pytest.raises(PeerError):
        await accepting


@pytest.mark.parametrize("suite", ["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"])
@on_loop
async def test_only_aes_gcm_is_taken(suite: str, tmp_path: Path) -> None:
    key, certificate = leaf(spiffe("a"))
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "leaf").write_text(certificate)
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.getsockname()[1]}", "-tls1_3", "-ciphersuites", suite]
        command += ["-alpn", "h2", "-cert", str(tmp_path / "leaf"), "-key", str(tmp_path / "key"), "-quiet"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        far, _ = server.accept()
    try:
        if suite.startswith("TLS_AES"):
            (await tunnel.accept(far, credentials("b"), lambda incoming: None)).close(Reason.OK)
        else:
            with pytest.raises(PeerError) as refused:
                await tunnel.accept(far, credentials("b"), lambda incoming: None)
            assert (refused.value.reason, suite in refused.value.detail) == (Reason.TLS_HANDSHAKE, True)
    finally:
        process.kill()
        process.communicate()


@on_loop
async def test_bytes_that_are_no_tls_are_refused() -> None:
    near, far = tcp_pair()
    near.send(b"GET / HTTP/1.1\r\nHost: tunnel\r\n\r\n")
    with pytest.raises(PeerError) as refused:
        await tunnel.accept(far, credentials("b"), lambda incoming: None)
    assert refused.value.reason is Reason.TLS_HANDSHAKE
    near.close()


@on_loop
async def test_a_peer_that_says_nothing_is_given_up() -> None:
    soon = asyncio.get_running_loop().time() + 0.05
    near, far = tcp_pair()
    with pytest.raises(PeerError) as refused:
        await tunnel.accept(far, credentials("b"), lambda incoming: None, soon)
    assert refused.value.reason is Reason.TLS_TIMEOUT
    near.close()
    near, far = tcp_pair()
    with pytest.raises(PeerError) as refused:
        await tunnel.dial(near, credentials("a"), BOB, soon + 0.05)
    assert refused.value.reason is Reason.TLS_TIMEOUT
    far.close()


@on_loop
async def test_a_peer_that_hangs_up_in_the_handshake() -> None:
    near, far = tcp_pair()
    near.close()
    with pytest.raises(PeerError) as refused:
        await tunnel.accept(far, credentials("b"), lambda incoming: None)
    assert refused.value.reason is Reason.TLS_HANDSHAKE


@on_loop
async def test_too_many_handshakes_are_refused_not_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "MAX_HANDSHAKES", 1)
    near, far = tcp_pair()
    waiting = asyncio.create_task(tunnel.accept(far, credentials("b"), lambda incoming: None))
    await asyncio.sleep(0)
    other_near, other_far = tcp_pair()
    with pytest.raises(PeerError) as refused:
        await tunnel.accept(other_far, credentials("b"), lambda incoming: None)
    assert refused.value.reason is Reason.TOO_MANY_CONNECTIONS
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    near.close()
    other_near.close()


def test_credentials_know_their_identity_and_dates() -> None:
    key, certificate = leaf(spiffe("shop", "web"))
    made = tls.make_credentials(key, [certificate, mesh_ca().root_pem])
    assert made.identity == Identity("cluster.local", "web", "shop")
    assert made.not_before == (NOW - HOUR).replace(microsecond=0).timestamp()
    assert made.not_after == (NOW + HOUR).replace(microsecond=0).timestamp()
    assert made.chain_pem == (certificate,)
    assert made.roots_pem == (mesh_ca().root_pem,)
    assert "PRIVATE" not in repr(made)


BAD_CREDENTIALS: dict[str, tuple[Callable[[], tuple[bytes, list[str]]], str]] = {
    "another key": (lambda: (leaf(spiffe("a"))[0], [leaf(spiffe("a"))[1], mesh_ca().root_pem]), "KEY_VALUES_MISMATCH"),
    "another root": (lambda: _with_root(leaf(spiffe("a")), OTHER_CA), "unable to get local issuer"),
    "expired": (lambda: _with_root(leaf(spiffe("a"), expired=True), mesh_ca()), "expired"),
    "not for servers": (lambda: _with_root(leaf(spiffe("a"), usages=(ExtendedKeyUsageOID.CLIENT_AUTH,)), mesh_ca()), "purpose"),
    "no SPIFFE id": (lambda: _with_root(leaf(), mesh_ca()), "SPIFFE"),
    "no root": (lambda: (leaf(spiffe("a"))[0], [leaf(spiffe("a"))[1]]), "leaf first, root last"),
    "no certificate at all": (lambda: (leaf(spiffe("a"))[0], ["nonsense", mesh_ca().root_pem]), "cannot be used"),
    "an encrypted key": (lambda: (_encrypted_key(), [leaf(spiffe("a"))[1], mesh_ca().root_pem]), "encrypted"),
}


def _with_root(own: Pair, ca: Authority) -> tuple[bytes, list[str]]:
    return own[0], [own[1], ca.root_pem]


def _encrypted_key() -> bytes:
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256", "-pass", "pass:secret"]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.mark.parametrize("case", BAD_CREDENTIALS)
def test_credentials_that_cannot_work_are_refused_before_use(case: str) -> None:
    make, words = BAD_CREDENTIALS[case]
    key, chain = make()
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(PeerError) as refused:
        tls.make_credentials(key, chain)
    assert refused.value.reason is Reason.NO_CERTIFICATE
    assert words in refused.value.detail
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_an_intermediate_travels_with_the_leaf() -> None:
    key, certificate = leaf(spiffe("a"))
    made = tls.make_credentials(key, [certificate, OTHER_CA.root_pem, mesh_ca().root_pem])
    assert made.chain_pem == (certificate, OTHER_CA.root_pem)
    assert datetime.datetime.fromtimestamp(made.not_after, datetime.UTC) > NOW
