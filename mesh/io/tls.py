"""Mutual TLS 1.3 between workloads: contexts made from a certificate, the identity checks of both sides, and why a handshake failed.

What is allowed on the wire, and how it is held:
- TLS 1.3 only (minimum = maximum); ALPN exactly `h2`, checked again after the handshake, because OpenSSL goes on without ALPN when the
  lists have nothing in common. No session tickets, no resumption, no compression, no renegotiation (TLS 1.3 has none).
- AES-GCM only. The `ssl` module of Python 3.11 cannot choose TLS 1.3 suites (`set_ciphers` rules TLS 1.2 and below). OpenSSL's order is
  TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256, TLS_AES_128_GCM_SHA256, the server's choice follows the client's order, and so
  between two of us it is always AES-256-GCM. A peer that offers or picks nothing but ChaCha20 is refused after the handshake
  (`check_session`), before any byte of a stream.
- Both sides show a certificate. OpenSSL checks chain, dates and the extended key usage (a client must be good for clientAuth, a server for
  serverAuth); host names mean nothing here. The trust anchors are the roots that came with our own certificate, self-signed or not; there
  are several while the CA changes its root. What is between leaf and root each side shows itself: we know no intermediate but our own.
- The client accepts a server of which at least one URI SAN is an accepted identity. The server takes the first parseable SPIFFE SAN of the
  client as its identity, and its trust domain must be our own.

Private keys go from memory to OpenSSL through an anonymous file (memfd): they are never on a disk, never in a log, never in a repr.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.model.errors import PeerError
from mesh.model.identity import Identity, parse_spiffe
from mesh.model.reasons import Reason

ALPN = "h2"
SUITES = frozenset({"TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"})

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)

# X509_V_ERR_* of OpenSSL (x509_vfy.h) that are about dates. Every other verification failure means "does not chain to our roots".
_DATES = frozenset({9, 10})  # certificate not yet valid, certificate has expired

# What OpenSSL calls the failure (SSLError.reason), by ours. What is not here is TLS_HANDSHAKE.
_BY_NAME: Mapping[str, Reason] = {
    "UNSUPPORTED_PROTOCOL": Reason.TLS_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": Reason.TLS_VERSION,
    "WRONG_SSL_VERSION": Reason.TLS_VERSION,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Reason.CERTIFICATE_MISSING,
    "NO_APPLICATION_PROTOCOL": Reason.ALPN_MISMATCH,
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": Reason.ALPN_MISMATCH,
}
_REFUSED_US = "the peer refused our certificate"


@dataclass(frozen=True, slots=True)
class Credentials:
    """One workload's certificate, ready for both sides of a handshake. Times are seconds since the epoch.

    chain_pem: what we show, leaf first; roots_pem: whom we trust. One certificate per text. trust: what the CA calls the state that it
    answered from; "" where it does not say.
    """

    identity: Identity
    server: ssl.SSLContext = field(repr=False)
    client: ssl.SSLContext = field(repr=False)
    not_before: float
    not_after: float
    chain_pem: tuple[str, ...] = field(repr=False)
    roots_pem: tuple[str, ...] = field(repr=False)
    trust: str = ""


def make_credentials(key_pem: bytes, chain_pem: Sequence[str], trust: str = "") -> Credentials:
    """Credentials from a private key (PEM) and the CA's answer: the leaf first, then what is between, and last, in one text, every root.

    Proved before it is used: both contexts shake hands with each other in memory, which shows that the key belongs to the leaf, that the
    chain leads to the root, that the dates hold now and that both key usages are there. Raises PeerError(NO_CERTIFICATE).
    """
    chain = tuple(pem for pem in chain_pem if pem.strip())
    if len(chain) < 2:
        raise PeerError(Reason.NO_CERTIFICATE, "the CA must answer with a chain: leaf first, root last")
    presented, roots = split_pem("\n".join(chain[:-1])), split_pem(chain[-1])
    try:
        server = _context(ssl.PROTOCOL_TLS_SERVER, key_pem, presented, roots)
        client = _context(ssl.PROTOCOL_TLS_CLIENT, key_pem, presented, roots)
        known = client.cert_store_stats()
        if known["x509"] != known["x509_ca"]:
            raise ValueError("what came as roots holds a certificate that is none")
        certificate = _prove(server, client)
    except (ssl.SSLError, ValueError) as error:
        raise PeerError(Reason.NO_CERTIFICATE, f"the certificate cannot be used: {describe(error)}") from error
    identity = first_identity(certificate)
    if identity is None:
        raise PeerError(Reason.NO_CERTIFICATE, "the certificate carries no SPIFFE id")
    return Credentials(
        identity=identity,
        server=server,
        client=client,
        not_before=float(ssl.cert_time_to_seconds(certificate["notBefore"])),
        not_after=float(ssl.cert_time_to_seconds(certificate["notAfter"])),
        chain_pem=presented,
        roots_pem=roots,
        trust=trust,
    )


def split_pem(text: str) -> tuple[str, ...]:
    """The certificates of a PEM text, each one ending in a line break; what stands around them is left out."""
    return tuple(block + "\n" for block in _CERTIFICATE.findall(text))


def check_session(tls: ssl.SSLObject) -> None:
    """What both sides check once the handshake is done: ALPN and cipher suite. Raises PeerError."""
    if tls.selected_alpn_protocol() != ALPN:
        raise PeerError(Reason.ALPN_MISMATCH, f"the peer chose {tls.selected_alpn_protocol()!r}")
    cipher = tls.cipher()
    if cipher is None or cipher[0] not in SUITES:
        raise PeerError(Reason.TLS_HANDSHAKE, f"cipher suite {cipher[0] if cipher else None} is not AES-GCM")


def peer_identity(tls: ssl.SSLObject) -> Identity:
    """The first parseable SPIFFE id of the peer's certificate. Raises PeerError(CERTIFICATE_MISSING or NO_SPIFFE_ID)."""
    identity = first_identity(_certificate(tls))
    if identity is None:
        raise PeerError(Reason.NO_SPIFFE_ID)
    return identity


