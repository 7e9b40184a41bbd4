"""Gateway of networking.istio.io: where traffic comes in. Here IstioGateway, since the Gateway API has a Gateway too."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.core import Object
from mesh.model.manifest.istio import NETWORKING_VERSIONS
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import LABELS, NOTHING, PORT, Choice, Flag, ListOf, Parsed, Text
from mesh.model.manifest.status import IstioStatus, status
from mesh.model.manifest.words import DNS, NAME, NAMESPACE, NONEMPTY, upper

PROTOCOLS = ("HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS")
ENCRYPTED = ("HTTPS", "TLS")
MODES = ("PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL")
UNOPENED = ("PASSTHROUGH", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL")
VERSIONS = Choice(("TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"))
SERVED_HOST = Parsed(
    str.lower,
    "a DNS name, which may begin with '*.', or '*'; after <namespace>/, ./ or */ only of VirtualServices there",
    rf"(?:(?:\.|\*|{NAMESPACE})/)?(?:\*|(?:\*\.)?{DNS})",
    320,
)
FINGERPRINTS = "certificates are verified by their authority alone"
NO_REVOCATION = "revocation lists are not read"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPort:
    number: int = item(PORT, required=True, about="The port that is listened on.")
    name: str = item(NAME, required=True, about="A name for it.")
    protocol: str = item(upper(PROTOCOLS), required=True, about="What is spoken over it: " + ", ".join(PROTOCOLS) + ".")
    target_port: int | None = item(PORT, about="Istio has stopped reading it.", unsupported="Istio dropped it, and so do we")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    server_certificate: str = item(NONEMPTY, required=True, about="The file of the certificate.")
    private_key: str = item(NONEMPTY, required=True, about="The file of its key.")
    ca_certificates: str = item(NONEMPTY, "", about="The file of authorities of clients.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    https_redirect: bool = item(Flag(), False, about="Whether plaintext requests are sent to https, with status 301.")
    mode: str = item(
        Choice(MODES), "PASSTHROUGH", about="Whether TLS is passed on unopened or ended here, and whether clients must prove who they are."
    )
    server_certificate: str = item(NONEMPTY, "", about="The file of the certificate.")
    private_key: str = item(NONEMPTY, "", about="The file of its key.")
    ca_certificates: str = item(NONEMPTY, "", about="The file of authorities of clients, for MUTUAL.")
    ca_crl: str = item(NONEMPTY, "", about="The file of certificates that were revoked.", unsupported=NO_REVOCATION, guard=True)
    credential_name: str = item(NONEMPTY, "", about="A Secret with the certificate and its key.")
    credential_names: tuple[str, ...] = item(ListOf(NONEMPTY, 1, 2), (), about="Up to two Secrets, for keys of two kinds.")
    ca_cert_credential_name: str = item(NONEMPTY, "", about="A Secret with the authorities of clients.")
    tls_certificates: tuple[TlsFiles, ...] = item(
        ListOf(Record(TlsFiles), 1, 2), (), about="Up to two certificates, for keys of two kinds."
    )
    subject_alt_names: tuple[str, ...] = item(ListOf(NONEMPTY, most=256), (), about="Names of which a client's certificate must hold one.")
    verify_certificate_spki: tuple[str, ...] = item(
        ListOf(NONEMPTY, most=64), (), about="Hashes of clients' keys.", unsupported=FINGERPRINTS, guard=True
    )
    verify_certificate_hash: tuple[str, ...] = item(
        ListOf(NONEMPTY, most=64), (), about="Hashes of clients' certificates.", unsupported=FINGERPRINTS, guard=True
    )
    min_protocol_version: str = item(VERSIONS, "TLS_AUTO", about="The oldest version of TLS that is spoken; TLS_AUTO is 1.2.")
    max_protocol_version: str = item(VERSIONS, "TLS_AUTO", about="The newest version of TLS that is spoken; TLS_AUTO is 1.3.")
    cipher_suites: tuple[str, ...] = item(ListOf(NONEMPTY, most=64), (), about="Cipher suites up to TLS 1.2, by OpenSSL's names.")
    insecure_skip_verify: bool | None = item(Flag(), about="Whether any certificate of a client is taken.")

    RULES = (
        Rule(
            lambda tls: (
                [
                    bool(tls.server_certificate or tls.private_key),
                    bool(tls.credential_name),
                    bool(tls.credential_names),
                    bool(tls.tls_certificates),
                ].count(True)
                <= 1
            ),
            "credentialName",
            "one of files, credentialName, credentialNames and tlsCertificates",
            "[has(self.serverCertificate) || has(self.privateKey), has(self.credentialName), has(self.credentialNames), "
            "has(self.tlsCertificates)].filter(x, x).size() <= 1",
        ),
        Rule(
            lambda tls: tls.mode in UNOPENED or tls.https_redirect or _certified(tls),
            "mode",
            "a certificate with SIMPLE, MUTUAL and OPTIONAL_MUTUAL: serverCertificate and privateKey, credentialName(s) or tlsCertificates",
        ),
        Rule(
            lambda tls: tls.mode not in ("MUTUAL", "OPTIONAL_MUTUAL") or tls.insecure_skip_verify or _verifies_clients(tls),
            "mode",
            "authorities of clients with MUTUAL: caCertificates, caCertCredentialName or credentialName(s)",
        ),
        Rule(
            lambda tls: (
                "TLS_AUTO" in (tls.min_protocol_version, tls.max_protocol_version) or tls.min_protocol_version <= tls.max_protocol_version
            ),
            "minProtocolVersion",
            "a version no newer than maxProtocolVersion",
        ),
    )


def _certified(tls: ServerTls) -> bool:
    return bool((tls.server_certificate and tls.private_key) or tls.credential_name or tls.credential_names or tls.tls_certificates)


def _verifies_clients(tls: ServerTls) -> bool:
    files = tls.ca_certificates or any(entry.ca_certificates for entry in tls.tls_certificates)
    return bool(files or tls.ca_cert_credential_name or tls.credential_name or tls.credential_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    port: ServerPort = item(Record(ServerPort), required=True, about="Where it listens.")
    bind: str = item(
        Text(), "", about="An address to listen on; absent, every one.", unsupported="gateways listen on every address of their pod"
    )
    hosts: tuple[str, ...] = item(
        ListOf(SERVED_HOST, 1, 1024),
        required=True,
        about="Hosts that are served; <namespace>/ before one lets only VirtualServices there bind.",
    )
    tls: ServerTls | None = item(Record(ServerTls), about="TLS, where the protocol is HTTPS or TLS.")
    default_endpoint: str = item(Text(), "", about="Istio has never read it.", unsupported="Istio never did it, and neither do we")
    name: str = item(Text(), "", about="A name for logs.")

    RULES = (
        Rule(
            lambda server: server.port.protocol not in ENCRYPTED or server.tls is not None,
            "tls",
            "tls with the protocols HTTPS and TLS",
            "!(self.port.protocol.upperAscii() in ['HTTPS', 'TLS']) || has(self.tls)",
        ),
        Rule(
            lambda server: (
                server.port.protocol in ENCRYPTED or server.tls is None or server.tls.https_redirect or server.tls.mode == "ISTIO_MUTUAL"
            ),
            "tls",
            "nothing, or httpsRedirect alone: the protocol is plaintext",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class IstioGatewaySpec:
    selector: Mapping[str, str] = item(LABELS, NOTHING, about="Labels of the pods that are the gateway; none for all.")
    servers: tuple[Server, ...] = item(ListOf(Record(Server), 1, 256), required=True, about="What is listened on, and for which hosts.")

    RULES = (
        Rule(
            lambda spec: len({entry.port.name for entry in spec.servers}) == len(spec.servers),
            "servers",
            "a different port name for each server",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class IstioGateway(Object):
    """Says what gateway pods listen on, and for which hosts; VirtualServices that name it say where it goes. Never a waypoint."""

    KIND = "Gateway"
    TYPE = "Gateway.networking.istio.io"
    API_VERSIONS = NETWORKING_VERSIONS

    spec: IstioGatewaySpec = item(Record(IstioGatewaySpec), required=True, about="Which pods listen, and on what.")
    status: Any = status(IstioStatus, "What became of the gateway.")
