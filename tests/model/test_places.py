"""Where the fields of objects stand in a file."""

from __future__ import annotations

import pytest

from mesh.model.manifest.places import Place, Places

TEXT = """\
apiVersion: v1
kind: Service
metadata:
  name: cart
  labels: {app: "x", istio.io/use-waypoint: wp}
spec: &spec
  ports:
    - port: 80
      name: http
    - name: grpc
  text: >
    several
    lines
  empty:
---
apiVersion: v1
kind: List
items:
  - metadata: {name: a}
    spec: {<<: {x: 1}, y: 2}
  - metadata: {name: b}
"""


@pytest.mark.parametrize(
    ("line", "path", "place"),
    [
        (1, "", (1, 1, 10)),
        (1, "metadata.name", (4, 9, 4)),
        (1, "spec.ports", (7, 3, 5)),
        (1, "spec.ports[0]", (8, 7, 4)),
        (1, "spec.ports[0].port", (8, 13, 2)),
        (1, "spec.ports[1].name", (10, 13, 4)),
        (1, "spec.ports[1].port", (10, 7, 4)),  # the nearest that is written: the item itself
        (1, "spec.ports[7].port", (7, 3, 5)),
        (1, "metadata.labels[istio.io/use-waypoint]", (5, 45, 2)),
        (1, "metadata.labels[app]", (5, 17, 3)),
        (1, "spec.text", (11, 3, 4)),  # a value of several lines is shown by its key
        (1, "spec.empty", (14, 3, 5)),
        (1, "nothing.of.the.kind", (1, 1, 10)),
        (19, "metadata.name", (19, 22, 1)),
        (19, "spec.x", (20, 20, 1)),  # merged from elsewhere
        (19, "spec.y", (20, 27, 1)),
        (21, "metadata.name", (21, 22, 1)),
    ],
)
def test_fields(line: int, path: str, place: tuple[int, int, int]) -> None:
    assert Places(TEXT).find(line, path) == Place(*place)


def test_a_key_can_be_meant_instead_of_its_value() -> None:
    assert Places(TEXT).find(1, "spec.ports[0].port", key=True) == Place(8, 7, 4)


@pytest.mark.parametrize("line", [0, 2, 17, 99])
def test_where_no_object_begins_there_is_none(line: int) -> None:
    assert Places(TEXT).find(line, "metadata.name") is None


def test_objects_on_one_line_are_told_apart_by_name() -> None:
    text = '{"apiVersion": "v1", "kind": "List", "items": [{"metadata": {"name": "a"}, "x": 1}, {"metadata": {"name": "b"}, "x": 2}]}'
    places = Places(text)
    found = [places.find(1, "x", name) for name in ("a", "b")]
    assert [text[place.column - 1] for place in found if place is not None] == ["1", "2"]


@pytest.mark.parametrize("text", ["", "kind: [", "- a\n- b", "just words", "a: &a {b: *a}"])
def test_what_is_no_object_does_no_harm(text: str) -> None:
    Places(text).find(1, "a.b[0].c", "x")


def test_what_follows_a_marker_on_its_own_line() -> None:
    assert Places("a: 1\n--- {b: 2}\n").find(2, "b") == Place(2, 9, 1)
