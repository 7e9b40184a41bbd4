"""Real TLS conversations between two in-memory ends, as a bystander sees them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

APPLICATION = b"a marked payload that must not be seen " * 50


def write_pem(path: Path) -> Path:
    """A self-signed certificate and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    certificate = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1)).sign(key, hashes.SHA256())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def transcript(pem: Path, version: ssl.TLSVersion, *, groups: str = "") -> tuple[bytes, bytes]:
    """Both directions of one whole conversation; `groups` the server's only curve, which makes it ask the client to try again."""
    server_context, client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server_context.load_cert_chain(pem)
    if groups:
        server_context.set_ecdh_curve(groups)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    for context in (server_context, client_context):
        context.minimum_version = context.maximum_version = version
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = client_context.wrap_bio(to_client, to_server), server_context.wrap_bio(to_server, to_client, server_side=True)
    # MemoryBIOs are emptied by the other end, so both directions are copied as they pass.
    wires: tuple[bytearray, bytearray] = (bytearray(), bytearray())

    def step(end: ssl.SSLObject, out: ssl.MemoryBIO, wire: bytearray, action: object) -> bool:
        try:
            action()  # type: ignore[operator]
            done = True
        except ssl.SSLWantReadError:
            done = False
        data = out.read()
        wire += data
        out.write(data)
        return done

    finished = [False, False]
    while not all(finished):
        finished[0] = step(client, to_server, wires[0], client.do_handshake)
        finished[1] = step(server, to_client, wires[1], server.do_handshake)
    step(client, to_server, wires[0], lambda: client.write(APPLICATION))
    step(server, to_client, wires[1], lambda: server.read(65536))
    step(server, to_client, wires[1], lambda: server.write(APPLICATION))
    return bytes(wires[0]), bytes(wires[1])
