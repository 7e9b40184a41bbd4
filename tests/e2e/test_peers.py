"""Hostile and mistaken peers at a real pod's HBONE port: each is refused as it should be, by name, and nobody else notices.

They speak from a pod outside the mesh, with certificates that the mesh's own root has signed where that helps them. A client of the mesh
talks to the same server all the time.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from struct import unpack_from
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hpack import Decoder

from mesh.wire.h2.frames import (
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Code,
    frame,
    rst_stream,
    settings,
)
from mesh.wire.h2.headers import encode
from tests.e2e.conversations import CLIENT_FIRST
from tests.e2e.mesh import Mesh, client, running, server
from tests.e2e.playground import eventually, namespace, pod
from tests.io.certs import HOUR, NOW, Authority, spiffe
from tests.io.test_tls import raw_context
from ztunnel.inbound import MAX_BEGINNING

pytestmark = [pytest.mark.e2e, pytest.mark.netns]

HBONE = 15008
ME = spiffe("mallory", "outside")
Pair = tuple[bytes, str]


class MeshAuthority(Authority):
    """The playground's own CA: whoever holds the key of its intermediate can sign anything."""

    def __init__(self, directory: Path) -> None:
        key = serialization.load_pem_private_key((directory / "current" / "intermediate.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._chain = (directory / "current" / "intermediate.pem").read_text()
        intermediate = x509.load_pem_x509_certificate(self._chain.encode())
        self._name, self._root = intermediate.subject, intermediate.issuer

    def issue(self, *uris: str, **wrong: Any) -> Pair:
        key, leaf = super().issue(*uris, **wrong)
        return key, leaf + self._chain

    def forge(self, *uris: str, root: bool) -> Pair:
        """What somebody else has signed in the name of our root, or of our intermediate, which is shown with it."""
        other = Authority()
        other._name = self._root if root else self._name
        key, leaf = other.issue(*uris)
        return key, leaf if root else leaf + self._chain


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    base = tmp_path_factory.mktemp("peers")
    deny = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "not-mallory", "namespace": "shop"},
        "spec": {
            "action": "DENY",
            "selector": {"matchLabels": {"app": "guarded"}},
            "rules": [{"from": [{"source": {"principals": [ME.removeprefix("spiffe://")]}}]}],
        },
    }
    objects = [
        namespace("shop", ambient=True),
        namespace("outside", ambient=False),
        client(base, "friend", "shop", "node-1"),
        server("target", "shop", "node-2"),
        server("guarded", "shop", "node-2"),
        pod("villain", "outside", "node-1", ["sleep", "infinity"]),
        deny,
    ]
    with running(base, "peers", objects) as mesh:
        mesh.run("friend", do="begin", key="all", host=mesh.v4("target"), workers=1, held=2, pause=0.03)
        yield mesh
        result = mesh.run("friend", do="end", key="all")
        assert result["failed"] == [], result
        assert result["held_failed"] == [], result
        assert result["good"] >= 20, result


@pytest.fixture(scope="module")
def root(mesh: Mesh) -> MeshAuthority:
    return MeshAuthority(mesh.layout.ca)


@pytest.fixture(scope="module")
def good(root: MeshAuthority, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A peer whose certificate is in order."""
    return raw_context(False, root.issue(ME), tmp_path_factory.mktemp("good"))


def dial(mesh: Mesh, server: str = "target") -> tuple[socket.socket, str]:
    """A connection to the pod's tunnel, and its own end as the log shows it."""
    sock = mesh.connect(mesh.where("villain")["netns"], mesh.v4(server), HBONE)
    host, port = sock.getsockname()
    return sock, f"{host}:{port}"


def counted(mesh: Mesh, reason: str) -> float:
    return mesh.metric("node-2", "culvert_refused_total", reason=reason, direction="inbound")


def ends(sock: socket.socket) -> str:
    """Read to the end. What OpenSSL calls the alert that ended it, or nothing; not a byte may come before."""
    try:
        assert sock.recv(1) == b""
    except ssl.SSLError as error:
        return error.reason or ""
    except ConnectionResetError:
        pass
    return ""


# Who they are


def self_signed() -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "mallory")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(NOW - HOUR).not_valid_after(NOW + HOUR)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(ME)]), critical=True)
    signed = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, signed


