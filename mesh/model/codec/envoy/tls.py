"""TLS contexts: the mesh's own mutual TLS with certificates that come by SDS, and TLS to servers outside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3 import base_pb2, proxy_protocol_pb2
from envoy.extensions.transport_sockets.internal_upstream.v3 import internal_upstream_pb2
from envoy.extensions.transport_sockets.proxy_protocol.v3 import upstream_proxy_protocol_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.metadata.v3 import metadata_pb2

from mesh.model.codec.envoy import parts
from mesh.model.codec.envoy.endpoints import ISTIO_METADATA, ORIGINAL_DST_METADATA, TUNNEL_METADATA
from mesh.model.identity import SCHEME
from mesh.model.l7.clusters import SYSTEM_ROOTS, Tls
from mesh.model.l7.names import MESH_ROOTS, WORKLOAD_CERTIFICATE
from mesh.model.l7.profile import Profile
from mesh.model.l7.texts import TextKind, TextMatch, exact

RAW, TLS = "envoy.transport_sockets.raw_buffer", "envoy.transport_sockets.tls"
INTERNAL, PROXY_PROTOCOL = "envoy.transport_sockets.internal_upstream", "envoy.transport_sockets.upstream_proxy_protocol"
H2 = "h2"
VERSIONS = {1: proxy_protocol_pb2.ProxyProtocolConfig.V1, 2: proxy_protocol_pb2.ProxyProtocolConfig.V2}


def sds(name: str) -> Any:
    return secret_pb2.SdsSecretConfig(name=name, sds_config=parts.ads())


def terminating(profile: Profile) -> Any:
    """The server's side of a tunnel: TLS 1.3, and a client of one of the mesh's trust domains."""
    made = tls_pb2.DownstreamTlsContext(common_tls_context=_mutual(profile))
    made.require_client_certificate.value = True
    # A resumed session would bring back an identity that was proved before the roots changed.
    made.disable_stateless_session_resumption = True
    made.disable_stateful_session_resumption = True
    return _socket(TLS, made)


def originating(profile: Profile) -> Any:
    """The client's side of a tunnel. Whom exactly it expects is said per connection; this is what it would never go below."""
    return _socket(TLS, tls_pb2.UpstreamTlsContext(common_tls_context=_mutual(profile)))


def _mutual(profile: Profile) -> Any:
    version = common_pb2.TlsParameters.TLSv1_3
    checked = common_pb2.CertificateValidationContext(
        match_typed_subject_alt_names=_names(
            common_pb2.SubjectAltNameMatcher.URI,
            (TextMatch(TextKind.PREFIX, f"{SCHEME}{domain}/") for domain in profile.trust_domains),
        )
    )
    return tls_pb2.CommonTlsContext(
        alpn_protocols=[H2],
        tls_params=common_pb2.TlsParameters(tls_minimum_protocol_version=version, tls_maximum_protocol_version=version),
        tls_certificate_sds_secret_configs=[sds(WORKLOAD_CERTIFICATE)],
        combined_validation_context=tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=checked, validation_context_sds_secret_config=sds(MESH_ROOTS)
        ),
    )


def to_server(tls: Tls, profile: Profile, protocols: Iterable[str]) -> Any:
    """TLS to a server that may be anywhere."""
    common = tls_pb2.CommonTlsContext(alpn_protocols=protocols)
    if tls.certificate is not None and tls.certificate.secret:
        common.tls_certificate_sds_secret_configs.append(sds(tls.certificate.secret))
    elif tls.certificate is not None and tls.key is not None:
        pair = common_pb2.TlsCertificate(certificate_chain=_file(tls.certificate.file), private_key=_file(tls.key.file))
        common.tls_certificates.append(pair)
    if not tls.insecure:
        _check(common, tls, profile)
    made = tls_pb2.UpstreamTlsContext(common_tls_context=common, sni=tls.sni)
    if not tls.sni:
        made.auto_host_sni = True
    return _socket(TLS, made)


def _check(common: Any, tls: Tls, profile: Profile) -> None:
    names = tls.sans or ((tls.sni,) if tls.sni else ())
    checked = common_pb2.CertificateValidationContext()
    for name in names:
        kind = common_pb2.SubjectAltNameMatcher.URI if "://" in name else common_pb2.SubjectAltNameMatcher.DNS
        checked.match_typed_subject_alt_names.extend(_names(kind, [exact(name)]))
    if tls.crl is not None:
        checked.crl.CopyFrom(_file(tls.crl.file))
    if tls.roots.secret:
        common.combined_validation_context.default_validation_context.CopyFrom(checked)
        common.combined_validation_context.validation_context_sds_secret_config.CopyFrom(sds(tls.roots.secret))
    else:
        checked.trusted_ca.CopyFrom(_file(profile.system_roots if tls.roots == SYSTEM_ROOTS else tls.roots.file))
        common.validation_context.CopyFrom(checked)


def raw() -> Any:
    return _socket(RAW, raw_buffer_pb2.RawBuffer())


def into_tunnel(inner: Any) -> Any:
    """The transport to an internal listener, `inner` being what goes through it. What the endpoint says of itself goes along."""
    host = metadata_pb2.MetadataKind(host=metadata_pb2.MetadataKind.Host())
    source = internal_upstream_pb2.InternalUpstreamTransport.MetadataValueSource
    names = (ORIGINAL_DST_METADATA, TUNNEL_METADATA, ISTIO_METADATA)
    return _socket(
        INTERNAL,
        internal_upstream_pb2.InternalUpstreamTransport(
            passthrough_metadata=[source(kind=host, name=name) for name in names], transport_socket=inner
        ),
    )


def announced(inner: Any, version: int) -> Any:
    """With a PROXY header before everything else."""
    config = proxy_protocol_pb2.ProxyProtocolConfig(version=VERSIONS[version])
    return _socket(PROXY_PROTOCOL, upstream_proxy_protocol_pb2.ProxyProtocolUpstreamTransport(config=config, transport_socket=inner))


def _socket(name: str, config: Any) -> Any:
    return base_pb2.TransportSocket(name=name, typed_config=parts.packed(config))


def _file(path: str) -> Any:
    return base_pb2.DataSource(filename=path)


def _names(kind: Any, matches: Iterable[TextMatch]) -> list[Any]:
    return [common_pb2.SubjectAltNameMatcher(san_type=kind, matcher=parts.text(match)) for match in matches]