def client_identity(tls: ssl.SSLObject, trust_domain: str) -> Identity:
    """Server side: who the client is. Raises PeerError if it is nobody, or of another trust domain than ours."""
    identity = peer_identity(tls)
    if identity.trust_domain != trust_domain:
        raise PeerError(Reason.WRONG_TRUST_DOMAIN, f"{identity} is not of {trust_domain}")
    return identity


def server_identity(tls: ssl.SSLObject, accepted: frozenset[Identity]) -> Identity:
    """Client side: which of the accepted identities the server proved. Raises PeerError(NO_SPIFFE_ID or IDENTITY_MISMATCH)."""
    shown = [identity for uri in uris(_certificate(tls)) if (identity := parse_spiffe(uri))]
    for identity in shown:
        if identity in accepted:
            return identity
    if not shown:
        raise PeerError(Reason.NO_SPIFFE_ID)
    expected = ", ".join(sorted(map(str, accepted))) or "nobody"
    raise PeerError(Reason.IDENTITY_MISMATCH, f"expected {expected}, the peer is {', '.join(map(str, shown))}")


def first_identity(certificate: Mapping[str, Any]) -> Identity | None:
    for uri in uris(certificate):
        identity = parse_spiffe(uri)
        if identity is not None:
            return identity
    return None


def uris(certificate: Mapping[str, Any]) -> Iterator[str]:
    """The URI SANs of a certificate as `SSLObject.getpeercert` decodes it, in their order."""
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "URI":
            yield value


def reason_of(error: BaseException) -> Reason:
    """The one reason for a failed handshake or a broken session."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Reason.CERTIFICATE_EXPIRED if error.verify_code in _DATES else Reason.CERTIFICATE_UNTRUSTED
    if isinstance(error, ssl.SSLError):
        return _BY_NAME.get(error.reason or "", Reason.TLS_HANDSHAKE)
    return Reason.TLS_HANDSHAKE


def describe(error: BaseException) -> str:
    """A failure in words for an operator, without OpenSSL's file names and line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLEOFError):
        return "the peer closed the connection during the handshake"
    name = getattr(error, "reason", None) or str(error)
    if "ALERT" in name and ("CERT" in name or name.endswith(("UNKNOWN_CA", "ACCESS_DENIED"))):
        return f"{_REFUSED_US} ({name})"
    return str(name)


def _certificate(tls: ssl.SSLObject) -> Mapping[str, Any]:
    try:
        certificate = tls.getpeercert()
    except ValueError as error:  # also UnicodeDecodeError: a SAN that is not text
        raise PeerError(Reason.NO_SPIFFE_ID, "the certificate's names cannot be read") from error
    if not certificate:
        raise PeerError(Reason.CERTIFICATE_MISSING)
    return certificate


def _context(protocol: ssl._SSLMethod, key_pem: bytes, presented: Sequence[str], roots: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the CA's root may itself be signed by somebody we do not ask
    context.set_alpn_protocols([ALPN])
    context.options |= ssl.OP_NO_TICKET
    if protocol is ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    with _anonymous_file("".join(presented).encode()) as chain, _anonymous_file(key_pem) as key:
        context.load_cert_chain(chain, key, password=_no_password)
    context.load_verify_locations(cadata="".join(roots))
    return context


def _no_password() -> bytes:
    """Without this OpenSSL asks the terminal about an encrypted key and waits for ever."""
    raise ValueError("the private key is encrypted")


@contextlib.contextmanager
def _anonymous_file(content: bytes) -> Iterator[str]:
    descriptor = os.memfd_create("culvert", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _prove(server: ssl.SSLContext, client: ssl.SSLContext) -> Mapping[str, Any]:
    """Shake hands in memory; what the client side learns of the server's certificate. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up)
    far = server.wrap_bio(up, down, server_side=True)
    finished: set[ssl.SSLObject] = set()
    for _ in range(4):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            finished.add(side)
        if len(finished) == 2:
            break
    else:
        raise ValueError("the handshake with ourselves does not end")
    certificate = near.getpeercert()
    if certificate is None:
        raise ValueError("no certificate")
    return certificate
