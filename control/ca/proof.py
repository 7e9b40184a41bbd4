"""Whether what a CA signs works: a leaf is signed and shakes hands with itself, checked by OpenSSL exactly as the mesh's tunnels do.

`material.check` names what it finds. This finds the rest, such as name constraints that leave out our trust domain, before anything is
issued.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from control.ca.authority import Authority
from control.ca.pem import key_to_pem
from mesh.io.tls import make_credentials
from mesh.model.errors import ConfigError, PeerError, Refusal
from mesh.model.identity import Identity

LIFE = 60  # seconds


def prove(authority: Authority, trust_domain: str, where: str) -> None:
    """Raises ConfigError where no tunnel would accept what is signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    try:
        issued = authority.sign(pem, Identity(trust_domain, "culvert", "proof"), LIFE, LIFE)
        make_credentials(key_to_pem(key).encode(), issued.chain)
    except PeerError as error:
        accepted = f"a CA whose certificates for spiffe://{trust_domain}/... verify"
        raise ConfigError(Refusal(where, "", "", f"a leaf of it is refused ({error.detail})", accepted)) from error
