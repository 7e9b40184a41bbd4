"""What signs: one unchanging set of key, chain and roots. A rotation makes another `Authority`; who signs asks each time for the one in
force.

An answer to a workload is the leaf, then the chain below the root, then all roots in one text: Istio's clients take the last element for
what they trust, and it may hold several certificates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from control.ca.csr import public_key
from control.ca.make import authority_key, key_usage
from control.ca.material import Signer
from control.ca.pem import PublicKey, digest_for, key_to_pem, to_pem
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.reasons import Reason

BACKDATE = timedelta(minutes=2)  # clocks of nodes differ; less for short-lived ones, which are renewed at half of their life
FAST_RSA = 2048  # bits up to which a signature takes less than a millisecond
MAX_LIFE = 90 * 86400  # seconds; a longer request is an error, as at Istio's CA

_PEER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
_END = x509.BasicConstraints(ca=False, path_length=None)
_USAGE = {False: key_usage(signs=False), True: key_usage(signs=False, enciphers=True)}
_NOBODY = x509.Name([])


class CannotSign(PeerError):  # noqa: N818 - reads as what happened
    """The authority itself has come to its end; the caller may try again when somebody has renewed it."""


@dataclass(frozen=True, slots=True)
class Issued:
    """`chain` as it is answered: PEM, leaf first, roots last. `not_after` in Unix seconds."""

    chain: tuple[str, ...]
    not_after: float
    serial: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key and its chain without the root, both PEM, for a server of our own."""

    key: bytes = field(repr=False)
    chain: bytes
    not_before: float
    not_after: float


class Authority:
    """A signer, its chain (PEM, without the root) and the roots (PEM) that peers are to trust. `token` names what of it leaves must
    follow.
    """

    def __init__(self, signer: Signer, chain: Sequence[str], roots: Sequence[str], token: str) -> None:
        self._signer = signer
        self._key_identifier = authority_key(signer.certificate)
        self._digest = digest_for(signer.key)
        self.chain = tuple(chain)
        self.roots = tuple(roots)
        self.bundle = "".join(roots)
        self.token = token
        self.certificate = signer.certificate
        self.root = signer.root
        self.slow = isinstance(signer.key, rsa.RSAPrivateKey) and signer.key.key_size > FAST_RSA
        self.not_after = signer.not_after

    def __repr__(self) -> str:
        return f"<Authority {self.token} {self.certificate.subject.rfc4514_string()}>"

    def sign(self, csr_pem: str, identity: Identity, seconds: int, longest: float, now: datetime | None = None) -> Issued:
        """A certificate for `identity`. `seconds`: lifetime asked for, 0 for the longest there is.

        Raises PeerError(NO_CERTIFICATE) for a request that cannot be taken; CannotSign where the authority has expired.
        """
        if not 0 <= seconds <= MAX_LIFE:
            raise PeerError(Reason.NO_CERTIFICATE, f"a lifetime of {seconds} s was asked for; at most {MAX_LIFE} s are given")
        life = timedelta(seconds=min(seconds or longest, longest))
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
        leaf = self._leaf(public_key(csr_pem), names, _PEER, life, now or datetime.now(UTC))
        pem = to_pem(leaf)
        return Issued((pem, *self.chain, self.bundle), leaf.not_valid_after_utc.timestamp(), leaf.serial_number)

    def serving(self, names: Sequence[str], life: timedelta, now: datetime | None = None) -> Pair:
        """A new key with a certificate for these DNS names and addresses. Raises CannotSign."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        return self._pair(key, self._leaf(key.public_key(), alternatives, _SERVER, life, now or datetime.now(UTC)))

    def workload(self, identity: Identity, life: timedelta, now: datetime | None = None) -> Pair:
        """A new key with a certificate for `identity`, for a proxy that is handed both (SDS). Raises CannotSign."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
        return self._pair(key, self._leaf(key.public_key(), names, _PEER, life, now or datetime.now(UTC)))

    def _pair(self, key: ec.EllipticCurvePrivateKey, leaf: x509.Certificate) -> Pair:
        chain = "".join((to_pem(leaf), *self.chain)).encode()
        return Pair(key_to_pem(key).encode(), chain, leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())

    def _leaf(
        self, key: PublicKey, names: x509.SubjectAlternativeName, usage: x509.ExtendedKeyUsage, life: timedelta, now: datetime
    ) -> x509.Certificate:
        if now >= self.not_after:
            raise CannotSign(Reason.NO_CERTIFICATE, f"what the CA signs with expired on {self.not_after:%Y-%m-%d %H:%M:%S} UTC")
        return (
            x509.CertificateBuilder()
            .subject_name(_NOBODY)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - min(BACKDATE, life / 10))
            .not_valid_after(min(now + life, self.not_after))
            .add_extension(names, critical=True)  # RFC 5280 §4.2.1.6: critical where the subject is empty
            .add_extension(usage, critical=False)
            .add_extension(_END, critical=True)
            .add_extension(_USAGE[isinstance(key, rsa.RSAPublicKey)], critical=True)
            .add_extension(self._key_identifier, critical=False)
            .sign(self._signer.key, self._digest)
        )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
