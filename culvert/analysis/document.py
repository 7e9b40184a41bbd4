"""Findings as JSON. The form is stable: what is added later is added beside what is here. docs/analyze.md describes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control.analyze import Analysis, Severity
from culvert.analysis.located import Located, Locator

VERSION = 1


def document(analysis: Analysis, located: Iterable[Located], locator: Locator) -> dict[str, Any]:
    return {
        "version": VERSION,
        "summary": summary(analysis),
        "findings": [_finding(entry, locator) for entry in located],
        "mended": [_finding(locator.locate(finding), locator) for finding in analysis.mended],
        "unread": dict(analysis.unread),
        "unchecked": [{"what": what, "namespace": namespace} for what, namespace in analysis.unchecked],
    }


def summary(analysis: Analysis) -> dict[str, int]:
    counts = dict.fromkeys(reversed(Severity), 0)
    for finding in analysis.findings:
        counts[finding.code.severity] += 1
    named = {f"{severity.word}s": number for severity, number in counts.items()}
    return {"objects": analysis.objects, **named, "suppressed": analysis.suppressed}


def _finding(entry: Located, locator: Locator) -> dict[str, Any]:
    finding = entry.finding
    return {
        "code": finding.code.name,
        "severity": finding.code.severity.word,
        "title": finding.code.title,
        "object": finding.subject,
        "namespace": finding.namespace,
        "field": finding.field,
        "file": entry.file or None,
        "line": entry.line or None,
        "column": entry.column or None,
        "origin": None if entry.file else finding.where,
        "message": finding.message,
        "hint": finding.hint,
        "related": [_related(subject, where, locator) for subject, where in finding.related],
    }


def _related(subject: str, where: str, locator: Locator) -> dict[str, Any]:
    file, line = locator.split(where)
    return {"object": subject, "file": file or None, "line": line or None, "origin": None if file else where}
