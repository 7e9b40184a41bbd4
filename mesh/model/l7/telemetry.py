"""What a proxy writes about requests and connections: access logs and traces. Metrics are the proxy's own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

DEFAULT_TEXT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% '
    '%DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" '
    '"%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)


@dataclass(frozen=True, slots=True)
class LogProvider:
    """A file (or /dev/stdout) that lines go to. `text` is a format of Envoy's, "" for Istio's own; `json` is another form of it: {key:
    format}.
    """

    name: str
    path: str = "/dev/stdout"
    text: str = ""
    json: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class AccessLog:
    """`filter` is an expression in CEL; "" lets all through."""

    provider: LogProvider
    filter: str = ""


class TraceKind(Enum):
    OTLP = "opentelemetry"
    ZIPKIN = "zipkin"


@dataclass(frozen=True, slots=True)
class TraceProvider:
    """`cluster` is where spans are sent, `authority` what that is called."""

    name: str
    kind: TraceKind
    cluster: str
    authority: str
    service_name: str = ""


class TagSource(Enum):
    LITERAL = "literal"
    HEADER = "header"
    ENVIRONMENT = "environment"
    FORMAT = "formatter"


@dataclass(frozen=True, slots=True)
class Tag:
    """`value` is a text, a header's or variable's name (with a `default`), or a format."""

    name: str
    source: TagSource
    value: str
    default: str = ""


@dataclass(frozen=True, slots=True)
class Tracing:
    """`sampling` in percent of the requests whose clients did not decide. No provider: nothing is traced."""

    provider: TraceProvider | None = None
    sampling: float = 1.0
    tags: tuple[Tag, ...] = ()
    report: bool = True
    by_request_id: bool = True


@dataclass(frozen=True, slots=True)
class Telemetry:
    logs: tuple[AccessLog, ...] = ()
    tracing: Tracing = Tracing()


NO_TELEMETRY = Telemetry()
