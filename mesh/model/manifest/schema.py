"""The same descriptions as OpenAPI v3, in the structural form that a Kubernetes API server takes.

What the parser accepts, the schema accepts; what it refuses of a single field (its type, bounds, words, pattern, that it is unknown or
missing), the schema refuses, where the server is asked to refuse unknown fields, as kubectl asks it. What functions and rules refuse
beyond that is in the schema where CEL can say it cheaply; else it is the webhook's, which is the parser.

Defaults stand in the schema where they are not the type's own nothing (false, 0, an empty text or list): the server writes them into
objects. Two things the schema cannot say: keys of mappings have no pattern in a structural schema, and `null`, which the parser takes
for absent, is refused by a server that has no default for the field.
"""

from __future__ import annotations

from typing import Any

from mesh.model.errors import BugError
from mesh.model.manifest.core import Object
from mesh.model.manifest.record import Field, Record, Rule, fields_of, rules_of
from mesh.model.manifest.shapes import (
    Choice,
    Either,
    Flag,
    Integer,
    ListOf,
    MapOf,
    Number,
    Numbers,
    Opaque,
    Parsed,
    Shape,
    Text,
    wire_name,
)

Schema = dict[str, Any]
# How often a condition may have to be judged in one object, by the bounds of the lists that it stands in. The server reckons what it might
# cost at worst, and refuses a definition that costs too much; beyond this the condition is the webhook's alone.
MOST_TIMES = 20_000
ANYTHING, SOMETHING = r"(?s).*", r"(?s).+"
INT64 = (-(2**63), 2**63 - 1)


def object_schema(cls: type[Object]) -> Schema:
    """The schema of a whole object, as one version of a CRD has it."""
    body = record_schema(cls)
    properties = {
        "apiVersion": {"type": "string", "description": "The API group and version that the object is written in."},
        "kind": {"type": "string", "description": "The kind of the object."},
        **body["properties"],
        # The server knows what metadata may hold, and takes no schema for it.
        "metadata": {"type": "object"},
    }
    required = [name for name in body.get("required", []) if name != "metadata"]
    return {
        "type": "object",
        "description": " ".join((cls.__doc__ or "").split()),
        **({"required": required} if required else {}),
        "properties": properties,
    }


def record_schema(cls: type[Any], times: int = 1) -> Schema:
    """`times`: how many of it one object may hold."""
    known = fields_of(cls)
    schema: Schema = {"type": "object"}
    required = [entry.wire for entry in known if entry.required]
    if required:
        schema["required"] = required
    schema["properties"] = {entry.wire: _field(entry, times) for entry in known}
    rules = [_rule(rule, known) for rule in rules_of(cls) if rule.cel]
    if rules and times <= MOST_TIMES:
        schema["x-kubernetes-validations"] = rules
    return schema


def _field(entry: Field, times: int) -> Schema:
    why = entry.unsupported if isinstance(entry.unsupported, str) else ""
    about = f"{entry.about} Without effect here: {why}." if why else entry.about
    schema: Schema = {"description": about} if about else {}
    schema |= schema_of(entry.shape, times)
    if isinstance(entry.written, (str, int, float)) and entry.written:
        schema["default"] = entry.written
    return schema


def _rule(rule: Rule, known: tuple[Field, ...]) -> Schema:
    there = any(entry.wire == rule.field for entry in known)
    return {"rule": rule.cel, "message": f"accepted: {rule.accepted}", **({"fieldPath": f".{rule.field}"} if there else {})}


def schema_of(shape: Shape, times: int = 1) -> Schema:
    match shape:
        case Record():
            return record_schema(shape.cls, times)
        case ListOf():
            return _list(shape, times)
        case MapOf():
            return {"type": "object", "additionalProperties": schema_of(shape.shape, times * shape.most), "maxProperties": shape.most}
        case Text():
            barred = {"not": {"pattern": shape.never}} if shape.never else {}
            return {"type": "string", "maxLength": shape.longest, **_pattern(shape.pattern), **barred}
        case Parsed():
            return {"type": "string", "maxLength": shape.longest, **_pattern(shape.pattern), **_checked(shape, times)}
        case Integer():
            return {"type": "integer", "format": "int64", **_bounds(shape.lowest, shape.highest)}
        case Number():
            return {"type": "number", **_bounds(shape.lowest, shape.highest)}
        case Numbers():
            return {"type": "integer", "format": "int64", "enum": list(shape.values)}
        case Flag():
            return {"type": "boolean"}
        case Choice():
            return {"type": "string", "enum": list(shape.words)}
        case Either():
            return _either(shape)
        case _:
            described = getattr(shape, "described", None)
            if described is not None:
                return schema_of(described, times)
            if isinstance(shape, Opaque):
                return {"x-kubernetes-preserve-unknown-fields": True}
    raise BugError(f"{shape} has no schema")


def _checked(shape: Parsed, times: int) -> Schema:
    if not shape.cel or times > MOST_TIMES:
        return {}
    return {"x-kubernetes-validations": [{"rule": shape.cel, "message": f"accepted: {shape.accepted}"}]}


def _pattern(pattern: str) -> Schema:
    if pattern in ("", ANYTHING):
        return {}
    return {"minLength": 1} if pattern == SOMETHING else {"pattern": f"^(?:{pattern})$"}


def _bounds(lowest: float, highest: float) -> Schema:
    return {
        **({} if lowest == INT64[0] else {"minimum": lowest}),
        **({} if highest == INT64[1] else {"maximum": highest}),
    }


def _list(shape: ListOf, times: int) -> Schema:
    schema: Schema = {"type": "array", "items": schema_of(shape.shape, times * shape.most), "maxItems": shape.most}
    if shape.fewest:
        schema["minItems"] = shape.fewest
    if shape.unique:
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [wire_name(shape.unique)]}
    elif shape.distinct:
        schema["x-kubernetes-list-type"] = "set"
    return schema


def _either(shape: Either) -> Schema:
    """The one union that a structural schema has: a number or a string."""
    kinds = [type(each) for each in shape.shapes]
    if kinds != [Integer, Text]:
        raise BugError(f"{shape.accepted}: a structural schema has no union of these")
    number, text = (schema_of(each) for each in shape.shapes)
    return {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "allOf": [{name: value for each in (number, text) for name, value in each.items() if name not in ("type", "format")}],
    }
