"""What the certificate authority signs, checked by OpenSSL's own command and by the cryptography library."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.authority import MAX_LIFE, Authority, load_or_create
from control.tokens import NodeTokens
from mesh.model.errors import ConfigError, PeerError
from mesh.model.identity import Identity

ME = Identity("cluster.local", "shop", "cart")
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def request(key: Key, name: str = "spiffe://cluster.local/ns/kube-system/sa/admin") -> str:
    """A request that claims to be somebody else, which must not matter."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)]), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return load_or_create(tmp_path / "ca", "cluster.local")


def test_a_leaf_says_who_was_proved_and_nothing_of_what_was_asked(authority: Authority, tmp_path: Path) -> None:
    chain = authority.sign(request(ec.generate_private_key(ec.SECP256R1())), ME, 3600, 86400)
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert [name.value for name in names.value] == [str(ME)]
    assert not list(leaf.subject)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    now = datetime.now(UTC)
    assert timedelta(0) < now - leaf.not_valid_before_utc < timedelta(minutes=3)
    assert timedelta(minutes=59) < leaf.not_valid_after_utc - now < timedelta(minutes=61)
    for purpose in ("sslserver", "sslclient"):
        (tmp_path / "leaf.pem").write_text(chain[0])
        (tmp_path / "root.pem").write_text(chain[-1])
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "root.pem", "leaf.pem"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_leaf_outlives_what_is_configured(authority: Authority) -> None:
    chain = authority.sign(request(ec.generate_private_key(ec.SECP256R1())), ME, 0, 20)
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    assert leaf.not_valid_after_utc <= datetime.now(UTC) + timedelta(seconds=20)


def test_rsa_keys_are_taken(authority: Authority) -> None:
    assert len(authority.sign(request(rsa.generate_private_key(65537, 2048)), ME, 0, 60)) == 2


@pytest.mark.parametrize(
    "csr",
    [
        "",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "x" * 20000,
        request(rsa.generate_private_key(65537, 1024)),
        request(ec.generate_private_key(ec.SECP256K1())),
    ],
    ids=["empty", "garbage", "too long", "weak RSA", "odd curve"],
)
def test_requests_that_are_refused(authority: Authority, csr: str) -> None:
    with pytest.raises(PeerError):
        authority.sign(csr, ME, 0, 60)


def test_a_request_not_signed_by_its_key_is_refused(authority: Authority) -> None:
    pem = request(ec.generate_private_key(ec.SECP256R1()))
    der = bytearray(x509.load_pem_x509_csr(pem.encode()).public_bytes(serialization.Encoding.DER))
    der[-3] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(PeerError):
        authority.sign(forged, ME, 0, 60)


def test_a_request_for_too_long_is_an_error(authority: Authority) -> None:
    with pytest.raises(PeerError):
        authority.sign(request(ec.generate_private_key(ec.SECP256R1())), ME, MAX_LIFE + 1, 60)


def test_the_root_is_kept_and_its_key_is_for_the_owner_alone(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "ca", "cluster.local")
    assert load_or_create(tmp_path / "ca", "cluster.local").root_pem == first.root_pem
    key = tmp_path / "ca" / "root-key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="0600"):
        load_or_create(tmp_path / "ca", "cluster.local")


def test_a_key_that_is_not_the_roots_is_refused_and_left_alone(tmp_path: Path) -> None:
    load_or_create(tmp_path / "ca", "cluster.local")
    key = tmp_path / "ca" / "root-key.pem"
    other = ed25519.Ed25519PrivateKey.generate()
    pem = other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(pem)
    with pytest.raises(ConfigError):
        load_or_create(tmp_path / "ca", "cluster.local")
    assert key.read_bytes() == pem


@pytest.fixture
def tokens(tmp_path: Path) -> NodeTokens:
    directory = tmp_path / "tokens"
    directory.mkdir()
    for node, token in (("node1", "a" * 32), ("node2", "b" * 32), ("short", "c")):
        (directory / node).write_text(token + "\n")
        (directory / node).chmod(0o600)
    (directory / "open").write_text("d" * 32)
    (directory / "open").chmod(0o644)
    return NodeTokens(directory)


@pytest.mark.parametrize(
    ("offered", "node"),
    [
        ("Bearer " + "a" * 32, "node1"),
        ("bearer " + "b" * 32, "node2"),
        ("Bearer " + "a" * 31, None),
        ("Bearer c", None),
        ("Bearer " + "d" * 32, None),
        ("Basic " + "a" * 32, None),
        ("a" * 32, None),
        ("Bearer ", None),
    ],
)
def test_tokens(tokens: NodeTokens, offered: str, node: str | None) -> None:
    assert tokens.node_of([("authorization", offered)]) == node


def test_no_token_is_no_node(tokens: NodeTokens) -> None:
    assert tokens.node_of([]) is None
    assert tokens.node_of(None) is None
