"""Telemetry of telemetry.istio.io, v1 and v1alpha1 (which are the same): what is measured, logged and traced, and what is not."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.core import Object
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import NOTHING, Choice, Flag, ListOf, MapOf, Number, Text
from mesh.model.manifest.status import IstioStatus, status
from mesh.model.manifest.targets import ONE_WAY, Targeted
from mesh.model.manifest.words import NONEMPTY, POSITIVE

METRICS = (
    *("ALL_METRICS", "REQUEST_COUNT", "REQUEST_DURATION", "REQUEST_SIZE", "RESPONSE_SIZE", "TCP_OPENED_CONNECTIONS"),
    *("TCP_CLOSED_CONNECTIONS", "TCP_SENT_BYTES", "TCP_RECEIVED_BYTES", "GRPC_REQUEST_MESSAGES", "GRPC_RESPONSE_MESSAGES"),
)
MODE = Choice(("CLIENT_AND_SERVER", "CLIENT", "SERVER"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRef:
    name: str = item(NONEMPTY, required=True, about="The provider's name in the mesh's settings.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeMatch:
    mode: str = item(MODE, "CLIENT_AND_SERVER", about="For which side of a request it counts.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    value: str = item(NONEMPTY, required=True, about="The tag's value.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    name: str = item(NONEMPTY, required=True, about="Where the value is looked up.")
    default_value: str = item(Text(), "", about="The value where nothing is found; none if empty.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomTag:
    """Exactly one source of the value."""

    literal: Literal | None = item(Record(Literal), about="Always the same value.")
    environment: Named | None = item(Record(Named), about="A variable of the proxy's environment.")
    header: Named | None = item(Record(Named), about="A header of the request.")
    formatter: Literal | None = item(Record(Literal), about="A text with operators of the access log in it, such as %REQ(host)%.")

    RULES = (
        Rule(
            lambda tag: [tag.literal, tag.environment, tag.header, tag.formatter].count(None) == 3,
            "",
            "exactly one of literal, environment, header and formatter",
            "[has(self.literal), has(self.environment), has(self.header), has(self.formatter)].filter(x, x).size() == 1",
        ),
    )


PROVIDERS = ListOf(Record(ProviderRef), most=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """None where a wider Telemetry, or the mesh, decides."""

    match: ModeMatch = item(Record(ModeMatch), ModeMatch(), about="For which side of a request it counts.")
    providers: tuple[ProviderRef, ...] = item(ListOf(Record(ProviderRef), most=1), (), about="Where spans are sent: one provider.")
    random_sampling_percentage: float | None = item(Number(0, 100), about="How many of a hundred traces are begun here.")
    disable_span_reporting: bool | None = item(Flag(), about="Whether no spans are sent.")
    custom_tags: Mapping[str, CustomTag] = item(MapOf(NONEMPTY, Record(CustomTag), 64), NOTHING, about="Further tags of spans, by name.")
    use_request_id_for_trace_sampling: bool = item(Flag(), True, about="Whether the request id carries the decision to sample.")
    enable_istio_tags: bool = item(Flag(), True, about="Whether spans get the tags that begin with istio.")
    disable_context_propagation: bool = item(Flag(), False, about="Whether trace headers are not passed on.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricMatch:
    """At most one of `metric` and `custom_metric`; neither: all metrics."""

    metric: str = item(Choice(METRICS), "", about="One of Istio's metrics; absent, all.")
    custom_metric: str = item(NONEMPTY, "", about="Another metric, by name.")
    mode: str = item(MODE, "CLIENT_AND_SERVER", about="For which side of a request it counts.")

    RULES = (
        Rule(
            lambda match: not (match.metric and match.custom_metric),
            "customMetric",
            "one of metric and customMetric",
            "!(has(self.metric) && has(self.customMetric))",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TagOverride:
    operation: str = item(Choice(("UPSERT", "REMOVE")), "UPSERT", about="Whether the label is set or removed.")
    value: str = item(Text(), "", about="The label's value, as an expression in CEL.")

    RULES = (
        Rule(
            lambda tag: bool(tag.value) == (tag.operation == "UPSERT"),
            "value",
            "a value with UPSERT, and none with REMOVE",
            "(has(self.value) && self.value != '') == (self.operation == 'UPSERT')",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricOverride:
    match: MetricMatch = item(Record(MetricMatch), MetricMatch(), about="Which metrics are meant.")
    disabled: bool | None = item(Flag(), about="Whether they are not counted.")
    tag_overrides: Mapping[str, TagOverride] = item(MapOf(NONEMPTY, Record(TagOverride), 64), NOTHING, about="Changes of labels, by name.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    providers: tuple[ProviderRef, ...] = item(PROVIDERS, (), about="Who collects them; absent, whom the mesh names.")
    overrides: tuple[MetricOverride, ...] = item(ListOf(Record(MetricOverride), most=256), (), about="Changes, of which later ones win.")
    reporting_interval: float = item(POSITIVE, "5s", about="How often the metrics of open TCP connections are brought up to date.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    expression: str = item(NONEMPTY, required=True, about="A condition in CEL over request, response and connection.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLogging:
    match: ModeMatch = item(Record(ModeMatch), ModeMatch(), about="For which side of a request it counts.")
    providers: tuple[ProviderRef, ...] = item(PROVIDERS, (), about="Where lines are sent; absent, where the mesh says.")
    disabled: bool | None = item(Flag(), about="Whether nothing is logged.")
    filter: LogFilter | None = item(Record(LogFilter), about="Which requests are logged; absent, all.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySpec(Targeted):
    tracing: tuple[Tracing, ...] = item(ListOf(Record(Tracing), most=16), (), about="Spans.")
    metrics: tuple[Metrics, ...] = item(ListOf(Record(Metrics), most=16), (), about="Metrics.")
    access_logging: tuple[AccessLogging, ...] = item(ListOf(Record(AccessLogging), most=16), (), about="Access logs.")

    RULES = (ONE_WAY,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry(Object):
    """Says what is measured, logged and traced: in the root namespace for the mesh, else for its namespace, or for what it targets."""

    KIND = "Telemetry"
    API_VERSIONS = ("telemetry.istio.io/v1", "telemetry.istio.io/v1alpha1")

    spec: TelemetrySpec = item(Record(TelemetrySpec), TelemetrySpec(), about="Whom it is for, and what is recorded there.")
    status: Any = status(IstioStatus, "What became of it.")
