"""Telemetries: narrower ones win, logs per provider, tracing field by field."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.model.l7.notes import Problem, Translated
from mesh.model.l7.profile import Kind
from mesh.model.l7.telemetry import AccessLog, LogProvider, Tag, TagSource, Telemetry, TraceKind, TraceProvider, Tracing
from mesh.model.l7.translate.telemetry import merged
from tests.model.l7.objects import made

ENVOY, JSON = LogProvider("envoy"), LogProvider("json", json=(("path", "%REQ(:PATH)%"),))
OTEL = TraceProvider("otel", TraceKind.OTLP, "outbound|4317||otel", "otel")
PROVIDERS = {"envoy": ENVOY, "json": JSON, "otel": OTEL}


def translated(*specs: dict[str, Any], kind: Kind = Kind.WAYPOINT, base: Telemetry = Telemetry()) -> Translated[Telemetry]:
    return merged([made("Telemetry", spec, f"t{index}") for index, spec in enumerate(specs)], PROVIDERS, kind, base)


def logs(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"accessLogging": list(entries)}


ON = {"providers": [{"name": "envoy"}]}
BASE = Telemetry((AccessLog(JSON),))


@pytest.mark.parametrize(
    ("specs", "base", "found"),
    [
        ([], Telemetry(), ()),
        ([], BASE, (AccessLog(JSON),)),
        ([logs(ON)], Telemetry(), (AccessLog(ENVOY),)),
        ([logs({})], Telemetry(), (AccessLog(ENVOY),)),
        ([logs({"disabled": True})], BASE, ()),
        ([logs(ON)], BASE, (AccessLog(ENVOY), AccessLog(JSON))),
        ([logs(ON), logs({**ON, "disabled": True})], Telemetry(), ()),
        ([logs({**ON, "disabled": True}), logs(ON)], Telemetry(), (AccessLog(ENVOY),)),
        (
            [logs(ON), logs({**ON, "filter": {"expression": "response.code >= 500"}})],
            Telemetry(),
            (AccessLog(ENVOY, "response.code >= 500"),),
        ),
        ([logs({**ON, "match": {"mode": "CLIENT"}})], Telemetry(), ()),
        ([logs({**ON, "match": {"mode": "SERVER"}})], Telemetry(), (AccessLog(ENVOY),)),
    ],
)
def test_logs(specs: list[dict[str, Any]], base: Telemetry, found: tuple[AccessLog, ...]) -> None:
    assert translated(*specs, base=base).value.logs == found


def test_sides() -> None:
    assert translated(logs({**ON, "match": {"mode": "CLIENT"}}), kind=Kind.CLIENT).value.logs == (AccessLog(ENVOY),)


def test_tracing_field_by_field() -> None:
    wide = {
        "tracing": [{"providers": [{"name": "otel"}], "randomSamplingPercentage": 10, "customTags": {"a": {"literal": {"value": "1"}}}}]
    }
    narrow = {"tracing": [{"randomSamplingPercentage": 50, "customTags": {"b": {"header": {"name": "x", "defaultValue": "d"}}}}]}
    assert translated(wide).value.tracing == Tracing(OTEL, 10, (Tag("a", TagSource.LITERAL, "1"),))
    assert translated(wide, narrow).value.tracing == Tracing(OTEL, 50, (Tag("b", TagSource.HEADER, "x", "d"),))
    assert not translated(wide, {"tracing": [{"disableSpanReporting": True}]}).value.tracing.report


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (logs({"providers": [{"name": "none"}]}), "spec.accessLogging[0].providers"),
        (logs({"providers": [{"name": "otel"}]}), "spec.accessLogging[0].providers"),
        ({"tracing": [{"providers": [{"name": "envoy"}]}]}, "spec.tracing[0].providers"),
        ({"tracing": [{"disableContextPropagation": True}]}, "spec.tracing[0].disableContextPropagation"),
        ({"metrics": [{"overrides": [{"disabled": True}]}]}, "spec.metrics"),
    ],
)
def test_what_cannot_be_done(spec: dict[str, Any], field: str) -> None:
    assert [(note.problem, note.field) for note in translated(spec).notes] == [(Problem.UNSUPPORTED, field)]
