"""A certificate signing request, of which only the public key is used: who calls has proved for whom, and what a request says is no proof.

That a request is signed by its own key shows that somebody who had the key made it, not that the caller has it: a request may be
recorded and sent again. Nothing is gained by that (docs/decisions/0013): the certificate names the caller's own identity, and without the
key it opens nothing.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from control.ca.pem import KEYS, PublicKey, good_key
from mesh.model.errors import PeerError
from mesh.model.reasons import Reason

MAX_CSR = 16384  # characters
_BEGINNINGS = ("-----BEGIN CERTIFICATE REQUEST-----", "-----BEGIN NEW CERTIFICATE REQUEST-----")


def public_key(pem: str) -> PublicKey:
    """The key to certify. Raises PeerError(NO_CERTIFICATE) for anything but one request that is signed by its own, good key."""
    if len(pem) > MAX_CSR:
        raise _refused(f"a request of {len(pem)} characters; at most {MAX_CSR} are read")
    text = pem.strip()
    if not text.startswith(_BEGINNINGS) or text.count("-----BEGIN") != 1:
        raise _refused("no certificate request: one PEM block of that name is expected, and nothing else")
    try:
        request = x509.load_pem_x509_csr(text.encode())
        key = request.public_key()
        if not good_key(key):  # before the signature: to check that of an odd key may cost much
            raise _refused(f"the request's key is of another kind; accepted: {KEYS}")
        if not request.is_signature_valid:
            raise _refused("the request is not signed by its own key")
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise _refused(f"the request cannot be read: {error}") from error
    return key  # type: ignore[return-value]  # `good_key` said so


def _refused(why: str) -> PeerError:
    return PeerError(Reason.NO_CERTIFICATE, why)
