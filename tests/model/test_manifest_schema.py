"""Schema and parser are two readings of one description: what holds between them, and that the committed CRDs are what is made of it."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import re2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from culvert.cli.crds import NAMES, definitions, text_of
from mesh.model.manifest import KINDS, parse_object
from mesh.model.manifest.core import Metadata, Object
from mesh.model.manifest.kinds import SERVED
from mesh.model.manifest.load import parse_file
from mesh.model.manifest.record import Field, Record, fields_of, records_in, rules_of
from mesh.model.manifest.schema import object_schema, record_schema
from mesh.model.manifest.shapes import Either, ListOf, MapOf, Parsed, Report, Shape, Text
from mesh.model.manifest.tree import tree_of
from tests.model.documents import documents_of, mistakes, places, sample

ROOT = Path(__file__).parents[2]
CRD_CLASSES = sorted({cls for key in NAMES for cls in SERVED[key].values()}, key=lambda cls: (cls.TYPE, cls.__name__))
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def below(cls: type[Any]) -> set[type[Any]]:
    """A record and all that it is made of, but what the API server knows of every object."""
    found: set[type[Any]] = set()
    todo = [cls]
    while todo:
        each = todo.pop()
        if each not in found and each is not Metadata:
            found.add(each)
            todo += [inner for entry in fields_of(each) for inner in records_in(entry.shape)]
    return found


RECORDS = sorted({record for cls in CRD_CLASSES for record in below(cls)}, key=lambda cls: (cls.__module__, cls.__qualname__))
FIELDS = [(record, entry) for record in RECORDS for entry in fields_of(record) if entry.wire != "metadata"]
RULE_TEXTS = {rule.accepted for record in RECORDS for rule in rules_of(record)}


def shapes_in(shape: Shape) -> Iterator[Shape]:
    yield shape
    match shape:
        case ListOf():
            yield from shapes_in(shape.shape)
        case MapOf():
            yield from shapes_in(shape.key)
            yield from shapes_in(shape.shape)
        case Either():
            for each in shape.shapes:
                yield from shapes_in(each)


# The API server's way to judge

TWICE = "something stands twice"


def _matches(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    if isinstance(instance, str) and not re2.search(pattern, instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern}")


def _list_type(validator: Any, kind: str, instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    if not isinstance(instance, list):
        return
    keys = schema.get("x-kubernetes-list-map-keys", [])
    seen = [
        json.dumps([entry.get(key) for key in keys] if keys and isinstance(entry, dict) else entry, sort_keys=True) for entry in instance
    ]
    if len(set(seen)) != len(seen):
        yield jsonschema.ValidationError(TWICE)


Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _matches, "x-kubernetes-list-type": _list_type})


SHUT = {"additionalProperties": False}


def closed(schema: Any) -> Any:
    """With unknown fields refused, as the server does where it is asked for strict validation."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    fields = schema.get("properties")
    made = {name: closed(value) for name, value in schema.items()}
    return made if not isinstance(fields, dict) else made | {"properties": {name: closed(value) for name, value in fields.items()}} | SHUT


@cache
def validator_of(cls: type[Object]) -> Any:
    schema = closed(object_schema(cls))
    schema["properties"]["metadata"] = {"type": "object"}
    return Validator(schema)


def refusals(document: dict[str, Any]) -> list[str]:
    """What the parser refuses of it; the same, whether it comes as JSON or in a file."""
    parsed, from_file = parse_object(document, "here"), parse_file(json.dumps(document), "here")
    assert parsed.objects == from_file.objects
    both = ([each for entry in found.refused for each in entry.refusals] for found in (parsed, from_file))
    said = [[(each.field, each.value, each.accepted) for each in found] for found in both]
    assert said[0] == said[1]
    return [accepted for _, _, accepted in said[0]]


