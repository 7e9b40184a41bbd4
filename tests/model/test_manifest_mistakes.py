"""The mistakes in YAML that people make most are told by name."""

from __future__ import annotations

import pytest

from mesh.model.manifest import load_directory

TEMPLATE, TAB = "this looks like a template: render it first (helm template)", "indented by spaces: there is a tab"


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("kind: Service\nmetadata: {name: {{ .Values.name }}}\n", 2, TEMPLATE),
        ("kind: Service\nmetadata:\n  name: {{ .Values.name }}\n", 3, TEMPLATE),
        ("kind: Service\nmetadata:\n  name: {{ .Release.Name }}-x\n", 3, TEMPLATE),
        ("{{- if .Values.x }}\nkind: Service\n{{- end }}\n", 1, TEMPLATE),
        ('kind: Service\nmetadata:\n  labels:\n    {{- include "x" . | nindent 4 }}\n', 4, TEMPLATE),
        ("kind: Service\nmetadata:\n\tname: x\n", 3, TAB),
        ("kind: Service\n\tname: x\n", 2, TAB),
        ("kind: Service\n  \tname: x\n", 2, TAB),
        ("kind: Service\nspec: a: b\n", 2, "YAML documents, each one Kubernetes object"),
        ("kind: Service\n? {a: b}\n: c\n", 2, "keys that are strings"),
        ("kind: 'a\tb\n", 2, "YAML documents, each one Kubernetes object"),
    ],
)
def test_a_tab_and_a_template_are_told_by_name(text: str, line: int, told: str) -> None:
    (entry,) = load_directory([("a.yaml", text)]).refused
    (refusal,) = entry.refusals
    assert refusal.where == f"a.yaml:{line}"
    assert told in refusal.accepted
