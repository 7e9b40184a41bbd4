"""A throw-away CA and two leaves with SPIFFE ids, for the peers that need them as files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

ROOT = "root.pem"


def make(directory: Path, identities: dict[str, str], *, days: int = 1) -> None:
    """Write `root.pem`, and for each name `<name>.pem`, `<name>.key` and `<name>.both` with the SPIFFE id that it maps to."""
    now = datetime.now(UTC)
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "cluster.local")])

    def certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(root_name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(minutes=2)).not_valid_after(now + timedelta(days=days))
        return builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)

    root = certificate(root_name, root_key, ca=True).sign(root_key, hashes.SHA256())
    (directory / ROOT).write_bytes(root.public_bytes(serialization.Encoding.PEM))
    for name, identity in identities.items():
        key = ec.generate_private_key(ec.SECP256R1())
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = certificate(x509.Name([]), key, ca=False).add_extension(usages, critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True)
        chain = builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / f"{name}.pem").write_bytes(chain)
        (directory / f"{name}.key").write_bytes(private)
        (directory / f"{name}.both").write_bytes(chain + private)
