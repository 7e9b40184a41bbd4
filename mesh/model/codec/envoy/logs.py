"""Telemetry → access logs and tracing of a connection manager or TCP proxy."""

from __future__ import annotations

from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import grpc_service_pb2, substitution_format_string_pb2
from envoy.config.trace.v3 import opentelemetry_pb2, zipkin_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.type.tracing.v3 import custom_tag_pb2
from google.protobuf import struct_pb2

from mesh.model.codec.envoy import parts
from mesh.model.l7.telemetry import DEFAULT_TEXT, AccessLog, LogProvider, Tag, TagSource, Telemetry, TraceKind, TraceProvider, Tracing

FILE, CEL = "envoy.access_loggers.file", "envoy.access_loggers.extension_filters.cel"
OTLP, ZIPKIN = "envoy.tracers.opentelemetry", "envoy.tracers.zipkin"
ZIPKIN_PATH = "/api/v2/spans"


def access_logs(telemetry: Telemetry) -> list[Any]:
    return [_access_log(entry) for entry in telemetry.logs]


def _access_log(entry: AccessLog) -> Any:
    made = accesslog_pb2.AccessLog(name=FILE, typed_config=parts.packed(_file(entry.provider)))
    if entry.filter:
        config = parts.packed(cel_pb2.ExpressionFilter(expression=entry.filter))
        made.filter.extension_filter.CopyFrom(accesslog_pb2.ExtensionFilter(name=CEL, typed_config=config))
    return made


def _file(provider: LogProvider) -> Any:
    layout = substitution_format_string_pb2.SubstitutionFormatString()
    if provider.json:
        fields = struct_pb2.Struct()
        fields.update(dict(provider.json))
        layout.json_format.CopyFrom(fields)
    else:
        layout.text_format_source.inline_string = provider.text or DEFAULT_TEXT
    return file_pb2.FileAccessLog(path=provider.path, log_format=layout)


def tracing(entry: Tracing) -> Any | None:
    """None where nothing is traced."""
    if entry.provider is None or not entry.report:
        return None
    made = http_connection_manager_pb2.HttpConnectionManager.Tracing(
        client_sampling=parts.percent(100),
        random_sampling=parts.percent(entry.sampling),
        overall_sampling=parts.percent(100),
        custom_tags=[_tag(tag) for tag in entry.tags],
    )
    made.provider.CopyFrom(_provider(entry.provider))
    return made


def _provider(provider: TraceProvider) -> Any:
    message: Any
    if provider.kind is TraceKind.OTLP:
        service = grpc_service_pb2.GrpcService()
        service.envoy_grpc.cluster_name = provider.cluster
        service.envoy_grpc.authority = provider.authority
        name, message = OTLP, opentelemetry_pb2.OpenTelemetryConfig(grpc_service=service, service_name=provider.service_name)
    else:
        name = ZIPKIN
        message = zipkin_pb2.ZipkinConfig(
            collector_cluster=provider.cluster,
            collector_hostname=provider.authority,
            collector_endpoint=ZIPKIN_PATH,
            collector_endpoint_version=zipkin_pb2.ZipkinConfig.HTTP_JSON,
            trace_id_128bit=True,
        )
        message.shared_span_context.value = False
    made = http_connection_manager_pb2.HttpConnectionManager.Tracing().provider
    made.name = name
    made.typed_config.CopyFrom(parts.packed(message))
    return made


def _tag(tag: Tag) -> Any:
    made = custom_tag_pb2.CustomTag(tag=tag.name)
    match tag.source:
        case TagSource.LITERAL:
            made.literal.value = tag.value
        case TagSource.HEADER:
            made.request_header.name = tag.value
            made.request_header.default_value = tag.default
        case TagSource.ENVIRONMENT:
            made.environment.name = tag.value
            made.environment.default_value = tag.default
        case TagSource.FORMAT:
            made.value = tag.value
    return made