Wrong = tuple[Callable[[MeshAuthority], Pair | None], dict[str, Any], str, str]
WRONG: dict[str, Wrong] = {
    "another trust domain": (lambda ca: ca.issue(spiffe("a", "shop", "other.example")), {}, "wrong_trust_domain", ""),
    "expired": (
        lambda ca: ca.issue(ME, not_before=NOW - 3 * HOUR, not_after=NOW - HOUR),
        {},
        "certificate_expired",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    ),
    "not valid yet": (
        lambda ca: ca.issue(ME, not_before=NOW + HOUR, not_after=NOW + 2 * HOUR),
        {},
        "certificate_expired",
        "SSLV3_ALERT_BAD_CERTIFICATE",
    ),
    "self-signed": (lambda ca: self_signed(), {}, "certificate_untrusted", "TLSV1_ALERT_UNKNOWN_CA"),
    "another root": (lambda ca: Authority("elsewhere").issue(ME), {}, "certificate_untrusted", "TLSV1_ALERT_UNKNOWN_CA"),
    "another root with our root's name": (
        lambda ca: ca.forge(ME, root=True),
        {},
        "certificate_untrusted",
        "TLSV1_ALERT_DECRYPT_ERROR",
    ),
    "another intermediate with our intermediate's name": (
        lambda ca: ca.forge(ME, root=False),
        {},
        "certificate_untrusted",
        "TLSV1_ALERT_DECRYPT_ERROR",
    ),
    "only good as a server": (
        lambda ca: ca.issue(ME, usages=(ExtendedKeyUsageOID.SERVER_AUTH,)),
        {},
        "certificate_untrusted",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    ),
    "no SPIFFE id": (lambda ca: ca.issue(), {}, "no_spiffe_id", ""),
    "a SPIFFE id of another shape": (lambda ca: ca.issue("spiffe://cluster.local/workload/a"), {}, "no_spiffe_id", ""),
    "no certificate": (lambda ca: None, {}, "certificate_missing", "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
    "TLS 1.2": (lambda ca: ca.issue(ME), {"tls12": True}, "tls_version", "TLSV1_ALERT_PROTOCOL_VERSION"),
    "another protocol": (lambda ca: ca.issue(ME), {"alpn": ("http/1.1",)}, "alpn_mismatch", ""),
    "no ALPN": (lambda ca: ca.issue(ME), {"alpn": ()}, "alpn_mismatch", ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_who_is_not_of_the_mesh_gets_no_http(mesh: Mesh, root: MeshAuthority, tmp_path: Path, case: str) -> None:
    own, options, reason, alert = WRONG[case]
    since, before = mesh.mark("node-2.ztunnel"), counted(mesh, reason)
    context = raw_context(False, own(root), tmp_path, **options)
    sock, address = dial(mesh)
    seen = ""
    with closing(sock):
        try:
            with context.wrap_socket(sock) as tls:
                tls.sendall(PREFACE + settings([]))
                seen = ends(tls)
        except ssl.SSLError as error:  # before TLS 1.3 the client learns it in the handshake
            seen = error.reason or ""
        except (ConnectionResetError, BrokenPipeError):
            seen = ""
    line = mesh.line("node-2", since, reason=reason, **{"src.addr": address})
    assert line["dst.addr"] == f"{mesh.v4('target')}:{HBONE}"
    assert (line["direction"], line["message"], line["level"]) == ("inbound", "connection failed", "warn")
    assert "src.identity" not in line, "nothing is proved"
    assert counted(mesh, reason) == before + 1
    if alert:
        assert seen == alert


def test_plaintext_at_the_tunnels_port(mesh: Mesh) -> None:
    since, before = mesh.mark("node-2.ztunnel"), counted(mesh, "tls_handshake")
    sock, address = dial(mesh)
    with sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: target\r\n\r\n")
        answer = b""
        try:
            while piece := sock.recv(4096):
                answer += piece
        except ConnectionResetError:
            pass
        assert b"HTTP" not in answer
    assert mesh.line("node-2", since, **{"src.addr": address})["reason"] == "tls_handshake"
    assert counted(mesh, "tls_handshake") == before + 1


# What they ask for


class Peer:
    """The client's end of one tunnel, frame by frame."""

    def __init__(self, mesh: Mesh, context: ssl.SSLContext, server: str = "target") -> None:
        sock, self.address = dial(mesh, server)
        self.tls = context.wrap_socket(sock)
        self._buffer = b""
        self._decoder = Decoder()
        self.send(PREFACE + settings([]))

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.tls.close()

    def send(self, data: bytes) -> None:
        self.tls.sendall(data)

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """(kind, flags, stream, payload) until the other side hangs up."""
        while True:
            while len(self._buffer) >= 9:
                length = int.from_bytes(self._buffer[:3], "big")
                if len(self._buffer) < 9 + length:
                    break
                kind, flags, stream = unpack_from("!BBI", self._buffer, 3)
                payload, self._buffer = self._buffer[9 : 9 + length], self._buffer[9 + length :]
                yield kind, flags, stream, payload
            try:
                data = self.tls.recv(65536)
            except (ssl.SSLError, ConnectionResetError):
                return
            if not data:
                return
            self._buffer += data

    def ask(self, stream: int, *headers: tuple[bytes, bytes]) -> str:
        """Send a request; the status of its answer."""
        self.send(frame(HEADERS, END_HEADERS, stream, encode(headers)))
        for kind, _, number, payload in self.frames():
            if kind == HEADERS and number == stream:
                fields = {bytes(name, "ascii") if isinstance(name, str) else name: value for name, value in self._decoder.decode(payload)}
                status = fields[b":status"]
                return status if isinstance(status, str) else status.decode()
        raise AssertionError("the tunnel ended without an answer")

    def connect(self, stream: int, authority: str) -> str:
        return self.ask(stream, (b":method", b"CONNECT"), (b":authority", authority.encode()))

    def ended(self) -> Code | None:
        """Read until the tunnel ends: the code of its GOAWAY, None where it came without."""
        code = None
        for kind, _, _, payload in self.frames():
            if kind == GOAWAY:
                code = Code(unpack_from("!I", payload, 4)[0])
        return code


ASKED: dict[str, tuple[str, str, str]] = {
    "another pod": ("{guarded}:7001", "400", "authority_mismatch"),
    "the world": ("192.0.2.1:80", "400", "authority_mismatch"),
    "loopback": ("127.0.0.1:7001", "400", "authority_mismatch"),
    "another family of the same pod": ("[{v6}]:7001", "400", "authority_mismatch"),
    "no address": ("nonsense", "400", "bad_authority"),
    "no port": ("{target}", "400", "bad_authority"),
    "port 0": ("{target}:0", "400", "bad_authority"),
    "a port beyond": ("{target}:65536", "400", "bad_authority"),
    "a path": ("{target}:7001/admin", "400", "bad_authority"),
    "half a v6": ("[::1:80", "400", "bad_authority"),
    "a number with a zero before it": ("010.244.2.2:7001", "400", "bad_authority"),
    "the tunnel's outbound port": ("{target}:15001", "503", "self_call"),
    "the tunnel's plaintext port": ("{target}:15006", "503", "self_call"),
    "the tunnel itself": ("{target}:15008", "503", "self_call"),
    "nobody listens": ("{target}:7999", "503", "connect_failed"),
}


@pytest.mark.parametrize("case", ASKED)
def test_requests_that_are_answered_with_no(mesh: Mesh, good: ssl.SSLContext, case: str) -> None:
    """The tunnel stays: a good request on it is served afterwards."""
    authority, status, reason = ASKED[case]
    asked = authority.format(target=mesh.v4("target"), guarded=mesh.v4("guarded"), v6=mesh.v6("target"))
    since, before = mesh.mark("node-2.ztunnel"), counted(mesh, reason)
    with Peer(mesh, good) as peer:
        assert peer.connect(1, asked) == status
        line = mesh.line("node-2", since, reason=reason, **{"src.addr": peer.address})
        assert line["direction"] == "inbound"
        assert counted(mesh, reason) == before + 1
        assert peer.connect(3, f"{mesh.v4('target')}:{CLIENT_FIRST}") == "200"
        peer.send(frame(DATA, 0, 3, b"hello"))
        answer = next(payload for kind, _, stream, payload in peer.frames() if (kind, stream) == (DATA, 3))
        villain = mesh.v4("villain")
        assert answer == f"{villain} hello".encode(), "the app sees who the peer is at TCP's level"


def test_another_method(mesh: Mesh, good: ssl.SSLContext) -> None:
    since, before = mesh.mark("node-2.ztunnel"), counted(mesh, "bad_method")
    host = mesh.v4("target").encode()
    with Peer(mesh, good) as peer:
        assert peer.ask(1, (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", host + b":7001")) == "400"
        assert mesh.line("node-2", since, **{"src.addr": peer.address})["reason"] == "bad_method"
    assert counted(mesh, "bad_method") == before + 1


def test_who_is_denied_is_answered_401(mesh: Mesh, good: ssl.SSLContext) -> None:
    """What it says of itself in its baggage changes nothing."""
    since, before = mesh.mark("node-2.ztunnel"), counted(mesh, "policy_deny")
    lie = (b"baggage", b"k8s.namespace.name=shop,k8s.pod.name=friend,service.name=friend,service.version=v1")
    with Peer(mesh, good, "guarded") as peer:
        headers = (b":method", b"CONNECT"), (b":authority", f"{mesh.v4('guarded')}:{CLIENT_FIRST}".encode()), lie
        assert peer.ask(1, *headers) == "401"
        line = mesh.line("node-2", since, reason="policy_deny", **{"src.addr": peer.address})
    assert line["src.identity"] == ME
    assert "shop/not-mallory rule[0]" in line["error"]
    assert counted(mesh, "policy_deny") == before + 1


# How they behave


def floods(mesh: Mesh) -> dict[str, bytes]:
    block = encode([(b":method", b"CONNECT"), (b":authority", f"{mesh.v4('target')}:{CLIENT_FIRST}".encode())])
    resets = (frame(HEADERS, END_HEADERS, number, block) + rst_stream(number, Code.CANCEL) for number in range(1, 2001, 2))
    return {
        "rapid reset": b"".join(resets),
        "ping": frame(PING, 0, 0, bytes(8)) * 300,
        "settings": frame(SETTINGS, 0, 0) * 300,
        "endless header block": frame(HEADERS, 0, 1, block) + frame(9, 0, 1, b"") * 100,
        "reset of nothing": frame(RST_STREAM, 0, 1, bytes(4)),
        "data of nobody": frame(DATA, 0, 1, b"x"),
        "no HPACK": frame(HEADERS, END_HEADERS, 1, b"\xff" * 6),
    }


FLOODS = {
    "rapid reset": ("h2_flood", Code.ENHANCE_YOUR_CALM),
    "ping": ("h2_flood", Code.ENHANCE_YOUR_CALM),
    "settings": ("h2_flood", Code.ENHANCE_YOUR_CALM),
    "endless header block": ("h2_flood", Code.ENHANCE_YOUR_CALM),
    "reset of nothing": ("h2_protocol", Code.PROTOCOL_ERROR),
    "data of nobody": ("h2_protocol", Code.PROTOCOL_ERROR),
    "no HPACK": ("h2_protocol", Code.COMPRESSION_ERROR),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_floods_and_nonsense_end_the_tunnel(mesh: Mesh, good: ssl.SSLContext, kind: str) -> None:
    reason, expected = FLOODS[kind]
    since, before = mesh.mark("node-2.ztunnel"), counted(mesh, reason)
    with Peer(mesh, good) as peer:
        try:
            peer.send(floods(mesh)[kind])
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            pass  # cut off before all of it was said
        code = peer.ended()
        line = mesh.line("node-2", since, reason=reason, **{"src.addr": peer.address})
    assert ME in line["error"], "who it was is known, and said"
    # A reset may overtake the last frame, where the flood still filled the other side's buffer.
    assert code is expected or (code is None and kind == "rapid reset")
    assert counted(mesh, reason) == before + 1
    eventually("nothing of it is left", lambda: not _connections_of(mesh, mesh.v4("villain")))


def test_handshakes_that_nobody_finishes(mesh: Mesh, good: ssl.SSLContext) -> None:
    """There is a bound of those; what is over it is refused, what runs goes on, and it passes with them."""
    since = mesh.mark("node-2.ztunnel")
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_BEGINNING + 20):
            stack.enter_context(dial(mesh)[0])
        mesh.line("node-2", since, reason="too_many_connections")
        before = mesh.run("friend", do="look", key="all")["good"]
        eventually("the mesh's own traffic goes on", lambda: mesh.run("friend", do="look", key="all")["good"] > before + 5)
    eventually("they are gone", lambda: _accepted(mesh, good))


def _accepted(mesh: Mesh, context: ssl.SSLContext) -> bool:
    try:
        with Peer(mesh, context) as peer:
            return peer.connect(1, f"{mesh.v4('target')}:{CLIENT_FIRST}") == "200"
    except (OSError, AssertionError):
        return False


def _connections_of(mesh: Mesh, address: str) -> list[dict[str, Any]]:
    pods = mesh.dump("node-2")["workloadState"].values()
    return [each for found in pods for each in found["connections"]["inbound"] if each["src"].startswith(f"{address}:")]
