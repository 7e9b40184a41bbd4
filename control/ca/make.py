"""Our own roots and intermediates: ECDSA P-256, the root for ten years, the intermediate for one.

    root          path length 1: it signs intermediates and nothing else, and its key is needed for nothing else
    intermediate  path length 0: it signs leaves, and no authority can be made under it

Both name the trust domain in the form that SPIFFE's X.509-SVID (§3) wants of signing certificates, a URI without a path. Neither carries
name constraints: rustls, with which Istio's tunnel verifies, refuses every certificate with a URI below a CA that constrains URIs
(docs/decisions/0013). Two roots of one mesh have different subjects, so that a verifier that looks issuers up by name finds the right one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from control.ca.material import Material
from control.ca.pem import PrivateKey, certificate, digest_for, key_to_pem, private_key, to_pem
from mesh.model.errors import CulvertError

EARLY = timedelta(
    hours=1
)  # how long before now a new authority begins: clocks of nodes differ, and an authority a little early harms nobody


class RootKeyAway(CulvertError):  # noqa: N818 - reads as what happened
    """The root's key is needed and is not here."""


@dataclass(frozen=True, slots=True)
class Lives:
    """How long what we make lives."""

    root: timedelta = timedelta(days=3650)
    intermediate: timedelta = timedelta(days=365)


def self_made(trust_domain: str, now: datetime, lives: Lives) -> Material:
    """A new root and an intermediate under it."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = _authority(key, None, key, "root", trust_domain, now, now + lives.root, 1)
    return with_intermediate(Material("", (), (to_pem(root),), key_to_pem(key)), trust_domain, now, lives)


def with_intermediate(material: Material, trust_domain: str, now: datetime, lives: Lives) -> Material:
    """The same root, and a new intermediate with a new key. Raises RootKeyAway, ConfigError where the root cannot be read."""
    if not material.root_key:
        raise RootKeyAway("the root's key is kept elsewhere: put it back for as long as an intermediate is made")
    root_key = private_key(material.root_key, "the root", "key")
    root = certificate(material.roots[0], "the root", "certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + lives.intermediate, root.not_valid_after_utc)
    made = _authority(key, root, root_key, "intermediate", trust_domain, now, end, 0)
    return replace(material, key=key_to_pem(key), chain=(to_pem(made),))


def _authority(
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: PrivateKey,
    kind: str,
    trust_domain: str,
    now: datetime,
    end: datetime,
    path_length: int,
) -> x509.Certificate:
    """`issuer` None: signed by itself."""
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    common = f"Culvert {kind} {identifier.digest.hex()[:8]}"
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]), x509.NameAttribute(NameOID.COMMON_NAME, common)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - EARLY, issuer.not_valid_before_utc) if issuer is not None else now - EARLY)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage(signs=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False)
    )
    if issuer is not None:
        builder = builder.add_extension(authority_key(issuer), critical=False)
    return builder.sign(issuer_key, digest_for(issuer_key))


def key_usage(*, signs: bool, enciphers: bool = False) -> x509.KeyUsage:
    """Of an authority (`signs`), or of a leaf: `enciphers` where its key is RSA, which may also transport keys."""
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=enciphers,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """As the issuer calls its key itself, where it does: a mounted CA may not use SHA-1 of it."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]  # checked before
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
