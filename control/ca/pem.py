"""Certificates and keys: the kinds that are taken, reading them from PEM, and what tells one from another. No I/O."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mesh.model.errors import ConfigError, Refusal

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

CURVES = (ec.SECP256R1, ec.SECP384R1)
RSA_BITS = (2048, 8192)
KEYS = f"ECDSA P-256 or P-384, or RSA of {RSA_BITS[0]} to {RSA_BITS[1]} bits"
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)


def good_key(key: object) -> bool:
    """Whether a public or private key is of a kind that is taken."""
    if isinstance(key, (ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey)):
        return isinstance(key.curve, CURVES)
    return isinstance(key, (rsa.RSAPublicKey, rsa.RSAPrivateKey)) and RSA_BITS[0] <= key.key_size <= RSA_BITS[1]


def certificates(text: str, where: str, part: str) -> tuple[str, ...]:
    """The certificates of a PEM text, each in one canonical form, so that equal ones are equal texts. What stands between blocks is left
    out. Raises ConfigError for one that cannot be read.
    """
    return tuple(to_pem(certificate(block, where, part)) for block in _BLOCK.findall(text))


def certificate(pem: str, where: str, part: str) -> x509.Certificate:
    """Raises ConfigError."""
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(Refusal(where, "", part, f"no certificate: {error}", "an X.509 certificate, PEM")) from error


def private_key(pem: str, where: str, part: str) -> PrivateKey:
    """Raises ConfigError. What is said of a key that cannot be read never holds any of it."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = "nothing" if not pem.strip() else "an encrypted key" if "ENCRYPTED" in pem else "something that is no private key"
        raise ConfigError(Refusal(where, "", part, why, "an unencrypted private key, PEM (PKCS#8, PKCS#1 or SEC 1)")) from None
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)) or not good_key(key):
        raise ConfigError(Refusal(where, "", part, "a key of another kind", KEYS))
    return key


def to_pem(each: x509.Certificate) -> str:
    return each.public_bytes(serialization.Encoding.PEM).decode()


def key_to_pem(key: PrivateKey) -> str:
    """PKCS#8, unencrypted."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


def digest_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    """The hash to sign with: as strong as the key."""
    strong = isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1)
    return hashes.SHA384() if strong else hashes.SHA256()


def issued_by(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    """Whether the name and the signature of `lower` are `upper`'s."""
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def named(each: x509.Certificate) -> str:
    """For people: its subject, or its serial where it has none."""
    return f"'{each.subject.rfc4514_string()}'" if list(each.subject) else f"serial {each.serial_number:x}"


def key_id(each: x509.Certificate) -> str:
    """The subject key identifier, hexadecimal: what tells two roots of one name apart. "" where it has none."""
    try:
        return each.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
    except x509.ExtensionNotFound:
        return ""
