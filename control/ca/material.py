"""What a CA signs with: a key, its certificate and the way up to the roots, checked as a whole before anything is signed.

`Material` is the PEM as it is kept and mounted. `check` turns it into a `Signer`, or says in one ConfigError what is wrong: who puts a
wrong file there must learn it from us at once, and not from every connection of the mesh that fails afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from cryptography import x509

from control.ca.pem import KEYS, PrivateKey, certificate, good_key, issued_by, named, private_key
from mesh.model.errors import ConfigError, Refusal

MAX_CHAIN, MAX_ROOTS = 8, 16


@dataclass(frozen=True, slots=True)
class Material:
    """All PEM, one certificate per text, each ending in a line break.

    key: of the certificate that signs; "" where it is not here.
    chain: the certificate that signs first, then those above it, without the root. Empty where the root itself signs.
    roots: what peers trust; the one that the chain leads to first.
    root_key: of that root; needed to make an intermediate and for nothing else. "" where it is kept elsewhere.
    """

    key: str = field(repr=False)
    chain: tuple[str, ...]
    roots: tuple[str, ...]
    root_key: str = field(default="", repr=False)

    @property
    def certificate(self) -> str:
        """The one that signs."""
        return self.chain[0] if self.chain else self.roots[0]


@dataclass(frozen=True, slots=True)
class Signer:
    """Material that has been checked. `not_after` is the earliest end of the chain and its root: nothing that is signed may outlive it."""

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    root: x509.Certificate
    not_after: datetime


def check(material: Material, now: datetime, where: str) -> Signer:
    """Raises ConfigError naming `where` and the part that cannot be used."""

    def refuse(part: str, value: str, accepted: str) -> ConfigError:
        return ConfigError(Refusal(where, "", part, value, accepted))

    if not material.roots or len(material.roots) > MAX_ROOTS or len(material.chain) > MAX_CHAIN:
        sizes = f"{len(material.chain)} certificates below {len(material.roots)} roots"
        raise refuse("chain", sizes, f"1 to {MAX_ROOTS} roots, at most {MAX_CHAIN} certificates below")
    path = [certificate(pem, where, "chain") for pem in material.chain] + [certificate(material.roots[0], where, "root")]
    for pem in material.roots[1:]:
        certificate(pem, where, "root")
    for below, each in enumerate(path):
        _check_authority(each, below, now, refuse)
    for lower, upper in pairwise(path):
        if not issued_by(lower, upper):
            raise refuse("chain", f"{named(lower)} is not signed by {named(upper)}", "each certificate signed by the next, up to the root")
    key = private_key(material.key, where, "key")
    if key.public_key() != path[0].public_key():
        raise refuse("key", f"a key that is not that of {named(path[0])}", "the key of the certificate that signs")
    return Signer(key, path[0], path[-1], min(each.not_valid_after_utc for each in path))


def _check_authority(each: x509.Certificate, below: int, now: datetime, refuse: Callable[[str, str, str], ConfigError]) -> None:
    """One certificate of a chain, with `below` authorities under it. Raises ConfigError."""
    try:
        constraints = each.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = x509.BasicConstraints(ca=False, path_length=None)
    if not constraints.ca:
        raise refuse("certificate", f"{named(each)} is not a CA", "a certificate with basic constraints CA:TRUE")
    if constraints.path_length is not None and constraints.path_length < below:
        raise refuse("certificate", f"{named(each)} has path length {constraints.path_length}", f"at least {below}, or none")
    try:
        signs = each.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        signs = True  # RFC 5280 §4.2.1.3: without the extension any use is allowed
    if not signs:
        raise refuse("certificate", f"{named(each)} may not sign certificates", "key usage keyCertSign")
    if not good_key(each.public_key()):
        raise refuse("certificate", f"{named(each)} has a key of another kind", KEYS)
    if now >= each.not_valid_after_utc:
        raise refuse("certificate", f"{named(each)} expired on {each.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC", "one that is valid")
    if now < each.not_valid_before_utc:
        begins = f"{each.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC"
        raise refuse("certificate", f"{named(each)} is valid from {begins} on", "one that is valid now (is this machine's clock right?)")
