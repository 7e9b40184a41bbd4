"""CAs and requests for tests, and the `openssl` command as the judge of chains."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from prometheus_client import CollectorRegistry

from control.ca.authority import Authority
from control.ca.directory import DirectoryStore
from control.ca.holders import Holders
from control.ca.keeper import CaSettings, Keeper
from control.ca.make import Lives, self_made
from control.ca.material import Material, check
from control.ca.metrics import CaMetrics
from control.ca.state import State
from control.ca.store import Store
from mesh.model.identity import Identity

DOMAIN = "cluster.local"
DAY = 86400
ME = Identity(DOMAIN, "shop", "cart")
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def now() -> datetime:
    return datetime.now(UTC)


@lru_cache(maxsize=1)
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def request(own: Key | None = None, name: str = "spiffe://cluster.local/ns/kube-system/sa/admin") -> str:
    """A request that claims to be somebody else, which must not matter."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)]), critical=True)
    return builder.sign(own or key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def private_pem(own: Key) -> str:
    plain = serialization.NoEncryption()
    return own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


def a_state(longest: int = DAY, when: datetime | None = None, lives: Lives | None = None) -> State:
    return State(DOMAIN, self_made(DOMAIN, when or now(), lives or Lives()), since=(when or now()).timestamp(), longest=longest)


def authority_of(state: State, when: datetime | None = None) -> Authority:
    return Authority(check(state.current, when or now(), "a test"), state.current.chain, state.bundle, state.token)


def secret_lines(text: str) -> set[str]:
    """The lines of a PEM key that hold private bytes. The last of a P-256 key is of its public key, which is in its certificate too."""
    return set(text.splitlines()[1:3])


class Clock:
    """Unix time that goes on by itself, and by leaps."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def a_keeper(
    store: Store | Path,
    *,
    clock: Clock | None = None,
    longest: int = DAY,
    lives: Lives | None = None,
    mount: Path | None = None,
    bundle: Path | None = None,
    holders: Holders | None = None,
) -> Keeper:
    settings = CaSettings(DOMAIN, longest, lives or Lives(), mount, bundle)
    kept = DirectoryStore(store) if isinstance(store, Path) else store
    return Keeper(settings, kept, holders or Holders(), CaMetrics(CollectorRegistry()), clock or Clock())


def verify(directory: Path, chain: Sequence[str], purpose: str = "sslclient", at: datetime | None = None) -> str:
    """What `openssl verify` says against a chain as it is answered (leaf, what is between, roots); "" if nothing."""
    done = _judged(directory, chain, purpose, at)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def path(directory: Path, chain: Sequence[str], purpose: str) -> list[str]:
    """The subjects on the way that `openssl verify` found, from the leaf to the root. AssertionError where it found none."""
    done = _judged(directory, chain, purpose)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.partition(": ")[2].removesuffix(" (untrusted)").strip() for line in done.stdout.splitlines() if line.startswith("depth=")]


def _judged(directory: Path, chain: Sequence[str], purpose: str, at: datetime | None = None) -> subprocess.CompletedProcess[str]:
    for name, text in (("leaf", chain[0]), ("between", "".join(chain[1:-1])), ("roots", chain[-1])):
        (directory / f"{name}.pem").write_text(text)
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "roots.pem"]
    command += ["-no-CApath", "-no-CAstore", "-show_chain", "-nameopt", "RFC2253"]
    if len(chain) > 2:
        command += ["-untrusted", "between.pem"]
    if at is not None:
        command += ["-attime", str(int(at.timestamp()))]
    return subprocess.run([*command, "leaf.pem"], cwd=directory, capture_output=True, text=True, check=False)


class Foreign:
    """Certificates of a CA that is not ours, right or wrong in one respect."""

    def __init__(self, own: Key | None = None) -> None:
        self.key: Key = own or ec.generate_private_key(ec.SECP256R1())
        self.certificate: x509.Certificate = self.issue("root", self.key, None)

    @property
    def pem(self) -> str:
        return pem(self.certificate)

    def issue(
        self,
        name: str,
        own: Key,
        issuer: x509.Certificate | None,
        *,
        ca: bool = True,
        path_length: int | None = None,
        signs: bool = True,
        begin: timedelta = timedelta(hours=-1),
        end: timedelta = timedelta(days=30),
        constraints: x509.NameConstraints | None = None,
        identifiers: bool = True,
    ) -> x509.Certificate:
        """Signed by this CA's key; `issuer` None: by itself."""
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=signs,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer is not None else subject)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() + begin)
            .not_valid_after(now() + end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), critical=True)
            .add_extension(usage, critical=True)
        )
        if identifiers:
            builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
            builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        if constraints is not None:
            builder = builder.add_extension(constraints, critical=True)
        return builder.sign(self.key, hashes.SHA256())

    def intermediate(self, own: Key, name: str = "intermediate", **wrong: object) -> x509.Certificate:
        return self.issue(name, own, self.certificate, **wrong)  # type: ignore[arg-type]

    def material(self, own: Key, **wrong: object) -> Material:
        return Material(private_pem(own), (pem(self.intermediate(own, **wrong)),), (self.pem,))


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
