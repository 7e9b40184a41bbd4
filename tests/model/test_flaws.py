"""What kind of flaw a refusal is about, for programs."""

from __future__ import annotations

import pytest

from mesh.model.errors import Flaw, Refusal
from mesh.model.manifest import Object, Refused, load_directory, parse_file, parse_object
from mesh.model.manifest.tree import Node

META = "metadata: {name: x, namespace: shop}"


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("kind: [", Flaw.UNREADABLE),
        ("{a: 1, a: 2}", Flaw.UNREADABLE),
        ("{a: !x 1}", Flaw.UNREADABLE),
        (f"{{apiVersion: v1, kind: Nothing, {META}}}", Flaw.UNKNOWN_KIND),
        (f"{{apiVersion: v9, kind: Service, {META}}}", Flaw.UNSERVED_VERSION),
        (f"{{apiVersion: v1, kind: Service, {META}, spec: {{type: Nothing}}}}", Flaw.VALUE),
        (f"{{apiVersion: v1, kind: Service, {META}, spec: {{ports: 80}}}}", Flaw.VALUE),
        (f"{{apiVersion: v1, kind: Service, {META}, spec: {{prots: []}}}}", Flaw.UNKNOWN_FIELD),
        (f"{{apiVersion: v1, kind: Service, {META}}}", Flaw.MISSING_FIELD),
        (f"{{apiVersion: v1, kind: Service, {META}, spec: {{ports: [{{port: 80}}, {{port: 80}}]}}}}", Flaw.RULE),
        ("{apiVersion: v1, kind: Namespace, metadata: {name: x, namespace: y}}", Flaw.VALUE),
        ("{apiVersion: v1, kind: List, items: 1}", Flaw.VALUE),
    ],
)
def test_flaws(text: str, flaw: Flaw) -> None:
    (refused,) = parse_file(text, "a.yaml").refused
    assert refused.refusals[0].flaw is flaw


def test_two_of_one_name() -> None:
    text = f"{{apiVersion: v1, kind: ServiceAccount, {META}}}"
    refused = load_directory([("a", text), ("b", text)]).refused
    assert [entry.refusals[0].flaw for entry in refused] == [Flaw.SAME_NAME, Flaw.SAME_NAME]


def test_objects_of_an_api_server_have_the_same() -> None:
    value = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}
    assert parse_object(value, "services/x").refused[0].refusals[0].flaw is Flaw.UNKNOWN_FIELD


def test_a_flaw_makes_no_refusal_another_one() -> None:
    assert Refusal("a", "b", "c", "d", "e") == Refusal("a", "b", "c", "d", "e", Flaw.RULE)


def test_who_looks_is_shown_each_object_with_its_tree() -> None:
    seen: list[tuple[int, str]] = []

    def look(node: Node, result: Object | Refused) -> None:
        seen.append((node.line, type(result).__name__))

    parsed = parse_file(f"apiVersion: v1\nkind: ServiceAccount\n{META}\n---\nkind: x\n---\nkind: [\n---\n# nothing\n", "a.yaml", look)
    assert seen == [(1, "ServiceAccount"), (5, "Refused")]
    assert len(parsed.refused) == 2
