"""Secrets → what SDS serves. The message holds a private key: whoever encodes it keeps it out of logs and dumps."""

from __future__ import annotations

from typing import Any

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from mesh.model.l7.secrets import CertificateSecret, Secret


def secret(entry: Secret) -> Any:
    made = secret_pb2.Secret(name=entry.name)
    if isinstance(entry, CertificateSecret):
        made.tls_certificate.certificate_chain.inline_bytes = entry.chain
        made.tls_certificate.private_key.inline_bytes = entry.key
    else:
        made.validation_context.trusted_ca.inline_bytes = entry.roots
    return made
