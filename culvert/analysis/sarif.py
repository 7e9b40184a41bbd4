"""Findings as SARIF 2.1.0 (OASIS, errata 01), for tools that show them beside the code."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from control.analyze import CODES, Analysis, Code, Severity
from culvert.analysis.document import summary
from culvert.analysis.located import Located, Locator

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def sarif(analysis: Analysis, located: Iterable[Located], locator: Locator, version: str) -> dict[str, Any]:
    """`version` is the tool's own."""
    codes = [CODES[name] for name in sorted(CODES)]
    order = {code.name: index for index, code in enumerate(codes)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "culvert", "semanticVersion": version, "rules": [_rule(code) for code in codes]}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(entry, order, locator) for entry in located],
                "properties": {"summary": summary(analysis)},
            }
        ],
    }


def _rule(code: Code) -> dict[str, Any]:
    return {
        "id": code.name,
        "shortDescription": {"text": code.title},
        "fullDescription": {"text": f"{code.title}."},
        "help": {"text": code.help},
        "defaultConfiguration": {"level": LEVELS[code.severity]},
    }


def _result(entry: Located, order: dict[str, int], locator: Locator) -> dict[str, Any]:
    finding = entry.finding
    text = f"{finding.message}. {finding.hint}" if finding.hint else finding.message
    location: dict[str, Any] = {}
    if entry.file:
        location["physicalLocation"] = _physical(entry.file, entry.line, entry.column, entry.length)
    if finding.subject:
        name = f"{finding.subject}: {finding.field}" if finding.field else finding.subject
        location["logicalLocations"] = [{"name": finding.subject, "fullyQualifiedName": name, "kind": "object"}]
    related = []
    for index, (subject, where) in enumerate(finding.related):
        file, line = locator.split(where)
        place: dict[str, Any] = {"id": index, "message": {"text": subject}}
        if file:
            place["physicalLocation"] = _physical(file, line, 0, 0)
        related.append(place)
    return {
        "ruleId": finding.code.name,
        "ruleIndex": order[finding.code.name],
        "level": LEVELS[finding.code.severity],
        "message": {"text": text},
        "locations": [location] if location else [],
        "partialFingerprints": {"object/v1": f"{finding.code.name} {finding.subject} {finding.field}"},
        **({"relatedLocations": related} if related else {}),
    }


def _physical(file: str, line: int, column: int, length: int) -> dict[str, Any]:
    """A file below the working directory is named from there, as tools expect it of what is in a repository; another one whole."""
    named = os.path.normpath(file)
    elsewhere = os.path.isabs(named) or named.split(os.sep)[0] == os.pardir
    uri = Path(os.path.abspath(named)).as_uri() if elsewhere else quote(named)
    region: dict[str, int] = {"startLine": max(1, line)}
    if column:
        region |= {"startColumn": column, "endColumn": column + length}
    return {"artifactLocation": {"uri": uri}, "region": region}
