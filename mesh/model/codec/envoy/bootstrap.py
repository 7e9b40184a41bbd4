"""What an Envoy is started with: who it is, where its control plane is, and the extension that internal listeners need.

    envoy -c <(python -c "…json(bootstrap(…))")

Everything else comes over one ADS stream. A change of the mesh's root has the control plane show a certificate from another one, and tokens
expire, so that Envoy must read again what it begins with. It does so for files that a file of secrets names, not for those that are named
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.bootstrap.internal_listener.v3 import internal_listener_pb2
from envoy.extensions.filters.http.credential_injector.v3 import credential_injector_pb2
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from xds.type.v3 import typed_struct_pb2

from mesh.model.codec.envoy import clusters, filters, parts, tls
from mesh.model.l7.profile import NO_LABELS
from mesh.model.l7.texts import MAX_PROGRAM

ADS_CLUSTER = "xds"
TOKEN_SECRET, ROOTS_SECRET = "xds-token", "xds-roots"
INJECTOR, INJECTED, CODEC = (
    "envoy.filters.http.credential_injector",
    "envoy.http.injected_credentials.generic",
    "envoy.filters.http.upstream_codec",
)


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """`roots` is a file in PEM that its certificate is checked with; "" speaks plaintext, for loopback. `token`: a file whose content
    proves who the proxy is. `secrets`: a directory with the files that `secret_files` makes of this; then both are read again when another
    file takes their place, as it does with Kubernetes' projected tokens. Without, they are read once.
    """

    host: str
    port: int
    roots: str = ""
    server_name: str = ""
    token: str = ""
    secrets: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """`id` as Istio writes it: `waypoint~10.244.1.5~name.namespace~namespace.svc.cluster.local`."""

    id: str
    cluster: str
    metadata: Mapping[str, Any] = field(default_factory=lambda: NO_LABELS)


def bootstrap(node: Node, plane: ControlPlane, *, admin_port: int | None = 15000, admin_host: str = "127.0.0.1", delta: bool = True) -> Any:
    made = bootstrap_pb2.Bootstrap()
    made.node.id, made.node.cluster = node.id, node.cluster
    made.node.metadata.update(dict(node.metadata))
    if admin_port is not None:
        made.admin.address.CopyFrom(parts.socket_address(admin_host, admin_port))
    made.bootstrap_extensions.append(parts.extension("envoy.bootstrap.internal_listener", internal_listener_pb2.InternalListener()))
    api = config_source_pb2.ApiConfigSource
    made.dynamic_resources.ads_config.CopyFrom(
        api(
            api_type=api.DELTA_GRPC if delta else api.GRPC,
            transport_api_version=config_source_pb2.ApiVersion.V3,
            grpc_services=[{"envoy_grpc": {"cluster_name": ADS_CLUSTER}}],
            set_node_on_first_message_only=True,
        )
    )
    for source in (made.dynamic_resources.lds_config, made.dynamic_resources.cds_config):
        source.CopyFrom(parts.ads())
    made.static_resources.clusters.append(_plane(plane))
    layer = made.layered_runtime.layers.add(name="culvert")
    layer.static_layer.update({"re2.max_program_size.error_level": MAX_PROGRAM})
    if plane.token and not plane.secrets:
        secret = made.static_resources.secrets.add(name=TOKEN_SECRET)
        secret.generic_secret.secret.filename = plane.token
    return made


def secret_files(plane: ControlPlane) -> dict[str, Any]:
    """By name, what Envoy reads from `plane.secrets`: each names a file that it watches. One secret each, Envoy takes no more."""
    roots, token = (secret_pb2.Secret(name=name) for name in (ROOTS_SECRET, TOKEN_SECRET))
    roots.validation_context.trusted_ca.filename = plane.roots
    roots.validation_context.watched_directory.path = _directory(plane.roots)
    token.generic_secret.secret.filename = plane.token
    token.generic_secret.secret.watched_directory.path = _directory(plane.token)
    wanted = [secret for secret, path in ((roots, plane.roots), (token, plane.token)) if path]
    return {f"{one.name}.json": discovery_pb2.DiscoveryResponse(version_info="1", resources=[parts.packed(one)]) for one in wanted}


def _directory(path: str) -> str:
    return str(PurePosixPath(path).parent)


def _from_file(plane: ControlPlane, name: str) -> Any:
    made = secret_pb2.SdsSecretConfig(name=name)
    made.sds_config.resource_api_version = config_source_pb2.ApiVersion.V3
    made.sds_config.path_config_source.path = str(PurePosixPath(plane.secrets) / f"{name}.json")
    return made


def _bearer(plane: ControlPlane) -> Any:
    """Written by field names, since the prefix is younger than the messages that we have."""
    named = _from_file(plane, TOKEN_SECRET) if plane.secrets else secret_pb2.SdsSecretConfig(name=TOKEN_SECRET)
    credential = json_format.MessageToDict(named, preserving_proto_field_name=True)
    made = typed_struct_pb2.TypedStruct(type_url=parts.TYPE_PREFIX + generic_pb2.Generic.DESCRIPTOR.full_name)
    made.value.update({"credential": credential, "header": "authorization", "header_value_prefix": "Bearer "})
    return made


def json(message: Any) -> str:
    return str(json_format.MessageToJson(message, preserving_proto_field_name=True))


def _plane(plane: ControlPlane) -> Any:
    made = cluster_pb2.Cluster(name=ADS_CLUSTER, type=cluster_pb2.Cluster.STRICT_DNS)
    made.connect_timeout.seconds = 5
    made.upstream_connection_options.tcp_keepalive.keepalive_time.value = 300
    made.load_assignment.cluster_name = ADS_CLUSTER
    endpoint = made.load_assignment.endpoints.add().lb_endpoints.add().endpoint
    endpoint.address.CopyFrom(parts.socket_address(plane.host, plane.port))
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.explicit_http_config.http2_protocol_options.connection_keepalive.interval.seconds = 30
    options.explicit_http_config.http2_protocol_options.connection_keepalive.timeout.seconds = 20
    if plane.token:
        injector = credential_injector_pb2.CredentialInjector(overwrite=True, credential=parts.extension(INJECTED, _bearer(plane)))
        options.http_filters.extend([filters.http(INJECTOR, injector), filters.http(CODEC, upstream_codec_pb2.UpstreamCodec())])
    made.typed_extension_protocol_options[clusters.HTTP_OPTIONS].CopyFrom(parts.packed(options))
    if plane.roots:
        name = plane.server_name or plane.host
        common = tls_pb2.CommonTlsContext(alpn_protocols=[tls.H2])
        checked = common_pb2.CertificateValidationContext()
        checked.match_typed_subject_alt_names.add(san_type=common_pb2.SubjectAltNameMatcher.DNS).matcher.exact = name
        if plane.secrets:
            common.combined_validation_context.default_validation_context.CopyFrom(checked)
            common.combined_validation_context.validation_context_sds_secret_config.CopyFrom(_from_file(plane, ROOTS_SECRET))
        else:
            checked.trusted_ca.filename = plane.roots
            common.validation_context.CopyFrom(checked)
        context = tls_pb2.UpstreamTlsContext(common_tls_context=common, sni=name)
        made.transport_socket.CopyFrom(base_pb2.TransportSocket(name=tls.TLS, typed_config=parts.packed(context)))
    return made
