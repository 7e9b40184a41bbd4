"""The keys of a private cluster: its CA, servers' and users' certificates, what signs service account tokens, an administrator's token."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = datetime.timedelta(days=2)
SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost")


class Pki:
    """Files in `directory`, made once; a later Pki of the same directory makes new ones."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self.ca, self.ca_key = directory / "ca.crt", directory / "ca.key"
        self.accounts_key = directory / "accounts.key"
        self.tokens = directory / "tokens.csv"
        self.admin_token = secrets.token_hex(16)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("culvert-tests")
        ca = _builder(self._name, self._name, self._key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        # kubelets and API servers refuse nothing without it, Python's strict verification does.
        ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self._certificate = ca.add_extension(usage, True).sign(self._key, hashes.SHA256())
        self.ca.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        _secret(self.ca_key, _pem(self._key))
        _secret(self.accounts_key, _pem(rsa.generate_private_key(65537, 2048)))
        _secret(self.tokens, f'{self.admin_token},admin,admin,"system:masters"\n'.encode())

    def server(self, name: str, addresses: Iterable[str], names: Iterable[str] = SERVICE_NAMES) -> tuple[Path, Path]:
        """(certificate, key) of a TLS server under these names and addresses."""
        alternatives: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
        return self._issue(name, _name(name), x509.SubjectAlternativeName(alternatives), ExtendedKeyUsageOID.SERVER_AUTH)

    def client(self, user: str, *groups: str) -> tuple[Path, Path]:
        """(certificate, key) of a user of the API server: CN is the user, each O a group."""
        return self._issue(f"user-{user.replace(':', '-')}", _name(user, *groups), None, ExtendedKeyUsageOID.CLIENT_AUTH)

    def kubeconfig(self, path: Path, url: str, token: str = "", certificate: tuple[Path, Path] | None = None) -> Path:
        """Self-contained: it works inside a pod as well as here."""
        user: dict[str, str] = {"token": token}
        if certificate is not None:
            user = {"client-certificate-data": _encoded(certificate[0]), "client-key-data": _encoded(certificate[1])}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority-data": _encoded(self.ca)}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        if url.startswith("http:"):
            del content["clusters"][0]["cluster"]["certificate-authority-data"]  # type: ignore[index]
        _secret(path, yaml.safe_dump(content).encode())
        return path

    def _issue(
        self, file: str, subject: x509.Name, alternatives: x509.SubjectAlternativeName | None, usage: x509.ObjectIdentifier
    ) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, self._name, key.public_key()).add_extension(x509.ExtendedKeyUsage([usage]), False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        if alternatives is not None:
            builder = builder.add_extension(alternatives, False)
        certificate_path, key_path = self.directory / f"{file}.crt", self.directory / f"{file}.key"
        certificate_path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        _secret(key_path, _pem(key))
        return certificate_path, key_path


def _name(common: str, *organisations: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organisations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - DAYS).not_valid_after(now + DAYS)


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _secret(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
