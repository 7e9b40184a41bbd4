"""What an object's status should say, and how that differs from what it says. Pure.

Lists in a status have several writers, so ours are merged into what is there: conditions by their type, parents of routes by who
controls them, listeners by their name. A condition's time changes only when its status does. What is there already is not written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

CONTROLLER = "culvert.dev/control"
OWNED = frozenset({"Accepted", "ResolvedRefs", "Programmed", "Enforced"})
"""Types of conditions that are ours on an object that is ours: those that are not wanted any more go."""
LONGEST_MESSAGE = 4096
MOST_PARENTS = 32
"""Of Gateway API's schema."""


@dataclass(frozen=True, slots=True)
class Condition:
    """`status`: True, False or Unknown, as words. `reason`: one word in CamelCase. `message`: a sentence for people."""

    type: str
    status: str
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Parent:
    """A route at one of its parents. `ref`: its parentRef, as the route has it."""

    ref: Mapping[str, Any]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Listener:
    """A Gateway's listener. `kinds`: its supportedKinds, as the API has them."""

    name: str
    attached: int
    kinds: tuple[Mapping[str, str], ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a status should say of the object at `generation`. `parents` and `listeners` are None for kinds that have none.
    `fields` are taken whole: addresses.
    """

    generation: int
    conditions: tuple[Condition, ...] = ()
    parents: tuple[Parent, ...] | None = None
    listeners: tuple[Listener, ...] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def changes(current: Mapping[str, Any], wanted: Wanted, now: str, controller: str = CONTROLLER) -> dict[str, Any]:
    """The fields of the status that have to be written, with their new values; {} where it says all already, or was written
    for a later generation. `now`: the time in the API's form.
    """
    if _newest_generation(current, controller) > wanted.generation:
        return {}
    found: dict[str, Any] = dict(wanted.fields)
    if wanted.conditions:
        found["conditions"] = _conditions(_entries(current, "conditions"), wanted.conditions, wanted.generation, now, OWNED)
    if wanted.parents is not None:
        found["parents"] = _parents(_entries(current, "parents"), wanted, now, controller)
    if wanted.listeners is not None:
        known = {str(entry.get("name")): entry for entry in _entries(current, "listeners")}
        found["listeners"] = [_listener(known.get(one.name, {}), one, wanted.generation, now) for one in wanted.listeners]
    return {name: value for name, value in found.items() if current.get(name, [] if isinstance(value, list) else None) != value}


def _conditions(
    current: list[Mapping[str, Any]], wanted: Iterable[Condition], generation: int, now: str, owned: frozenset[str] | None
) -> list[Mapping[str, Any]]:
    """`owned`: types that go where they are not wanted; None: all of them."""
    ours = {one.type: one for one in wanted}
    merged: list[Mapping[str, Any]] = []
    for old in current:
        one = ours.pop(str(old.get("type")), None)
        if one is not None:
            merged.append(_condition(one, generation, now, old))
        elif owned is not None and old.get("type") not in owned:
            merged.append(old)
    return [*merged, *(_condition(one, generation, now, {}) for one in ours.values())]


def _condition(one: Condition, generation: int, now: str, old: Mapping[str, Any]) -> dict[str, Any]:
    since = old.get("lastTransitionTime") if old.get("status") == one.status else None
    made: dict[str, Any] = {
        "type": one.type,
        "status": one.status,
        "reason": one.reason,
        "message": one.message if len(one.message) <= LONGEST_MESSAGE else one.message[: LONGEST_MESSAGE - 1] + "…",
        "lastTransitionTime": since or now,
    }
    if generation:
        made["observedGeneration"] = generation
    return made


def _parents(current: list[Mapping[str, Any]], wanted: Wanted, now: str, controller: str) -> list[Mapping[str, Any]]:
    ours = {_reference(one.ref): one for one in wanted.parents or ()}
    merged: list[Mapping[str, Any]] = []
    for old in current:
        if old.get("controllerName") != controller:
            merged.append(old)
            continue
        one = ours.pop(_reference(old.get("parentRef") or {}), None)
        if one is not None:
            merged.append(_parent(one, wanted.generation, now, controller, old))
    merged += [_parent(one, wanted.generation, now, controller, {}) for one in ours.values()]
    return merged[:MOST_PARENTS]


def _parent(one: Parent, generation: int, now: str, controller: str, old: Mapping[str, Any]) -> dict[str, Any]:
    conditions = _conditions(_entries(old, "conditions"), one.conditions, generation, now, None)
    ref = old.get("parentRef") or {name: value for name, value in one.ref.items() if value not in (None, "")}
    return {"parentRef": ref, "controllerName": controller, "conditions": conditions}


def _listener(old: Mapping[str, Any], one: Listener, generation: int, now: str) -> dict[str, Any]:
    return {
        "name": one.name,
        "attachedRoutes": one.attached,
        "supportedKinds": [dict(kind) for kind in one.kinds],
        "conditions": _conditions(_entries(old, "conditions"), one.conditions, generation, now, None),
    }


def _reference(ref: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two parentRefs the same, whatever of the defaults is written out."""
    defaults = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
    return tuple(ref.get(name) or defaults.get(name) for name in ("group", "kind", "namespace", "name", "sectionName", "port"))


def _entries(status: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """A list of mappings; whatever else somebody wrote there does not count."""
    value = status.get(name)
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _newest_generation(current: Mapping[str, Any], controller: str) -> int:
    """The latest generation for which a replica of ours wrote this status, as far as that can be seen."""
    conditions = [one for one in _entries(current, "conditions") if one.get("type") in OWNED]
    for parent in _entries(current, "parents"):
        conditions += _entries(parent, "conditions") if parent.get("controllerName") == controller else []
    return max((found for one in conditions if isinstance(found := one.get("observedGeneration"), int)), default=0)