@pytest.mark.parametrize("cls", CRD_CLASSES, ids=lambda cls: cls.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(st.data())
def test_what_the_parser_accepts_the_schema_accepts(cls: type[Object], data: st.DataObject) -> None:
    document = data.draw(documents_of(cls))
    errors = [error.message for error in validator_of(cls).iter_errors(document)]
    # What stands twice is no matter of one field either; and the parser looks for it only among items that are good.
    assert set(errors) <= {TWICE}
    if not refusals(document):
        assert not errors


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__qualname__)
def test_every_mistake_in_one_field_is_refused_by_both(record: type[Any]) -> None:
    judge = Validator(closed(record_schema(record)))
    base = sample(Record(record))
    assert good(record, base)
    assert judge.is_valid(base)
    for entry in fields_of(record):
        if entry.wire == "metadata":
            continue
        fine = base | {entry.wire: sample(entry.shape)}
        assert good(record, fine), fine
        assert judge.is_valid(fine), fine
        for number in itertools.count():
            document = copy.deepcopy(fine)
            found = [spoil for place in places(entry.shape, document, entry.wire, required=entry.required) for spoil in mistakes(place)]
            if number == len(found):
                break
            found[number]()
            assert not good(record, document), document
            assert not judge.is_valid(document), document


def good(record: type[Any], document: dict[str, Any]) -> bool:
    """As far as single fields go."""
    report = Report("here")
    Record(record).read(tree_of(document, "here"), "at", report)
    return all(refusal.accepted in RULE_TEXTS for refusal in report.refusals)


def test_the_judge_of_these_tests_can_refuse() -> None:
    (cls,) = (cls for cls in CRD_CLASSES if cls.__name__ == "PeerAuthentication")
    head = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "a"}}
    assert validator_of(cls).is_valid(head | {"spec": {"mtls": {"mode": "STRICT"}}})
    for spec in ({"mtls": {"mode": "strict"}}, {"mtls": 7}, {"mtl": {}}, {"portLevelMtls": {"80": {"mode": 1}}}):
        assert not validator_of(cls).is_valid(head | {"spec": spec})


# Descriptions


@pytest.mark.parametrize(("record", "entry"), FIELDS, ids=[f"{record.__qualname__}.{entry.wire}" for record, entry in FIELDS])
def test_every_field_is_explained_and_its_default_is_one_that_it_takes(record: type[Any], entry: Field) -> None:
    assert entry.about.endswith(".")
    assert entry.about[0].isupper() or not entry.about[0].isalpha()
    assert len(entry.about) <= 140
    schema = record_schema(record)["properties"][entry.wire]
    if "default" in schema:
        assert entry.shape.take(schema["default"]) == entry.default
    else:
        assert not isinstance(entry.default, (str, int, float)) or not entry.default


@pytest.mark.parametrize("cls", CRD_CLASSES, ids=lambda cls: cls.__name__)
def test_every_kind_is_explained(cls: type[Object]) -> None:
    assert object_schema(cls)["description"].endswith(".")


def test_patterns_are_in_the_syntax_of_the_server() -> None:
    everything = {record for cls in KINDS for record in below(cls)}
    shapes = [shape for record in everything for entry in fields_of(record) for shape in shapes_in(entry.shape)]
    patterns = {shape.pattern for shape in shapes if isinstance(shape, (Text, Parsed))}
    patterns |= {shape.never for shape in shapes if isinstance(shape, Text)}
    assert len(patterns) > 20
    for pattern in patterns:
        re2.compile(pattern)


# Whole definitions


def test_the_committed_definitions_are_those_that_are_made() -> None:
    committed = {path.name: path.read_text() for path in (ROOT / "deploy/crds").glob("*.yaml")}
    assert committed == {f"{name}.yaml": text_of(entry) for name, entry in definitions().items()}, "run: culvert crds --output deploy/crds"


def test_every_kind_of_the_api_groups_has_a_definition_with_every_version() -> None:
    ours = {key: set(classes) for key, classes in SERVED.items() if key[0].endswith((".istio.io", "gateway.networking.k8s.io"))}
    made = {
        (entry["spec"]["group"], entry["spec"]["names"]["kind"]): {
            f"{entry['spec']['group']}/{version['name']}" for version in entry["spec"]["versions"]
        }
        for entry in definitions().values()
    }
    assert made == ours
    for entry in definitions().values():
        assert [version["name"] for version in entry["spec"]["versions"] if version["storage"]] == ["v1"]


def test_a_definition_fits_into_what_kubectl_keeps_of_it() -> None:
    """`kubectl apply` writes the object into an annotation of its own, and annotations have a limit of 256 KiB."""
    for name, entry in definitions().items():
        assert len(json.dumps(entry, separators=(",", ":"))) < 250_000, name
