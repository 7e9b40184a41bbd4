"""The certificate authority: an ECDSA P-256 root made at first start and kept, and leaves for workloads and for the control plane itself.

The root key is in one file, 0600, written whole or not at all; it is never logged and leaves this module only as signatures.
Of a request only the public key is used: what it says of names is ignored, since the caller has proved for whom it asks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.model.errors import ConfigError, PeerError, Refusal
from mesh.model.identity import Identity
from mesh.model.reasons import Reason

ROOT_LIFE = timedelta(days=3650)
SERVING_LIFE = timedelta(days=30)
BACKDATE = timedelta(minutes=2)  # clocks of nodes differ; less for short-lived ones, which are renewed at half of their life
MAX_LIFE = 90 * 86400  # seconds; a longer request is an error, as at Istio's CA
MAX_CSR = 16384  # characters
CURVES = (ec.SECP256R1, ec.SECP384R1)


class Authority:
    """A root and what it signs."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, root: x509.Certificate) -> None:
        self._key = key
        self._root = root
        self.root_pem = root.public_bytes(serialization.Encoding.PEM).decode()
        self.not_after = root.not_valid_after_utc

    def sign(self, csr_pem: str, identity: Identity, seconds: int, longest: float) -> list[str]:
        """The chain for `identity`: leaf first, root last. `seconds`: lifetime asked for, 0 for the longest there is.

        Raises PeerError(NO_CERTIFICATE) for a request that cannot be read, is not signed by its own key, or has a weak key.
        """
        if not 0 <= seconds <= MAX_LIFE:
            raise PeerError(Reason.NO_CERTIFICATE, f"a lifetime of {seconds} s was asked for; at most {MAX_LIFE} s are given")
        life = min(seconds or longest, longest)
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        leaf = self._leaf(_public_key(csr_pem), x509.Name([]), san, usages, timedelta(seconds=life), critical=True)
        return [leaf.public_bytes(serialization.Encoding.PEM).decode(), self.root_pem]

    def serving(self, names: Sequence[str]) -> tuple[bytes, bytes]:
        """A key and a chain, both PEM, for the control plane's own TLS port."""
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName([_general_name(name) for name in names])
        leaf = self._leaf(key.public_key(), x509.Name([]), san, [ExtendedKeyUsageOID.SERVER_AUTH], SERVING_LIFE, critical=True)
        return _private_pem(key), leaf.public_bytes(serialization.Encoding.PEM) + self.root_pem.encode()

    def _leaf(
        self,
        public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        subject: x509.Name,
        san: x509.SubjectAlternativeName,
        usages: list[x509.ObjectIdentifier],
        life: timedelta,
        *,
        critical: bool,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._root.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - min(BACKDATE, life / 10))
            .not_valid_after(min(now + life, self._root.not_valid_after_utc))
            .add_extension(san, critical=critical)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def load_or_create(directory: Path, trust_domain: str) -> Authority:
    """The authority kept in `directory`. Raises ConfigError where what is there cannot be used; nothing is ever replaced."""
    key_file, root_file = directory / "root-key.pem", directory / "root-cert.pem"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not key_file.exists():
        # The key is linked in place last: a start that died before it left nothing that a later one would trust.
        key = ec.generate_private_key(ec.SECP256R1())
        root = _self_signed(key, trust_domain)
        _write(root_file, root.public_bytes(serialization.Encoding.PEM), 0o644)
        _write(key_file, _private_pem(key), 0o600)
    return _load(key_file, root_file)


def _load(key_file: Path, root_file: Path) -> Authority:
    if key_file.stat().st_mode & 0o077:
        raise ConfigError(Refusal(str(key_file), "", "mode", oct(key_file.stat().st_mode & 0o777), "0600, owned by the control plane"))
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        root = x509.load_pem_x509_certificate(root_file.read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(Refusal(str(key_file.parent), "", "", str(error), "root-key.pem and root-cert.pem, both PEM")) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or root.public_key() != key.public_key():
        raise ConfigError(Refusal(str(key_file.parent), "", "", "a key that is not the certificate's", "an ECDSA key and its own root"))
    if root.not_valid_after_utc <= datetime.now(UTC):
        raise ConfigError(Refusal(str(root_file), "", "", f"a root that expired on {root.not_valid_after_utc}", "a root that is valid"))
    return Authority(key, root)


def _self_signed(key: ec.EllipticCurvePrivateKey, trust_domain: str) -> x509.Certificate:
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=not signs,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _public_key(csr_pem: str) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    if len(csr_pem) > MAX_CSR:
        raise PeerError(Reason.NO_CERTIFICATE, f"a request of {len(csr_pem)} characters")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        valid = csr.is_signature_valid
        key = csr.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise PeerError(Reason.NO_CERTIFICATE, f"the request cannot be read: {error}") from error
    if not valid:
        raise PeerError(Reason.NO_CERTIFICATE, "the request is not signed by its own key")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192:
        return key
    raise PeerError(Reason.NO_CERTIFICATE, "the request's key is neither ECDSA P-256 or P-384, nor RSA of 2048 to 8192 bits")


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by more than `mode` says, not even for a moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
