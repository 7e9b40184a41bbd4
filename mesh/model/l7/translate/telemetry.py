"""Telemetries → what a chain logs and traces. Narrower ones win: the mesh's, then the namespace's, then those of what is targeted.

Access logs are settled per provider; of tracing each field by itself. Metrics are the proxy's own here: what a Telemetry says of them is
noted, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mesh.model.l7 import cel
from mesh.model.l7.notes import Notes, Problem, Translated
from mesh.model.l7.profile import Kind
from mesh.model.l7.telemetry import AccessLog, LogProvider, Tag, TagSource, Telemetry, TraceProvider, Tracing
from mesh.model.l7.texts import clean
from mesh.model.l7.translate.headers import Author, formatted
from mesh.model.manifest import Telemetry as Manifest
from mesh.model.manifest.istio.telemetry import AccessLogging, CustomTag
from mesh.model.manifest.istio.telemetry import Tracing as ManifestTracing

Providers = Mapping[str, LogProvider | TraceProvider]
BUILT_IN: Providers = {"envoy": LogProvider("envoy")}
SIDES = {Kind.WAYPOINT: "SERVER", Kind.CLIENT: "CLIENT", Kind.GRPC: "CLIENT"}


def merged(levels: Sequence[Manifest], providers: Providers, kind: Kind, base: Telemetry) -> Translated[Telemetry]:
    """`levels`: those that apply, the widest first. `base` is what the mesh does without any of them."""
    notes = Notes()
    logs: dict[str, AccessLog | None] = {entry.provider.name: entry for entry in base.logs}
    tracing = base.tracing
    for level in levels:
        logs |= _logs(level, providers, kind, base, notes)
        for index, entry in enumerate(level.spec.tracing):
            if _for(entry.match.mode, kind):
                tracing = _tracing(tracing, entry, level, f"spec.tracing[{index}]", providers, notes)
        if any(entry.overrides or entry.providers for entry in level.spec.metrics):
            message = "the proxies' own metrics are as they are: nothing of this is applied"
            notes.add(Problem.UNSUPPORTED, level.key, "spec.metrics", message)
    return notes.done(Telemetry(tuple(entry for _, entry in sorted(logs.items()) if entry is not None), tracing))


def _for(mode: str, kind: Kind) -> bool:
    return mode in ("CLIENT_AND_SERVER", SIDES[kind])


def _logs(level: Manifest, providers: Providers, kind: Kind, base: Telemetry, notes: Notes) -> dict[str, AccessLog | None]:
    """By provider; None turns one off."""
    found: dict[str, AccessLog | None] = {}
    for index, entry in enumerate(level.spec.access_logging):
        if not _for(entry.match.mode, kind):
            continue
        field = f"spec.accessLogging[{index}]"
        known: list[LogProvider] = []
        for ref in entry.providers:
            provider = providers.get(ref.name)
            if isinstance(provider, LogProvider):
                known.append(provider)
            else:
                notes.add(Problem.UNSUPPORTED, level.key, f"{field}.providers", f"no provider of logs is called {ref.name}: it gets none")
        if not entry.providers:
            known = [one.provider for one in base.logs] or [provider for provider in BUILT_IN.values() if isinstance(provider, LogProvider)]
        for provider in known:
            found[provider.name] = None if entry.disabled else AccessLog(provider, _filter(entry, level, field, notes))
    return found


def _filter(entry: AccessLogging, level: Manifest, field: str, notes: Notes) -> str:
    """Without one that a proxy cannot build: then everything is logged, which is more than was asked for, and not less."""
    if entry.filter is None or cel.usable(entry.filter.expression):
        return entry.filter.expression if entry.filter is not None else ""
    message = "proxies cannot evaluate this: requests are logged without the filter"
    notes.add(Problem.UNSUPPORTED, level.key, f"{field}.filter.expression", message)
    return ""


def _tracing(found: Tracing, entry: ManifestTracing, level: Manifest, field: str, providers: Providers, notes: Notes) -> Tracing:
    if entry.providers:
        provider = providers.get(entry.providers[0].name)
        if isinstance(provider, TraceProvider):
            found = replace(found, provider=provider)
        else:
            message = f"no provider of traces is called {entry.providers[0].name}: the wider one counts"
            notes.add(Problem.UNSUPPORTED, level.key, f"{field}.providers", message)
    if entry.random_sampling_percentage is not None:
        found = replace(found, sampling=entry.random_sampling_percentage)
    if entry.disable_span_reporting is not None:
        found = replace(found, report=not entry.disable_span_reporting)
    if entry.custom_tags:
        made = ((name, _tag(name, tag, Author(level.key, f"{field}.customTags[{name}]", notes))) for name, tag in entry.custom_tags.items())
        found = replace(found, tags=tuple(tag for _, tag in sorted(made, key=lambda pair: pair[0])))
    if entry.disable_context_propagation:
        message = "trace headers are always passed on"
        notes.add(Problem.UNSUPPORTED, level.key, f"{field}.disableContextPropagation", message)
    return replace(found, by_request_id=entry.use_request_id_for_trace_sampling)


def _tag(name: str, found: CustomTag, author: Author) -> Tag:
    if found.literal is not None:
        return Tag(name, TagSource.LITERAL, found.literal.value)
    if found.environment is not None:
        return Tag(name, TagSource.ENVIRONMENT, found.environment.name, found.environment.default_value)
    if found.header is not None:
        return Tag(name, TagSource.HEADER, clean(found.header.name) or "-", found.header.default_value)
    assert found.formatter is not None
    return Tag(name, TagSource.FORMAT, formatted(found.formatter.value, author))
